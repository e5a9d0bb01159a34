"""Means, intervals and paired tests over replicates: studies, or the training seeds of a single study.

Sources: Student, "The probable error of a mean", Biometrika 6 (1908), for the t interval and the paired t test;
Efron, "Better bootstrap confidence intervals", JASA 82 (1987), for the interval from 20 seeds on; Fisher, "The
Design of Experiments" (1935), for the permutation of signs; Holm, Scand. J. Statist. 6 (1979); Hedges, J. Educ.
Statist. 6 (1981). What they cover where replicates are not Gaussian is measured in docs/statistics.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from ablate.metrics import Metric
from ablate.report.crossed import CONFIDENCE, ROUNDING, Crossed, crossed, rows_equivalence_p
from ablate.store.declaration import MIN_EQUIVALENCE

Matrix = np.ndarray[Any, np.dtype[np.float64]]
"""Outcomes: (replicates, test items)."""
ALPHA = 0.05
MIN_BOOTSTRAP = 20
"""From this many replicates on the interval is a bootstrap; with fewer it covers too little."""
MAX_EXACT = 13
"""Up to this many replicates all 2^n signs are tried; beyond it 9,999 at random."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over replicates.

    `values` has one a replicate, in the metric's unit; a diverged seed counts as the metric's floor, and its replicate
    has none where there is no floor. `n` counts these too, `num_seeds` the seeds of all replicates. `sd` is the sample
    standard deviation (n - 1), `low` and `high` the ends of the 95% interval, of `crossed` where that is wider: it
    takes the test items as drawn too. What is not defined is None: all of them at n=0, where a replicate has no value,
    and if `is_mixed`: some seeds trained and some diverged or stayed at the floor, so that a mean would describe none;
    `sd` and the interval at n=1. `num_collapsed` counts seeds at the floor without the diverged ones.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    num_diverged: int
    values: tuple[float, ...]
    is_mixed: bool = False
    num_collapsed: int = 0
    num_seeds: int = 0
    crossed: Crossed | None = None

    @property
    def has_all_values(self) -> bool:
        """Whether every replicate has a value."""
        return 0 < self.n == len(self.values)

    @property
    def excludes_zero(self) -> bool | None:
        """Whether zero lies outside the interval; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    @property
    def is_bootstrap(self) -> bool:
        """Whether the interval is a bootstrap."""
        return self.low is not None and self.n >= MIN_BOOTSTRAP and bool(self.sd)


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A two-sided test of paired differences against a margin.

    `p` is the paired t test's, or that over test items too where it is larger; where all differences are equal the t
    test is not defined and the permutation's takes its place (1 if they equal the margin). `effect` is Hedges' g of the
    differences; None without spread or with two replicates.
    """

    p: float
    effect: float | None
    shifted: tuple[float, ...]

    @property
    def permutation_p(self) -> float:
        """The two-sided p of flipping the differences' signs; it assumes symmetry only."""
        return _permutation_p(np.asarray(self.shifted))

    @property
    def smallest_p(self) -> float:
        """The smallest `permutation_p` that so many replicates allow."""
        n = len(self.shifted)
        return 2.0 ** (1 - n) if n <= MAX_EXACT else 2 / 10_000


def estimate(
    values: Iterable[float],
    num_diverged: int,
    metric: Metric,
    rows: Sequence[float] | None = None,
    num_rows: int | None = None,
    items: Matrix | None = None,
) -> Estimate:
    """Return the mean with its 95% interval, clipped to the metric's bounds.

    Args:
        values: Of the seeds that trained to the end.
        num_diverged: How many further seeds diverged; each counts as the metric's floor.
        metric: What was measured. Without a floor a diverged seed has no value, and so the whole has no mean.
        rows: The number of each replicate that has one; by default each seed is a replicate.
        num_rows: How many replicates there are, with those that have no number.
        items: (replicates, test items), whose mean the replicates' numbers are; None where it is not known.
    """
    survivors = tuple(values)
    floors = [] if metric.floor is None else [metric.floor] * num_diverged
    rows = (*survivors, *floors) if rows is None else tuple(rows)
    num_seeds = len(survivors) + num_diverged
    num_rows = num_seeds if num_rows is None else num_rows
    is_mixed = metric.is_mixed(survivors, num_diverged)
    if num_diverged and metric.floor is None:
        return Estimate(
            n=num_rows, mean=None, sd=None, low=None, high=None, num_diverged=num_diverged, values=rows,
            is_mixed=True, num_seeds=num_seeds,
        )  # fmt: skip
    num_collapsed = sum(map(metric.has_collapsed, survivors))
    found = _summarise(rows, num_diverged, metric.clipped, is_mixed=is_mixed, num_collapsed=num_collapsed, items=items)
    return dataclasses.replace(found, num_seeds=num_seeds)


def paired_difference(
    values: Mapping[int, float],
    baseline_values: Mapping[int, float],
    metric: Metric,
    *,
    is_mixed: bool = False,
    items: Matrix | None = None,
) -> Estimate:
    """Return the mean difference to the baseline over the replicates that both have, clipped to what is possible.

    Args:
        values: Of each replicate, diverged seeds at the metric's floor.
        baseline_values: The baseline's.
        metric: What was measured.
        is_mixed: Whether either side mixes success and collapse; then there is no interval.
        items: (shared replicates, test items), the differences by item; None where they are not known.
    """
    shared = [row for row in values if row in baseline_values]
    differences = tuple(values[row] - baseline_values[row] for row in shared)
    clip = functools.partial(metric.clipped, is_difference=True)
    return _summarise(differences, 0, clip, is_mixed=is_mixed, items=items)


def paired_test(differences: Sequence[float], margin: float = 0.0, over: Crossed | None = None) -> PairedTest | None:
    """Test whether paired differences lie above or below a margin; None with fewer than two.

    `over` are the differences by replicate and item: the larger p of both counts.
    """
    n = len(differences)
    if n < 2:
        return None
    shifted = np.asarray(differences, float) - margin
    # What is smaller is rounding, as of differences that are multiples of one item's share.
    rounding = _rounding(differences)
    shifted[np.abs(shifted) < rounding] = 0.0
    mean, sd = float(shifted.mean()), float(shifted.std(ddof=1))
    is_constant = np.ptp(shifted) < rounding
    p = _permutation_p(shifted) if is_constant else 2 * float(stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n))))
    if over is not None:
        p = max(p, over.p(margin))
    # The correction of two values would be 0, whatever they are.
    effect = mean / sd * (1 - 3 / (4 * (n - 1) - 1)) if n > 2 and not is_constant else None
    return PairedTest(p=p, effect=effect, shifted=tuple(shifted.tolist()))


def equivalence_p(difference: Estimate, margin: float) -> float | None:
    """Return the p of a difference of `margin` or more, over replicates or over items too, whichever is larger.

    None with fewer than MIN_EQUIVALENCE replicates.
    """
    p = rows_equivalence_p(difference.values, margin)
    if p is None or difference.n < MIN_EQUIVALENCE:
        return None
    return p if difference.crossed is None else max(p, difference.crossed.equivalence_p(margin))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for having made all these tests (Holm); one that is NaN counts as 1."""
    p_values = [1.0 if math.isnan(p) else p for p in p_values]
    # statsmodels takes half a second to import, which `status` need not wait for.
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def _rounding(values: Sequence[float]) -> float:
    return ROUNDING * max(1.0, *map(abs, values))


def t_half_width(sd: float, n: int) -> float:
    """Return half the width of the 95% t interval of a mean of n >= 2 values."""
    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)


def _permutation_p(shifted: np.ndarray[Any, Any]) -> float:
    from scipy.stats import permutation_test

    if not shifted.any():
        return 1.0
    found = permutation_test(
        (shifted,), np.mean, permutation_type="samples", vectorized=True, n_resamples=9_999,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return min(1.0, float(found.pvalue))


def _bootstrap(values: tuple[float, ...]) -> tuple[float, float]:
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values),), np.mean, confidence_level=CONFIDENCE, method="BCa", vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _summarise(
    values: tuple[float, ...], num_diverged: int, clip: Callable[[float], float], *, is_mixed: bool,
    num_collapsed: int = 0, items: Matrix | None = None,
) -> Estimate:  # fmt: skip
    n = len(values)
    over = None if is_mixed or items is None else crossed(items)
    mean = math.fsum(values) / n if n and not is_mixed else None
    sd = low = high = None
    if mean is not None and n > 1:
        # Equal values have no spread, whatever rounding makes of their mean.
        is_constant = max(values) - min(values) < _rounding(values)
        mean = values[0] if is_constant else mean
        sd = 0.0 if is_constant else math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        half = t_half_width(sd, n)
        low, high = _bootstrap(values) if n >= MIN_BOOTSTRAP and sd else (mean - half, mean + half)
        if over is not None:
            low, high = min(low, mean - over.half_width), max(high, mean + over.half_width)
        low, high = clip(low), clip(high)
    return Estimate(
        n=n, mean=mean, sd=sd, low=low, high=high, num_diverged=num_diverged, values=values, is_mixed=is_mixed,
        num_collapsed=num_collapsed, num_seeds=n, crossed=over,
    )  # fmt: skip


MARKS = {"better": "▲", "worse": "▼", "equivalent": "≈", "not shown": ""}
HOLLOW = {"▲": "△", "▼": "▽"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the paired tests say of an arm against the baseline of its row.

    `word` is better, worse, equivalent or "not shown". `adjusted_p` is that of a difference, Holm's over all verdicts
    of the table; `equivalence_p` that of equivalence, Holm's over all of the table, None without a margin or with too
    few replicates. `qualifier` says how large a difference can be: "by less than 2.0 points", or "a difference of up to
    3.1 points is not excluded". `doubts` are the reasons for which the mark is hollow: it may not be found again.
    """

    word: str
    adjusted_p: float
    test: PairedTest
    equivalence_p: float | None = None
    qualifier: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """The word in prose: "perhaps better" where there is a doubt."""
        return f"perhaps {self.word}" if self.doubts else self.word

    @property
    def mark(self) -> str:
        """What the tables print behind the number; hollow where there is a doubt."""
        mark = MARKS[self.word]
        return HOLLOW.get(mark, mark) if self.doubts else mark
