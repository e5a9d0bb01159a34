"""Faults under a running sweep: a damaged checkpoint, a clock that jumps, a full disk, a kill, a second start."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from command_line import ROOT
from gated_rows import NUM_TRIALS, GatedSweep, ended
from services import fill, small_disk

from ablate.commands import main
from ablate.store.declaration import SweepFolder
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> GatedSweep:
    """The sweep undisturbed."""
    sweep = GatedSweep(tmp_path_factory.mktemp("whole"))
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert sweep.num_started() == NUM_TRIALS
    return sweep


def records(sweep: GatedSweep) -> dict[tuple[str, int, str], TrialRecord]:
    ledger = Ledger(sweep.out)
    found = {}
    for p in SweepFolder(sweep.out, "gated").read_proposals():
        record = ledger.read(p.key, "gated", p.cell)
        assert record is not None
        found[p.phase, p.number, p.settings["shortcut"]] = record
    return found


def numbers(sweep: GatedSweep) -> dict[tuple[str, int, str], tuple[object, ...]]:
    return {at: (r.key, r.state, r.weights_digest, r.curves, r.metrics) for at, r in records(sweep).items()}


def test_a_trial_whose_checkpoint_was_cut_off_says_so_and_gives_the_same_numbers(tmp_path, whole):
    sweep = GatedSweep(tmp_path, pause_s=0.1)
    sweep.kill(sweep.start_until(2))
    checkpoints = sweep.out / "checkpoints"
    damaged = sorted(checkpoints.glob("[!.]*.pt"))
    assert damaged
    for file in damaged:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before, num_before = sweep.ledger(), sweep.num_started()
    again = sweep.run()
    assert again.returncode == 0, again.stderr
    lines = again.stderr.splitlines()
    assert len(lines) == len(damaged), again.stderr
    assert all(line.startswith("warning: arm=") for line in lines)
    assert all(line.endswith(": its checkpoint could not be read, so it started over") for line in lines)
    assert sweep.num_started() - num_before == NUM_TRIALS - len(before)
    assert {name: content for name, content in sweep.ledger().items() if name in before} == before
    assert numbers(sweep) == numbers(whole)
    assert not list(checkpoints.glob("*"))


CLOCK = """
import os, time
now, now_ns = time.time, time.time_ns
def back():
    return 400 * 86400 if os.path.exists(os.environ["CLOCK_IS_BACK"]) else 0
time.time = lambda: now() - back()
time.time_ns = lambda: now_ns() - back() * 10**9
"""


def test_a_clock_that_is_set_back_under_a_running_sweep_changes_nothing(tmp_path, whole):
    """Python's clock, that of the driver and of its workers, jumps back by 400 days while trials are under way."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    is_back = tmp_path / "clock" / "is_back"
    sweep = GatedSweep(tmp_path, PYTHONPATH=f"{tmp_path / 'clock'}:{ROOT}", CLOCK_IS_BACK=str(is_back))
    process = sweep.start_until(3)
    before = sweep.ledger()
    is_back.touch()
    sweep.open()
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert errors == ""
    assert len(ended(output)) == sweep.num_started() == NUM_TRIALS
    assert {name: content for name, content in sweep.ledger().items() if name in before} == before
    assert numbers(sweep) == numbers(whole)
    # The point of the fault: later trials say that they ended earlier, and one that it ended before it began.
    found = records(sweep).values()
    ages = Counter(
        tuple((datetime.now(UTC) - datetime.fromisoformat(moment)).days for moment in (r.started_at, r.finished_at))
        for r in found
    )
    assert ages[0, 0] >= 3
    assert ages[400, 400] >= 1
    assert ages[0, 400] >= 1
    assert all(0 <= r.duration_s < 200 for r in found)
    again = sweep.run()
    assert again.returncode == 0, again.stderr
    assert f"{NUM_TRIALS} of {NUM_TRIALS} trials are in the ledger already" in again.stdout
    assert sweep.num_started() == NUM_TRIALS


KILL = """
import os, signal
replace, point = os.replace, os.environ["KILL_AT_WRITE"]
def replace_or_die(source, target, **more):
    if "/ledger/trials/" in str(target) and os.path.exists(point):
        import pyarrow.parquet
        with open(source, "rb") as file:
            phase = pyarrow.parquet.read_table(file, columns=["phase"])["phase"][0].as_py()
        is_first = not [name for _, _, names in os.walk("runs/ledger/trials") for name in names if name[0] != "."]
        if phase == open(point).read() and not is_first:
            os.rename(point, point + "-was-reached")
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target, **more)
os.replace = replace_or_die
"""


@pytest.mark.parametrize("phase", ["tune", "confirm"])
def test_a_driver_killed_between_writing_and_renaming_a_record_loses_and_repeats_nothing(tmp_path, whole, phase):
    (tmp_path / "kill").mkdir()
    (tmp_path / "kill" / "sitecustomize.py").write_text(KILL)
    point = tmp_path / "kill" / "point"
    point.write_text(phase)
    path = f"{tmp_path / 'kill'}:{ROOT}"
    sweep = GatedSweep(tmp_path, jobs=1, PYTHONPATH=path, KILL_AT_WRITE=str(point))
    process = sweep.start()
    process.communicate(timeout=900)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "kill" / "point-was-reached").exists()
    (rest,) = (sweep.out / "ledger").rglob(".*.tmp")
    (of_rest,) = (
        p for p in SweepFolder(sweep.out, "gated").read_proposals() if rest.name.startswith(f".{p.key}.parquet")
    )
    assert of_rest.phase == phase
    before = sweep.ledger()
    assert f"{of_rest.key}.parquet" not in before
    assert len(before) == 1 if phase == "tune" else 4 <= len(before) < NUM_TRIALS
    again = sweep.run()
    assert again.returncode == 0, again.stderr
    assert f"{len(before)} of {NUM_TRIALS} trials are in the ledger already" in again.stdout
    assert {name: content for name, content in sweep.ledger().items() if name in before} == before
    assert numbers(sweep) == numbers(whole)
    # The one that was being written goes on from its checkpoint.
    assert sweep.num_started() == NUM_TRIALS


def test_the_same_sweep_started_twice_is_refused_and_the_first_goes_on(tmp_path, whole):
    sweep = GatedSweep(tmp_path)
    process = sweep.start_until(1)
    second = GatedSweep(tmp_path).start()
    _, errors = second.communicate(timeout=900)
    told = CliRunner().invoke(main, ["status", sweep.name, "--out", str(sweep.out), "--json"])
    counts = json.loads(told.stdout)["trials"]
    assert counts["running"] == sweep.jobs
    assert counts["waiting"] == NUM_TRIALS - sweep.jobs - len(sweep.ledger())
    assert second.returncode == 2
    assert errors.splitlines() == [
        "the sweep 'gated' is running already in runs; how far it is says: python cli.py status gated"
    ]
    sweep.open()
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert sweep.num_started() == NUM_TRIALS
    assert numbers(sweep) == numbers(whole)


@pytest.fixture
def volume(tmp_path):
    """A folder with a small disk at `runs`."""
    with small_disk(tmp_path / "runs"):
        yield tmp_path


def test_on_a_full_disk_only_the_trials_under_way_train_again(volume, whole):
    sweep = GatedSweep(volume)
    process = sweep.start_until(3)
    fill(sweep.out / "filler")
    sweep.open()
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 1, output
    stopped = r"the sweep stopped: \S+/ledger/trials/\S+: No space left on device \(make room on that disk\)"
    assert re.search(stopped, errors), errors
    assert "go on with:\n  python cli.py sweep gated.yaml" in errors
    assert "Traceback" not in output + errors
    before, started = sweep.ledger(), sweep.num_started()
    assert started - len(before) <= sweep.jobs, "trials were launched that could not be recorded"
    os.unlink(sweep.out / "filler")
    again = sweep.run()
    assert again.returncode == 0, again.stderr
    assert not ended(again.stdout) & ended(output)
    assert len(ended(again.stdout)) == NUM_TRIALS - len(before)
    assert sweep.num_started() - started <= NUM_TRIALS - len(before)
    assert {name: content for name, content in sweep.ledger().items() if name in before} == before
    assert numbers(sweep) == numbers(whole)
