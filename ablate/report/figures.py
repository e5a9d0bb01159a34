"""The table as a figure, and training error beside test error."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from ablate.declaration import Declaration
from ablate.report.drawing import STYLE, draw_chance, draw_legend, named_rows, panels, place_legend, set_levels
from ablate.report.drawing import style as style_of
from ablate.report.entries import Entry, metric_label
from ablate.report.grid import Grid, Levels
from ablate.report.text import chance_number

MARK_SIZES = (4.0, 10.0)
"""Of the first and the last row, in points, where the size tells the row."""
MAX_NARROW = 12
"""More rows need a figure as wide as the page."""
MAX_RATIO = 12
"""Numbers that span more than this factor are not drawn to scale: levels evenly spaced, hours logarithmic."""
CHANCE_IN_VIEW = 0.6
"""If no seed is below this accuracy, the axis is cut off above chance, so that differences can be seen."""


def accuracy_by_row(declaration: Declaration, grid: Grid) -> Figure:
    """Draw the table: means with intervals and single seeds over the row axis, a line for each column."""
    lowest = min((value for entry in grid.entries for value in entry.estimate.values), default=0.0)
    groups = list(dict.fromkeys(row[:-1] for row in grid.rows))
    with matplotlib.rc_context(STYLE):
        is_wide = len(groups) == 1 and len(grid.rows) > MAX_NARROW
        figure, found = panels(len(groups), width=10.2 if is_wide else 6.4, height=4.0)
        for axes, group in zip(found, groups, strict=True):
            rows = [row for row in grid.rows if row[:-1] == group]
            x, labels = _positions(rows)
            for number, column in enumerate(grid.columns):
                _draw_column(axes, grid, rows, x, column, number)
            set_levels(axes, x, labels)
            axes.set_xlabel(grid.row_axes[-1] if grid.row_axes else "")
            axes.set_title(" · ".join(group), loc="left", fontsize=10)
        found[0].set_ylabel(f"{metric_label(declaration)} (%)")
        floor = min(axes.get_ylim()[0] for axes in found)
        if lowest < CHANCE_IN_VIEW or 100 * declaration.chances[-1] >= floor:
            for axes in found:
                draw_chance(axes, declaration)
        else:
            figure.supxlabel(f"chance ({chance_number(declaration)}) is below this range", fontsize=8)
        draw_legend(figure, found[0])
    return figure


def _positions(rows: list[Levels]) -> tuple[list[float], list[str]]:
    labels = [row[-1] if row else "" for row in rows]
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        numbers = []
    to_scale = (
        len(set(numbers)) > 1
        and all(math.isfinite(number) and number > 0 for number in numbers)
        and max(numbers) / min(numbers) <= MAX_RATIO
    )
    return (numbers if to_scale else [float(position) for position in range(len(rows))]), labels


def _draw_column(axes: Any, grid: Grid, rows: list[Levels], x: list[float], column: str, number: int) -> None:
    gap = min((abs(b - a) for a, b in zip(sorted(x), sorted(x)[1:], strict=False)), default=1.0)
    dodge = 0.075 * gap * (number - (len(grid.columns) - 1) / 2)
    style = style_of(number)
    places, means, lows, highs = [], [], [], []
    for position, row in zip(x, rows, strict=True):
        entry = grid.at.get((row, column))
        if entry is None or not entry.is_settled or entry.estimate.mean is None:
            continue
        measured, mean = entry.estimate, 100 * entry.estimate.mean
        seeds = [100 * value for value in measured.values]
        places.append(position + dodge)
        # A mean of success and collapse describes no seed: the line breaks, and the seeds stand alone.
        means.append(math.nan if measured.is_mixed else mean)
        lows.append(mean - 100 * measured.low if measured.low is not None else 0.0)
        highs.append(100 * measured.high - mean if measured.high is not None else 0.0)
        axes.plot([position + dodge] * len(seeds), seeds, **_seed_marks(style, is_mixed=measured.is_mixed))
    axes.errorbar(
        places, means, yerr=[lows, highs], label=column, capsize=3, elinewidth=1.2, linewidth=1.5, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.6, **style,
    )  # fmt: skip


def degradation(declaration: Declaration, grid: Grid) -> Figure | None:
    """Draw training error beside the table's error: a net that cannot be trained is bad at both.

    Means over confirm seeds with the seeds as small marks; a diverged seed counts as chance. None if no confirm
    trial recorded its training accuracy, or the row axis has one level only.
    """
    levels = {row[-1] for row in grid.rows if row}
    if len(levels) < 2 or not any(_train_errors(entry, declaration) for entry in grid.entries):
        return None
    groups = list(dict.fromkeys(row[:-1] for row in grid.rows))
    with matplotlib.rc_context(STYLE):
        is_wide = len(grid.rows) > MAX_NARROW
        figure, found = panels(2 * len(groups), width=5.1 if is_wide else 3.4, height=3.0)
        for index, group in enumerate(groups):
            rows = [row for row in grid.rows if row[:-1] == group]
            for axes, kind in zip(found[2 * index : 2 * index + 2], ("training", "test"), strict=True):
                _draw_errors(axes, declaration, grid, rows, kind)
                axes.set_title(" · ".join([*group, f"{kind} error"]), loc="left", fontsize=10)
                axes.set_xlabel(grid.row_axes[-1])
        found[0].set_ylabel("error (%)")
        draw_legend(figure, *found)
    return figure


def cost_by_accuracy(declaration: Declaration, grid: Grid) -> Figure | None:
    """Draw what each cell measured against the device-hours of all its trials; None where nothing was timed.

    A line joins the cells of a column, whose marks grow from the first row to the last. Cells that mix success and
    collapse are left out.
    """
    timed = {place: entry for place, entry in grid.at.items() if entry.is_settled and entry.device_hours > 0}
    if not timed:
        return None
    sizes = dict(zip(grid.rows, np.linspace(*MARK_SIZES, len(grid.rows)).tolist(), strict=True))
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = panels(1, width=6.4, height=4.0)
        for number, column in enumerate(grid.columns):
            look = style_of(number) | {"markeredgecolor": "white", "markeredgewidth": 0.4}
            shown = [(row, timed[row, column]) for row in grid.rows if (row, column) in timed]
            hours = [entry.device_hours for _, entry in shown]
            means = [math.nan if entry.estimate.is_mixed else 100 * (entry.estimate.mean or 0.0) for _, entry in shown]
            axes.plot(hours, means, linewidth=0.8, alpha=0.6, **look | {"marker": "none"})
            axes.plot([], [], label=column, markersize=5.5, **look)
            # One artist for all bars and one for all marks: matplotlib's time goes by artists.
            bars = [_bar(entry, mean) for (_, entry), mean in zip(shown, means, strict=True)]
            axes.errorbar(
                hours, means, yerr=np.reshape(bars, (-1, 2)).T, fmt="none", ecolor=look["color"], elinewidth=0.9
            )
            areas = [sizes[row] ** 2 for row, _ in shown]
            marks = {"marker": look["marker"], "color": look["color"], "edgecolors": "white", "linewidths": 0.4}
            axes.scatter(hours, means, areas, zorder=2.5, **marks)
        _scale_hours(axes, [entry.device_hours for entry in timed.values()])
        axes.set_ylabel(f"{metric_label(declaration)} (%)")
        draw_legend(figure, axes)
        if len(grid.rows) > 1:
            named = named_rows(grid.rows)
            grey = [Line2D([], [], marker="o", linestyle="", color="#777777", markersize=sizes[row]) for row in named]
            place_legend(figure, dict(zip(map(grid.phrase, named), grey, strict=True)), "outside lower right")
    return figure


def _bar(entry: Entry, mean: float) -> tuple[float, float]:
    """Return how far the interval of an entry reaches below and above its mean, in percentage points."""
    low, high = entry.estimate.low, entry.estimate.high
    return (mean - 100 * low, 100 * high - mean) if low is not None and high is not None else (0.0, 0.0)


def _scale_hours(axes: Any, hours: list[float]) -> None:
    """Set the axis of device-hours, logarithmic where they differ much, with ticks that do not touch."""
    axes.set_xlabel("device-hours of all trials of the cell")
    if max(hours) / min(hours) > MAX_RATIO:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter("{x:g}")


def _train_errors(entry: Entry, declaration: Declaration) -> list[float]:
    errors = []
    for _, record in entry.trials.confirm:
        if record is None or record.state == "failed":
            continue
        if record.state == "diverged":
            errors.append(1 - declaration.chance_of(entry.levels))
        else:
            metrics = record.metrics
            last = [metrics["train_accuracy"]] if "train_accuracy" in metrics else []
            errors += [1 - value for value in last or record.curves.get("train_accuracy", [])[-1:]]
    return errors


def _draw_errors(axes: Any, declaration: Declaration, grid: Grid, rows: list[Levels], kind: str) -> None:
    x, labels = _positions(rows)
    for number, column in enumerate(grid.columns):
        look = style_of(number)
        means = []
        for position, row in zip(x, rows, strict=True):
            entry = grid.at.get((row, column))
            is_mixed = entry is not None and entry.estimate.is_mixed
            if entry is None or not entry.is_settled:
                errors = []
            else:
                test_errors = [1 - value for value in entry.estimate.values]
                errors = _train_errors(entry, declaration) if kind == "training" else test_errors
            means.append(100 * math.fsum(errors) / len(errors) if errors and not is_mixed else math.nan)
            seeds = _seed_marks(look, is_mixed=is_mixed)
            axes.plot([position] * len(errors), [100 * error for error in errors], **seeds)
        axes.plot(x, means, label=column, markersize=5, linewidth=1.4, **look)
    set_levels(axes, x, labels)


def _seed_marks(look: dict[str, Any], *, is_mixed: bool) -> dict[str, Any]:
    """Return how single seeds are drawn: small beside their mean, large and hollow where no mean is drawn."""
    size = {"markerfacecolor": "none", "markersize": 5.5} if is_mixed else {"alpha": 0.45, "markersize": 2.5}
    return {"marker": look["marker"], "color": look["color"], "linestyle": "none", **size}
