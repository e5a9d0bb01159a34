"""How cells become the rows and columns of a table."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from ablate.report.entries import Entry
from ablate.report.inference import Verdict
from ablate.store.declaration import Declaration

Levels = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The table's layout.

    `row_axes` are the axes that a row fixes, the report's row axis last, `rows` their levels, one tuple a row.
    `columns` are the levels of `column_axis`; without one, the single column is named by the metric.
    `at` finds an entry by row and column, `verdicts` what it is against the baseline, and `best` holds the places
    that beat every other one of their row; the last two are filled by `judged`.
    """

    row_axes: Levels
    rows: list[Levels]
    column_axis: str | None
    columns: list[str]
    baseline: str | None
    at: dict[tuple[Levels, str], Entry]
    verdicts: dict[tuple[Levels, str], Verdict] = field(default_factory=dict)
    best: frozenset[tuple[Levels, str]] = frozenset()

    @property
    def header(self) -> str:
        """The title of the column of row labels."""
        return " · ".join(self.row_axes)

    @property
    def entries(self) -> list[Entry]:
        return list(self.at.values())

    def label(self, row: Levels) -> str:
        """Return the row's label, for example "20" or "adam · 20"."""
        return " · ".join(row) or "all"

    def phrase(self, row: Levels) -> str:
        """Return the row in prose, for example "width 16"."""
        return ", ".join(f"{axis} {level}" for axis, level in zip(self.row_axes, row, strict=True))

    def place(self, row: Levels, column: str) -> str:
        """Return an entry in prose, for example "plain at width 16"."""
        parts = [column if self.column_axis else "", self.phrase(row)]
        return " at ".join(part for part in parts if part) or "the only cell"

    def compared(self) -> list[str]:
        """Return the columns that are compared with the baseline; none if there is no baseline."""
        return [column for column in self.columns if column != self.baseline] if self.baseline else []


def grid(declaration: Declaration, entries: list[Entry]) -> Grid:
    """Lay the entries out as the declaration's `report` says; other axes come first in the row label."""
    columns_axis, rows_axis = declaration.report.get("columns"), declaration.report.get("rows")
    others = [axis for axis in declaration.axes if axis not in (columns_axis, rows_axis)]
    row_axes = (*others, rows_axis) if rows_axis else tuple(others)
    at = {}
    for entry in entries:
        column = entry.levels[columns_axis] if columns_axis else declaration.metric.label
        at[tuple(entry.levels[axis] for axis in row_axes), column] = entry
    present = {row for row, _ in at}
    return Grid(
        row_axes=row_axes,
        rows=[row for row in itertools.product(*(declaration.axes[axis] for axis in row_axes)) if row in present],
        column_axis=columns_axis,
        columns=list(declaration.axes[columns_axis]) if columns_axis else [declaration.metric.label],
        baseline=declaration.report.get("baseline") if columns_axis else None,
        at=at,
    )
