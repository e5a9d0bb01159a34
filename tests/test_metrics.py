"""Metrics of either direction, with bounds or without, from the search to the page."""

import dataclasses
import json
import math
import re

import pytest
from synthetic import Synthetic, accuracy

from ablate.errors import SpecError, UsageError
from ablate.metrics import Metric, significant
from ablate.report.build import build_report
from ablate.report.curves import learning_curves
from ablate.report.entries import entries
from ablate.report.figures import degradation, metric_by_row
from ablate.report.inference import estimate, paired_difference
from ablate.report.layout import grid
from ablate.report.sufficiency import doubts
from ablate.report.summary import status, status_lines
from ablate.run.plan import make_plan
from ablate.search.cell_search import CellSearch, new_storage
from ablate.store.declaration import CellTrials, DeclaredClaim, Proposal, SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.sweepfile.space import Definition
from ablate.sweepfile.spec import load_spec
from ablate.tasks.image_classification.config import METRICS
from ablate.tracking.content import cell_metrics, cell_note
from ablate.tracking.view import view_state

RMSE = Metric(name="test_rmse", direction="min", low=0.0)
VAL_RMSE = Metric(name="val_rmse", direction="min", low=0.0)
REWARD = Metric(name="test_reward")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012344, "0.01234"),
        (2.34567, "2.346"),
        (12345.6, "12346"),
        (-3.0, "−3.000"),
        (0.0, "0.000"),
        (1e9, "1.000e+09"),
    ],
)
def test_raw_numbers_have_four_significant_digits(value, text):
    assert significant(value) == text


def test_percent_is_printed_with_one_decimal_and_differences_in_points():
    metric = accuracy()
    assert [metric.text(0.952), metric.with_unit(0.952), metric.signed(-0.013), metric.points] == [
        "95.2", "95.2%", "−1.3", " points",
    ]  # fmt: skip
    assert [RMSE.text(0.952), RMSE.with_unit(0.952), RMSE.signed(-0.013), RMSE.points] == [
        "0.9520", "0.9520", "−0.01300", "",
    ]  # fmt: skip
    assert [metric.axis, RMSE.axis, VAL_RMSE.label, RMSE.quantity] == [
        "Test accuracy (%)", "Test rmse", "Validation rmse", "rmse",
    ]  # fmt: skip


def test_the_best_is_the_least_where_less_is_better():
    assert [accuracy().top([0.1, 0.9]), RMSE.top([0.1, 0.9])] == [0.9, 0.1]
    assert RMSE.is_better(0.1, 0.9)
    assert not RMSE.is_better(0.9, 0.9)


@pytest.mark.parametrize(
    ("metric", "value", "is_allowed"),
    [
        (accuracy(), 1.0, True), (accuracy(), 1.01, False), (accuracy(), math.nan, False), (RMSE, math.inf, True),
        (RMSE, -0.1, False), (REWARD, -1e9, True), (REWARD, math.nan, False),
    ],
)  # fmt: skip
def test_bounds_are_inclusive_and_nan_is_no_number(metric, value, is_allowed):
    assert metric.allows(value) == is_allowed


def test_a_floor_from_above_is_what_a_useless_trial_scores_where_less_is_better():
    metric = dataclasses.replace(RMSE, floor=2.0)
    # Room 2 from the floor to the best value: 5% and 20% of it, as an accuracy's distance.
    assert [metric.has_collapsed(value) for value in (2.5, 1.91, 1.89)] == [True, True, False]
    assert [metric.has_trained(value) for value in (1.65, 1.55)] == [False, True]
    assert not RMSE.has_collapsed(1e9)


def test_intervals_are_clipped_only_where_there_are_bounds():
    assert estimate([0.01, 0.3], 0, RMSE).low == 0.0
    assert estimate([0.01, 0.3], 0, RMSE).high > 1
    assert estimate([-5.0, 5.0], 0, REWARD).low < -50
    spread = paired_difference({1: 5.0, 2: -5.0}, {1: 0.0, 2: 0.0}, RMSE)
    assert spread.low < -50 < 50 < spread.high
    assert paired_difference({1: 1.0, 2: 0.0}, {1: 0.0, 2: 1.0}, accuracy()).high == 1.0


def test_a_seed_that_diverged_without_a_floor_has_no_number_and_leaves_no_mean():
    found = estimate([0.2, 0.3], 1, RMSE)
    assert (found.n, found.mean, found.low, found.num_diverged, found.values) == (3, None, None, 1, (0.2, 0.3))
    assert found.is_mixed
    assert estimate([], 3, RMSE).n == 3


def regression(out, *, metric=RMSE, objective=VAL_RMSE, confirm=None, claims=(), **options):
    """Write a sweep that measures an error: 1 minus the accuracy of the synthetic one."""
    sweep = Synthetic(out, report={"metric": metric.name}, confirm=confirm or {}, **options)
    written = sweep.write()
    declaration = dataclasses.replace(
        written, metrics=[metric, objective], objective=objective.name, claims=list(claims)
    )
    folder, ledger = SweepFolder(out, written.sweep), Ledger(out)
    folder.write_declaration(declaration, "")
    for file in list((out / "ledger" / "trials").rglob("*.parquet")):
        (record,) = ledger.find(file.name.partition(".")[0].partition("~")[0])
        file.unlink()
        ledger.write(as_error(record))
    return declaration


def as_error(record: TrialRecord) -> TrialRecord:
    """Return a record that has the error beside the accuracy."""
    errors = {f"{split}_rmse": 1 - value for split in ("train", "val", "test")
              if (value := record.metrics.get(f"{split}_accuracy")) is not None}  # fmt: skip
    curves = {name.replace("accuracy", "rmse"): [1 - value for value in curve] for name, curve in record.curves.items()}
    return dataclasses.replace(record, metrics={**record.metrics, **errors}, curves={**record.curves, **curves})


def trials_of(out, declaration):
    return collect(declaration, SweepFolder(out, declaration.sweep).read_proposals(), Ledger(out))


@pytest.mark.figures
def test_the_winner_the_verdicts_and_the_answer_go_by_the_direction(tmp_path):
    declaration = regression(tmp_path / "runs")
    trials = trials_of(tmp_path / "runs", declaration)
    # The first tune trial has the highest accuracy, so the least error.
    assert {winner.number for each in trials for winner in each.winners()} == {0}
    found = build_report(tmp_path / "runs", declaration.sweep, tmp_path / "report")
    table = found.table
    assert "**Test rmse, mean over n=3 training seeds**" in table
    assert "**Difference to plain, over the n=3 training seeds that both have**" in table
    # plain at depth 110 has an error of 0.897, residual one of 0.059: less is better.
    row = next(line for line in table.splitlines() if line.startswith("| 110"))
    assert row.count("△") == 2
    assert "▼" not in row
    page = (tmp_path / "report" / "report.html").read_text()
    assert "has the lowest mean at" in page
    assert "highest" not in page
    assert "chance" not in page.replace("by chance", "")
    assert "percentage points" not in page
    assert (tmp_path / "report" / "figures" / "rmse_by_depth.svg").exists()


def test_a_reader_sees_the_same_verdict_for_an_accuracy_and_for_its_error(tmp_path):
    accuracies = Synthetic(tmp_path / "one").write()
    errors = regression(tmp_path / "two")
    for name, declaration in (("one", accuracies), ("two", errors)):
        build_report(tmp_path / name, declaration.sweep, tmp_path / name / "report")
    one, two = ((tmp_path / name / "report" / "table.csv").read_text().splitlines() for name in ("one", "two"))
    at = one[0].split(",").index("verdict")
    assert [line.split(",")[:2] for line in one] == [line.split(",")[:2] for line in two]
    # Entries hold commas within quotes: verdicts are the words that stand between p and doubts.
    words = [[word for word in line.split(",") if word in ("better", "worse", "not shown")] for line in (*one, *two)]
    assert words[: len(one)] == words[len(one) :]
    assert at > 0
    assert ["better"] in words


def test_without_a_floor_a_diverged_seed_leaves_its_entry_without_mean_and_verdict(tmp_path):
    confirm = {("plain+ortho", "20", 1): "diverged"} | {("residual", "56", seed): "diverged" for seed in range(3)}
    declaration = regression(tmp_path / "runs", confirm=confirm)
    found = build_report(tmp_path / "runs", declaration.sweep, tmp_path / "report")
    one, all_ = (
        next(entry for entry in entries(declaration, trials_of(tmp_path / "runs", declaration))
             if (entry.levels["arm"], entry.levels["depth"]) == place)
        for place in (("plain+ortho", "20"), ("residual", "56"))
    )  # fmt: skip
    assert (one.estimate.mean, one.difference, len(one.by_row)) == (None, None, 2)
    assert (all_.estimate.mean, all_.difference, all_.by_row) == (None, None, {})
    assert "(1/3 diverged)" in found.table
    assert "– (3/3 diverged)" in found.table
    notice = "4 of 81 trials diverged"
    assert "A diverged seed has no number, so its entry has no mean and no verdict." in "\n".join(found.notices)
    assert notice not in found.table
    lines = status_lines(status(declaration, trials_of(tmp_path / "runs", declaration)))
    assert any(re.search(r"plain\+ortho +\S+, \S+ \(n=3, 1 diverged\)", line) for line in lines)
    assert any(re.search(r"residual +no number \(n=3, 3 diverged\)", line) for line in lines)
    numbers = cell_metrics(one.trials, declaration)
    assert "confirmed_rmse" not in numbers
    assert "Confirmed" not in cell_note(one.trials, declaration)


def test_mlflow_gets_the_names_and_the_order_of_the_metric(tmp_path):
    declaration = regression(tmp_path / "runs")
    trials = trials_of(tmp_path / "runs", declaration)[0]
    numbers = cell_metrics(trials, declaration)
    assert numbers["best_val_rmse"] == min(r.metrics["val_rmse"] for _, r in trials.tune if r.state == "complete")
    assert numbers["confirmed_min"] <= numbers["confirmed_rmse"] <= numbers["confirmed_max"]
    assert f"Confirmed test rmse: {RMSE.text(numbers['confirmed_rmse'])} over 3 seeds" in cell_note(trials, declaration)
    view = json.loads(view_state(declaration))
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`confirmed_rmse`", True)


def test_a_claim_about_less_is_tested_in_the_metrics_own_unit(tmp_path):
    common = {"axis": "arm", "levels": {"depth": "110"}, "design": "d", "num_seeds": 3, "looks": [3]}
    claims = [
        DeclaredClaim(text="near", better="residual", worse="plain", margin=0.5, hash="a", **common),
        DeclaredClaim(text="far", better="residual", worse="plain", margin=2.0, hash="b", **common),
        DeclaredClaim(text="back", better="plain", worse="residual", margin=0.0, hash="c", **common),
    ]
    declaration = regression(tmp_path / "runs", claims=claims)
    found = build_report(tmp_path / "runs", declaration.sweep, tmp_path / "report")
    assert [each.word for each in found.claims] == ["supported", "refuted", "refuted"]
    assert found.claims[0].reason.startswith("difference −0.8")


def test_a_claim_of_a_file_names_a_metric_that_is_not_in_percent(tmp_path):
    text = """
name: losses
axes: {arm: {plain: {shortcut: none}, residual: {shortcut: identity}}}
fixed: {depth: 8, width: 2, epochs: 1}
budget: {trials_per_cell: 1}
report: {baseline: plain, metric: test_loss}
claims: ["CLAIM"]
"""
    file = tmp_path / "losses.yaml"
    file.write_text(text.replace("CLAIM", "residual beats plain by at least 0.02 in test_loss"))
    (claim,) = load_spec(file).claims
    assert claim.margin == 0.02
    for wrong, problem in (
        (
            "2 points",
            r"a claim about test_loss must read 'A beats B \[by at least 0.02 in test_loss\]' or 'A equals B within "
            "0.02 in test_loss', but got",
        ),
        ("2 in val_loss", "a claim is about the table's metric test_loss, but got 'val_loss'"),
    ):
        file.write_text(text.replace("CLAIM", f"residual beats plain by at least {wrong}"))
        with pytest.raises(SpecError, match=problem):
            load_spec(file)


class Free:
    """A cell whose one parameter is drawn from [0, 1]."""

    key = "cell"
    start = ()

    class space:  # noqa: N801
        tuned = ("x",)
        num_dimensions = 1

        @staticmethod
        def suggest(trial):
            return {"x": trial.suggest_float("x", 0, 1)}

        @staticmethod
        def definitions(name):
            return (Definition(parameter="x", sampled_name="x", kind="float", high=1),)


def search(folder, objective, pruner="none"):
    return CellSearch(
        new_storage(folder / "journal"), "study", Free(), sampler="random", pruner=pruner, num_tune=6,
        num_epochs=3, seed=0, objective=objective,
    )  # fmt: skip


def record(state="complete", value=0.5, curve=()):
    name = "val_rmse"
    return TrialRecord(
        key="k", fingerprint="f", seed=0, phase="tune", state=state, settings={}, rows={}, data_digest="d",
        metrics={name: value} if state == "complete" else {}, curves={name: list(curve)},
    )  # fmt: skip


def test_the_search_minimises_and_tells_a_divergence_as_failed_where_there_is_no_worst_value(tmp_path):
    cell = search(tmp_path, VAL_RMSE)
    for number, value in enumerate((0.5, 0.1, 0.9)):
        cell.ask(number)
        cell.tell(number, record(value=value))
    cell.ask(3)
    cell.tell(3, record("diverged"))
    assert cell.study.best_trial.number == 1
    assert [trial.state.name for trial in cell.study.trials] == ["COMPLETE"] * 3 + ["FAIL"]
    bounded = search(tmp_path, accuracy(name="val_rmse"))
    bounded.ask(0)
    bounded.tell(0, record("diverged"))
    assert bounded.study.trials[0].value == 0.0


def test_the_pruner_stops_the_trial_with_the_larger_error(tmp_path):
    cell = search(tmp_path, VAL_RMSE, "median")
    for number, level in enumerate((0.2, 0.3, 0.4)):
        cell.ask(number)
        cell.tell(number, record(value=level, curve=[level] * 3))
    cell.ask(3)
    cell.report(3, 1, 0.9)
    assert cell.report(3, 2, 0.9)
    cell.ask(4)
    cell.report(4, 1, 0.1)
    assert not cell.report(4, 2, 0.1)


def test_a_diverged_trial_wins_only_where_all_diverged():
    def trials(*records):
        pairs = [
            (Proposal(cell="c", phase="tune", number=n, key="k", seed=n, settings={"x": n}), each)
            for n, each in enumerate(records)
        ]
        return CellTrials(None, pairs, [], objective=VAL_RMSE).studies[0]

    late = dataclasses.replace(record("diverged"), diverged_epoch=2, diverged_step=1)
    assert trials(late, record(value=9.0)).winner().number == 1
    assert trials(record("diverged"), late).winner().number == 1


def test_doubts_are_about_an_error_that_still_falls(tmp_path):
    declaration = regression(tmp_path, tune_states=("complete",), num_tune=6)
    (trials,) = trials_of(tmp_path, declaration)[0].studies
    texts = [doubt.text for doubt in doubts(declaration, trials)]
    assert not any("raised" in text or "rose" in text for text in texts)
    better = dataclasses.replace(trials.tune[-1][1], metrics={"val_rmse": 0.0})
    trials.tune[-1] = (trials.tune[-1][0], better)
    texts = [doubt.text for doubt in doubts(declaration, trials)]
    assert any(text.startswith("the last 2 of 6 tune trials lowered the best validation rmse by 0.0") for text in texts)


def test_a_metric_that_no_confirm_trial_recorded_is_refused_with_those_that_were(tmp_path):
    declaration = Synthetic(tmp_path / "runs").write()
    with pytest.raises(UsageError, match=r"no confirm trial recorded a metric 'test_loss'\. Available: test_accuracy"):
        build_report(tmp_path / "runs", declaration.sweep, tmp_path / "report", metric="test_loss")


def test_every_metric_of_the_trainer_has_a_direction_and_bounds():
    directions = {metric.name.rpartition("_")[2]: metric.direction for metric in METRICS}
    assert directions == {"accuracy": "max", "statistics": "max", "loss": "min"}


def test_a_plan_names_the_floor_that_there_is(tmp_path):
    text = "name: losses\naxes: {depth: [8]}\nbudget: {trials_per_cell: 1}\nreport: {metric: METRIC}\n"
    for metric in ("test_loss", "test_accuracy"):
        (tmp_path / "losses.yaml").write_text(text.replace("METRIC", metric))
        plan = make_plan(tmp_path / "losses.yaml", None, [], tmp_path / "runs")
        # A loss has none, but what tuning optimises has one.
        assert any("; chance is 10.3%, the most frequent class's share" in line for line in plan.lines())
        assert plan.summary().get("chance") == (None if metric == "test_loss" else plan.declaration.metric.floor)


def lines_of(figure):
    return [line for axes in figure.axes for line in axes.lines]


def test_learning_curves_show_the_floor_of_what_they_draw_whatever_the_table_shows(tmp_path):
    written = Synthetic(tmp_path).write()
    for metric in ("test_accuracy", "test_loss"):
        declaration = dataclasses.replace(written, report={**written.report, "metric": metric})
        table = grid(declaration, entries(declaration, trials_of(tmp_path, declaration)))
        figure = learning_curves(declaration, table, "val_accuracy")
        assert {tuple(line.get_ydata()) for line in lines_of(figure) if line.get_label() == "chance"} == {(10.0, 10.0)}


def test_seeds_beside_one_that_diverged_without_a_floor_are_drawn_hollow(tmp_path):
    declaration = regression(tmp_path, confirm={("plain", "20", 1): "diverged"})
    table = grid(declaration, entries(declaration, trials_of(tmp_path, declaration)))
    hollow = [line for line in lines_of(metric_by_row(declaration, table)) if line.get_markerfacecolor() == "none"]
    (entry,) = (entry for entry in table.entries if entry.estimate.num_diverged)
    assert [list(line.get_ydata()) for line in hollow] == [list(entry.estimate.values)]


def test_training_stands_beside_the_test_however_it_was_evaluated(tmp_path):
    written = Synthetic(tmp_path).write()
    declaration = dataclasses.replace(written, report={**written.report, "metric": "test_accuracy_running_statistics"})
    trials = trials_of(tmp_path, written)
    for each in trials:
        each.confirm[:] = [
            (p, dataclasses.replace(r, metrics={**r.metrics, declaration.metric.name: r.metrics["test_accuracy"]}))
            for p, r in each.confirm
        ]
    assert degradation(declaration, grid(declaration, entries(declaration, trials))) is not None
