"""What `plan` says about time, memory, disk, start-up trials and what the seeds can tell."""

import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_up import FILE, Sweep
from packs import starts_over
from scipy.stats import ttest_1samp
from synthetic import Synthetic

from ablate.commands import main
from ablate.errors import DataError
from ablate.report.links import read_links
from ablate.run.checkpoints import Checkpoints
from ablate.run.detectable import detectable_sd, paired_sd, seeds_for_sign_flips
from ablate.run.estimate import _read
from ablate.run.schedule import PackAssignment, _request
from ablate.store.declaration import MLFLOW_RUNS
from ablate.tasks.base import Cost
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.prepare import load, prepare


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(FILE)
    return tmp_path


def invoke(*arguments: str):
    done = CliRunner().invoke(main, ["plan", "small.yaml", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_plan_without_a_probe_trains_nothing(folder, monkeypatch):
    def forbidden(*_):
        raise AssertionError("trained")

    monkeypatch.setattr("ablate.tasks.image_classification.training.trainer.Trainer.step", forbidden)
    text = invoke("--no-probe")
    assert "time and memory: not probed" in text
    assert "sampler tpe: the first 2 trials of a cell are drawn at random, 5 are guided" in text
    assert "pruner median: from trial 3 of a cell on, after epoch 3 of 9" in text
    assert "in the ledger already: 0 of 40 trials" in text
    assert not (folder / "runs" / "small").exists()


def test_planning_and_training_on_prepared_data_wait_for_no_library_that_reads_raw_data(tmp_path):
    prepare(resolve({}), tmp_path)
    code = (
        "import sys, ablate.run.estimate, ablate.run.pack; from pathlib import Path;"
        "from ablate.tasks.image_classification.config import resolve;"
        "from ablate.tasks.image_classification.data.prepare import prepare;"
        "prepare(resolve({}), Path(sys.argv[1])); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert not {"torchvision", "sklearn", "ray", "mlflow", "matplotlib"} & set(done.stdout.split())


def test_a_probe_times_each_distinct_net_once_and_is_kept_for_next_time(folder, monkeypatch):
    asked = []

    def probe(config, dataset, device):
        asked.append((config.depth, config.shortcut))
        return Cost(epoch_s=2.0 if config.depth == 14 else 1.0, memory_mib=300.0, state_mib=0.5)

    monkeypatch.setattr("ablate.tasks.image_classification.training.timing.time_epoch", probe)
    for _ in range(2):
        content = json.loads(invoke("--json", "--jobs", "2", "--device", "cpu"))["estimate"]
        assert sorted(asked) == [(8, "identity"), (8, "none"), (14, "identity"), (14, "none")]
        # 10 trials of 9 epochs in each of 4 cells.
        assert content["time"] == {
            "device_s": 10 * 9 * (1 + 1 + 2 + 2), "elapsed_s": 270.0, "left_s": 270.0, "jobs": 2,
            "slowest_trial_s": 18.0,
        }  # fmt: skip
        assert content["memory_mib"] == 300.0
    assert (
        "time: about 4 min with 2 at a time on this hardware, without pruning, estimated from timed steps (the longest "
        "trial 18 s)"
    ) in invoke("--jobs", "2", "--device", "cpu")


def test_the_time_is_that_of_the_longest_chain_and_of_all_that_runs(folder, monkeypatch):
    monkeypatch.setattr(
        "ablate.tasks.image_classification.training.timing.time_epoch",
        lambda *_: Cost(epoch_s=1.0, memory_mib=300.0, state_mib=0.5),
    )

    def time_of(*arguments: str) -> dict[str, float]:
        return json.loads(invoke("--json", "--device", "cpu", *arguments))["estimate"]

    # Seven tune trials one after the other, then the confirm trials at once.
    assert time_of("--jobs", "100")["time"]["elapsed_s"] == 8 * 9
    assert time_of("--jobs", "100", "--set", "budget.batch=7")["time"]["elapsed_s"] == 2 * 9
    assert time_of("--jobs", "1")["time"]["device_s"] == 4 * 10 * 9
    beside = ("--set", "confirm.runner_up=true", "--set", "budget.audit=2")
    assert time_of("--jobs", "1", *beside)["time"]["device_s"] == 4 * (10 + 3 + 2) * 9
    kept = time_of("--jobs", "1", "--set", "confirm.keep_weights=true")["disk_mib"]
    assert kept - time_of("--jobs", "1")["disk_mib"] == pytest.approx(4 * 3 * 0.5)


def test_what_is_left_counts_what_each_cell_has(folder, monkeypatch):
    seconds = {8: 1.0, 14: 5.0}
    monkeypatch.setattr(
        "ablate.tasks.image_classification.training.timing.time_epoch",
        lambda config, *_: Cost(seconds[config.depth], 300.0, 0.5),
    )
    sweep = Sweep(folder)
    for run in sweep.schedule.studies[2:]:  # those of depth 14
        while (proposal := sweep.schedule._next_proposal(run)) is not None:
            run.running[proposal.key] = proposal
            index = sweep.schedule.studies.index(run)
            sweep.finish(PackAssignment(index, [_request(run, proposal)], [proposal]))
    time = json.loads(invoke("--json", "--device", "cpu", "--jobs", "1"))["estimate"]["time"]
    assert time["left_s"] == 2 * 10 * 9 * 1.0


def test_trials_of_other_sweeps_are_said_to_be_found_later(folder):
    Sweep(folder).run()
    text = invoke("--no-probe", "--set", "name=other")
    assert "in the ledger already: 0 of 40 trials; those that another sweep has run are found when they are" in text


@pytest.mark.parametrize(
    "override",
    ["axes.arm={plain: {shortcut: none}, residual: {shortcut: identity, epochs: 20}}",
     "tune.epochs=[{choices: [9, 40], when: {shortcut: identity}}]"],
)  # fmt: skip
def test_plan_warns_where_compared_cells_train_for_different_times(folder, override):
    more = () if "axes" in override else ("--set", "fixed.epochs=null")
    text = invoke("--no-probe", "--set", override, *more)
    assert "warning: cells that are compared with each other allow a trial between " in text
    assert "compared with each other" not in invoke("--no-probe")


def test_pruners_know_how_long_a_trial_can_be(folder):
    sweep = Sweep(folder, "fixed.epochs=null", "tune.epochs=[30, 60]")
    assert sweep.schedule.studies[0].search.study.pruner._n_warmup_steps == 20


def test_a_real_probe_predicts_the_time_of_an_epoch(folder):
    content = json.loads(invoke("--json", "--device", "cpu", "--jobs", "1", "--set", "axes.depth=[8]"))["estimate"]
    assert 0.01 < content["time"]["slowest_trial_s"] < 120
    assert 100 < content["memory_mib"] < 8000
    stored = json.loads((folder / "runs" / "ledger" / "probes.json").read_text())
    assert len(stored) == 2
    (folder / "runs" / "ledger" / "probes.json").write_text("[]")
    assert "time: about" in invoke("--device", "cpu", "--set", "axes.depth=[8]")


def test_plan_counts_what_is_in_the_ledger_and_uses_its_spread(folder):
    noise = random.Random(0)
    sweep = Sweep(folder, score=lambda settings, phase: 0.5 + noise.gauss(0, 0.02))
    sweep.run()
    text = invoke("--no-probe")
    assert "in the ledger already: 40 of 40 trials" in text
    assert "points found so far" in text
    assert text.count(" if all 2 are corrected for)") == 1
    assert re.search(r"that is [\d.]+ \([\d.]+\) points at the", text)
    one = invoke("--no-probe", "--set", "axes.depth=[8]")
    assert "standard deviations of the paired differences, that is" in one
    assert re.search(r"that is [\d.]+ points at the", one)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("budget.sampler=qmc", "sampler qmc: a scrambled Sobol' sequence that all cells share"),
        ("budget.sampler=auto", "auto: the first 6 trials of a cell take points that all cells share, 1 is guided"),
        ("budget.pruner=successive_halving", "pruner successive_halving: rungs from epoch 1 of 9 on"),
        ("budget.pruner=none", "pruner none: no trial is stopped"),
        ("confirm.seeds=1", "verdicts: not possible with 1 confirm seed;"),
        ("report.baseline=null", "verdicts: none, as the report has no baseline"),
        ("budget.start_from=[{lr: 0.1}]", "known points: 1, tried first in every cell"),
    ],
)
def test_plan_says_how_cells_are_searched_and_what_can_be_told(folder, override, text):
    assert text in invoke("--no-probe", "--set", override)


def test_the_smallest_detectable_difference_is_found_with_the_power_it_promises():
    generator = random.Random(1)
    for n in (3, 5, 10):
        effect = detectable_sd(n)
        samples = [[effect + generator.gauss(0, 1) for _ in range(n)] for _ in range(1500)]
        share = sum(ttest_1samp(sample, 0).pvalue < 0.05 for sample in samples) / len(samples)
        assert abs(share - 0.8) < 4 * math.sqrt(0.8 * 0.2 / len(samples)), (n, share)
    assert detectable_sd(1) is None
    assert detectable_sd(3, 12) > detectable_sd(3)


def test_sign_flips_need_enough_seeds_to_reach_the_level():
    for comparisons in (1, 3, 12):
        n = seeds_for_sign_flips(comparisons)
        assert 2 / 2**n <= 0.05 / comparisons < 2 / 2 ** (n - 1)
    assert seeds_for_sign_flips() == 6
    assert paired_sd([(0.5, 0.4)]) is None
    assert paired_sd([(0.5, 0.4), (0.7, 0.4)]) == pytest.approx(0.2 / math.sqrt(2))


def test_a_damaged_declaration_is_kept_aside_and_the_sweep_goes_on(folder, caplog):
    Sweep(folder).run(5)
    file = folder / "runs" / "small" / "declaration.json"
    file.write_text("{")
    assert "in the ledger already: 5 of 40 trials" in invoke("--no-probe")
    assert file.read_text() == "{"
    again = Sweep(folder)
    assert again.schedule.restored == 5
    assert "set aside the unreadable file declaration.json as declaration.json: cannot read" in caplog.text
    assert (folder / "runs" / "ledger" / "aside" / "declaration.json").read_text() == "{"
    file.write_text('{"schema_version": 99}')
    done = CliRunner().invoke(main, ["plan", "small.yaml", "--no-probe"])
    assert done.exit_code == 1
    assert done.stderr.startswith("cannot read runs/small/declaration.json: its schema version 99 is newer than 5, ")


@pytest.mark.parametrize(
    "make",
    [
        lambda file: file.write_text("[" * 100_000),
        lambda file: file.write_bytes(b"\xff\xfe{"),
        lambda file: file.write_text("{"),
        os.mkfifo,
        os.mkdir,
    ],
)
def test_odd_files_of_what_can_be_made_again_are_a_line_each(tmp_path, tiny_dataset, caplog, make):
    make(tmp_path / "probes.json")
    assert _read(tmp_path / "probes.json") == {}
    declaration = Synthetic(tmp_path).declaration()
    runs = tmp_path / declaration.sweep / MLFLOW_RUNS
    runs.parent.mkdir()
    make(runs)
    assert read_links(tmp_path, declaration, "http://127.0.0.1:5000") == {}
    checkpoints = Checkpoints(tmp_path)
    make(checkpoints.path("key"))
    starts_over(tmp_path, tiny_dataset, "key")
    make(tmp_path / "data.pt")
    with pytest.raises(DataError, match="cannot read the prepared data"):
        load(tmp_path / "data.pt")
    lines = [record.message for record in caplog.records]
    assert [line.partition(":")[0].partition(" (")[0] for line in lines] == [
        f"what {tmp_path / 'probes.json'} has of earlier probes is not used",
        "no links to MLflow",
        "the checkpoint key.pt cannot be read, so its trial starts over",
    ]
    assert not any("\n" in line for line in lines)
