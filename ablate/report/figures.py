"""The table as a figure, and training error beside test error."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from ablate.metrics import Metric
from ablate.report.drawing import STYLE, draw_floors, draw_legend, named_rows, panels, place_legend, set_levels
from ablate.report.drawing import style as style_of
from ablate.report.entries import Entry
from ablate.report.layout import Grid, Levels
from ablate.report.text import floor_text
from ablate.store.declaration import Declaration

MARK_SIZES = (4.0, 10.0)
"""Of the first and the last row, in points, where the size tells the row."""
MAX_NARROW = 12
"""More rows need a figure as wide as the page."""
MAX_RATIO = 12
"""Numbers that span more than this factor are not drawn to scale: levels evenly spaced, hours logarithmic."""
FLOOR_IN_VIEW = 0.55
"""If all seeds came further than this part of the way from the floor to the best value, the axis is cut off above the
floor, so that differences can be seen."""


def metric_by_row(declaration: Declaration, grid: Grid) -> Figure:
    """Draw the table: means with intervals and single seeds over the row axis, a line for each column."""
    metric = declaration.metric
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
        found[0].set_ylabel(metric.axis)
        if _is_floor_shown(declaration, grid, [axes.get_ylim() for axes in found]):
            for axes in found:
                draw_floors(axes, metric, declaration.floors)
        else:
            text = f"{metric.floor_name} ({floor_text(declaration)}) is {'below' if metric.sign > 0 else 'above'}"
            figure.supxlabel(f"{text} this range", fontsize=8)
        draw_legend(figure, found[0], last=metric.floor_name)
    return figure


def _is_floor_shown(declaration: Declaration, grid: Grid, shown: list[tuple[float, float]]) -> bool:
    """Whether the floors are in the range that is shown, or some seed is near them."""
    metric, floors = declaration.metric, declaration.floors
    if not floors or metric.best is None:
        return True
    nearest = metric.top(floors)
    ends = [high if metric.sign < 0 else low for low, high in shown]
    if any(metric.sign * (metric.scale * nearest - end) >= 0 for end in ends):
        return True
    limit = nearest + FLOOR_IN_VIEW * (metric.best - nearest)
    return any(not metric.is_better(value, limit) for entry in grid.entries for value in entry.estimate.values)


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
        if entry is None or not entry.is_settled:
            continue
        measured, scale, mean = entry.estimate, entry.metric.scale, _scaled_mean(entry)
        seeds = [scale * value for value in measured.values]
        places.append(position + dodge)
        # A mean of success and collapse describes no seed: the line breaks, and the seeds stand alone.
        means.append(math.nan if measured.is_mixed else mean)
        lows.append(mean - scale * measured.low if measured.low is not None else 0.0)
        highs.append(scale * measured.high - mean if measured.high is not None else 0.0)
        axes.plot([position + dodge] * len(seeds), seeds, **_seed_marks(style, is_mixed=measured.is_mixed))
    axes.errorbar(
        places, means, yerr=[lows, highs], label=column, capsize=3, elinewidth=1.2, linewidth=1.5, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.6, **style,
    )  # fmt: skip


def degradation(declaration: Declaration, grid: Grid) -> Figure | None:
    """Draw the loss on training data beside that of the table: what cannot be trained is bad at both.

    Means over confirm seeds with the seeds as small marks; a diverged seed counts as the floor. None if no confirm
    trial recorded the metric on training data, or the row axis has one level only.
    """
    metric, train = declaration.metric, _train_name(declaration)
    levels = {row[-1] for row in grid.rows if row}
    if len(levels) < 2 or not any(_train_losses(entry, train) for entry in grid.entries):
        return None
    groups = list(dict.fromkeys(row[:-1] for row in grid.rows))
    with matplotlib.rc_context(STYLE):
        is_wide = len(grid.rows) > MAX_NARROW
        figure, found = panels(2 * len(groups), width=5.1 if is_wide else 3.4, height=3.0)
        for index, group in enumerate(groups):
            rows = [row for row in grid.rows if row[:-1] == group]
            for axes, kind in zip(found[2 * index : 2 * index + 2], ("training", "test"), strict=True):
                _draw_losses(axes, grid, rows, train if kind == "training" else None)
                axes.set_title(" · ".join([*group, f"{kind} {loss_name(metric)}"]), loc="left", fontsize=10)
                axes.set_xlabel(grid.row_axes[-1])
        found[0].set_ylabel(f"{loss_name(metric)} (%)" if metric.unit == "percent" else loss_name(metric))
        draw_legend(figure, *found)
    return figure


def loss_name(metric: Metric) -> str:
    """Return what is drawn of a metric where less is better: "error" where it has a best value, else its own name."""
    return "error" if metric.direction == "max" and metric.high is not None else metric.quantity


def _loss(metric: Metric, value: float) -> float:
    return metric.high - value if metric.direction == "max" and metric.high is not None else value


def metric_by_cost(declaration: Declaration, grid: Grid) -> Figure | None:
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
            means = [math.nan if entry.estimate.is_mixed else _scaled_mean(entry) for _, entry in shown]
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
        axes.set_ylabel(declaration.metric.axis)
        draw_legend(figure, axes)
        if len(grid.rows) > 1:
            named = named_rows(grid.rows)
            grey = [Line2D([], [], marker="o", linestyle="", color="#777777", markersize=sizes[row]) for row in named]
            place_legend(figure, dict(zip(map(grid.phrase, named), grey, strict=True)), "outside lower right")
    return figure


def _bar(entry: Entry, mean: float) -> tuple[float, float]:
    """Return how far the interval of an entry reaches below and above its mean, as it is drawn."""
    low, high, scale = entry.estimate.low, entry.estimate.high, entry.metric.scale
    return (mean - scale * low, scale * high - mean) if low is not None and high is not None else (0.0, 0.0)


def _scaled_mean(entry: Entry) -> float:
    return math.nan if entry.estimate.mean is None else entry.metric.scale * entry.estimate.mean


def _scale_hours(axes: Any, hours: list[float]) -> None:
    """Set the axis of device-hours, logarithmic where they differ much, with ticks that do not touch."""
    axes.set_xlabel("device-hours of all trials of the cell")
    if max(hours) / min(hours) > MAX_RATIO:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter("{x:g}")


def _train_name(declaration: Declaration) -> str:
    """Return the metric on training data that the table's is compared with, however that was evaluated."""
    names = [metric.name for metric in declaration.metrics if metric.name.startswith("train_")]
    shown = f"train_{declaration.metric.quantity}"
    return next((name for name in names if f"{shown}_".startswith(f"{name}_")), shown)


def _train_losses(entry: Entry, name: str) -> list[float]:
    """Return the loss of each confirm seed on training data, a diverged one at the floor if there is one."""
    metric, losses = entry.metric, []
    for _, record in entry.trials.confirm:
        if record is None or record.state == "failed":
            continue
        if record.state == "diverged":
            losses += [] if metric.floor is None else [_loss(metric, metric.floor)]
        else:
            last = [record.metrics[name]] if name in record.metrics else []
            losses += [_loss(metric, value) for value in last or record.curves.get(name, [])[-1:]]
    return losses


def _draw_losses(axes: Any, grid: Grid, rows: list[Levels], train: str | None) -> None:
    """Draw the losses of the metric `train` on training data, or those of the table."""
    x, labels = _positions(rows)
    for number, column in enumerate(grid.columns):
        look = style_of(number)
        means = []
        for position, row in zip(x, rows, strict=True):
            entry = grid.at.get((row, column))
            if entry is None or not entry.is_settled:
                means.append(math.nan)
                continue
            shown = [_loss(entry.metric, value) for value in entry.estimate.values]
            losses = [entry.metric.scale * loss for loss in (_train_losses(entry, train) if train else shown)]
            is_mixed = entry.estimate.is_mixed
            means.append(math.fsum(losses) / len(losses) if losses and not is_mixed else math.nan)
            axes.plot([position] * len(losses), losses, **_seed_marks(look, is_mixed=is_mixed))
        axes.plot(x, means, label=column, markersize=5, linewidth=1.4, **look)
    set_levels(axes, x, labels)


def _seed_marks(look: dict[str, Any], *, is_mixed: bool) -> dict[str, Any]:
    """Return how single seeds are drawn: small beside their mean, large and hollow where no mean is drawn."""
    size = {"markerfacecolor": "none", "markersize": 5.5} if is_mixed else {"alpha": 0.45, "markersize": 2.5}
    return {"marker": look["marker"], "color": look["color"], "linestyle": "none", **size}
