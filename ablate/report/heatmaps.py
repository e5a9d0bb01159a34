"""Figures of the diagnostics: heat maps, one a measure with one panel a cell, layers over epochs; curves.

They exist where `diagnostics: epoch` was asked for. A panel shows the cell's first confirm seed that has a table of
layers; tables of all trials are in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablate.report.drawing import STYLE, draw_legend, lines, style
from ablate.store.declaration import CellTrials
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.tasks.base import HeatMap, SummaryCurve, Task

MAX_PANELS = 12
ACROSS = 4
GAP = 0.22
"""Between panels, in their widths and heights."""
NAME_LETTERS = 30
"""More letters of a cell's name do not fit over a panel."""


def heat_maps(task: Task | None, cells: Sequence[CellTrials], ledger: Ledger) -> dict[str, tuple[str, Figure]]:
    """Return {file name: (title, figure)}; empty where no confirm trial has diagnostics."""
    if task is None:
        return {}
    chosen = _chosen(cells)
    note = f"; {len(chosen)} of {len(cells)} cells" if len(chosen) < len(cells) else ""
    tables = {trials.cell.name: _first_table(trials, ledger) for trials in chosen}
    shown = [(name, table) for name, table in tables.items() if table is not None]
    found = {}
    for heat_map in task.heat_maps:
        panels = [(name, grid_of(table, heat_map)) for name, table in shown]
        panels = [(name, grid) for name, grid in panels if np.isfinite(grid).any()]
        if panels:
            title = f"{heat_map.title}, by layer over training, one confirm seed a cell{note}"
            found[f"layers_{heat_map.measure}"] = (title, _draw(heat_map, panels))
    curves = [(trials.cell.name, record.curves) for trials in chosen for record in _with_curves(task, trials)]
    if curves:
        title = f"{task.summary_title} after each epoch, one confirm seed a cell{note}"
        found[task.summary_figure] = (title, _draw_curves(task.summary_curves, curves))
    return found


def _chosen(cells: Sequence[CellTrials]) -> list[CellTrials]:
    """Return at most MAX_PANELS cells, from the first to the last; cells that differ in the last axis stay together."""
    groups = [list(group) for _, group in groupby(cells, lambda trials: list(trials.cell.levels.values())[:-1])]
    num = max(1, MAX_PANELS // max(map(len, groups), default=1))
    if len(groups) > num:
        groups = [groups[round(index)] for index in np.linspace(0, len(groups) - 1, num)]
    return [trials for group in groups for trials in group][:MAX_PANELS]


def _with_curves(task: Task, trials: CellTrials) -> list[TrialRecord]:
    """Return the cell's first confirm trial with curves that sum up its layers, or nothing."""
    for _, record in trials.confirm:
        curves = [record.curves.get(each.name, []) for each in task.summary_curves] if record is not None else []
        if record is not None and any(np.isfinite(curve).any() for curve in curves):
            return [record]
    return []


def _first_table(trials: CellTrials, ledger: Ledger) -> pa.Table | None:
    for _, record in trials.confirm:
        table = ledger.read_layers(record) if record is not None else None
        if table is not None and table.num_rows:
            return table
    return None


def grid_of(table: pa.Table, heat_map: HeatMap) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a measure as (layers, epochs), the input's side first; NaN where there is nothing to draw."""
    if heat_map.measure not in table.column_names:
        return np.full((1, 1), np.nan)
    epochs, positions = (np.asarray(table[name].to_pylist(), int) for name in ("epoch", "position"))
    grid = np.full((positions.max() + 1, epochs.max()), np.nan)
    values = np.asarray(table[heat_map.measure].to_pylist(), float)
    grid[positions, epochs - 1] = np.where(np.isfinite(values), values, np.nan)
    if heat_map.by_top:
        # The fc layer's error is a class's, not a pixel's: convolutions are compared with the topmost of them.
        grid[-1] = np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            grid = grid / grid[-2:-1] if len(grid) > 1 else grid
    return np.where(np.isfinite(grid) & ((grid > 0) | (not heat_map.is_log)), grid, np.nan)


def _colours(heat_map: HeatMap, panels: Sequence[tuple[str, Any]]) -> Normalize:
    low = min(float(np.nanmin(grid)) for _, grid in panels)
    high = max(float(np.nanmax(grid)) for _, grid in panels)
    if heat_map.is_log and heat_map.is_signed:
        bound = max(high, 1 / low, 1.01)
        return LogNorm(1 / bound, bound)
    if heat_map.is_log:
        return LogNorm(low, max(high, low * 1.01))
    if heat_map.is_signed:
        bound = max(abs(low), abs(high), 1e-6)
        return Normalize(-bound, bound)
    return Normalize(low, max(high, low + 1e-6))


def _draw(heat_map: HeatMap, panels: Sequence[tuple[str, Any]]) -> Figure:
    """Draw all panels into one pair of axes, each in a box of width and height 1: axes of their own take far longer."""
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        width, height = max(4.2, 2.6 * across), 2.3 * down + 0.4
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.42 / width, 0.4 / height, 1 - 1.3 / width, 1 - 0.75 / height))
        norm, cmap = _colours(heat_map, panels), "RdBu_r" if heat_map.is_signed else "viridis"
        near = GAP / 12
        text: dict[str, Any] = {"fontsize": 8, "color": "#444444"}
        for number, (name, grid) in enumerate(panels):
            left, bottom = (1 + GAP) * (number % across), (1 + GAP) * (down - 1 - number // across)
            image = axes.imshow(
                grid, norm=norm, cmap=cmap, origin="lower", interpolation="nearest",
                extent=(left, left + 1, bottom, bottom + 1),
            )  # fmt: skip
            num_layers, num_epochs = grid.shape
            axes.text(left, bottom + 1 + near, lines(name, NAME_LETTERS), fontsize=8, va="bottom")
            axes.text(left - near, bottom, "1", ha="right", va="bottom", **text)
            axes.text(left - near, bottom + 1, str(num_layers), ha="right", va="top", **text)
            axes.text(left, bottom - near, "1", ha="left", va="top", **text)
            axes.text(left + 1, bottom - near, str(num_epochs), ha="right", va="top", **text)
            if number % across == 0:
                axes.text(left - near, bottom + 0.5, "layer", ha="right", va="center", rotation=90, **text)
            if number + across >= len(panels):
                axes.text(left + 0.5, bottom - near, "epoch", ha="center", va="top", **text)
        axes.set(xlim=(0, across + GAP * (across - 1)), ylim=(0, down + GAP * (down - 1)), aspect="auto")
        axes.set_axis_off()
        bar = figure.add_axes((1 - 0.75 / width, 0.4 / height, 0.12 / width, min(1.8 * down, height - 0.75) / height))
        figure.colorbar(image, cax=bar, format="{x:g}")
        bar.tick_params(which="both", labelsize=8)
    return figure


def _draw_curves(known: Sequence[SummaryCurve], cells: Sequence[tuple[str, dict[str, list[float]]]]) -> Figure:
    drawn = [each for each in known if any(np.isfinite(curves.get(each.name, [])).any() for _, curves in cells)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 3.4 * len(drawn)), 3.0), layout="constrained")
        axes = figure.subplots(1, max(1, len(drawn)), squeeze=False).ravel()
        for place, curve in zip(axes, drawn, strict=False):
            for number, (cell, curves) in enumerate(cells):
                values = curves.get(curve.name, [])
                if values:
                    look = style(number)
                    epochs = range(1, len(values) + 1)
                    place.plot(epochs, values, label=cell, **{key: look[key] for key in ("color", "linestyle")})
            if curve.is_log:
                place.set_yscale("log")
            if curve.limits is not None:
                place.set_ylim(*curve.limits)
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
            place.set_title(curve.title, loc="left", fontsize=8)
            place.set_xlabel("epoch")
        draw_legend(figure, *axes)
    return figure
