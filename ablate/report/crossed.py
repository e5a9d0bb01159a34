"""Inference over replicates and test items together: one difference for each replicate and item.

D has a row for each replicate (a study or a seed) and a column for each test item. The model is crossed and random,
D_ij = μ + s_i + t_j + e_ij with independent rows s, items t and interactions e, so that μ is meant for other
replicates and other items. With n rows and m columns

    MS_S = m Σ (D̄_i· − D̄)² / (n − 1),  MS_T = n Σ (D̄_·j − D̄)² / (m − 1),
    MS_E = Σ (D_ij − D̄_i· − D̄_·j + D̄)² / ((n − 1)(m − 1)),
    S = max(MS_S, MS_E),  X = max(MS_T − MS_E, 0),  V = (S + X) / (nm),
    ν = (S + X)² / (S²/(n − 1) + [X > 0] (MS_T²/(m − 1) + MS_E²/((n − 1)(m − 1)))),

and (D̄ − μ) / √V is taken for Student's t with ν degrees of freedom. Without S = max and X = max, V is the unbiased
estimate of the variance of D̄; with them it is not below what rows without an effect of their own have.

Sources: Searle, Casella & McCulloch, "Variance Components" (1992), for the crossed random model and its mean squares;
Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2 (1946), for the
degrees of freedom; Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987), for equivalence as two one-sided tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Of the largest number, or of 1 where all are smaller: less is no difference."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Shares of a variance, in [0, 1] with the sum 1.

    `rows` is that of the replicates, `items` that of the test items, `interaction` all that is neither.
    """

    rows: float
    items: float
    interaction: float


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """A mean over replicates and test items, for other replicates and other items.

    `mean` has the unit of the matrix, `variance` is V, that of the mean, in its square, `df` is ν. Where all outcomes
    are equal V is 0 and `df` is n − 1; `shares`, of the variance of a single outcome, are None then. `num_rows` and
    `num_items` are n and m.
    """

    mean: float
    variance: float
    df: float
    num_rows: int
    num_items: int
    shares: Shares | None

    @property
    def mean_shares(self) -> Shares | None:
        """Shares of V: the mean is over n replicates, m items and nm outcomes, which divide the components."""
        if self.shares is None:
            return None
        n, m = self.num_rows, self.num_items
        return _shares(self.shares.rows / n, self.shares.items / m, self.shares.interaction / (n * m))

    @property
    def half_width(self) -> float:
        """Half the width of the 95% interval about the mean; 0 where all outcomes are equal."""
        return float(stdtrit(self.df, (1 + CONFIDENCE) / 2)) * math.sqrt(self.variance)

    def p(self, margin: float = 0.0) -> float:
        """Return the two-sided p of the mean against a margin, in the matrix's unit.

        Where all outcomes are equal t is not defined, and the p of flipping the rows' signs takes its place: 1 if they
        equal the margin, else 2^(1 − n).
        """
        away = abs(self.mean - margin)
        if not self.variance:
            return 1.0 if away < _rounding(self.mean, margin) else 2.0 ** (1 - self.num_rows)
        return 2 * float(stdtr(self.df, -away / math.sqrt(self.variance)))

    def equivalence_p(self, d: float) -> float:
        """Return the p of |μ| ≥ d: the larger one of two one-sided tests, P(T_ν ≥ (d − |D̄|)/√V).

        Where all outcomes are equal the p of flipping the rows' signs takes its place: 2^−n if |D̄| < d, else 1.

        Args:
            d: The largest difference that does not matter, > 0, in the matrix's unit.
        """
        return _equivalence_p(self.mean, self.variance, self.df, self.num_rows, d)


def crossed(matrix: ArrayLike) -> Crossed | None:
    """Return the mean of a matrix with its variance in the crossed random model.

    Args:
        matrix: (replicates, test items), finite numbers.

    Returns:
        None with fewer than two rows or columns.

    Raises:
        ValueError: It has not two dimensions, or a number is not finite.
    """
    D = np.asarray(matrix, float)
    if D.ndim != 2:
        raise ValueError(f"a matrix of replicates and items has two dimensions, but this has {D.ndim}")
    if not np.isfinite(D).all():
        raise ValueError("an outcome is not finite")
    n, m = D.shape
    if n < 2 or m < 2:
        return None
    if np.ptp(D) < _rounding(*(float(end) for end in (D.min(), D.max()))):
        return Crossed(mean=float(D[0, 0]), variance=0.0, df=n - 1.0, num_rows=n, num_items=m, shares=None)
    mean = float(D.mean())
    rows, items = D.mean(axis=1) - mean, D.mean(axis=0) - mean
    residuals = D - mean - rows[:, None] - items
    ms_s = m * float(rows @ rows) / (n - 1)
    ms_t = n * float(items @ items) / (m - 1)
    ms_e = float((residuals**2).sum()) / ((n - 1) * (m - 1))
    S, X = max(ms_s, ms_e), max(ms_t - ms_e, 0.0)
    below = S**2 / (n - 1)
    if X > 0:
        below += ms_t**2 / (m - 1) + ms_e**2 / ((n - 1) * (m - 1))
    parts = (max(0.0, (ms_s - ms_e) / m), max(0.0, (ms_t - ms_e) / n), ms_e)
    return Crossed(
        mean=mean,
        variance=(S + X) / (n * m),
        df=(S + X) ** 2 / below,
        num_rows=n,
        num_items=m,
        shares=_shares(*parts),
    )


def _shares(rows: float, items: float, interaction: float) -> Shares:
    whole = rows + items + interaction
    return Shares(rows=rows / whole, items=items / whole, interaction=interaction / whole)


def rows_equivalence_p(differences: Sequence[float], d: float) -> float | None:
    """Return the p of |μ| ≥ d over replicates alone, by Student's t with n − 1 degrees of freedom.

    Where all differences are equal the p of flipping their signs takes its place: 2^−n if their size is below d,
    else 1.

    Args:
        differences: One for each replicate.
        d: The largest difference that does not matter, > 0, in the differences' unit.

    Returns:
        None with fewer than two differences.
    """
    n = len(differences)
    if n < 2:
        return None
    values = np.asarray(differences, float)
    is_constant = np.ptp(values) < _rounding(*differences)
    mean = float(values[0] if is_constant else values.mean())
    variance = 0.0 if is_constant else float(values.var(ddof=1)) / n
    return _equivalence_p(mean, variance, n - 1, n, d)


def _equivalence_p(mean: float, variance: float, df: float, n: int, d: float) -> float:
    left = d - abs(mean)
    if not variance:
        return 2.0**-n if left >= _rounding(mean, d) else 1.0
    return float(stdtr(df, -left / math.sqrt(variance)))


def _rounding(*values: float) -> float:
    return ROUNDING * max(1.0, *map(abs, values))
