"""What runs next: equal budgets, confirm trials, resuming; with results that a test makes up instead of training."""

import dataclasses
import itertools
import random
from pathlib import Path
from statistics import median

import optuna
import pytest
from made_up import Sweep, stamps

from ablate.report.summary import status
from ablate.search.journal import Journal
from ablate.store.declaration import collect
from ablate.store.record import TrialRecord


def test_every_cell_gets_the_same_trials_and_confirm_seeds(tmp_path):
    sweep = Sweep(tmp_path).run()
    assert sweep.schedule.is_finished()
    assert len(sweep.ended) == sweep.plan.declaration.num_trials == 4 * (7 + 3)
    for trials in collect(sweep.plan.declaration, sweep.plan.folder.read_proposals(), sweep.ledger):
        assert [proposal.number for proposal, _ in trials.tune] == list(range(7))
        assert [proposal.number for proposal, _ in trials.confirm] == list(range(3))


def test_what_is_under_way_is_written_beside_the_proposals_and_forgotten_by_the_next_run(tmp_path):
    sweep = Sweep(tmp_path)
    folder, declaration = sweep.plan.folder, sweep.plan.declaration
    packs = [sweep.schedule.next_pack() for _ in range(2)]
    launched = {(pack.proposals[0].cell, pack.proposals[0].key) for pack in packs}
    assert folder.read_running() == launched

    def counted():
        cells = collect(declaration, folder.read_proposals(), sweep.ledger)
        return status(declaration, cells, running=folder.read_running())["trials"]

    assert (counted()["running"], counted()["waiting"]) == (2, 38)
    sweep.finish(packs[0])
    assert folder.read_running() == {(packs[1].proposals[0].cell, packs[1].proposals[0].key)}
    assert (counted()["running"], counted()["waiting"]) == (1, 38)
    Sweep(tmp_path)
    assert folder.read_running() == set()
    assert (counted()["running"], counted()["waiting"]) == (0, 39)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"3", b"[3]", b'{"a": 1}', b"[[1, 2, 3]]"])
def test_a_damaged_list_of_what_is_under_way_is_an_empty_one(tmp_path, content):
    folder = Sweep(tmp_path).plan.folder
    (folder.path / "running.json").write_bytes(content)
    assert folder.read_running() == set()


def test_seeds_are_paired_across_cells_and_confirm_seeds_are_fresh(tmp_path):
    sweep = Sweep(tmp_path).run()
    by_number = {}
    for _, proposal, _ in sweep.ended:
        by_number.setdefault((proposal.phase, proposal.number), set()).add(proposal.seed)
    assert all(len(seeds) == 1 for seeds in by_number.values())
    assert len(set.union(*by_number.values())) == 7 + 3


def test_confirm_trials_repeat_the_validation_winner_of_their_cell(tmp_path):
    sweep = Sweep(tmp_path).run()
    for trials in collect(sweep.plan.declaration, sweep.plan.folder.read_proposals(), sweep.ledger):
        complete = [(p, r) for p, r in trials.tune if r.state == "complete"]
        best = max(complete, key=lambda pair: pair[1].metrics["val_accuracy"])[0]
        assert all(proposal.settings == best.settings for proposal, _ in trials.confirm)


def test_items_are_in_the_ledger_and_not_in_the_memory_of_who_schedules(tmp_path, monkeypatch):
    one = ("axes.depth=[8]", "axes.arm={plain: {shortcut: none}}")
    sweep = Sweep(tmp_path, *one)
    on_finished = sweep.schedule.on_finished

    def with_items(pack, records):
        is_confirm = records[0].phase == "confirm"
        items = {"test_accuracy": [1.0, 0.0]} if is_confirm else {}
        on_finished(pack, [dataclasses.replace(record, items=items, items_digest="d") for record in records])

    monkeypatch.setattr(sweep.schedule, "on_finished", with_items)
    sweep.run()
    again = Sweep(tmp_path, *one)
    for each in (sweep, again):
        records = [record for run in each.schedule.studies for record in run.records.values()]
        confirmed = [record for record in records if record.phase == "confirm"]
        assert [record.items_digest for record in confirmed] == ["d"] * 3
        assert not any(record.items for record in records)
        kept = [each.ledger.read(record.key, "", items=None).items for record in confirmed]
        assert kept == [{"test_accuracy": [1.0, 0.0]}] * 3
    assert not any(record.items for _, _, record in sweep.ended)


def test_the_last_trial_of_a_cell_can_be_the_one_that_is_confirmed(tmp_path):
    rising = itertools.count(1)
    one = ("axes.depth=[8]", "axes.arm={plain: {shortcut: none}}", "budget.pruner=none")
    sweep = Sweep(tmp_path, *one, score=lambda settings, phase: next(rising) / 100).run()
    (trials,) = collect(sweep.plan.declaration, sweep.plan.folder.read_proposals(), sweep.ledger)
    assert len(trials.confirm) == 3
    assert all(proposal.settings == trials.tune[6][0].settings for proposal, _ in trials.confirm)


def test_later_suggestions_depend_on_earlier_results(tmp_path):
    """Two searches start alike; what they were told then draws them to where the accuracy is high."""
    rates = {}
    for name, score in {"rising": lambda lr: lr, "falling": lambda lr: 1 - lr}.items():
        (tmp_path / name).mkdir()
        sweep = Sweep(
            tmp_path / name,
            "budget.trials_per_cell=24",
            "axes.depth=[8]",
            "axes.arm={plain: {shortcut: none}}",
            "confirm.seeds=0",
            score=lambda settings, phase, score=score: score(settings["lr"]),
        ).run()
        rates[name] = [proposal.settings["lr"] for _, proposal, _ in sweep.ended]
    assert rates["rising"][:8] == rates["falling"][:8]
    assert all(first != second for first, second in zip(rates["rising"][8:], rates["falling"][8:], strict=True))
    assert median(rates["rising"][8:]) > 10 * median(rates["falling"][8:])


def test_the_same_file_gives_the_same_proposals_whatever_runs_in_parallel(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    one = Sweep(tmp_path / "a").run(parallel=1)
    many = Sweep(tmp_path / "b").run(parallel=4)
    assert sorted(one.proposals()) == sorted(many.proposals())


@pytest.mark.parametrize("stop_after", [0, 1, 13, 27, 30, 39])
def test_a_sweep_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path, stop_after):
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = Sweep(tmp_path / "a").run()
    cut = Sweep(tmp_path / "b").run(stop_after)
    cut.schedule.next_pack()
    resumed = Sweep(tmp_path / "b")
    assert resumed.schedule.restored == stop_after
    resumed.run()
    assert sorted(resumed.proposals()) == sorted(whole.proposals())
    finished = [proposal.key for _, proposal, _ in cut.ended + resumed.ended]
    assert len(finished) == len(set(finished)) == 40
    assert Sweep(tmp_path / "b").schedule.is_finished()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_sweep_with_diverged_trials_that_was_cut_off_stops_the_same_trials(tmp_path, batch):
    """Each trial of which the pruner compares the third epoch is compared with those that diverged in it."""

    def score(settings, phase):
        return None if settings["optimizer"] == "adam" else min(1.0, settings["lr"])

    options = ("budget.trials_per_cell=16", "axes.depth=[8]", "confirm.seeds=1", f"budget.batch={batch}")
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = Sweep(tmp_path / "a", *options, score=score).run()
    ends = sorted((r.key, r.state, r.num_epochs) for _, _, r in whole.ended)
    assert {state for _, state, _ in ends} == {"complete", "pruned", "diverged"}
    parts = []
    while not (part := Sweep(tmp_path / "b", *options, score=score)).schedule.is_finished():
        part.run(3)
        part.schedule.next_pack()
        parts += part.ended
    assert sorted((r.key, r.state, r.num_epochs) for _, _, r in parts) == ends
    assert sorted(part.proposals()) == sorted(whole.proposals())


def test_a_longer_budget_and_more_seeds_run_only_what_is_missing(tmp_path):
    Sweep(tmp_path).run()
    longer = Sweep(tmp_path, "budget.trials_per_cell=9", "confirm.seeds=4")
    assert longer.schedule.restored >= 4 * 7
    longer.run()
    assert longer.schedule.is_finished()
    assert sum(p.phase == "tune" for _, p, _ in longer.ended) == 4 * 2
    assert len(longer.plan.declaration.history) == 2


def test_a_new_level_runs_only_its_own_cells(tmp_path):
    Sweep(tmp_path).run()
    wider = Sweep(tmp_path, "axes.depth=[8, 14, 20]").run()
    assert {name for name, _, _ in wider.ended} == {"depth=20, arm=plain", "depth=20, arm=residual"}


@pytest.mark.parametrize("batch", [1, 3])
def test_another_sweep_takes_what_is_complete_or_diverged_from_the_ledger_and_learns_from_it(tmp_path, batch):
    def score(settings, phase):
        return None if settings["lr"] < 1e-3 else settings["lr"]

    # Draws with which no trial of a batch is stopped by what runs beside it: after which epoch that is would differ.
    options = (f"budget.batch={batch}", "fixed.statistics=running")
    first = Sweep(tmp_path, *options, score=score).run()
    other = Sweep(tmp_path, *options, "name=other", score=score).run()
    shared = {record.key for _, _, record in first.ended if record.is_shared}
    stopped = {record.key for _, _, record in first.ended if record.state == "pruned"}
    assert {record.state for _, _, record in first.ended} == {"complete", "pruned", "diverged"}
    assert {record.key for _, _, record in other.ended} == stopped
    assert [line[1:] for line in sorted(other.proposals())] == [line[1:] for line in sorted(first.proposals())]
    assert other.schedule.num_finished() == other.plan.declaration.num_trials == len(shared) + len(stopped)
    assert {record.key for _, _, record in other.reused} == shared
    for run, before in zip(other.schedule.studies, first.schedule.studies, strict=True):
        values = [[trial.value for trial in each.search.study.trials] for each in (run, before)]
        assert values[0] == values[1]


def test_a_trial_that_another_sweep_ends_while_it_waits_does_not_run_again(tmp_path):
    only = ["axes.depth=[8]", "axes.arm={plain: {shortcut: none}}", "budget.batch=3", "budget.pruner=none"]
    late = Sweep(tmp_path, "name=late", *only)
    running = late.schedule.next_pack()
    early = Sweep(tmp_path, *only).run()
    late.finish(running)
    late.run()
    assert late.schedule.is_finished()
    ran = {record.key for _, _, record in late.ended}
    assert len(ran) == 1
    assert ran | {record.key for _, _, record in late.reused} == {record.key for _, _, record in early.ended}


def test_a_new_axis_runs_only_the_cells_that_were_not_there(tmp_path):
    first = Sweep(tmp_path).run()
    assert any(record.state == "pruned" for _, _, record in first.ended)
    second = Sweep(tmp_path, "axes.regularizer=[none, l2]").run()
    assert len(second.ended) == 4 * (7 + 3)
    assert all("regularizer=l2" in cell for cell, _, _ in second.ended)
    again = Sweep(tmp_path, "axes.regularizer=[none, l2]")
    assert again.schedule.is_finished()
    assert again.plan.declaration == second.plan.declaration
    third = Sweep(tmp_path, "axes.regularizer=[none, l2]", "axes.width=[16, 8]").run()
    assert len(third.ended) == 8 * (7 + 3)
    assert all("width=8" in cell for cell, _, _ in third.ended)
    trials = collect(third.plan.declaration, third.plan.folder.read_proposals(), third.ledger)
    assert len({each.cell.key for each in trials}) == len(trials) == 16
    assert all(len(each.tune) == 7 and len(each.confirm) == 3 for each in trials)


def test_a_fixed_value_that_becomes_an_axis_runs_only_the_other_levels(tmp_path):
    Sweep(tmp_path).run()
    wider = Sweep(tmp_path, "fixed.batch_size=null", "axes.batch_size=[16, 32]").run()
    assert len(wider.ended) == 4 * (7 + 3)
    assert all("batch_size=16" in cell for cell, _, _ in wider.ended)


def test_cells_of_equal_settings_do_not_take_over_one_key(tmp_path):
    Sweep(tmp_path, "axes.arm={plain: {shortcut: none}}", "axes.depth=[8]").run()
    again = Sweep(tmp_path, "axes.arm={plain: {shortcut: none}}", "axes.depth=[8]",
                  "axes.twin={a: {width: 16}, b: {width: 16}}").run()  # fmt: skip
    assert len({cell.key for cell in again.plan.cells}) == 2
    assert again.ended
    assert all("twin=b" in cell for cell, _, _ in again.ended)


def test_diverged_trials_are_results_and_count_as_accuracy_zero(tmp_path):
    sweep = Sweep(tmp_path, score=lambda settings, phase: None if settings["lr"] > 0.01 else settings["lr"]).run()
    assert sweep.schedule.is_finished()
    study = sweep.schedule.studies[0].search.study
    states = {(trial.state, trial.value) for trial in study.trials if trial.params["lr"] > 0.01}
    assert states == {(optuna.trial.TrialState.COMPLETE, 0.0)}
    assert all(p.settings["lr"] <= 0.01 for _, p, _ in sweep.ended if p.phase == "confirm")


def test_if_every_trial_diverged_the_one_that_lasted_longest_is_confirmed(tmp_path):
    sweep = Sweep(tmp_path, score=lambda settings, phase: None).run()
    assert sweep.schedule.is_finished()
    for run in sweep.schedule.studies:
        longest = max(run.records[p.key].diverged_step for p in run.tune.values())
        assert {int(p.settings["lr"] * 1000) for p in run.confirm.values()} == {longest}


def test_a_failed_trial_is_tried_again_by_the_next_run_and_only_then(tmp_path):
    sweep = Sweep(tmp_path)
    pack = sweep.schedule.next_pack()
    failed = sweep.finish(pack, state="failed")
    sweep.run()
    assert sweep.schedule.is_finished()
    assert [p.key for _, p, _ in sweep.ended].count(failed.key) == 1
    again = Sweep(tmp_path).run()
    assert again.ended[0][1].key == failed.key
    assert Sweep(tmp_path).schedule.is_finished()


def test_a_batch_is_asked_at_once_and_the_next_one_after_it(tmp_path):
    sweep = Sweep(tmp_path, "budget.batch=3", "axes.depth=[8]", "axes.arm={plain: {shortcut: none}}")
    first = [sweep.schedule.next_pack() for _ in range(4)]
    assert [pack is None for pack in first] == [False, False, False, True]
    sweep.finish(first[0])
    assert sweep.schedule.next_pack() is None
    sweep.finish(first[1])
    sweep.finish(first[2])
    assert sweep.schedule.next_pack().proposals[0].number == 3


def test_the_pruner_compares_within_a_cell_only(tmp_path):
    # Depth 8 is far better than depth 14, and yet depth 14 is not pruned for it.
    sweep = Sweep(tmp_path, score=lambda settings, phase: 0.9 if settings["depth"] == 8 else 0.1).run()
    assert not any(record.state == "pruned" for _, _, record in sweep.ended)


def test_a_poor_trial_is_pruned_after_the_first_third_of_its_epochs(tmp_path):
    sweep = Sweep(tmp_path, score=lambda settings, phase: settings["lr"]).run()
    pruned = [record for _, _, record in sweep.ended if record.state == "pruned"]
    assert pruned
    assert all(record.phase == "tune" and 3 <= record.num_epochs < 9 for record in pruned)
    assert all(record.sweep == "small" for record in pruned)


def test_a_confirm_trial_is_never_stopped_however_poor_it_is(tmp_path):
    """Nor is it taken for the tune trial of its number, here the first one, which diverged."""
    first = iter([None])
    one = ("axes.depth=[8]", "axes.arm={plain: {shortcut: none}}")
    sweep = Sweep(tmp_path, *one, score=lambda settings, phase: next(first, settings["lr"]))
    while (pack := sweep.schedule.next_pack()).requests[0].phase == "tune":
        sweep.finish(pack)
    assert next(record.state for _, _, record in sweep.ended) == "diverged"
    assert (pack.requests[0].phase, pack.proposals[0].number) == ("confirm", 0)
    assert [sweep.schedule.on_values(pack, epoch, [0.0]) for epoch in range(1, 10)] == [[]] * 9


def test_the_deepest_cells_go_first(tmp_path):
    sweep = Sweep(tmp_path)
    first = [sweep.schedule.next_pack() for _ in range(4)]
    assert [pack.requests[0].settings["depth"] for pack in first] == [14, 14, 8, 8]


def test_optuna_dashboard_can_open_the_studies(tmp_path):
    sweep = Sweep(tmp_path).run()
    backend = optuna.storages.journal.JournalFileBackend(str(sweep.plan.folder.path / "optuna.journal"))
    storage = optuna.storages.JournalStorage(backend)
    studies = {study.study_name: study for study in optuna.get_all_study_summaries(storage)}
    assert set(studies) == {cell.name for cell in sweep.plan.declaration.cells}
    assert all(study.n_trials == 7 for study in studies.values())


def test_what_the_ledger_has_is_not_kept_in_memory_as_well(tmp_path):
    sweep = Sweep(tmp_path).run()
    assert all(record.curves for _, _, record in sweep.ended), "whoever listens is told of them"
    for run in sweep.schedule.studies:
        assert len(run.records) == 7 + 3
        for proposal in [*run.tune.values(), *run.confirm.values()]:
            kept = run.records[proposal.key]
            assert (kept.curves, kept.provenance, kept.layers) == ({}, {}, {})
            assert kept.settings is proposal.settings
            assert sweep.ledger.read(kept.key, kept.sweep, kept.cell).curves
        assert not run.search.trials


def test_the_journal_keeps_no_line_that_optuna_has_read(tmp_path):
    journal = Journal(tmp_path / "optuna.journal")
    journal.append_logs([{"a": 1}, {"b": 2}])
    assert list(journal.read_logs(0)) == list(journal.read_logs(0)) == [{"a": 1}, {"b": 2}]
    journal.append_logs([{"c": 3}])
    assert list(journal.read_logs(2)) == [{"c": 3}]
    assert journal._logs == [{"c": 3}]
    assert len((tmp_path / "optuna.journal").read_text().splitlines()) == 3


def test_a_checkpoint_goes_when_its_trial_is_in_the_ledger(tmp_path):
    sweep = Sweep(tmp_path)
    pack = sweep.schedule.next_pack()
    checkpoint = sweep.plan.out / "checkpoints" / f"{pack.requests[0].key}.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    sweep.finish(pack)
    assert not checkpoint.exists()
    # Left behind by a kill between the record and the removal.
    checkpoint.write_bytes(b"weights")
    other = checkpoint.with_name("other.pt")
    other.write_bytes(b"weights")
    Sweep(tmp_path)
    assert not checkpoint.exists()
    assert other.exists()


class Shaped(Sweep):
    """A sweep of one cell whose trials learn at a pace of their own, so that late bloomers can win."""

    def __init__(self, tmp_path: Path, *overrides: str, score=None):
        one = ("axes.depth=[8]", "axes.arm={plain: {shortcut: none}}", "budget.trials_per_cell=10", "confirm.seeds=1")
        super().__init__(tmp_path, *one, *overrides, score=score)

    def finish(self, pack, state: str = "complete"):
        (task,), (proposal,) = pack.requests, pack.proposals
        noise = random.Random(task.key)
        low, high, pace = noise.uniform(0, 0.4), noise.uniform(0.4, 1), noise.uniform(0.3, 4)
        curve = []
        for epoch in range(1, 10):
            curve.append(low + (high - low) * (epoch / 9) ** pace)
            if task.phase == "tune" and self.schedule.on_values(pack, epoch, [curve[-1]]):
                state = "pruned"
                break
        metrics = {"val_accuracy": curve[-1]} | ({"test_accuracy": curve[-1]} if task.phase == "confirm" else {})
        record = TrialRecord(
            **dataclasses.asdict(task), state=state, rows=stamps(task), num_epochs=len(curve),
            metrics=metrics, curves={"val_accuracy": curve},
        )  # fmt: skip
        self.schedule.on_finished(pack, [record])
        return proposal

    def ends(self):
        """Return how every tune trial ended, by its number."""
        (run,) = self.schedule.studies
        found = {number: run.records[proposal.key] for number, proposal in run.tune.items()}
        return {number: (record.state, record.num_epochs, record.metrics) for number, record in found.items()}

    def file(self, number):
        (run,) = self.schedule.studies
        record = run.records[run.tune[number].key]
        return self.ledger.path(record.key, record.sweep, record.cell)


@pytest.mark.parametrize("is_damaged", [True, False])
@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_a_trial_whose_record_was_lost_ends_as_it_did(tmp_path, pruner, is_damaged):
    """Also a winner that later trials would have had stopped, and a stopped one, whose epochs count."""
    options = [f"budget.pruner={pruner}"]
    whole = Shaped(tmp_path, *options).run()
    ends, proposals = whole.ends(), set(whole.proposals())
    assert {state for state, _, _ in ends.values()} == {"complete", "pruned"}
    for lost in [*([number] for number in range(10)), [1, 2, 6], list(range(10))]:
        for number in lost:
            whole.file(number).write_bytes(b"damaged") if is_damaged else whole.file(number).unlink()
        again = Shaped(tmp_path, *options).run(parallel=2)
        assert [p.number for _, p, _ in again.ended] == lost
        assert again.ends() == ends
        assert set(again.proposals()) == proposals


def test_later_trials_would_have_had_a_winner_stopped(tmp_path):
    """What the test above is about: a search that knows all trials stops some that had not been."""
    whole = Shaped(tmp_path, "budget.pruner=median").run()
    ends = whole.ends()
    changed = []
    for number, (state, _, _) in ends.items():
        whole.file(number).unlink()
        again = Shaped(tmp_path, "budget.pruner=median")
        again.schedule._keep_decision = lambda *_: None
        again.run()
        if again.ends()[number][0] != state:
            changed.append(number)
            Path(again.file(number)).unlink()
            Shaped(tmp_path, "budget.pruner=median").run()
    assert changed


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_complete_trial_of_a_batch_whose_record_was_damaged_comes_back_complete(tmp_path, parallel):
    options = ["budget.batch=3", "budget.pruner=median"]
    whole = Shaped(tmp_path, *options).run(parallel=parallel)
    ends = whole.ends()
    complete = [number for number, (state, _, _) in ends.items() if state == "complete"]
    assert len(complete) < len(ends)
    for number in complete:
        whole.file(number).write_bytes(b"")
        # Killed when the record had been set aside and its trial was under way.
        Shaped(tmp_path, *options).schedule.next_pack()
        assert Shaped(tmp_path, *options).run().ends() == ends


def test_a_proposal_that_was_damaged_gives_way_to_the_whole_one_and_moves_no_record(tmp_path, caplog):
    whole = Shaped(tmp_path).run()
    proposals = whole.plan.folder.read_proposals()
    whole.plan.folder.append_proposal(dataclasses.replace(proposals[3], settings={**proposals[3].settings, "lr": 0.5}))
    again = Shaped(tmp_path).run()
    assert [record.message.partition("proposals.jsonl: ")[2] for record in caplog.records] == [
        "1 line is passed over: 1 with a key that the settings and the seed do not have"
    ]
    assert again.schedule.is_finished()
    assert again.ended == []
    assert len(again.plan.folder.read_proposals()) == len(proposals) + 1
    assert again.ends() == whole.ends()
    assert not (again.ledger.root / "aside").exists()
    trials = collect(again.plan.declaration, again.plan.folder.read_proposals(), again.ledger)
    assert all(record is not None for _, record in trials[0].tune)
