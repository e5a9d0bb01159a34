"""What a number of confirm seeds can tell apart."""

from __future__ import annotations

import math

ALPHA = 0.05
POWER = 0.8


def detectable_sd(num_seeds: int, num_comparisons: int = 1) -> float | None:
    """Return the smallest mean paired difference that the paired t test finds, in sd of the paired differences.

    Found means: with a power of 80% at a two-sided level of 5%, divided by the number of comparisons (Bonferroni;
    Holm's first step is the same). From the noncentral t distribution (Cohen 1988, "Statistical Power Analysis",
    chapter 2). None below two seeds. statsmodels 0.15 solves the same equation, but not where seeds are few: for 2 and
    3 comparisons its TTestPower answers 10.0 instead of 34.6.
    """
    from scipy.optimize import brentq
    from scipy.special import nctdtr, stdtrit

    if num_seeds < 2:
        return None
    df = num_seeds - 1
    critical = float(stdtrit(df, 1 - ALPHA / 2 / max(1, num_comparisons)))

    def missing(effect: float) -> float:
        return float(1 - nctdtr(df, effect * math.sqrt(num_seeds), critical)) - POWER

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high))


def seeds_for_sign_flips(num_comparisons: int = 1) -> int:
    """Return the fewest seeds at which a sign-flip permutation test can reach the level at all: 2 / 2**n <= level."""
    return math.ceil(1 - math.log2(ALPHA / max(1, num_comparisons)))


def paired_sd(pairs: list[tuple[float, float]]) -> float | None:
    """Return the sd of the differences of pairs, None below two of them."""
    differences = [first - second for first, second in pairs]
    if len(differences) < 2:
        return None
    mean = math.fsum(differences) / len(differences)
    return math.sqrt(math.fsum((difference - mean) ** 2 for difference in differences) / (len(differences) - 1))
