"""Metrics: what tuning optimises and what a table shows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.checked import STRICT

SPLITS = ("train", "val", "test")
LONG = {"val": "validation", "train": "training"}
MINUS = "\N{MINUS SIGN}"
DIGITS = 4
"""Significant digits of a raw number in print."""
COLLAPSED, TRAINED = 0.05, 0.2
"""A trial at most the first from the floor has collapsed, one more than the second from it has trained."""
NARROW = 0.5
"""With less room between floor and ideal both shrink with it: 97% is no collapse where one answer is right in 95%."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that a trial measures.

    `direction` says which way is better. `unit` is "percent" for a fraction that is printed in percent, and its
    differences in points; else "raw". `low` and `high` are the least and the largest value, inclusive; None where there
    is no bound. `floor` is what a useless trial scores; `floor_name` and `floor_meaning` say what it
    is. A diverged trial counts as the floor; without one it has no number.
    """

    name: str
    direction: Literal["max", "min"] = "max"
    unit: Literal["percent", "raw"] = "raw"
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_name: str = "floor"
    floor_meaning: str = ""

    __pydantic_config__ = STRICT

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.direction == "max" else -1

    @property
    def best(self) -> float | None:
        """The best value there is; None where there is no bound."""
        return self.high if self.direction == "max" else self.low

    @property
    def worst(self) -> float | None:
        """The worst value there is; None where there is no bound."""
        return self.low if self.direction == "max" else self.high

    @property
    def scale(self) -> float:
        """The factor from a value to what is printed."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def label(self) -> str:
        """The name in words, for example "Validation error"."""
        return label(self.name)

    @property
    def quantity(self) -> str:
        """The name without the split that it is measured on, for example "error"."""
        split, _, rest = self.name.partition("_")
        return rest if rest and split in SPLITS else self.name

    @property
    def axis(self) -> str:
        """The label of an axis, for example "Test error (%)"."""
        return f"{self.label} (%)" if self.unit == "percent" else self.label

    @property
    def points(self) -> str:
        """What stands behind a difference in prose: " points", or nothing."""
        return " points" if self.unit == "percent" else ""

    def allows(self, value: float) -> bool:
        """Whether a value is a number within the bounds."""
        # Comparisons with NaN are false.
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high) and value == value

    def range_text(self) -> str:
        """For example "in [0, 1]", ">= 0" or "a number"."""
        if self.low is not None and self.high is not None:
            return f"in [{self.low:g}, {self.high:g}]"
        if self.low is not None:
            return f">= {self.low:g}"
        return "a number" if self.high is None else f"<= {self.high:g}"

    def top(self, values: Iterable[float]) -> float:
        """Return the best of some values."""
        return max(values, key=lambda value: self.sign * value)

    def is_better(self, first: float, second: float) -> bool:
        """Whether the first value is better than the second."""
        return self.sign * first > self.sign * second

    def clipped(self, value: float, *, is_difference: bool = False) -> float:
        """Return the nearest value within the bounds; a difference lies within their distance."""
        low, high = self.low, self.high
        if is_difference:
            high = None if low is None or high is None else high - low
            low = None if high is None else -high
        value = value if low is None else max(low, value)
        return value if high is None else min(high, value)

    def whole(self, value: float) -> float:
        """Return what parts of the metric are measured by: the distance of the bounds, without both a value's size."""
        return abs(value) if self.low is None or self.high is None else self.high - self.low

    def has_collapsed(self, value: float) -> bool:
        """Whether a value is at the floor or hardly better; False without a floor."""
        limit = self._from_floor(COLLAPSED)
        return limit is not None and not self.is_better(value, limit)

    def has_trained(self, value: float) -> bool:
        """Whether a value is clearly better than the floor; False without one."""
        limit = self._from_floor(TRAINED)
        return limit is not None and self.is_better(value, limit)

    def is_mixed(self, survivors: Sequence[float], num_diverged: int) -> bool:
        """Whether some seeds trained and some diverged or stayed at the floor: a mean would describe none of them.

        Args:
            survivors: The values of the seeds that did not diverge.
            num_diverged: How many further seeds diverged.
        """
        num_collapsed = sum(map(self.has_collapsed, survivors))
        return bool(survivors and num_diverged) or bool(num_collapsed and any(map(self.has_trained, survivors)))

    def _from_floor(self, distance: float) -> float | None:
        if self.floor is None:
            return None
        whole = self.whole(self.floor)
        room = whole if self.best is None else abs(self.best - self.floor)
        return self.floor + self.sign * distance * min(whole, room / NARROW)

    def text(self, value: float) -> str:
        """Return a value as it is printed: 95.2 for 0.952 in percent, else with four significant digits."""
        if self.unit == "percent":
            return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", MINUS)
        return significant(value)

    def with_unit(self, value: float) -> str:
        """Return the same with its unit, for example "95.2%"."""
        return f"{self.text(value)}%" if self.unit == "percent" else self.text(value)

    def signed(self, value: float) -> str:
        """Return a difference as it is printed, for example +1.3, −0.2 or 0.0."""
        if self.unit == "percent":
            return signed_number(100 * value)
        return significant(value, sign="+") if value else "0"

    def amount(self, difference: float) -> str:
        """Return the size of a difference in prose, for example "1.3 points"."""
        return f"{self.signed(abs(difference)).removeprefix('+')}{self.points}"


def is_of_test_data(name: str) -> bool:
    """Whether a metric's name has "test" as a word, as test_loss, rmse/test and TestError have."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+", name)
    return "test" in [word.lower() for word in words]


def label(name: str) -> str:
    """Return a metric's or a curve's name in words, for example "Validation error"."""
    first, _, rest = name.partition("_")
    return f"{LONG.get(first, first)} {rest}".replace("_", " ").strip().capitalize()


def signed_number(number: float) -> str:
    """For example +1.3, −0.2 or 0.0."""
    rounded = round(number, 1)
    return f"{rounded:+.1f}".replace("-", MINUS) if rounded else "0.0"


def significant(value: float, *, sign: str = "") -> str:
    """Return a number with four significant digits, without an exponent where people write none."""
    if not math.isfinite(value):
        return f"{value:{sign}}".replace("-", MINUS)
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    text = f"{value:{sign}.0f}" if DIGITS <= whole <= 7 else f"{value:{sign}#.{DIGITS}g}"
    return text.replace("-", MINUS).removesuffix(".")
