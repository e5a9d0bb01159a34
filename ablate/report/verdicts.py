"""What a table may say: which arms beat the baseline, and which beat every other arm of their row."""

from __future__ import annotations

import dataclasses
import itertools

from ablate.report.entries import Entry
from ablate.report.inference import ALPHA, PairedTest, Verdict, holm, paired_difference, paired_test
from ablate.report.layout import Grid, Levels

Place = tuple[Levels, str]


def judged(grid: Grid) -> Grid:
    """Return the grid with its verdicts, and the entries that beat every other one of their row.

    Two families of tests: every arm against its row's baseline, and every pair of arms of one row; each is
    adjusted over the whole table, so that under no effect at most 5% of tables hold a false mark.
    """
    return dataclasses.replace(grid, verdicts=_verdicts(grid), best=_best(grid))


def _verdicts(grid: Grid) -> dict[Place, Verdict]:
    tests: dict[Place, tuple[float, PairedTest]] = {}
    for place, entry in grid.at.items():
        found = entry.difference
        if found is None or found.is_mixed:
            continue
        test = paired_test(found.values)
        if test is not None and found.mean is not None:
            tests[place] = (entry.metric.sign * found.mean, test)
    adjusted = holm([test.p for _, test in tests.values()])
    return {
        place: Verdict(word=_word(mean, p), adjusted_p=p, test=test)
        for (place, (mean, test)), p in zip(tests.items(), adjusted, strict=True)
    }


def _best(grid: Grid) -> frozenset[Place]:
    """Return the entries that beat all others of their row; a row with an entry that cannot be tested has none."""
    pairs: list[tuple[Place, Place]] = []
    tests: list[tuple[float, float]] = []
    for row in grid.rows:
        places = [(row, column) for column in grid.columns if (row, column) in grid.at]
        for first, second in itertools.combinations(places, 2):
            found = _compare(grid.at[first], grid.at[second])
            if found is not None:
                pairs.append((first, second))
                tests.append(found)
    adjusted = holm([p for _, p in tests])
    wins: dict[Place, int] = {}
    for (first, second), (mean, _), p in zip(pairs, tests, adjusted, strict=True):
        if p <= ALPHA:
            winner = first if mean > 0 else second
            wins[winner] = wins.get(winner, 0) + 1
    width = {row: sum((row, column) in grid.at for column in grid.columns) for row in grid.rows}
    return frozenset(place for place, number in wins.items() if number == width[place[0]] - 1)


def _compare(first: Entry, second: Entry) -> tuple[float, float] | None:
    """Return how much better the first is in the mean, and its unadjusted p; None where nothing can be tested."""
    if not (first.is_settled and second.is_settled) or first.estimate.is_mixed or second.estimate.is_mixed:
        return None
    found = paired_difference(first.by_seed, second.by_seed, first.metric)
    test = paired_test(found.values)
    return None if test is None or found.mean is None else (first.metric.sign * found.mean, test.p)


def _word(gain: float, p: float) -> str:
    # A p that is NaN is no verdict either.
    if not p <= ALPHA:
        return "not shown"
    return "better" if gain > 0 else "worse"
