"""What each component of a design changes: main effects and interactions, from the cells that were run.

The main effect of A is the mean, over all settings of the other components that were run both with and without A, of
the metric with A minus that without. The interaction of A and B is the mean, over all settings of the others that
were run in all four ways, of how much the effect of A changes when B is switched on:
(A and B) − (A) − (B) + (neither). In a full design of two levels these are the usual effects (Box, Hunter and Hunter,
"Statistics for Experimenters", 2nd ed., chapter 5), the interaction not halved. In leave-one-out designs a main effect
is that of taking the component out of the full method, in add-one designs that of adding it to the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from ablate.report.entries import Entry
from ablate.report.inference import t_half_width
from ablate.store.declaration import Declaration

On = frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One effect in the table's metric, over the replicates that all its cells share.

    `components` are one (a main effect) or two (an interaction). `others` are the levels of the other axes.
    `num_contrasts` counts the settings of the other components that it averages. `low` and `high` are the ends of the
    95% t interval over replicates; None for a single one. Where a cell mixes success and collapse there is no mean
    either.
    """

    components: tuple[str, ...]
    others: dict[str, str]
    mean: float | None
    low: float | None
    high: float | None
    n: int
    num_contrasts: int

    @property
    def name(self) -> str:
        """For example "ortho" or "ortho × modulation"."""
        return " × ".join(self.components)


def effects(declaration: Declaration, entries: list[Entry]) -> list[Effect]:
    """Return all effects that the settled cells allow, main effects first, for each setting of the other axes."""
    if not declaration.components:
        return []
    groups: dict[tuple[tuple[str, str], ...], dict[On, Entry]] = {}
    for entry in entries:
        others = tuple((axis, level) for axis, level in entry.levels.items() if axis != "arm")
        on = frozenset(declaration.components[entry.levels["arm"]])
        if entry.is_settled:
            groups.setdefault(others, {})[on] = entry
    names = list(dict.fromkeys(name for on in declaration.components.values() for name in on))
    asked = [*((name,) for name in names), *combinations(names, 2)]
    found = [_effect(names_, dict(others), cells) for others, cells in groups.items() for names_ in asked]
    return [effect for effect in found if effect is not None]


def _effect(names: tuple[str, ...], others: dict[str, str], cells: Mapping[On, Entry]) -> Effect | None:
    switched = frozenset(names)
    contrasts = []
    for base in {on - switched for on in cells}:
        corners = {base | frozenset(on): len(names) - len(on) for k in range(len(names) + 1)
                   for on in combinations(names, k)}  # fmt: skip
        if all(corner in cells for corner in corners):
            contrasts.append({corner: (-1) ** missing for corner, missing in corners.items()})
    used = [cells[corner] for contrast in contrasts for corner in contrast]
    rows = set.intersection(*(set(entry.by_row) for entry in used)) if used else set()
    if not rows:
        return None
    values = [
        math.fsum(sign * cells[corner].by_row[row] for contrast in contrasts for corner, sign in contrast.items())
        / len(contrasts)
        for row in sorted(rows)
    ]
    is_mixed = any(entry.estimate.is_mixed for entry in used)
    mean = None if is_mixed else math.fsum(values) / len(values)
    half = None if mean is None else _half_width(values)
    return Effect(
        components=names, others=others, mean=mean, n=len(values), num_contrasts=len(contrasts),
        low=None if mean is None or half is None else mean - half,
        high=None if mean is None or half is None else mean + half,
    )  # fmt: skip


def _half_width(values: list[float]) -> float | None:
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return t_half_width(sd, n)
