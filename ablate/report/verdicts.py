"""What a table may say: which arms beat the baseline, and which beat every other arm of their row."""

from __future__ import annotations

import dataclasses
import itertools

from ablate.metrics import Metric
from ablate.report.entries import Entry, compared
from ablate.report.inference import ALPHA, Estimate, PairedTest, Verdict, equivalence_p, holm, paired_test
from ablate.report.layout import Grid, Levels
from ablate.store.declaration import Declaration

Place = tuple[Levels, str]


MIN_STUDIES = 5
"""Marks of fewer studies are hollow."""
ONE_STUDY = "one study a cell: it compares the configurations found once, not the methods"


def judged(declaration: Declaration, grid: Grid) -> Grid:
    """Return the grid with its verdicts, and the entries that beat every other one of their row.

    Three families of tests: every arm against its row's baseline, the same for equivalence within the report's margin,
    and every pair of arms of one row; each is adjusted over the whole table, so that under no effect at most 5% of
    tables hold a false mark.
    """
    return dataclasses.replace(grid, verdicts=_verdicts(declaration, grid), best=_best(declaration, grid))


def _verdicts(declaration: Declaration, grid: Grid) -> dict[Place, Verdict]:
    margin = declaration.report.get("margin")
    tests: dict[Place, tuple[Estimate, PairedTest]] = {}
    for place, entry in grid.at.items():
        found = entry.difference
        if found is None or found.is_mixed:
            continue
        test = paired_test(found.values, over=found.crossed)
        if test is not None and found.mean is not None:
            tests[place] = (found, test)
    adjusted = holm([test.p for _, test in tests.values()])
    equal = {
        place: p
        for place, (found, _) in tests.items()
        if margin
        and not _is_of_one_search(declaration, grid.at[place])
        and (p := equivalence_p(found, margin)) is not None
    }
    equal = dict(zip(equal, holm(list(equal.values())), strict=True))
    verdicts = {}
    for (place, (found, test)), p in zip(tests.items(), adjusted, strict=True):
        entry = grid.at[place]
        word = _word(entry.metric.sign * (found.mean or 0.0), p, equal.get(place))
        baseline = grid.at[place[0], grid.baseline or ""]
        verdicts[place] = Verdict(
            word=word,
            adjusted_p=p,
            test=test,
            equivalence_p=equal.get(place),
            qualifier=_qualifier(entry.metric, found, word, margin, equal.get(place)),
            doubts=doubts(declaration, entry, baseline) if word in ("better", "worse") else (),
        )
    return verdicts


def _is_of_one_search(declaration: Declaration, *entries: Entry) -> bool:
    is_tuned = any(entry.trials.cell.tuned for entry in entries)
    return is_tuned and declaration.of(entries[0].levels).num_studies == 1


def doubts(declaration: Declaration, *entries: Entry) -> tuple[str, ...]:
    """Return the reasons for which a difference between entries may not be found again."""
    declared = declaration.of(entries[0].levels)
    found = []
    if _is_of_one_search(declaration, *entries):
        found.append(ONE_STUDY)
    elif (num := len(set.intersection(*(set(entry.by_row) for entry in entries)))) < MIN_STUDIES:
        found.append(f"{num} {declared.replicates(num)}, fewer than {MIN_STUDIES}")
    if any(entry.is_near_floor for entry in entries):
        found.append(f"near {entries[0].metric.floor_name}")
    if any(entry.num_doubted and 2 * entry.num_doubted >= declared.num_studies for entry in entries):
        found.append("† in half of a cell's studies" if declared.num_studies > 1 else "†")
    return tuple(found)


def _best(declaration: Declaration, grid: Grid) -> frozenset[Place]:
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
        if p <= ALPHA and not doubts(declaration, grid.at[first], grid.at[second]):
            winner = first if mean > 0 else second
            wins[winner] = wins.get(winner, 0) + 1
    width = {row: sum((row, column) in grid.at for column in grid.columns) for row in grid.rows}
    return frozenset(place for place, number in wins.items() if number == width[place[0]] - 1)


def _compare(first: Entry, second: Entry) -> tuple[float, float] | None:
    """Return how much better the first is in the mean, and its unadjusted p; None where nothing can be tested."""
    if not (first.is_settled and second.is_settled) or first.estimate.is_mixed or second.estimate.is_mixed:
        return None
    found = compared(first, second)
    test = paired_test(found.values, over=found.crossed)
    return None if test is None or found.mean is None else (first.metric.sign * found.mean, test.p)


def _word(gain: float, p: float, equivalence_p: float | None) -> str:
    # A p that is NaN is no verdict either.
    if p <= ALPHA:
        return "better" if gain > 0 else "worse"
    return "equivalent" if equivalence_p is not None and equivalence_p <= ALPHA else "not shown"


def _qualifier(metric: Metric, found: Estimate, word: str, margin: float | None, equivalence_p: float | None) -> str:
    """Return how large the difference can be; empty without a margin."""
    if margin is None:
        return ""
    within = metric.amount(margin)
    if equivalence_p is not None and equivalence_p <= ALPHA:
        return f"within {within}" if word == "equivalent" else f"by less than {within}"
    if word == "not shown" and found.low is not None and found.high is not None:
        return f"a difference of up to {metric.amount(max(abs(found.low), abs(found.high)))} is not excluded"
    return ""
