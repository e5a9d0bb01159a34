"""Learning curves."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ablate.metrics import Metric
from ablate.report.drawing import STYLE, cell_panels, draw_floors, draw_legend
from ablate.report.drawing import style as style_of
from ablate.report.layout import Grid, Levels
from ablate.store.declaration import Declaration
from ablate.store.record import TrialRecord

MAX_POINTS = 60
"""More points of one curve cannot be told apart in a panel three inches wide."""


def learning_curves(declaration: Declaration, grid: Grid, curve: str) -> Figure | None:
    """Draw a metric after each epoch, a panel for each cell (in large tables for each row), all confirm seeds.

    A cross marks where a seed diverged. Returns None if no confirm trial recorded the curve.
    """
    if not any(_curves(grid, row, column, curve) for row in grid.rows for column in grid.columns):
        return None
    metric = dataclasses.replace(declaration.tuned_metric, name=curve)
    with matplotlib.rc_context(STYLE):
        figure, found = cell_panels(grid, "epoch", metric.axis)
        for (row, column), axes in found.items():
            _draw_curves(axes, _curves(grid, row, column, curve), metric, column, grid.columns.index(column))
        panels = list(dict.fromkeys(found.values()))
        floors = {floor for entry in grid.entries if (floor := entry.trials.objective.floor) is not None}
        for axes in panels:
            draw_floors(axes, metric, sorted(floors))
        draw_legend(figure, *panels, last=metric.floor_name)
    return figure


def decimated(num_epochs: int) -> list[int]:
    """Return the epochs, counted from 1, that a curve is drawn at: at most so many, the first and last among them."""
    if num_epochs <= MAX_POINTS:
        return list(range(1, num_epochs + 1))
    return sorted({1 + round(index * (num_epochs - 1) / (MAX_POINTS - 1)) for index in range(MAX_POINTS)})


def _curves(grid: Grid, row: Levels, column: str, curve: str) -> list[TrialRecord]:
    entry = grid.at.get((row, column))
    records = [record for _, record in entry.trials.confirm if record is not None] if entry else []
    return [record for record in records if record.curves.get(curve)]


def _draw_curves(axes: Any, records: list[TrialRecord], metric: Metric, column: str, number: int) -> None:
    look = style_of(number)
    x: list[float] = []
    y: list[float] = []
    for record in records:
        values = [metric.scale * value for value in record.curves[metric.name]]
        epochs = decimated(len(values))
        # One line with gaps: matplotlib's time goes by artists, not by points.
        x += [*epochs, math.nan]
        y += [*(values[epoch - 1] for epoch in epochs), math.nan]
        if record.state == "diverged":
            axes.plot(len(values), values[-1], "x", color=look["color"], markersize=7, markeredgewidth=1.8)
    if x:
        axes.plot(x, y, color=look["color"], linestyle=look["linestyle"], linewidth=0.9, label=column)
