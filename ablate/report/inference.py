"""Means, intervals and paired tests over training seeds.

Sources: Student, "The probable error of a mean", Biometrika 6 (1908), for the t interval and the paired t test;
Efron, "Better bootstrap confidence intervals", JASA 82 (1987), for the interval from 20 seeds on; Fisher, "The
Design of Experiments" (1935), for the permutation of signs; Holm, Scand. J. Statist. 6 (1979); Hedges, J. Educ.
Statist. 6 (1981). What they cover where seeds are not Gaussian is measured in docs/statistics.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from ablate.metrics import Metric

CONFIDENCE = 0.95
ALPHA = 0.05
MIN_BOOTSTRAP = 20
"""From this many seeds on the interval is a bootstrap; with fewer it covers too little."""
ROUNDING = 1e-12
"""Of the largest number, or of 1 where all are smaller: less is no difference."""
MAX_EXACT = 13
"""Up to this many seeds all 2^n signs are tried; beyond it 9,999 at random."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over training seeds.

    `values` has one a seed, in the metric's unit; a diverged seed counts as the metric's floor, and has none where
    there is no floor. `n` counts the diverged seeds too. `sd` is the sample standard deviation (n - 1), `low` and
    `high` the ends of the 95% interval. What is not defined is None: all of them at n=0, where a seed has no value, and
    if `is_mixed`: some seeds trained and some diverged or stayed at the floor, so that a mean would describe none;
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

    @property
    def has_all_values(self) -> bool:
        """Whether every seed has a value."""
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

    `p` is the paired t test's; where all differences are equal the t test is not defined and the permutation's
    takes its place (1 if they equal the margin). `effect` is Hedges' g of the differences; None without spread or
    with two seeds.
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
        """The smallest `permutation_p` that so many seeds allow."""
        n = len(self.shifted)
        return 2.0 ** (1 - n) if n <= MAX_EXACT else 2 / 10_000


def estimate(values: Iterable[float], num_diverged: int, metric: Metric) -> Estimate:
    """Return the mean with its 95% interval, clipped to the metric's bounds.

    Args:
        values: Of the seeds that trained to the end.
        num_diverged: How many further seeds diverged; each counts as the metric's floor.
        metric: What was measured. Without a floor a diverged seed has no value, and so the whole has no mean.
    """
    survivors = tuple(values)
    num_collapsed = sum(map(metric.has_collapsed, survivors))
    is_mixed = metric.is_mixed(survivors, num_diverged)
    if num_diverged and metric.floor is None:
        return Estimate(
            n=len(survivors) + num_diverged, mean=None, sd=None, low=None, high=None, num_diverged=num_diverged,
            values=survivors, is_mixed=True,
        )  # fmt: skip
    everything = (*survivors, *[metric.floor or 0.0] * num_diverged)
    clip = metric.clipped
    return _summarise(everything, num_diverged, clip, is_mixed=is_mixed, num_collapsed=num_collapsed)


def paired_difference(
    values: Mapping[int, float], baseline_values: Mapping[int, float], metric: Metric, *, is_mixed: bool = False
) -> Estimate:
    """Return the mean difference to the baseline over the seeds that both have, clipped to what is possible.

    Args:
        values: Of each seed, diverged ones at the metric's floor.
        baseline_values: The baseline's.
        metric: What was measured.
        is_mixed: Whether either side mixes success and collapse; then there is no interval.
    """
    shared = [seed for seed in values if seed in baseline_values]
    differences = tuple(values[seed] - baseline_values[seed] for seed in shared)
    return _summarise(differences, 0, functools.partial(metric.clipped, is_difference=True), is_mixed=is_mixed)


def paired_test(differences: Sequence[float], margin: float = 0.0) -> PairedTest | None:
    """Test whether paired differences lie above or below a margin; None with fewer than two."""
    n = len(differences)
    if n < 2:
        return None
    shifted = np.asarray(differences, float) - margin
    # What is smaller is rounding, as of differences that are multiples of one item's share.
    rounding = _rounding(differences)
    shifted[np.abs(shifted) < rounding] = 0.0
    mean, sd = float(shifted.mean()), float(shifted.std(ddof=1))
    if np.ptp(shifted) < rounding:
        return PairedTest(p=_permutation_p(shifted), effect=None, shifted=tuple(shifted.tolist()))
    p = 2 * float(stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n))))
    # The correction of two values would be 0, whatever they are.
    effect = mean / sd * (1 - 3 / (4 * (n - 1) - 1)) if n > 2 else None
    return PairedTest(p=p, effect=effect, shifted=tuple(shifted.tolist()))


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
    num_collapsed: int = 0,
) -> Estimate:  # fmt: skip
    n = len(values)
    mean = math.fsum(values) / n if n and not is_mixed else None
    sd = low = high = None
    if mean is not None and n > 1:
        # Equal values have no spread, whatever rounding makes of their mean.
        is_constant = max(values) - min(values) < _rounding(values)
        mean = values[0] if is_constant else mean
        sd = 0.0 if is_constant else math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        half = t_half_width(sd, n)
        low, high = _bootstrap(values) if n >= MIN_BOOTSTRAP and sd else (mean - half, mean + half)
        low, high = clip(low), clip(high)
    return Estimate(
        n=n, mean=mean, sd=sd, low=low, high=high, num_diverged=num_diverged, values=values, is_mixed=is_mixed,
        num_collapsed=num_collapsed,
    )  # fmt: skip


MARKS = {"better": "▲", "worse": "▼", "not shown": ""}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the paired t test says of an arm against the baseline of its row.

    `word` is better, worse or "not shown"; `adjusted_p` is Holm's over all verdicts of the table.
    """

    word: str
    adjusted_p: float
    test: PairedTest

    @property
    def mark(self) -> str:
        """What the tables print behind the number."""
        return MARKS[self.word]
