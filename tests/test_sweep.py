"""Whole sweeps by the command line, on a real Ray cluster, a real MLflow store and real images."""

import dataclasses
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from command_line import FILE, command, ledger_files, run, status, wait_for
from mlflow.tracking import MlflowClient
from packs import packed

from ablate.run.pack import Request
from ablate.store.declaration import SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.prepare import load, prepare
from ablate.tasks.image_classification.training.device import prepare_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(FILE)
    return folder, run("sweep", "tiny.yaml", cwd=folder)


@pytest.fixture(scope="module")
def cells(finished):
    folder, ledger = SweepFolder(finished[0] / "runs", "tiny"), Ledger(finished[0] / "runs")
    found = collect(folder.read_declaration(), folder.read_proposals(), ledger)
    for trials in found:
        # Whole records, with the curves that `collect` leaves out.
        trials.tune[:] = [(p, ledger.read(p.key, "tiny", p.cell)) for p, _ in trials.tune]
    return found


def test_a_sweep_runs_to_its_end_and_prints_its_table(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert "2 arm = 2 cells, each 8 tune trials and 2 confirm seeds: 20 trials" in done.stdout
    assert "[20/20]" in done.stdout
    assert "plain" in done.stdout.partition("Test accuracy in percent")[2]
    assert done.stderr == ""
    page = (folder / "runs" / "tiny" / "report" / "report.html").read_text()
    assert page.count("http://127.0.0.1:5000/#/experiments/") == 2, "each entry leads to the run of its cell"
    assert sorted(entry.name for entry in folder.iterdir()) == ["runs", "tiny.yaml"]


def test_status_counts_every_trial(finished):
    content = status(finished[0])
    trials = content["trials"]
    assert trials["planned"] == 20
    assert trials["waiting"] == trials["running"] == trials["failed"] == 0
    assert sum(trials[state] for state in ("complete", "pruned", "diverged")) == 20
    assert len(content["trial_keys"]) == 20
    for cell in content["cells"]:
        assert cell["confirm"]["n"] == 2
        assert cell["confirm"]["low"] <= cell["confirm"]["mean"] <= cell["confirm"]["high"]
        assert [set(found) for found in cell["best_configs"]] == [{"lr"}]


def test_the_pruner_stops_poor_trials_through_the_mailbox(cells):
    pruned = [record for cell in cells for _, record in cell.tune if record.state == "pruned"]
    assert pruned
    assert all(1 <= record.num_epochs < 4 for record in pruned)
    assert not any(record.state == "pruned" for cell in cells for _, record in cell.confirm)


def test_a_trial_gives_the_same_weights_and_curves_without_ray(finished, cells):
    prepare_process(torch.device("cpu"))
    for cell in cells:
        proposal, record = next((p, r) for p, r in [*reversed(cell.tune), *cell.confirm] if r.state == "complete")
        data = load(prepare(resolve(proposal.settings), finished[0] / "runs" / "data").path)
        fields = {field.name for field in dataclasses.fields(Request)}
        task = Request(**{name: value for name, value in dataclasses.asdict(record).items() if name in fields})
        (again,) = packed([task], data, torch.device("cpu")).run()
        assert again.weights_digest == record.weights_digest
        assert again.curves == record.curves
        assert again.metrics == record.metrics


def test_confirm_trials_and_no_others_have_recorded_the_test_images(finished):
    folder, ledger = SweepFolder(finished[0] / "runs", "tiny"), Ledger(finished[0] / "runs")
    records = [ledger.read(p.key, "tiny", p.cell, items=None) for p in folder.read_proposals()]
    confirmed = [record for record in records if record.phase == "confirm"]
    assert len({record.items_digest for record in confirmed}) == 1
    for record in confirmed:
        assert sum(record.items["test_accuracy"]) / 360 == pytest.approx(record.metrics["test_accuracy"], abs=1e-9)
    assert not any(record.items or record.items_digest for record in records if record.phase == "tune")


def test_running_again_runs_nothing_and_changes_nothing(finished):
    folder, _ = finished
    before = ledger_files(folder)
    done = run("sweep", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "20 of 20 trials are in the ledger already" in done.stdout
    assert ledger_files(folder) == before


def test_mlflow_holds_every_run_once(finished, cells):
    client = MlflowClient(f"sqlite:///{finished[0] / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    kinds = [run.data.tags["ablate.kind"] for run in runs]
    assert (kinds.count("summary"), kinds.count("cell"), kinds.count("trial")) == (1, 2, 20)
    by_key = {run.data.tags["ablate.trial"]: run for run in runs if run.data.tags["ablate.kind"] == "trial"}
    for cell in cells:
        for proposal, record in [*cell.tune, *cell.confirm]:
            tracked = by_key[proposal.key]
            assert float(tracked.data.params["lr"]) == proposal.settings["lr"]
            assert tracked.data.tags["state"] == record.state
            history = client.get_metric_history(tracked.info.run_id, "val_accuracy")
            assert {m.step: m.value for m in history} == dict(enumerate(record.curves["val_accuracy"], start=1))
    (summary,) = [run for run in runs if run.data.tags["ablate.kind"] == "summary"]
    artifacts = [entry.path for entry in client.list_artifacts(summary.info.run_id)]
    assert "resolved.yaml" in artifacts
    assert any("report" in path for path in artifacts)


def test_report_writes_all_its_files_where_it_is_told(finished, tmp_path):
    folder, _ = finished
    before = sorted(entry.name for entry in folder.iterdir())
    done = run("report", "--to", tmp_path, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(entry.name for entry in folder.iterdir()) == before
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")}
    assert {"report.html", "table.md", "table.tex", "table.csv", "results.parquet"} <= written
    assert {"figures/learning_curves.svg", "figures/learning_curves.pdf"} <= written


def num_confirming(folder: Path) -> int:
    """Return how many confirm trials are proposed."""
    return sum(p.phase == "confirm" for p in SweepFolder(folder / "runs", "tiny").read_proposals())


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the sweep in a process group of its own."""
    (folder / "tiny.yaml").write_text(FILE)
    return subprocess.Popen(
        command("sweep", "tiny.yaml"),
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "is_confirming"),
    [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, True)],
)
def test_a_sweep_that_was_stopped_loses_nothing_and_repeats_nothing(finished, tmp_path, sent, is_confirming):
    process = start(tmp_path)
    wait_for(lambda: num_confirming(tmp_path) > 0 if is_confirming else len(ledger_files(tmp_path)) >= 5, process)
    # `timeout` and Slurm send SIGTERM to the whole process group.
    (os.killpg if sent == signal.SIGTERM else os.kill)(process.pid, sent)
    _, errors = process.communicate(timeout=900)
    before = ledger_files(tmp_path)
    assert 5 <= len(before) < 20
    assert (num_confirming(tmp_path) > 0) == is_confirming
    if sent == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 1
        assert "To go on:\n  python cli.py sweep tiny.yaml" in errors
        assert "Traceback" not in errors
    stopped = status(tmp_path)["trials"]
    assert stopped["running"] == 0
    assert stopped["waiting"] == 20 - len(before)

    done = run("sweep", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 20 trials are in the ledger already" in done.stdout
    after = ledger_files(tmp_path)
    assert {name: after[name] for name in before} == before
    # The same trials as in the sweep that was not stopped, with the same numbers.
    assert status(tmp_path)["trial_keys"] == status(finished[0])["trial_keys"]
    assert status(tmp_path)["cells"] == status(finished[0])["cells"]


def test_a_closed_terminal_stops_the_sweep_as_gracefully_as_sigterm(tmp_path):
    """The sweep draws on a terminal of its own; its errors go to a file, where they can be read afterwards."""
    (tmp_path / "tiny.yaml").write_text(FILE)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.dup2(os.open("errors", os.O_WRONLY | os.O_CREAT), 2)
        os.execv(sys.executable, command("sweep", "tiny.yaml"))
    deadline = time.monotonic() + 900
    while len(ledger_files(tmp_path)) < 3:
        assert time.monotonic() < deadline, (tmp_path / "errors").read_text()
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    errors = (tmp_path / "errors").read_text()
    assert re.search(r"\d+ of 20 trials have ended, 0 of them failed\. To go on:\n  python cli\.py sweep tiny", errors)
    assert "Traceback" not in errors
    assert not list(Path("/tmp").glob(f"ablate-ray-{child}-*"))
    stopped = status(tmp_path)["trials"]
    assert stopped["running"] == 0
    assert 3 <= len(ledger_files(tmp_path)) == 20 - stopped["waiting"] < 20


def is_ray_starting(process: subprocess.Popen[str]) -> bool:
    """Say whether Ray has begun to write its files; its processes are started after that."""
    return any(True for _ in Path("/tmp").glob(f"ablate-ray-{process.pid}-*/ray/*"))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("point", ["declared", "while Ray starts"])
def test_a_signal_before_the_first_trial_says_how_to_go_on(tmp_path, point, sent):
    process = start(tmp_path)
    is_declared = (tmp_path / "runs" / "tiny" / "declaration.json").exists
    wait_for(is_declared if point == "declared" else lambda: is_ray_starting(process), process)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=900)
    assert errors == "stopped; what had ended is in the ledger. To go on:\n  python cli.py sweep tiny.yaml\n"
    assert process.returncode == 1
    assert not ledger_files(tmp_path)


def test_a_users_row_that_fails_is_reported_and_only_a_lost_worker_is_tried_again(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, signal\n"
        "from ablate.registry import Row, register\n"
        "def broken(weights, config):\n"
        f"    open({str(tmp_path / 'log')!r}, 'a').write('broken ')\n"
        "    raise RuntimeError('this regularizer is broken')\n"
        "def deadly(weights, config):\n"
        f"    open({str(tmp_path / 'log')!r}, 'a').write('deadly ')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "register(Row(kind='regularizer', name='broken', target=broken, summary='fails'))\n"
        "register(Row(kind='regularizer', name='deadly', target=deadly, summary='ends its worker'))\n"
    )
    arms = "".join(f"    {name}: {{shortcut: identity, regularizer: {name}}}\n" for name in ("broken", "deadly"))
    text = FILE.replace("    residual: {shortcut: identity}\n", arms)
    (tmp_path / "tiny.yaml").write_text(text.replace("name: tiny", "name: tiny\nimports: [mine.py]"))
    done = run("sweep", "tiny.yaml", "--set", "budget.trials_per_cell=1", "--set", "confirm.seeds=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "failed: error: RuntimeError: this regularizer is broken" in done.stdout
    assert "failed: infrastructure: the worker or its node was lost, also after two retries" in done.stdout
    assert "4 of 6 trials have ended, 2 of them failed. To go on:\n  python cli.py sweep tiny.yaml --set" in done.stderr
    assert Counter((tmp_path / "log").read_text().split()) == {"broken": 1, "deadly": 3}
    trials = status(tmp_path)["trials"]
    assert (trials["complete"], trials["failed"]) == (2, 2)
    records = {r.reason: r for r in map(Ledger(tmp_path / "runs")._read_file, failed_files(tmp_path)) if r}
    assert records.keys() == {"error", "infrastructure"}
    assert "RuntimeError: this regularizer is broken" in records["error"].message
    assert records["error"].rows["regularizer"].startswith("broken@1+")


def test_what_fails_again_is_not_to_be_run_again_as_it_is(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ablate.registry import Row, register\n"
        "def broken(weights, config):\n"
        "    raise KeyboardInterrupt('this regularizer is broken')\n"
        "register(Row(kind='regularizer', name='broken', target=broken, summary='fails'))\n"
    )
    text = FILE.replace("identity}", "identity, regularizer: broken}")
    (tmp_path / "tiny.yaml").write_text(text.replace("name: tiny", "name: tiny\nimports: [mine.py]"))
    done = run("sweep", "tiny.yaml", "--set", "budget.trials_per_cell=1", "--set", "confirm.seeds=1", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "3 of 4 trials have ended, 1 of them failed. They would fail again: KeyboardInterrupt: this regularizer is "
        "broken\nWhen that is mended, go on with:\n  python cli.py sweep tiny.yaml --set budget.trials_per_cell=1 "
        "--set confirm.seeds=1\n"
    )


def failed_files(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / "ledger" / "trials").rglob("*~tiny~*.parquet"))


def test_what_stands_beside_the_table_runs_after_it_and_a_trial_can_be_reproduced(tmp_path):
    (tmp_path / "tiny.yaml").write_text(FILE)
    options = ["confirm.runner_up=true", "confirm.keep_weights=true", "confirm.seeds=1", "budget.audit=1"]
    options += ["budget.pruner=successive_halving", "budget.sampler=qmc"]
    done = run("sweep", "tiny.yaml", *[part for o in options for part in ("--set", o)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The runner-up of each cell" in done.stdout
    assert "Audit of the pruner: of 2 stopped trials" in done.stdout
    folder = SweepFolder(tmp_path / "runs", "tiny")
    cells = collect(folder.read_declaration(), folder.read_proposals(), Ledger(tmp_path / "runs"))
    for trials in cells:
        assert {p.phase: r.state for p, r in trials.extra} == {"runner_up": "complete", "audit": "complete"}
        ((_, confirmed),) = trials.confirm
        assert (tmp_path / "runs" / "weights" / f"{confirmed.key}.pt").exists()
    again = run("reproduce", confirmed.key[:-2], cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "the numbers agree bit for bit" in again.stdout
