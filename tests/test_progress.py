"""What a running sweep shows, in a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from ablate.run.plan import make_plan
from ablate.run.progress import Progress, duration_text
from ablate.run.runner import study_runs
from ablate.run.schedule import Schedule
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord

FILE = """
name: small
fixed: {epochs: 4, depth: 8}
axes: {arm: {plain: {shortcut: none}, residual: {shortcut: identity}}}
tune: {lr: {low: 0.01, high: 1, log: true}}
budget: {trials_per_cell: 2}
confirm: {seeds: 1}
"""


@pytest.fixture
def schedule(tmp_path) -> Schedule:
    (tmp_path / "small.yaml").write_text(FILE)
    plan = make_plan(tmp_path / "small.yaml", None, (), tmp_path / "runs")
    return Schedule(plan.declaration, study_runs(plan), plan.folder, Ledger(plan.out), 1)


def end(schedule: Schedule, state: str, progress: Progress, is_new: bool = True, **more) -> None:
    """End the next trial in a state and tell the progress."""
    pack = schedule.next_pack()
    task, proposal = pack.requests[0], pack.proposals[0]
    record = TrialRecord(
        key=task.key, fingerprint=task.fingerprint, seed=task.seed, phase=task.phase, state=state, rows={},
        settings=task.settings, data_digest="", duration_s=3.0, num_epochs=4, curves={"val_accuracy": [0.5] * 4},
        metrics={"val_accuracy": 0.5} if state == "complete" else {}, **more,
    )  # fmt: skip
    schedule.on_finished(pack, [record])
    progress.finished(schedule.studies[pack.study].declared, proposal, record, is_new)


def shown(schedule: Schedule, is_terminal: bool, *states: tuple[str, dict]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=120, color_system=None)
    progress = Progress(console, jobs=2)
    progress.schedule = schedule
    with progress:
        for state, more in states:
            end(schedule, state, progress, **more)
    return stream.getvalue()


def test_without_a_terminal_every_trial_is_a_plain_line_with_the_time_left(schedule):
    lines = shown(
        schedule,
        False,
        ("complete", {}),
        ("diverged", {"diverged_epoch": 2, "diverged_layer": "fc"}),
        ("failed", {"reason": "error", "message": "Traceback\nValueError: no"}),
    ).splitlines()
    # Six trials of equal cost, 3 s each, two at a time: five are left after the first one.
    assert lines == [
        "[1/6] arm=plain tune 0: val 0.500 (3.0 s) · about 8 s left",
        "[2/6] arm=residual tune 0: diverged in epoch 2 at fc (3.0 s) · about 6 s left",
        "[3/6] arm=plain tune 1: failed: error: ValueError: no · about 4 s left",
    ]


def test_a_trial_of_another_sweep_is_said_to_be_one_and_says_nothing_about_the_time_left(schedule):
    stream = io.StringIO()
    progress = Progress(Console(file=stream), jobs=2)
    progress.schedule = schedule
    end(schedule, "complete", progress, is_new=False)
    assert stream.getvalue() == "[1/6] arm=plain tune 0: val 0.500 (3.0 s) in the ledger already\n"
    assert progress.time_left_s() is None


def test_in_a_terminal_a_table_shows_every_cell(schedule):
    text = shown(schedule, True, ("complete", {}), ("diverged", {"diverged_epoch": 1}))
    assert "best val" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("plain", "residual"))}
    assert rows["plain"] == ["1/2", "0/1", "·", "·", "·", "0.500"]
    assert rows["residual"] == ["1/2", "0/1", "·", "1", "·", "–"]
    assert "2 of 6 trials" in text
    assert "Ctrl-C stops, resumable" in text


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_are_said_as_people_say_them(seconds, text):
    assert duration_text(seconds) == text
