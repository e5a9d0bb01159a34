"""Published figures beside our entries: quoted by the task, only where the experiment is the same."""

from __future__ import annotations

from ablate.report.layout import Grid
from ablate.report.text import entry_text
from ablate.store.declaration import Declaration


def quoted_rows(declaration: Declaration, grid: Grid) -> list[list[str]] | None:
    """Return our entries beside the published ones as a table, the header first; None where nothing matches."""
    task = declaration.known_task
    if task is None:
        return None
    rows = [
        [grid.place(row, column), entry_text(grid.at[row, column]), found]
        for row in grid.rows
        for column in grid.columns
        if (row, column) in grid.at
        and (found := task.published(declaration.metric.name, grid.at[row, column].trials.cell.settings)) is not None
    ]
    return [["entry", "measured here", "published"], *rows] if rows else None


def quoted_note(declaration: Declaration) -> str:
    """Return what the task says about the figures that it quotes."""
    task = declaration.known_task
    return "" if task is None else task.published_note
