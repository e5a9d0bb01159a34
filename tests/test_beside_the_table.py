"""Trials beside the table: the runner-up, and stopped trials that an audit runs to their end."""

import dataclasses

import pytest
from made_up import Sweep

from ablate.report.summary import status, status_lines
from ablate.store.declaration import collect

SCORE = {"score": lambda settings, phase: min(1.0, settings["lr"])}
BOTH = ("confirm.runner_up=true", "budget.audit=2", "axes.depth=[8]")


def trials_of(sweep: Sweep):
    return collect(sweep.plan.declaration, sweep.plan.folder.read_proposals(), sweep.ledger)


def studies_of(sweep: Sweep):
    return [study for trials in trials_of(sweep) for study in trials.studies]


def test_the_runner_up_is_confirmed_with_the_same_seeds_and_never_makes_the_entry(tmp_path):
    sweep = Sweep(tmp_path, "confirm.runner_up=true").run()
    assert sweep.schedule.is_finished()
    for trials in trials_of(sweep):
        seconds = [(p, r) for p, r in trials.extra if p.phase == "runner_up"]
        assert [p.seed for p, _ in seconds] == [p.seed for p, _ in trials.confirm]
        assert len(seconds) == 3
        accuracies = sorted((r.metrics["val_accuracy"] for _, r in trials.tune if r.state == "complete"), reverse=True)
        assert trials.confirm[0][1].metrics["val_accuracy"] == accuracies[0]
        assert {r.metrics["val_accuracy"] for _, r in seconds} == {accuracies[1]}
        assert all(r.phase == "confirm" and "test_accuracy" in r.metrics for _, r in seconds)
    assert len(sweep.ended) == sweep.plan.declaration.num_trials + 4 * 3


def test_an_audit_runs_stopped_trials_to_their_end_and_changes_nothing_of_the_sweep(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    plain = Sweep(tmp_path / "a", "axes.depth=[8]", **SCORE).run()
    sweep = Sweep(tmp_path / "b", "axes.depth=[8]", "budget.audit=2", **SCORE).run()
    assert sweep.schedule.is_finished()
    main = [line for line in sweep.proposals() if line[1] != "audit"]
    assert sorted(main) == sorted(plain.proposals())
    for trials in studies_of(sweep):
        stopped = {p.key for p in trials.stopped()}
        audited = [(p, r) for p, r in trials.extra]
        assert len(audited) == min(2, len(stopped)) > 0
        assert all(p.key in stopped and r.state == "complete" and r.num_epochs == 9 for p, r in audited)
        assert not any("test_accuracy" in r.metrics and r.phase == "tune" for _, r in audited if r.phase == "confirm")
    # The trials that were stopped stay stopped for their sweep, so that a resume learns what it learnt before.
    again = Sweep(tmp_path / "b", "axes.depth=[8]", "budget.audit=2", **SCORE)
    assert again.schedule.is_finished()
    for run, before in zip(again.schedule.studies, sweep.schedule.studies, strict=True):
        assert [run.records[p.key].state for p in run.tune.values()] == [
            before.records[p.key].state for p in before.tune.values()
        ]


@pytest.mark.parametrize("stop_after", [18, 20, 21, 23])
def test_trials_beside_the_table_go_on_after_an_interruption_without_repetition(tmp_path, stop_after):
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = Sweep(tmp_path / "a", *BOTH, **SCORE).run()
    cut = Sweep(tmp_path / "b", *BOTH, **SCORE).run(stop_after)
    cut.schedule.next_pack()
    resumed = Sweep(tmp_path / "b", *BOTH, **SCORE).run()
    assert resumed.schedule.is_finished()
    assert sorted(resumed.proposals()) == sorted(whole.proposals())
    ended = [(p.key, p.phase) for _, p, _ in cut.ended + resumed.ended]
    assert len(ended) == len(set(ended)) == len(whole.ended)


def test_they_come_after_the_confirm_trials_and_are_added_to_a_finished_sweep_without_rerunning_it(tmp_path):
    Sweep(tmp_path, "axes.depth=[8]", **SCORE).run()
    more = Sweep(tmp_path, *BOTH, **SCORE).run()
    assert {p.phase for _, p, _ in more.ended} == {"runner_up", "audit"}


def test_an_audit_that_failed_leaves_the_stopped_trial_as_it_was(tmp_path):
    sweep = Sweep(tmp_path, "axes.depth=[8]", "budget.audit=1", **SCORE)
    while (pack := sweep.schedule.next_pack()) is not None:
        sweep.finish(pack, state="failed" if pack.proposals[0].phase == "audit" else "complete")
    assert sweep.schedule.is_finished()
    for trials in studies_of(sweep):
        assert [record for _, record in trials.extra] == [None]
        assert trials.stopped()
    again = Sweep(tmp_path, "axes.depth=[8]", "budget.audit=1", **SCORE).run()
    assert [p.phase for _, p, _ in again.ended] == ["audit", "audit"]


def test_another_pruner_does_not_take_over_what_the_first_one_stopped(tmp_path):
    """Known points are trials of the same key under every pruner."""
    points = "budget.start_from=[" + ", ".join(f"{{lr: {2.0**-k}, optimizer: adam}}" for k in range(7)) + "]"
    overrides = ("axes.depth=[8]", points)
    first = Sweep(tmp_path, *overrides, "budget.pruner=median", **SCORE).run()
    pruned = {p.key for _, p, r in first.ended if r.state == "pruned"}
    assert pruned
    second = Sweep(tmp_path, *overrides, "budget.pruner=none", **SCORE).run()
    assert {p.key for _, p, _ in second.ended if p.phase == "tune"} == pruned
    assert all(r.state == "complete" for _, _, r in second.ended)
    # And back: what the median pruner stopped is stopped still.
    assert Sweep(tmp_path, *overrides, "budget.pruner=median", **SCORE).schedule.is_finished()


def test_a_record_says_which_cell_stopped_it(tmp_path):
    sweep = Sweep(tmp_path, **SCORE).run()
    for run in sweep.schedule.studies:
        for record in run.records.values():
            stored = sweep.ledger.read(record.key, "small", run.cell.key)
            expected = run.cell.key if record.state == "pruned" else ""
            assert dataclasses.asdict(stored)["cell"] == expected


def test_status_counts_them_apart(tmp_path):
    sweep = Sweep(tmp_path, *BOTH, **SCORE).run(24)
    declaration, trials = sweep.plan.declaration, trials_of(sweep)
    states = {
        phase: [r.state if r else None for t in trials for p, r in t.extra if p.phase == phase]
        for phase in ("runner_up", "audit")
    }
    assert {"complete", None} == {state for found in states.values() for state in found}
    every = {(t.cell.key, p.key) for t in trials for p, _ in t.extra}
    for running, word in ((every, "running"), (set(), "waiting")):
        found = status(declaration, trials, running=running)
        assert found["beside_the_table"] == {
            phase: {
                name: of_phase.count(state) for name, state in (("complete", "complete"), (word, None))
                if state in of_phase
            }
            for phase, of_phase in states.items()
        }  # fmt: skip
        counts = dict(found["trials"])
        assert counts.pop("planned") == sum(counts.values()) == declaration.num_trials
    lines = status_lines(found)
    assert lines[2].startswith("  beside the table, runner-up: ")
    assert lines[3].startswith("  beside the table, audit: ")
    plain = status(declaration, [dataclasses.replace(t, extra=[]) for t in trials])
    assert plain.keys() == {"sweep", "metric", "trials", "cells", "trial_keys"}
    assert plain["trials"].keys() == {"planned", "waiting", "running", "complete", "pruned", "diverged", "failed"}
    assert plain["cells"][0].keys() == {"levels", "best_configs", "confirm"}
    assert plain["cells"][0]["confirm"].keys() == {"n", "mean", "low", "high", "values", "diverged", "collapsed"}
    assert not any("beside the table" in line for line in status_lines(plain))
