"""Several studies a cell: what is run, what a replicate is, and what a table may say of them."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up import Sweep
from synthetic import ARMS, DEPTHS, VAL_ACCURACY, Synthetic, declared_claim

from ablate.errors import SpecError
from ablate.report import sufficiency, tables
from ablate.report.appendix import sections
from ablate.report.build import build_report
from ablate.report.claim_results import claim_results
from ablate.report.combine import combine, laid_out_as
from ablate.report.entries import entries
from ablate.report.inference import equivalence_p, paired_difference, paired_test
from ablate.report.layout import grid
from ablate.report.studies import winners
from ablate.report.summary import status
from ablate.report.text import printed_entry
from ablate.report.verdicts import doubts, judged
from ablate.run.plan import make_plan
from ablate.seeds import study_seed
from ablate.store.declaration import Proposal, SweepFolder, collect, twin_notices
from ablate.store.ledger import Ledger
from ablate.sweepfile.spec import load_spec
from ablate.tracking import content

CELLS = ("axes.depth=[8]",)
ONE = (*CELLS, "confirm.seeds=1")


def studies(number: int, trials: int = 7, more: str = "") -> tuple[str, ...]:
    return (*ONE, f"budget={{trials_per_cell: null, studies: {number}, trials: {trials}, sampler: tpe{more}}}")


def folders(tmp_path, names: str = "ab"):
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


def found_studies(sweep: Sweep):
    cells = collect(sweep.plan.declaration, sweep.plan.folder.read_proposals(), sweep.ledger)
    return [study for trials in cells for study in trials.studies]


def test_the_first_study_has_the_seeds_and_the_trials_of_the_only_one(tmp_path):
    a, b = folders(tmp_path)
    one, two = Sweep(a, *ONE).run(), Sweep(b, *studies(2)).run()
    keys = [(p.cell, p.phase, p.number, p.seed, p.key) for p in one.plan.folder.read_proposals()]
    first = [p for p in two.plan.folder.read_proposals() if p.study == 0]
    assert sorted((p.cell, p.phase, p.number, p.seed, p.key) for p in first) == sorted(keys)
    assert two.schedule.num_finished() == two.plan.declaration.num_trials == 2 * 2 * (7 + 1)


def test_studies_differ_in_all_seeds_and_points_and_cells_share_the_seeds_study_by_study(tmp_path):
    sweep = Sweep(tmp_path, *studies(3)).run()
    seeds: dict[str, dict[tuple[int, str, int], int]] = {}
    for p in sweep.plan.folder.read_proposals():
        seeds.setdefault(p.cell, {})[p.study, p.phase, p.number] = p.seed
    first, second = seeds.values()
    assert first == second
    assert len(set(first.values())) == len(first) == 3 * (7 + 1)
    rates = [[p.settings["lr"] for p, _ in study.tune] for study in found_studies(sweep)[:3]]
    assert len({rate for of_study in rates for rate in of_study}) == 3 * 7
    assert [run.seed for run in sweep.schedule.studies[:3]] == [study_seed(0, number) for number in range(3)]


def test_each_study_confirms_its_own_winner(tmp_path):
    sweep = Sweep(tmp_path, *studies(2), "confirm.seeds=2").run()
    found = found_studies(sweep)
    assert [study.number for study in found] == [0, 1, 0, 1]
    for study in found:
        best = max((pair for pair in study.tune if pair[1].state == "complete"), key=lambda p: study.value(p[1]))[0]
        assert study.winner() is best
        assert [(p.study, p.settings) for p, _ in study.confirm] == [(study.number, best.settings)] * 2
        assert {record.study for _, record in (*study.tune, *study.confirm)} == {study.number}
    assert found[0].winner().settings != found[1].winner().settings


def test_the_runner_up_and_the_audit_belong_to_their_study(tmp_path):
    def score(settings, phase):
        return min(1.0, settings["lr"])

    sweep = Sweep(tmp_path, *studies(2, more=", audit: 1"), "confirm.runner_up=true", score=score).run()
    assert sweep.schedule.is_finished()
    for study in found_studies(sweep):
        by_phase = {p.phase: p for p, _ in study.extra}
        assert by_phase["runner_up"].settings == study.runner_up().settings
        assert by_phase["audit"].key in {p.key for p in study.stopped()}
        assert {p.study for p in by_phase.values()} == {study.number}


@pytest.mark.parametrize("stop_after", [0, 1, 7, 8, 17, 25, 31])
def test_a_sweep_of_studies_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path, stop_after):
    a, b = folders(tmp_path)
    whole = Sweep(a, *studies(2)).run()
    cut = Sweep(b, *studies(2)).run(stop_after)
    cut.schedule.next_pack()
    resumed = Sweep(b, *studies(2))
    assert resumed.schedule.restored == stop_after
    resumed.run()
    proposals = [sorted(map(repr, sweep.plan.folder.read_proposals())) for sweep in (whole, resumed)]
    assert proposals[0] == proposals[1]
    ended = [p.key for _, p, _ in cut.ended + resumed.ended]
    assert len(ended) == len(set(ended)) == 32
    assert Sweep(b, *studies(2)).schedule.is_finished()


def test_what_runs_beside_each_other_changes_no_proposal(tmp_path):
    a, b = folders(tmp_path)
    one, many = Sweep(a, *studies(2)).run(parallel=1), Sweep(b, *studies(2)).run(parallel=5)
    assert sorted(one.proposals()) == sorted(many.proposals())


def test_one_more_study_runs_only_its_own_trials(tmp_path):
    Sweep(tmp_path, *studies(2)).run()
    more = Sweep(tmp_path, *studies(3)).run()
    assert more.schedule.restored == 32
    assert [p.study for _, p, _ in more.ended] == [2] * 16
    assert more.schedule.is_finished()


def test_several_studies_take_over_what_the_only_one_had_run(tmp_path):
    Sweep(tmp_path, *ONE).run()
    more = Sweep(tmp_path, *studies(2)).run()
    assert {p.study for _, p, _ in more.ended} == {1}
    assert len(more.ended) == 16


def test_the_progress_of_a_sweep_names_further_studies(tmp_path):
    sweep = Sweep(tmp_path, *studies(2)).run()
    names = {p.name for _, p, _ in sweep.ended}
    assert {"tune 0", "confirm 0", "study 2 tune 0", "study 2 confirm 0"} <= names
    assert [run.search.study.study_name for run in sweep.schedule.studies[:2]] == [
        "depth=8, arm=plain", "depth=8, arm=plain, study 2",
    ]  # fmt: skip


HEAD = "name: s\nfixed: {width: 4, epochs: 9}\naxes: {depth: [8, 14], arm: {a: {shortcut: none}, b: {norm: none}}}\n"
TUNE = "tune: {lr: {low: 0.01, high: 1, log: true}}\n"
ONE_FORM = "a budget has studies and trials, or trials_per_cell for a single study, but this has both"
MARGIN = "margin must be a size with its unit, such as 2 points, but got "
SEVERAL = r"needs several studies: with one, the luck of its tuning can hide any difference. Set budget.studies"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "tune: {optimizer: [sgd, adam]}\nbudget: {trials: 2, studies: 3, sampler: grid, pruner: none}\n",
            "5:30: sampler grid tries the same points in every study: set studies to 1, but got 3",
        ),
        (
            "tune: {optimizer: [sgd, adam]}\nbudget: {trials: 2, sampler: grid, pruner: none}\n",
            "5:18: sampler grid tries the same points in every study: set studies to 1, but got 5",
        ),
        (
            "budget:\n  studies: 2\n  trials: 6\n",
            "5:12: nothing is tuned, so a study is no more than a seed: set studies to 1 and give confirm.seeds, but g",
        ),
        (f"{TUNE}budget: {{trials_per_cell: 6}}\nreport:\n  margin: 2 points\n", f"7:11: margin {SEVERAL}"),
        (
            f"{TUNE}budget: {{studies: 1, trials: 6}}\nclaims:\n  - b equals a within 2 points at depth 8\n",
            f"7:5: a claim that two arms are equal {SEVERAL}",
        ),
        (f"{TUNE}budget: {{trials: 6}}\nreport: {{margin: 2}}\n", f"6:18: {MARGIN}'2'"),
        (f"{TUNE}budget: {{trials: 6}}\nreport: {{margin: 2%}}\n", f"6:18: {MARGIN}'2%'"),
        (f"{TUNE}budget: {{trials: 6}}\nreport: {{margin: 0 points}}\n", f"6:18: {MARGIN}'0 points'"),
        (f"{TUNE}budget: {{trials: 6}}\nreport: {{margin: 2 in val_loss}}\n", f"6:18: {MARGIN}'2 in val_loss'"),
        (
            f"{TUNE}budget: {{trials: 6}}\nclaims: [b equals a at depth 8]\n",
            r"6:10: a claim must read 'A beats B \[by at least 5 points\].* or 'A equals B within 5 points at d",
        ),
        (f"{TUNE}budget: {{studies: 2}}\n", "5:1: the key 'trials' is required in budget: the tune trials of each st"),
        (f"{TUNE}budget: {{trials: 6, trials_per_cell: 6}}\n", f"5:21: {ONE_FORM}"),
        (f"{TUNE}budget:\n  trials_per_cell: 6\n  studies: 2\n", f"7:3: {ONE_FORM}"),
        (f"{TUNE}budget: {{studies: 0, trials: 6}}\n", "5:19: studies must be greater than or equal to 1, but got 0"),
        (
            f"{TUNE}budget: {{trials: 1, pruner: median}}\n",
            "5:29: the pruner median has nothing to judge: it needs at least 3 trials a study, but trials is 1",
        ),
        (
            f"{TUNE}budget: {{trials: 1, pruner: none}}\nconfirm: {{runner_up: true}}\n",
            "6:22: runner_up needs at least 2 trials a study, but trials is 1",
        ),
    ],
)  # fmt: skip
def test_a_wrong_budget_or_margin_is_told_at_its_place(tmp_path, text, problem):
    file = tmp_path / "s.yaml"
    file.write_text(HEAD + text)
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    (found,) = caught.value.problems
    assert re.match(problem, str(found).removeprefix(f"{file}:")), found


def test_without_a_word_there_are_five_studies_of_one_seed_each(tmp_path):
    (tmp_path / "s.yaml").write_text(
        f"{HEAD}{TUNE}budget: {{trials: 6}}\nreport: {{baseline: a, margin: 1.5 points}}\n"
    )
    spec = load_spec(tmp_path / "s.yaml")
    assert (spec.budget.num_studies, spec.budget.num_tune, spec.budget.sampler, spec.confirm.seeds) == (5, 6, "auto", 1)
    assert spec.report.margin == 0.015
    one = load_spec(tmp_path / "s.yaml", None, ["budget.studies=1", "report.margin=null"])
    assert (one.budget.num_studies, one.budget.sampler, one.confirm.seeds) == (1, "auto", 3)
    (tmp_path / "s.yaml").write_text(f"{HEAD}{TUNE}budget: {{trials_per_cell: 6}}\n")
    before = load_spec(tmp_path / "s.yaml")
    assert (before.budget.num_studies, before.budget.sampler, before.confirm.seeds) == (1, "tpe", 3)
    (tmp_path / "s.yaml").write_text(f"{HEAD}budget: {{trials: 1, pruner: none}}\nreport: {{margin: 1 point}}\n")
    fixed = load_spec(tmp_path / "s.yaml")
    assert (fixed.budget.num_studies, fixed.confirm.seeds, fixed.report.margin) == (1, 3, 0.01)


def made_up_plan(tmp_path, *overrides):
    return make_plan(tmp_path / "small.yaml", None, overrides, tmp_path / "runs")


def plan(tmp_path, text, *overrides):
    (tmp_path / "s.yaml").write_text(text)
    return make_plan(tmp_path / "s.yaml", None, overrides, tmp_path / "runs")


def test_the_plan_tells_the_studies_and_warns_of_very_small_ones(tmp_path):
    made = plan(tmp_path, f"{HEAD}{TUNE}budget: {{studies: 3, trials: 4}}\nreport: {{baseline: a}}\n")
    assert made.summary()["studies"] == 3
    assert made.summary()["tune_trials"] == 4
    assert made.lines()[1].endswith("4 cells, each 3 studies of 4 tune trials and 1 confirm seed: 60 trials")
    (warning,) = [text for text in made.warnings() if "trials is" in text]
    assert warning.startswith(f"{tmp_path / 's.yaml'}:5: trials is 4: a study of fewer than 5 tune trials often finds")
    assert not [
        text for text in plan(tmp_path, f"{HEAD}{TUNE}budget: {{trials: 5}}\n").warnings() if "trials is" in text
    ]


def test_the_plan_tells_the_confirm_seeds_that_the_file_leaves_out(tmp_path):
    text, why = (
        f"{HEAD}{TUNE}budget: {{studies: 1, trials: 6}}\n",
        "3 where a cell has one study, 1 where it has several",
    )
    assert f"confirm.seeds is left out, so it is 3: {why}" in plan(tmp_path, text).lines()
    assert f"confirm.seeds is left out, so it is 1: {why}" in plan(tmp_path, text, "budget.studies=2").lines()
    told = plan(tmp_path, text, "confirm.seeds=3").lines()
    assert not any("left out" in line for line in told)


def test_more_studies_do_not_leave_finished_confirm_trials_behind_in_silence(tmp_path):
    one = (*CELLS, "confirm.seeds=null", "budget={trials_per_cell: null, studies: 1, trials: 7, sampler: tpe}")
    several = (*one, "budget.studies=2")
    told = (
        "confirm.seeds falls from 3 to 1, as a cell has several studies now: the confirm trials of further seeds do "
        "not count; --set confirm.seeds=3 keeps them"
    )
    Sweep(tmp_path, *one)
    assert told not in made_up_plan(tmp_path, *several).warnings()  # No trial has run.
    Sweep(tmp_path, *one).run()
    assert told in made_up_plan(tmp_path, *several).warnings()
    kept = made_up_plan(tmp_path, *several, "confirm.seeds=3")
    assert told not in kept.warnings()
    assert told not in made_up_plan(tmp_path, *several, "confirm.seeds=1").warnings()
    more = Sweep(tmp_path, *several, "confirm.seeds=3")
    assert more.schedule.restored == 2 * (7 + 3)


def test_a_study_is_no_longer_than_the_cell_with_the_most_points(tmp_path):
    made = plan(tmp_path, f"{HEAD}tune: {{optimizer: [sgd, adam, nesterov]}}\nbudget: {{trials: 6}}\n")
    assert made.declaration.num_tune == 3
    assert "no cell has more than 3 points to try: each study has 3 tune trials instead of 6" in made.warnings()


CLAIM = f"{HEAD}{TUNE}budget: {{studies: 2, trials: 6}}\nclaims:\n  - b equals a within 2 points at depth 8\n"


def propose(made):
    cell = made.declaration.cells[0].key
    made.folder.append_proposal(Proposal(cell=cell, phase="tune", number=0, key="k", seed=0, settings={}))


def test_a_claim_is_frozen_with_its_studies_and_further_studies_are_looks(tmp_path):
    first = plan(tmp_path, CLAIM)
    (claim,) = first.declaration.claims
    assert (claim.kind, claim.margin, claim.num_replicates, claim.looks) == ("equals", 0.02, 2, [2])
    first.declare()
    propose(first)
    (later,) = plan(tmp_path, CLAIM, "budget.studies=6").declaration.claims
    assert later == dataclasses.replace(claim, looks=[2, 6])


@pytest.mark.parametrize("override", ["confirm.seeds=2", "budget.trials=7"])
def test_another_budget_within_the_studies_is_another_design(tmp_path, override):
    first = plan(tmp_path, CLAIM)
    first.declare()
    propose(first)
    changed = plan(tmp_path, CLAIM, override).declaration
    assert [(claim.is_exploratory, claim.is_withdrawn) for claim in changed.claims] == [(True, False), (False, True)]


def test_a_margin_that_was_written_or_changed_after_a_trial_is_called_late(tmp_path):
    text = f"{HEAD}{TUNE}budget: {{studies: 2, trials: 6}}\nreport: {{baseline: a, margin: 2 points}}\n"
    first = plan(tmp_path, text)
    first.declare()
    propose(first)
    assert not first.declaration.is_late_margin
    assert not plan(tmp_path, text).declaration.is_late_margin
    late = plan(tmp_path, text, "report.margin=3 points")
    assert late.declaration.is_late_margin
    late.declare()
    assert plan(tmp_path, text, "report.margin=3 points").declaration.is_late_margin


def table(tmp_path, **options):
    """A judged table of the synthetic sweep: its declaration, its grid, and its cells."""
    written = Synthetic(tmp_path, **{"num_studies": 5, "num_seeds": 1, **options})
    declaration = written.write()
    cells = collect(declaration, SweepFolder(tmp_path, written.sweep).read_proposals(), Ledger(tmp_path))
    marked = sufficiency.marked(declaration, entries(declaration, cells))
    return declaration, judged(declaration, grid(declaration, marked)), cells


def values(arm: str, numbers, depth: str = "20"):
    return {(arm, depth, trial): number for trial, number in enumerate(numbers)}


BASE = [0.9] * 5


def test_the_seeds_of_a_study_are_averaged(tmp_path):
    confirm = values("plain", [0.80, 0.82, 0.84, 0.86]) | values("residual", [0.90, 0.90, 0.90, 0.92])
    declaration, found, _ = table(tmp_path, num_studies=2, num_seeds=2, confirm=confirm)
    plain, residual = found.at[("20",), "plain"], found.at[("20",), "residual"]
    assert plain.by_row == pytest.approx({0: 0.81, 1: 0.85})
    assert (plain.estimate.n, plain.estimate.num_seeds) == (2, 4)
    assert plain.estimate.mean == pytest.approx(0.83)
    assert plain.estimate.sd == pytest.approx(0.02 * 2**0.5)
    assert residual.difference.values == pytest.approx((0.09, 0.06))
    assert tables.replicate_note(declaration) == (
        "A replicate is one study: 6 tune trials, then 2 trainings of the best; 2 studies a cell."
    )


def test_a_diverged_seed_counts_as_the_floor_of_its_study_and_a_mix_has_no_mean(tmp_path):
    confirm = values("plain", ["diverged"] * 4) | values("residual", [0.9, "diverged", 0.9, 0.9])
    _, found, _ = table(tmp_path, num_studies=2, num_seeds=2, confirm=confirm)
    plain, residual = found.at[("20",), "plain"], found.at[("20",), "residual"]
    assert plain.by_row == {0: 0.1, 1: 0.1}
    assert printed_entry(plain).text == "10.0 (4/4 diverged)"
    assert residual.by_row == pytest.approx({0: 0.5, 1: 0.9})
    assert printed_entry(residual).text == "50.0, 90.0 (1/4 diverged)"
    assert residual.difference.is_mixed


def test_a_study_is_finished_with_its_last_seed_and_not_with_a_failed_one(tmp_path):
    confirm = {("residual", "20", 3): "failed", ("plain", "20", 2): "waiting", ("plain+ortho", "20", 5): "running"}
    _, found, _ = table(tmp_path, num_studies=3, num_seeds=2, confirm=confirm)
    failed, waiting, running = (found.at[("20",), arm] for arm in ("residual", "plain", "plain+ortho"))
    assert (failed.estimate.n, failed.num_failed, failed.num_waiting) == (2, 1, 0)
    assert set(failed.by_row) == failed.ended == {0, 2}
    assert printed_entry(failed).text.endswith("(n=2, 1 failed)")
    assert set(waiting.by_row) == {0, 2}
    assert printed_entry(waiting).text == "… (2/3 studies)"
    assert printed_entry(running).text == "… (2/3 studies)"


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        # Differences to 0.9; the margin is 2 points.
        ([0.95, 0.951, 0.952, 0.953, 0.954], "better"),
        ([0.908, 0.909, 0.91, 0.911, 0.912], "better, by less than 2.0 points"),
        ([0.892, 0.891, 0.89, 0.889, 0.888], "worse, by less than 2.0 points"),
        ([0.898, 0.899, 0.9, 0.901, 0.902], "equivalent within 2.0 points"),
        ([0.85, 0.95, 0.86, 0.94, 0.9], "not shown, a difference of up to 5.6 points is not excluded"),
    ],
)
def test_a_verdict_says_how_large_the_difference_can_be(tmp_path, numbers, said):
    declaration, found, _ = table(
        tmp_path, axes={"depth": ["20"], "arm": ["plain", "residual"]}, report={"margin": 0.02},
        confirm=values("plain", BASE) | values("residual", numbers), tune_states=("complete",),
    )  # fmt: skip
    printed = tables.tests_table(declaration, found)
    assert printed.header[4] == "equivalence, Holm"
    ((_, row),) = printed.rows
    assert row[-1].text == said
    verdict = found.verdicts[("20",), "residual"]
    assert verdict.doubts == ()
    assert verdict.mark == {"better": "▲", "worse": "▼", "equivalent": "≈", "not shown": ""}[verdict.word]
    note = tables.marks_note(declaration, found)
    assert "≈ equivalent: the difference is less than 2.0 points (two one-sided tests" in note
    assert "△" not in note


def test_a_late_margin_is_said_under_the_table(tmp_path):
    declaration, found, _ = table(tmp_path, report={"margin": 0.02})
    late = dataclasses.replace(declaration, is_late_margin=True)
    assert "less than 2.0 points, a margin written after the first trial (two one-sided" in tables.marks_note(
        late, found
    )


def test_four_studies_are_too_few_for_equivalence(tmp_path):
    equal = {(arm, depth, study): 0.9 + 0.001 * study for arm in ARMS for depth in DEPTHS for study in range(4)}
    declaration, found, _ = table(tmp_path, num_studies=4, report={"margin": 0.02}, confirm=equal)
    assert {(verdict.word, verdict.equivalence_p) for verdict in found.verdicts.values()} == {("not shown", None)}
    assert "equivalence, Holm" not in tables.tests_table(declaration, found).header


DIFFERENT = values("plain", BASE) | values("residual", [0.95, 0.951, 0.952, 0.953, 0.954])
LOST = ("complete", *["diverged"] * 4, "failed")
ONE_STUDY = "one study a cell: it compares the configurations found once, not the methods"


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({"num_studies": 1, "num_seeds": 5}, (ONE_STUDY,)),
        ({"num_studies": 3}, ("3 studies, fewer than 5",)),
        ({"num_studies": 1, "num_seeds": 4, "is_tuned": False}, ("4 seeds, fewer than 5",)),
        ({"confirm": DIFFERENT | values("plain", [0.1, 0.101, 0.1, 0.102, 0.1])}, ("near chance",)),
        ({"tune_states": LOST}, ("† in half of a cell's studies",)),
        ({"tune_states": LOST, "num_studies": 1, "num_seeds": 5}, (ONE_STUDY, "†")),
    ],
)
def test_a_mark_that_a_rerun_may_change_is_hollow_and_never_bold(tmp_path, options, reasons):
    given = {
        "axes": {"depth": ["20"], "arm": ["plain", "residual"]},
        "confirm": DIFFERENT,
        "tune_states": ("complete",),
    }
    written = Synthetic(tmp_path / "runs", **{"num_studies": 5, "num_seeds": 1, **given, **options})
    written.write()
    made = build_report(tmp_path / "runs", written.sweep, tmp_path / "report")
    (row,) = [row for row in csv.DictReader((made.folder / "table.csv").open()) if row["arm"] == "residual"]
    assert (row["verdict"], row["verdict_doubts"]) == ("better", "; ".join(reasons))
    assert row["is_best"] == "False"
    assert " △" in made.table
    assert "▲ |" not in made.table
    assert "perhaps better" in made.table
    assert f"△ ▽ are hollow: they may not be found again by a rerun. Why: {reasons[0]} (1 mark)" in made.table
    text = (made.folder / "report.html").read_text().replace("&#39;", "'")
    assert "The arm residual is perhaps better than plain at depth 20" in text
    assert f"Perhaps, because a rerun may change it: {'; '.join(reasons)}." in text
    assert "No entry is bold, as none beats" in made.table
    assert r"$(\uparrow)$" in (made.folder / "table.tex").read_text()


@pytest.mark.parametrize("options", [{}, {"num_studies": 1, "num_seeds": 5, "is_tuned": False}])
def test_a_mark_is_filled_with_five_studies_or_five_seeds_where_nothing_is_tuned(tmp_path, options):
    declaration, found, _ = table(
        tmp_path, axes={"depth": ["20"], "arm": ["plain", "residual"]}, confirm=DIFFERENT,
        tune_states=("complete",), **options,
    )  # fmt: skip
    assert found.verdicts[("20",), "residual"].mark == "▲"
    assert found.best == {(("20",), "residual")}
    assert tables.replicate_note(declaration).startswith(
        "Nothing is tuned" if options else "A replicate is one study: 6 tune"
    )


def test_doubts_of_fewer_than_half_of_the_studies_are_counted_and_leave_the_mark_filled(tmp_path, monkeypatch):
    doubt = sufficiency.Doubt(kind="edge", text="the best lr is at the upper end")
    monkeypatch.setattr(sufficiency, "doubts", lambda _, study: [doubt] if study.number in (1, 3) else [])
    _, found, _ = table(tmp_path, confirm=DIFFERENT)
    entry = found.at[("20",), "residual"]
    assert (entry.mark, entry.num_doubted) == (" † 2/5", 2)
    assert entry.doubts == tuple(f"study {number}: the best lr is at the upper end" for number in (2, 4))
    assert found.verdicts[("20",), "residual"].mark == "▲"


EQUALS = "plain+ortho equals plain within 2 points at depth 56"


@pytest.mark.parametrize(
    ("numbers", "word", "reason"),
    [
        # Means 0, 10 and 1.9 points above 80%, with a standard error of 0.07 points.
        ([0.798, 0.799, 0.8, 0.801, 0.802], "supported", "difference 0.0 [−0.2, +0.2] over 5 studies, p<0.001 after"),
        ([0.898, 0.899, 0.9, 0.901, 0.902], "refuted", "difference +10.0 [+9.8, +10.2] over 5 studies, p<0.001"),
        ([0.817, 0.818, 0.819, 0.82, 0.821], "undecided", "difference +1.9 [+1.7, +2.1] over 5 studies, p=0.12 after"),
        ([0.819, 0.82, 0.821, 0.822, 0.823], "undecided", "difference +2.1 [+1.9, +2.3] over 5 studies, p=0.23 after"),
        ([0.8, 0.8, 0.8, 0.8, "waiting"], "undecided", "4 of 5 paired studies are finished"),
    ],
)  # fmt: skip
def test_a_claim_of_equality_is_judged_by_the_test_of_equivalence(tmp_path, numbers, word, reason):
    claim = declared_claim(EQUALS, kind="equals", margin=0.02, num_seeds=1, num_studies=5, looks=[5])
    confirm = values("plain", [0.8] * 5, "56") | values("plain+ortho", numbers, "56")
    declaration, _, cells = table(tmp_path, confirm=confirm)
    declaration = dataclasses.replace(declaration, claims=[claim])
    (result,) = claim_results(declaration, entries(declaration, cells))
    assert result.word == word
    assert result.reason.startswith(reason)


def test_a_claim_is_judged_at_its_frozen_studies_and_told_again_with_all(tmp_path):
    claim = declared_claim(num_seeds=1, num_studies=3, looks=[3, 5])
    confirm = values("plain", [0.8] * 5, "56") | values("plain+ortho", [0.9, 0.901, 0.902, 0.5, 0.5], "56")
    declaration, _, cells = table(tmp_path, confirm=confirm)
    declaration = dataclasses.replace(declaration, claims=[claim])
    (result,) = claim_results(declaration, entries(declaration, cells))
    assert (result.word, result.reason.partition(", p")[0]) == (
        "supported", "difference +10.1 [+9.9, +10.3] over 3 studies",
    )  # fmt: skip
    assert result.extended.startswith("extended (2 looks): undecided, difference")
    lost = values("plain", [0.8, "failed"], "56") | values("plain+ortho", ["failed"], "56")
    declaration, _, cells = table(tmp_path / "lost", confirm=lost)
    declaration = dataclasses.replace(declaration, claims=[claim])
    (result,) = claim_results(declaration, entries(declaration, cells))
    assert result.reason == "1 of 3 paired studies are finished"


def test_status_csv_and_parquet_know_the_study(tmp_path):
    first = values("residual", [0.94, 0.96, 0.9, 0.9])
    written = Synthetic(tmp_path / "runs", num_studies=2, num_seeds=2, confirm=first)
    declaration = written.write()
    cells = collect(
        declaration, SweepFolder(tmp_path / "runs", written.sweep).read_proposals(), Ledger(tmp_path / "runs")
    )
    found = status(declaration, cells)
    assert found["trials"]["planned"] == declaration.num_trials == 9 * 2 * (6 + 2)
    configs = [{"lr": lr, "optimizer": "sgd", "weight_decay": 0.01} for lr in (0.1, 0.05)]
    assert found["cells"][0]["best_configs"] == configs
    assert (found["cells"][0]["confirm"]["n"], found["cells"][0]["confirm"]["values"]) == (2, [0.95, 0.9])
    made = build_report(tmp_path / "runs", written.sweep, tmp_path / "report")
    row = next(csv.DictReader((made.folder / "table.csv").open()))
    assert (row["n"], row["replicate"], row["num_seeds"]) == ("2", "study", "4")
    assert json.loads(row["best_settings"]) == configs
    frame = pq.read_table(made.folder / "results.parquet").to_pandas()
    assert frame.groupby(["study", "phase"]).size().to_dict() == {
        (1, "confirm"): 18, (1, "tune"): 54, (2, "confirm"): 18, (2, "tune"): 54,
    }  # fmt: skip


def test_the_report_shows_the_winners_of_all_studies_and_where_the_uncertainty_comes_from(tmp_path):
    written = Synthetic(tmp_path / "runs", num_studies=5, num_seeds=1, tune_states=("complete",))
    written.write()
    made = build_report(tmp_path / "runs", written.sweep, tmp_path / "report")
    page = (made.folder / "report.html").read_text()
    assert "<dt>studies a cell</dt><dd>5</dd>" in page
    assert "<dt>tune trials a study</dt><dd>6</dd>" in page
    assert 'rowspan="5"' in page
    best = page.partition('aria-label="Best configurations"')[2].partition("</table>")[0]
    assert '<th scope="col" class="number">study</th>' in best
    numbers = re.findall(r'(?:<tr>|</th>)<td class="number">(.*?)</td><td class="number">[\d.]+</td>', best)
    assert numbers == ["1", "2", "3", "4", "5"] * 9
    for text in ("Winners of the studies", "Where the uncertainty comes from"):
        assert text in page
        assert text in made.table
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in made.table.splitlines() if line[:1] == "|"
    ]
    assert ["20, residual", "lr", "0.1, 0.05, 0.0333, 0.025, 0.02", "1 of 5: 0.1"] in rows
    assert ["20, residual", "optimizer", "sgd, sgd, sgd, sgd, sgd", "5 of 5: sgd"] in rows


SGD, ADAM = (
    {"name": f"lr[optimizer={name}]", "kind": "float", "low": low, "high": high, "log": True, "step": None, "when": {}}
    for name, low, high in (("sgd", 1e-3, 1.0), ("adam", 1e-5, 1e-2))
)


@pytest.mark.parametrize(
    ("drawn", "agreement"),
    [
        ([("sgd", 0.1), ("sgd", 0.01), ("sgd", 0.1)], "within 33% of the range"),
        (
            # The same place in both ranges is no agreement.
            [("sgd", 1e-2), ("adam", 1e-4), ("sgd", 1e-1)],
            "2 of 3 with optimizer=sgd: within 33% of the range; 1 of 3 with optimizer=adam",
        ),
        (
            [("sgd", 0.1), ("sgd", 0.01), ("muon", 0.02)],
            "2 of 3 with optimizer=sgd: within 33% of the range; 1 of 3: 0.02",
        ),
        ([("muon", 0.02), ("muon", 0.02), ("muon", 0.03)], "2 of 3: 0.02"),
    ],
)  # fmt: skip
def test_winners_are_compared_within_one_definition_of_their_parameter(tmp_path, drawn, agreement):
    _, found, _ = table(tmp_path, num_studies=3, num_tune=1, tune_states=("complete",))
    entry = found.at[("20",), "residual"]
    names = {definition["name"] for definition in (SGD, ADAM)}
    tune = [
        (dataclasses.replace(p, settings={"lr": lr}, params={name: lr} if name in names else {}), record)
        for (p, record), (optimizer, lr) in zip(entry.trials.tune, drawn, strict=True)
        for name in [f"lr[optimizer={optimizer}]"]
    ]
    cell = dataclasses.replace(entry.trials.cell, tuned=["lr"], space={"lr": [SGD, ADAM]})
    trials = dataclasses.replace(entry.trials, cell=cell, tune=tune)
    rows = winners([dataclasses.replace(entry, trials=trials)])
    assert [row[-1] for row in rows] == ["how far they agree", agreement]


def test_mlflow_is_told_the_study(tmp_path):
    declaration, _, cells = table(tmp_path, num_studies=2)
    first, second = cells[0].studies
    proposal, record = second.tune[0]
    assert content.trial_name(cells[0].cell, proposal) == "study 2 tune 0 depth=20 arm=residual"
    assert content.trial_tags(cells[0].cell, record)["study"] == "2"
    assert content.trial_tags(cells[0].cell, first.tune[0][1])["study"] == "1"
    tags = content.summary_tags(declaration)
    assert (tags["studies"], tags["tune_trials"], tags["confirm_seeds"]) == ("2", "6", "1")
    winners = content.winner_tags(cells[0])
    assert (winners["winner"], winners["winner.lr"]) == ("tune 0, study 2 tune 0", "0.1, 0.05")
    note = content.cell_note(cells[0], declaration)
    assert "Winner on validation data: study 2 tune 0 (optimizer sgd, lr 0.05, weight_decay 0.01)." in note


@pytest.mark.parametrize("options", [{}, {"num_studies": 1, "num_seeds": 5, "is_tuned": False}])
def test_with_outcomes_by_test_item_intervals_and_tests_cover_the_sample_too(tmp_path, options):
    given = {"num_studies": 5, "num_seeds": 1, "axes": {"depth": ["20", "56"], "arm": list(ARMS)}, **options}
    written = Synthetic(tmp_path / "runs", num_items=350, **given)
    written.write()
    made = build_report(tmp_path / "runs", written.sweep, tmp_path / "report")
    name = "seeds" if options else "studies"
    covered = "training" if options else "tuning and training"
    missed = "other settings" if options else "the split, the ranges that are searched nor the data set"
    note = f"they cover {covered}, and the choice of the test sample (350 images); they do not cover {missed}."
    assert made.table.count(note) == (made.folder / "report.html").read_text().count(note) == 1
    assert made.table.count("▲ better, ▼ worse than plain: paired t test") == 1
    assert "\n\nSee also the note under the table above.\n\n" in made.table
    assert (made.folder / "table.tex").read_text().count(note) == 2
    assert (
        f"follows from the paired t test, over {name} and over test items too, whichever says less, adj" in made.table
    )
    lines = made.table.partition("**Where the uncertainty comes from**")[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    assert rows[0] == ["cell", "variance of", name, "test items", f"{name} × items", "correlation with the baseline"]
    assert [row[1] for row in rows[2:]] == ["the mean", "one outcome"] * 4
    shares = [[int(cell.removesuffix("%")) for cell in row[2:5]] for row in rows[2:]]
    assert all(abs(sum(found) - 100) <= 1 for found in shares)
    # What differs from outcome to outcome is divided by their number in the mean, the other two by less.
    assert sum(found[2] for found in shares[::2]) < sum(found[2] for found in shares[1::2])
    assert "It is – with fewer than three" not in lines[-1]


def test_the_table_of_variances_says_why_there_is_no_correlation(tmp_path):
    declaration, _, cells = table(tmp_path, num_studies=2)
    (variance,) = [each for each in sections(declaration, entries(declaration, cells)) if each.name == "variance"]
    assert {tuple(row[1:]) for row in variance.rows[1:]} == {("–",) * 5}
    assert "It is – with fewer than three studies in both, or where those of a cell are all equal." in variance.note


def test_an_interval_over_items_too_is_never_narrower_and_needs_the_items_of_all(tmp_path):
    given = {
        "num_studies": 5,
        "num_seeds": 1,
        "axes": {"depth": ["20"], "arm": ["plain", "residual"]},
        "num_items": 350,
    }
    written = Synthetic(tmp_path, **given)
    declaration = written.write()
    folder, ledger = SweepFolder(tmp_path, written.sweep), Ledger(tmp_path)

    def measured(items):
        cells = collect(declaration, folder.read_proposals(), ledger, items=items)
        return {entry.levels["arm"]: entry for entry in entries(declaration, cells)}, cells

    with_items, cells = measured(["test_accuracy"])
    without, _ = measured([])
    for arm in ("plain", "residual"):
        wide, narrow = with_items[arm].estimate, without[arm].estimate
        assert wide.mean == pytest.approx(narrow.mean)
        assert wide.high - wide.low > narrow.high - narrow.low
        assert (wide.crossed is not None, narrow.crossed) == (True, None)
    wide, narrow = (found["residual"].difference for found in (with_items, without))
    assert wide.high - wide.low > narrow.high - narrow.low
    confirm = [(p, dataclasses.replace(r, items_digest="e") if p.study == 2 else r) for p, r in cells[0].confirm]
    other = [dataclasses.replace(cells[0], confirm=confirm), cells[1]]
    assert [entry.estimate.crossed is None for entry in entries(declaration, other)] == [True, False]
    assert entries(declaration, other)[1].difference.crossed is None


def test_equal_differences_of_all_studies_are_tested_over_items_too():
    items = np.zeros((10, 50))
    items[:, 0] = 1.0  # One item more is right, in every study.
    found = paired_difference(dict.fromkeys(range(10), 0.82), dict.fromkeys(range(10), 0.8), VAL_ACCURACY, items=items)
    assert paired_test(found.values).p == 2**-9
    assert paired_test(found.values, over=found.crossed).p == found.crossed.p() > 0.05
    assert equivalence_p(found, 0.03) == found.crossed.equivalence_p(0.03) > 0.05


def test_a_mark_counts_the_studies_that_both_cells_have(tmp_path):
    lost = {("residual", "20", study): "failed" for study in range(3)} | {
        ("plain", "20", study): "failed" for study in range(3, 6)
    }
    others = {
        (arm, "20", study): base + 0.001 * study
        for arm, base in (("residual", 0.95), ("plain", 0.9))
        for study in range(8)
        if (arm, "20", study) not in lost
    }
    declaration, found, _ = table(tmp_path, num_studies=8, confirm=lost | others, tune_states=("complete",))
    sides = [found.at[("20",), arm] for arm in ("residual", "plain")]
    assert [side.estimate.n for side in sides] == [5, 5]
    assert doubts(declaration, *sides)[0] == "2 studies, fewer than 5"


def test_a_failed_seed_does_not_hide_that_another_of_its_study_diverged(tmp_path):
    confirm = {("residual", "20", 2): "diverged", ("residual", "20", 3): "failed"}
    _, found, _ = table(tmp_path, num_studies=6, num_seeds=2, confirm=confirm)
    residual = found.at[("20",), "residual"]
    assert (residual.estimate.n, residual.estimate.num_diverged, residual.estimate.is_mixed) == (5, 1, True)
    assert residual.difference.is_mixed


def test_another_metric_has_no_margin_and_sweeps_with_different_ones_have_none(tmp_path):
    declared = Synthetic(tmp_path, report={"margin": 0.02}).declaration()
    assert laid_out_as(declared, metric="test_accuracy").report["margin"] == 0.02
    assert laid_out_as(declared, metric="test_loss").report["margin"] is None
    other = dataclasses.replace(declared, sweep="b", report={**declared.report, "margin": 0.005}, is_late_margin=True)
    same, _ = combine([(declared, []), (dataclasses.replace(declared, sweep="b"), [])])
    apart, _ = combine([(declared, []), (other, [])])
    assert (same.report["margin"], same.is_late_margin) == (0.02, False)
    assert (apart.report["margin"], apart.is_late_margin) == (None, True)


def test_the_plan_says_that_few_studies_cannot_show_equivalence(tmp_path):
    found = Sweep(tmp_path, *studies(3), "report.margin=2 points").plan.warnings()
    assert "3 studies cannot show that two arms are equivalent: that takes at least 5" in found
    (tmp_path / "b").mkdir()
    enough = Sweep(tmp_path / "b", *studies(5), "report.margin=2 points").plan.warnings()
    assert not any("equivalent" in line for line in enough)


def test_mlflow_counts_and_averages_the_studies_of_the_table(tmp_path):
    confirm = {**values("plain", [0.80, 0.82, 0.84, 0.86, 0.9]), ("plain", "20", 5): "waiting"}
    declaration, found, cells = table(tmp_path, num_studies=3, num_seeds=2, confirm=confirm)
    entry = found.at[("20",), "plain"]
    trials = next(cell for cell in cells if cell.cell == entry.trials.cell)
    numbers = content.cell_metrics(trials, declaration)
    assert numbers["confirmed_n"] == entry.estimate.n == 2
    assert numbers["confirmed_accuracy"] == entry.estimate.mean == pytest.approx(0.83)
    assert (numbers["confirmed_min"], numbers["confirmed_max"]) == pytest.approx((0.81, 0.85))
    note = content.cell_note(trials, declaration)
    assert "Confirmed test accuracy: 83.0% over 2 studies (81.0% to 85.0%)." in note


def test_cells_are_twins_where_every_shared_trial_has_the_same_numbers(tmp_path):
    _, _, cells = table(tmp_path)
    first, second = cells[:2]
    second.tune[:] = [
        (dataclasses.replace(p, cell=second.cell.key), dataclasses.replace(r, cell=second.cell.key))
        for p, r in first.tune
    ]
    second.confirm.clear()
    said = f"the cells {first.cell.name} and {second.cell.name} gave the same numbers with the same seed and values: "
    assert twin_notices(cells) == [said + "what differs may do nothing"]
    proposal, record = second.tune[0]
    second.tune[0] = (proposal, dataclasses.replace(record, metrics={"val_accuracy": 0.5}))
    assert twin_notices(cells) == []
