"""Inference over replicates and test items together."""

import math

import numpy as np
import pytest
from scipy import stats

from ablate.report.crossed import Crossed, Shares, crossed, rows_equivalence_p


def slow(D):
    """Return (mean, V, ν, mean squares) of a matrix as a list of rows, by loops over the definition."""
    n, m = len(D), len(D[0])
    mean = sum(map(sum, D)) / (n * m)
    rows = [sum(D[i]) / m for i in range(n)]
    items = [sum(D[i][j] for i in range(n)) / n for j in range(m)]
    ms_s = m * sum((row - mean) ** 2 for row in rows) / (n - 1)
    ms_t = n * sum((item - mean) ** 2 for item in items) / (m - 1)
    rest = sum((D[i][j] - rows[i] - items[j] + mean) ** 2 for i in range(n) for j in range(m))
    ms_e = rest / ((n - 1) * (m - 1))
    S, X = max(ms_s, ms_e), max(ms_t - ms_e, 0)
    below = S**2 / (n - 1) + (ms_t**2 / (m - 1) + ms_e**2 / ((n - 1) * (m - 1)) if X > 0 else 0)
    return mean, (S + X) / (n * m), (S + X) ** 2 / below, (ms_s, ms_t, ms_e)


def test_a_matrix_whose_mean_squares_are_all_a_quarter():
    found = crossed([[1, 0], [0, 0]])
    assert (found.mean, found.variance, found.df) == pytest.approx((0.25, 0.0625, 1.0))
    assert (found.num_rows, found.num_items) == (2, 2)
    assert found.shares == Shares(rows=0.0, items=0.0, interaction=1.0)
    # Student's t with one degree of freedom is Cauchy's distribution.
    assert found.half_width == pytest.approx(math.tan(math.pi * 0.475) * 0.25)
    assert found.p() == pytest.approx(0.5)
    assert found.p(0.25) == pytest.approx(1.0)
    assert found.equivalence_p(0.5) == pytest.approx(0.25)
    assert found.equivalence_p(0.25) == pytest.approx(0.5)


def test_a_matrix_with_items_that_differ():
    found = crossed([[1, 0, 0], [1, 0, -1]])
    assert slow([[1, 0, 0], [1, 0, -1]])[3] == pytest.approx((1 / 6, 7 / 6, 1 / 6))
    assert found.mean == pytest.approx(1 / 6)
    assert found.variance == pytest.approx(7 / 36)
    assert found.df == pytest.approx(1.885, abs=5e-4)
    shares = (found.shares.rows, found.shares.items, found.shares.interaction)
    assert shares == pytest.approx((0, 0.75, 0.25))


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_loops_over_the_definition(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 7), rng.integers(2, 40)
    sizes = rng.choice([0.0, 0.1, 1.0, 3.0], size=2)
    D = 0.3 + sizes[0] * rng.normal(size=(n, 1)) + sizes[1] * rng.normal(size=m) + rng.normal(size=(n, m))
    mean, variance, df, (ms_s, ms_t, ms_e) = slow(D.tolist())
    found = crossed(D)
    assert (found.mean, found.variance, found.df) == pytest.approx((mean, variance, df))
    parts = np.array([max(0, (ms_s - ms_e) / m), max(0, (ms_t - ms_e) / n), ms_e])
    shares = [found.shares.rows, found.shares.items, found.shares.interaction]
    assert shares == pytest.approx((parts / parts.sum()).tolist())
    of_mean = [found.mean_shares.rows, found.mean_shares.items, found.mean_shares.interaction]
    assert of_mean == pytest.approx((parts / [n, m, n * m] / variance).tolist())
    t, root = stats.t(df), math.sqrt(variance)
    assert found.half_width == pytest.approx(t.ppf(0.975) * root)
    assert found.p(0.1) == pytest.approx(2 * t.sf(abs(mean - 0.1) / root))
    assert found.equivalence_p(0.7) == pytest.approx(t.sf((0.7 - abs(mean)) / root))
    # The larger one of the two one-sided tests against -0.7 and 0.7.
    assert found.equivalence_p(0.7) == pytest.approx(max(t.sf((mean + 0.7) / root), t.sf((0.7 - mean) / root)))


def test_takes_the_unit_of_its_matrix():
    D = np.random.default_rng(0).normal(size=(4, 30))
    plain, scaled = crossed(D), crossed(1000 * D)
    assert scaled.half_width == pytest.approx(1000 * plain.half_width)
    assert scaled.equivalence_p(100) == pytest.approx(plain.equivalence_p(0.1))
    assert scaled.df == pytest.approx(plain.df)


@pytest.mark.parametrize("shape", [(1, 10), (10, 1), (1, 1), (0, 5), (5, 0)])
def test_needs_two_rows_and_two_items(shape):
    assert crossed(np.ones(shape)) is None


def test_refuses_what_is_no_matrix_of_finite_numbers():
    with pytest.raises(ValueError, match="has two dimensions, but this has 1"):
        crossed([1.0, 2.0])
    with pytest.raises(ValueError, match="an outcome is not finite"):
        crossed([[1.0, 2.0], [math.nan, 0.0]])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_equal_outcomes_prove_as_much_as_the_signs_of_their_rows(value):
    found = crossed(np.full((5, 7), value))
    assert found == Crossed(mean=value, variance=0.0, df=4.0, num_rows=5, num_items=7, shares=None)
    assert found.mean_shares is None
    assert found.half_width == 0
    assert found.p(value) == 1
    assert found.p(value + 0.01) == 2**-4
    assert found.equivalence_p(value + 0.01) == 2**-5
    assert found.equivalence_p(value) == 1
    assert found.equivalence_p(value / 2) == 1


def test_equal_outcomes_but_for_rounding_are_equal():
    D = np.full((3, 4), 0.3)
    D[1, 2] = 0.1 + 0.2
    assert crossed(D).variance == 0


def test_rows_alone_or_items_alone():
    rows = crossed(np.repeat([[0.0], [1.0], [2.0]], 50, axis=1))
    assert (rows.shares.rows, rows.df) == pytest.approx((1, 2))
    assert rows.variance == pytest.approx(1 / 3)  # of the mean of three numbers whose variance is 1
    items = crossed(np.tile([0.0, 1.0, 2.0], (50, 1)))
    assert (items.shares.items, items.df) == pytest.approx((1, 2))
    assert items.variance == pytest.approx(1 / 3)


def test_the_equivalence_of_rows_is_students_t():
    values = [0.1, -0.2, 0.3, 0.05]
    t = (0.5 - np.mean(values)) / (np.std(values, ddof=1) / 2)
    assert rows_equivalence_p(values, 0.5) == pytest.approx(stats.t(3).sf(t))
    assert rows_equivalence_p([-value for value in values], 0.5) == rows_equivalence_p(values, 0.5)
    assert rows_equivalence_p(values, 0.01) > 0.5
    one_sided = [
        stats.ttest_1samp(values, -0.5, alternative="greater"),
        stats.ttest_1samp(values, 0.5, alternative="less"),
    ]
    assert rows_equivalence_p(values, 0.5) == pytest.approx(max(test.pvalue for test in one_sided))
    assert rows_equivalence_p([0.1], 0.5) is None
    assert rows_equivalence_p([0.1] * 5, 0.5) == 2**-5
    assert rows_equivalence_p([0.1] * 5, 0.1) == 1
    assert rows_equivalence_p([-0.1] * 5, 0.05) == 1


def coverage(sd_rows, sd_items, num=2_000, n=5, m=200):
    """Return how often 0, the mean of all rows and items, lies in the wider interval and in that over rows alone."""
    rng = np.random.default_rng(20)
    hits = np.zeros(2)
    for _ in range(num):
        D = sd_rows * rng.normal(size=(n, 1)) + sd_items * rng.normal(size=m) + rng.normal(size=(n, m))
        half = stats.t.ppf(0.975, n - 1) * D.mean(axis=1).std(ddof=1) / math.sqrt(n)
        found = crossed(D)
        hits += abs(found.mean) <= max(half, found.half_width), abs(found.mean) <= half
    return hits / num


@pytest.mark.parametrize(
    ("sd_rows", "sd_items", "is_fooled"),
    [(0.0, 1.0, True), (0.05, 1.0, True), (0.2, 0.5, False), (0.2, 0.0, False), (0.0, 0.0, False)],
)
def test_the_wider_interval_covers_for_other_rows_and_items(sd_rows, sd_items, is_fooled):
    wider, over_rows = coverage(sd_rows, sd_items)
    assert wider >= 0.93
    # Rows share their items, so their means say nothing of what other items would have given.
    assert (over_rows < 0.85) == is_fooled
