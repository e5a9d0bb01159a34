"""A disk that is full, a folder that is read-only, a checkpoint cut off, a clock set back: nothing is lost."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from command_line import FILE, command, ledger_files, run, status, wait_for
from made_up import Sweep
from mirrored import make_cells, mirrored, read_runs
from packs import packed, starts_over
from services import fill, small_disk

import ablate.storage
from ablate.run.checkpoints import Checkpoints
from ablate.search.journal import Journal
from ablate.storage import append_line, cause, write_atomically
from ablate.store.declaration import SweepFolder, sweeps
from ablate.store.ledger import Ledger
from ablate.tasks.image_classification.training.trainer import written

OPTIONS = ("--set", "budget.trials_per_cell=4", "--set", "confirm.seeds=1", "--set", "fixed.epochs=2", "--jobs", "1")
NUM_TRIALS = 10


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A folder with a small disk at `runs`."""
    folder = tmp_path_factory.mktemp("volume")
    (folder / "tiny.yaml").write_text(FILE)
    with small_disk(folder / "runs"):
        yield folder


@pytest.fixture(scope="module")
def full(volume):
    """A sweep whose disk became full in the middle, and its second run after there was room again."""
    process = subprocess.Popen(
        command("sweep", "tiny.yaml", *OPTIONS),
        cwd=volume, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(ledger_files(volume)) >= 3, process)
    fill(volume / "runs" / "filler")
    output, errors = process.communicate(timeout=900)
    before = ledger_files(volume)
    (volume / "runs" / "filler").unlink()
    done = run("sweep", "tiny.yaml", *OPTIONS, cwd=volume)
    return process.returncode, output, errors, before, done


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_in_one_clear_message(full):
    code, output, errors, before, _ = full
    assert 3 <= len(before) < NUM_TRIALS
    assert code == 1, output + errors
    assert re.search(r"the sweep stopped: \S*runs/\S+: No space left on device \(make room on that disk\)", errors)
    assert "What had ended before is in the ledger. When this is mended, go on with:\n" in errors
    assert "  python cli.py sweep tiny.yaml --set budget.trials_per_cell=4" in errors
    assert "Traceback" not in output + errors


@pytest.mark.slow
def test_after_a_full_disk_nothing_is_lost_and_nothing_runs_again(volume, full):
    _, _, _, before, done = full
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # MLflow's SQLite file, which was full as well, takes all trials.
    assert f"{len(before)} of {NUM_TRIALS} trials are in the ledger already" in done.stdout
    after = ledger_files(volume)
    assert len(after) == NUM_TRIALS
    assert {name: after[name] for name in before} == before
    assert not (volume / "runs" / "ledger" / "aside").exists()
    proposals = SweepFolder(volume / "runs", "tiny").read_proposals()
    assert len({(p.cell, p.phase, p.number) for p in proposals}) == len(proposals) == NUM_TRIALS


@pytest.mark.slow
def test_a_read_only_folder_can_be_read_and_is_refused_in_one_line(volume, full, tmp_path):
    runs = volume / "runs"
    subprocess.run(["mount", "-o", "remount,ro", runs], check=True)
    try:
        assert status(volume)["trials"]["waiting"] == 0
        report = run("report", "--to", tmp_path, cwd=volume)
        assert report.returncode == 0, report.stderr
        plan = run("plan", "tiny.yaml", *OPTIONS[:-2], cwd=volume)
        assert plan.returncode == 0, plan.stderr
        done = run("sweep", "tiny.yaml", *OPTIONS, cwd=volume)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", runs], check=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["runs/tiny/lock: Read-only file system"]


@pytest.mark.slow
def test_a_sweep_whose_report_finds_a_full_disk_ends_with_1_and_the_line_to_run(tmp_path):
    """The report lies on a disk of its own, so that it is the first to find no room."""
    (tmp_path / "tiny.yaml").write_text(FILE)
    report = tmp_path / "runs" / "tiny" / "report"
    report.parent.mkdir(parents=True)
    with small_disk(report):
        fill(report / "filler")
        done = run("sweep", "tiny.yaml", *OPTIONS, cwd=tmp_path)
        again = run("report", "tiny", "--to", report, cwd=tmp_path)
        cause = r"runs/tiny/report\S*: No space left on device \(make room on that disk\)\n"
        assert done.returncode == 1
        told = (
            "All trials have ended, but there is no report of them. When this is mended, write it with:\n"
            "  python cli.py report tiny\n"
        )
        assert re.fullmatch(rf"no report: {cause}{re.escape(told)}", done.stderr)
        assert (again.returncode, again.stdout) == (1, "")
        assert re.fullmatch(rf"\S*{cause}", again.stderr)
        (report / "filler").unlink()
        assert len(ledger_files(tmp_path)) == NUM_TRIALS
        mended = run("report", "tiny", cwd=tmp_path)
        assert mended.returncode == 0, mended.stderr
        assert (tmp_path / "reports" / "tiny" / "report.html").exists()


@pytest.mark.slow
def test_a_sweep_whose_report_has_no_folder_ends_with_1_and_the_line_to_run(tmp_path):
    (tmp_path / "tiny.yaml").write_text(FILE)
    report = tmp_path / "my runs" / "tiny" / "report"
    report.parent.mkdir(parents=True)
    report.write_text("a file")
    done = run("sweep", "tiny.yaml", *OPTIONS, "--out", "my runs", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("no report: cannot write the report to my runs/tiny/report: ")
    assert done.stderr.endswith(" write it with:\n  python cli.py report tiny --out 'my runs'\n")


def test_a_write_that_fails_names_its_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "runs" / "declaration.json"
    write_atomically(file, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ablate.storage.os, "fsync", full)
    for write in (lambda: write_atomically(file, b"new"), lambda: append_line(file.with_name("lines"), {})):
        with pytest.raises(OSError, match="No space left on device") as caught:
            write()
        assert cause(caught.value).endswith(": No space left on device (make room on that disk)")
        assert cause(caught.value).startswith(str(tmp_path / "runs"))
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in file.parent.iterdir() if entry.name.endswith(".tmp")] == []


def test_a_journal_that_cannot_be_written_stops_no_sweep(tmp_path, caplog):
    journal = Journal(tmp_path / "optuna.journal")
    journal._file = Path("/dev/full")
    journal.append_logs([{"a": 1}])
    journal.append_logs([{"b": 2}])
    assert list(journal.read_logs(0)) == [{"a": 1}, {"b": 2}]
    assert [record.message for record in caplog.records] == [
        "the Optuna journal, a view of the ledger, is incomplete until the next run: [Errno 28] No space left on device"
    ]


def test_an_unreadable_file_in_a_read_only_ledger_stops_no_reader(tmp_path, monkeypatch, caplog):
    ledger = Ledger(tmp_path)
    write_atomically(ledger.path("ab12"), b"no parquet")

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", "ab12.parquet")

    monkeypatch.setattr(ablate.storage.os, "replace", refuse)
    assert ledger.read("ab12", "tiny") is None
    assert "the unreadable file ab12.parquet cannot be set aside" in caplog.text
    assert ledger.path("ab12").exists()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_off_counts_as_none(tmp_path, tiny_dataset, caplog, part):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("key", written({"net": torch.arange(10_000)}))
    whole = checkpoints.path("key").read_bytes()
    checkpoints.path("key").write_bytes(whole[: int(part * len(whole))])
    starts_over(tmp_path, tiny_dataset, "key")
    assert "the checkpoint key.pt cannot be read, so its trial starts over" in caplog.text


def test_a_process_killed_while_it_writes_a_checkpoint_leaves_the_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("key", b"first")
    child = os.fork()
    if child == 0:
        ablate.storage.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        try:
            checkpoints.save("key", b"second")
        finally:
            os._exit(3)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert checkpoints.load("key") == b"first"


def test_a_checkpoint_that_cannot_be_written_costs_no_trial(tmp_path, tiny_dataset, monkeypatch, caplog):
    from ablate.run import pack
    from ablate.run.pack import Request
    from ablate.tasks.image_classification.config import resolve

    settings = resolve({"dataset": "digits", "depth": 8, "width": 2, "epochs": 2, "batch_size": 32}).settings()
    task = Request(key="key", fingerprint="f", seed=0, phase="tune", settings=settings, data_digest=tiny_dataset.digest)
    monkeypatch.setattr(pack, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(
        "ablate.run.checkpoints.write_atomically", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    (record,) = packed([task], tiny_dataset, torch.device("cpu"), Checkpoints(tmp_path)).run()
    assert record.state == "complete", record.message
    assert "no checkpoint of the trial key" in caplog.text


def test_the_latest_sweep_is_the_one_declared_last_whatever_the_clock_says(tmp_path):
    Sweep(tmp_path)
    small = SweepFolder(tmp_path / "runs", "small")
    declaration = small.read_declaration()
    for name in ("b", "a"):
        other = SweepFolder(tmp_path / "runs", name)
        other.write_declaration(declaration, "")
        os.utime(other.path / "declaration.json", (0, 0))
    assert sweeps(tmp_path / "runs") == ["b", "small", "a"]
    small.write_declaration(declaration, "")
    assert sweeps(tmp_path / "runs")[-1] == "small"
    (tmp_path / "runs" / "ledger" / "latest_sweep").unlink()
    assert sweeps(tmp_path / "runs") == ["a", "b", "small"]


def test_a_clock_set_back_hides_no_number_of_a_cell_in_mlflow(tmp_path, monkeypatch):
    cells = make_cells()
    confirm = list(cells[0].confirm)
    del cells[0].confirm[1:]
    mirrored(tmp_path, cells)
    first = read_runs(tmp_path)[2]["depth=20 arm=plain"].data.metrics
    cells[0].confirm[:] = confirm
    real = time.time
    monkeypatch.setattr("ablate.tracking.client.time.time", lambda: real() - 400 * 86400)
    mirrored(tmp_path, cells)
    second = read_runs(tmp_path)[2]["depth=20 arm=plain"].data.metrics
    assert (first["confirmed_n"], second["confirmed_n"]) == (1, 2)
