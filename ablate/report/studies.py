"""What several studies of a cell say: whether their winners agree, and where the uncertainty comes from."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from ablate.report.crossed import Shares
from ablate.report.entries import Entry
from ablate.report.text import value_text
from ablate.store.declaration import Declaration, Proposal


def winners(entries: list[Entry]) -> list[list[str]]:
    """Return one row for each tuned parameter of each cell: the winners' values, and how far they agree."""
    rows = []
    for entry in entries:
        found = entry.trials.winners()
        if len(found) < 2:
            continue
        for name in entry.trials.cell.tuned:
            values = [winner.settings[name] for winner in found if name in winner.settings]
            if values:
                shown = ", ".join(value_text(value) for value in values)
                rows.append([", ".join(entry.levels.values()), name, shown, _agreement(entry, name, found)])
    return [["cell", "parameter", "winners of the studies", "how far they agree"], *rows] if rows else []


def _agreement(entry: Entry, name: str, found: list[Proposal]) -> str:
    """For example "4 of 5: sgd", or "within 23% of the range"; of winners from several definitions one after the other.

    Only winners that were drawn from the same definition are compared: another one has another range.
    """
    shares: dict[str, list[float]] = {}
    values: Counter[str] = Counter()
    for winner in found:
        place = _place(entry, name, winner)
        if place is not None:
            shares.setdefault(place[0], []).append(place[1])
        elif name in winner.settings:
            values[value_text(winner.settings[name])] += 1
    num = sum(map(len, shares.values())) + values.total()
    parts = []
    for definition, places in shares.items():
        within = f"within {100 * (max(places) - min(places)):.0f}% of the range"
        if len(places) == num > 1:
            return within
        condition = definition.removeprefix(name).strip("[]")
        where = f" with {condition}" if condition else ""
        parts.append(f"{len(places)} of {num}{where}{f': {within}' if len(places) > 1 else ''}")
    parts += [f"{count} of {num}: {value}" for value, count in values.most_common(1)]
    return "; ".join(parts)


def _place(entry: Entry, name: str, winner: Proposal) -> tuple[str, float] | None:
    """Return the name of a winner's definition and where it lies in its range, from 0 to 1; None if among choices."""
    for definition in entry.trials.cell.space.get(name, []):
        value: Any = winner.params.get(definition["name"])
        if definition["kind"] == "categorical" or value is None:
            continue
        low, high = definition["low"], definition["high"]
        if definition["log"]:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return definition["name"], float((value - low) / (high - low))
    return None


def variance_shares(declaration: Declaration, entries: list[Entry]) -> list[list[str]]:
    """Return two rows for each comparison, of which variance of the difference which share comes from where.

    The first is of the variance of the mean, from which the interval follows, with the correlation of both cells; the
    second of that of a single outcome. Without outcomes by item there is no second one.
    """
    columns, baseline = declaration.report.get("columns"), declaration.report.get("baseline")
    at: dict[tuple[tuple[str, Any], ...], Entry] = {tuple(entry.levels.items()): entry for entry in entries}
    rows = []
    for entry in entries:
        found = entry.difference
        if found is None or found.mean is None or found.n < 2:
            continue
        other = at[tuple((axis, baseline if axis == columns else level) for axis, level in entry.levels.items())]
        cell, correlation = ", ".join(entry.levels.values()), _correlation(entry, other)
        over = found.crossed
        if over is None or over.mean_shares is None or over.shares is None:
            rows.append([cell, *["–"] * 4, correlation])
            continue
        rows.append([cell, "the mean", *_percent(over.mean_shares), correlation])
        rows.append([cell, "one outcome", *_percent(over.shares), ""])
    name = declaration.replicates(2)
    shares = [name, "test items", f"{name} × items"]
    return [["cell", "variance of", *shares, "correlation with the baseline"], *rows] if rows else []


def _percent(shares: Shares) -> list[str]:
    return [f"{100 * share:.0f}%" for share in (shares.rows, shares.items, shares.interaction)]


def _correlation(first: Entry, second: Entry) -> str:
    shared = [row for row in first.by_row if row in second.by_row]
    pairs = np.array([[entry.by_row[row] for row in shared] for entry in (first, second)])
    if len(shared) < 3 or not pairs.std(axis=1).all():
        return "–"
    return f"{np.corrcoef(pairs)[0, 1]:+.2f}".replace("-", "−")
