"""Intervals over seeds: against scipy's own, and against the truth by simulation."""

from __future__ import annotations

import dataclasses
import gc
import math

import numpy as np
import pytest
from scipy import stats
from synthetic import accuracy

from ablate.report import verdicts
from ablate.report.entries import Entry
from ablate.report.inference import estimate, holm, paired_difference, paired_test, t_half_width
from ablate.report.layout import Grid
from ablate.report.verdicts import judged
from ablate.store.declaration import CellTrials, Declaration, DeclaredCell

ACCURACY = accuracy()


def test_interval_is_the_t_interval_of_scipy():
    values = [0.91, 0.93, 0.925, 0.94]
    low, high = stats.t.interval(0.95, df=3, loc=np.mean(values), scale=stats.sem(values))
    found = estimate(values, 0, accuracy(0.1))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.n, found.mean, found.sd) == pytest.approx((4, np.mean(values), np.std(values, ddof=1)))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_interval_covers_the_truth_in_95_percent_of_gaussian_samples(n):
    num_samples = 200_000
    samples = np.random.default_rng(n).normal(0.7, 0.01, size=(num_samples, n))
    half = t_half_width(1.0, n) * samples.std(axis=1, ddof=1)
    coverage = np.mean(np.abs(samples.mean(axis=1) - 0.7) <= half)
    assert coverage == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / num_samples))


def test_interval_is_clipped_to_what_an_accuracy_can_be():
    found = estimate([0.99, 1.0, 0.9], 0, accuracy(0.1))
    assert found.high == 1.0
    assert estimate([0.0, 0.1, 0.01], 0, accuracy(0.1)).low == 0.0


def test_one_seed_has_a_mean_and_no_interval():
    found = estimate([0.9], 0, accuracy(0.1))
    assert (found.n, found.mean, found.sd, found.low, found.high) == (1, 0.9, None, None, None)


def test_no_seed_has_nothing():
    found = estimate([], 0, accuracy(0.1))
    assert (found.n, found.mean, found.sd, found.low, found.high) == (0, None, None, None, None)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.9])
def test_equal_seeds_have_an_interval_of_zero_width(value):
    found = estimate([value] * 3, 0, accuracy(0.1))
    assert (found.mean, found.sd, found.low, found.high) == (value, 0.0, value, value)


def test_diverged_seeds_count_as_chance():
    found = estimate([], 3, accuracy(0.1))
    assert (found.n, found.mean, found.low, found.high, found.num_diverged) == (3, 0.1, 0.1, 0.1, 3)


def test_a_mix_of_success_and_collapse_has_neither_mean_nor_interval():
    found = estimate([0.95, 0.94], 1, accuracy(0.1))
    assert found.is_mixed
    assert (found.mean, found.sd, found.low, found.high) == (None, None, None, None)
    assert sorted(found.values) == [0.1, 0.94, 0.95]


def test_difference_is_paired_over_the_seeds_that_both_have():
    found = paired_difference({1: 0.9, 2: 0.8, 3: 0.7, 4: 0.1}, {3: 0.6, 2: 0.7, 1: 0.8, 9: 0.5}, ACCURACY)
    assert found.n == 3
    assert found.values == pytest.approx((0.1, 0.1, 0.1))
    assert found.excludes_zero is True


def test_pairing_removes_what_the_seeds_share():
    seeds = {1: 0.5, 2: 0.7, 3: 0.9}
    better = {seed: value + 0.02 + 0.001 * seed for seed, value in seeds.items()}
    found = paired_difference(better, seeds, ACCURACY)
    assert found.high - found.low < 0.01
    assert estimate(seeds.values(), 0, accuracy(0.1)).high - estimate(seeds.values(), 0, accuracy(0.1)).low > 0.3


def test_difference_is_clipped_to_plus_and_minus_one():
    found = paired_difference({1: 1.0, 2: 0.0}, {1: 0.0, 2: 1.0}, ACCURACY)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert found.excludes_zero is False


def test_difference_with_a_mixed_cell_has_no_interval():
    found = paired_difference({1: 0.9, 2: 0.1}, {1: 0.8, 2: 0.8}, ACCURACY, is_mixed=True)
    assert (found.low, found.high, found.excludes_zero) == (None, None, None)


def test_a_seed_that_stayed_at_chance_makes_a_cell_mixed():
    found = estimate([0.95, 0.94, 0.11], 0, accuracy(0.1))
    assert (found.is_mixed, found.num_collapsed, found.low) == (True, 1, None)
    poor = estimate([0.16, 0.14, 0.17], 0, accuracy(0.1))
    assert not poor.is_mixed
    assert poor.low is not None


def test_the_interval_is_a_bootstrap_from_20_seeds_on():
    values = 0.4 + np.random.default_rng(0).exponential(0.05, 20)
    assert not estimate(values[:19], 0, accuracy(0.1)).is_bootstrap
    found = estimate(values, 0, accuracy(0.0))
    assert found.is_bootstrap
    # Of skewed seeds the longer side is the upper one, which a t interval cannot show.
    assert found.high - found.mean > 1.1 * (found.mean - found.low)
    assert estimate([0.5] * 30, 0, accuracy(0.1)).low == 0.5


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_the_paired_test_is_scipys(margin):
    differences = [0.11, 0.07, 0.13, 0.02]
    found = paired_test(differences, margin)
    assert found.p == pytest.approx(stats.ttest_1samp(differences, margin).pvalue)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    means = np.abs((signs * (np.array(differences) - margin)).mean(axis=1))
    assert found.permutation_p == pytest.approx(np.mean(means >= abs(np.mean(differences) - margin) - 1e-12))
    assert found.effect == pytest.approx((np.mean(differences) - margin) / np.std(differences, ddof=1) * (1 - 3 / 11))


@pytest.mark.parametrize(("n", "smallest"), [(2, 0.5), (3, 0.25), (5, 0.0625), (10, 0.001953125)])
def test_a_permutation_can_reach_only_so_much(n, smallest):
    found = paired_test([0.1 + 0.001 * index for index in range(n)])
    assert found.smallest_p == found.permutation_p == smallest


def test_equal_differences_are_no_proof():
    assert paired_test([0.0, 0.0, 0.0]).p == 1.0
    found = paired_test([0.9 - 0.8] * 2 + [0.8 - 0.7])
    assert (found.p, found.effect) == (0.25, None)
    assert paired_test([0.1]) is None


def test_two_seeds_have_no_effect_size():
    """The small-sample correction of Hedges' g is 0 there."""
    assert paired_test([-0.05, -0.06]).effect is None


def test_holm_is_the_textbooks():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("n", [3, 5, 10])
def test_at_most_one_table_in_twenty_shows_a_false_mark_where_there_is_no_effect(n, monkeypatch):
    """4 rows of a baseline and 3 arms, paired seeds of equal means; a false mark is any better, worse or bold."""
    # statsmodels collects garbage in every call: 60 ms each, which only a simulation notices.
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    rng, num_tables, num_marked, num_bold = np.random.default_rng(n), 1500, 0, 0
    columns = ["base", "a", "b", "c"]
    for _ in range(num_tables):
        seeds = rng.normal(0, 0.01, size=(4, 1, n))
        values = 0.8 + seeds + rng.normal(0, 0.01, size=(4, 4, n))
        found = judged(NOTHING_TUNED, table(values, columns))
        num_marked += any(verdict.word != "not shown" for verdict in found.verdicts.values())
        num_bold += bool(found.best)
    # Four standard errors of the simulation.
    limit = 0.05 + 4 * np.sqrt(0.05 * 0.95 / num_tables)
    assert num_marked / num_tables <= limit
    assert num_bold / num_tables <= limit
    assert num_marked > 0


def test_bold_needs_a_win_over_every_arm_of_the_row():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.002, size=(1, 3, 8))
    clear = judged(NOTHING_TUNED, table(np.array([[[0.7], [0.8], [0.9]]]) + noise, ["base", "a", "b"]))
    assert clear.best == {(("0",), "b")}
    assert {column: verdict.word for (_, column), verdict in clear.verdicts.items()} == {"a": "better", "b": "better"}
    noise[0, 2], noise[0, 1] = [0.01, -0.01] * 4, 0.0
    tied = judged(NOTHING_TUNED, table(np.array([[[0.7], [0.9], [0.9]]]) + noise, ["base", "a", "b"]))
    assert tied.best == frozenset()


def test_a_mixed_cell_has_no_verdict_and_leaves_its_row_without_a_winner():
    values = np.array([[[0.7] * 5, [0.95, 0.95, 0.95, 0.95, 0.1], [0.8, 0.81, 0.82, 0.81, 0.8]]])
    found = judged(NOTHING_TUNED, table(values, ["base", "a", "b"]))
    assert set(found.verdicts) == {(("0",), "b")}
    assert found.best == frozenset()


NOTHING_TUNED = Declaration(
    sweep="s", name="s", profile="", question="", axes={"arm": ["base"]}, num_tune=1, num_seeds=5, sampler="tpe",
    cells=[DeclaredCell(key="c", levels={"arm": "base"}, settings={}, tuned=[])], pruner="none", seed=0,
    report={"metric": ACCURACY.name}, tune={}, data={}, metrics=[ACCURACY], objective=ACCURACY.name,
)  # fmt: skip


def table(values, columns):
    """A grid of accuracies of shape (rows, columns, seeds); the first column is the baseline."""
    at = {}
    for row, arms in enumerate(values):
        base = None
        for column, seeds in zip(columns, arms, strict=True):
            by_row = dict(enumerate(seeds.tolist()))
            entry = Entry(
                trials=CellTrials(NOTHING_TUNED.cells[0], [], [], objective=ACCURACY), by_row=by_row,
                estimate=estimate(by_row.values(), 0, ACCURACY), num_rows=len(seeds),
                metric=ACCURACY,
                num_failed=0,
            )  # fmt: skip
            if base is None:
                base = entry
            else:
                is_mixed = base.estimate.is_mixed or entry.estimate.is_mixed
                difference = paired_difference(by_row, base.by_row, ACCURACY, is_mixed=is_mixed)
                entry = dataclasses.replace(entry, difference=difference)
            at[(str(row),), column] = entry
    rows = [(str(row),) for row in range(len(values))]
    return Grid(row_axes=("row",), rows=rows, column_axis="arm", columns=columns, baseline=columns[0], at=at)


def test_a_p_that_is_not_a_number_is_no_verdict_and_shifts_no_other():
    assert holm([0.01, math.nan, 0.02]) == holm([0.01, 1.0, 0.02])
    assert verdicts._word(0.5, math.nan, None) == "not shown"
    assert verdicts._word(0.5, 0.05, None) == "better"
    assert verdicts._word(-0.5, 0.04, None) == "worse"
    assert verdicts._word(0.5, math.nextafter(0.05, 1), None) == "not shown"
