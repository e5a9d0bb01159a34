"""Which tuned parameters mattered in a cell: Optuna's importance, and the trials over each parameter.

Source: Watanabe et al., "PED-ANOVA", IJCAI 2023, arXiv:2304.10255 (Optuna's default evaluator).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ablate.metrics import Metric
from ablate.report.drawing import STYLE, named_rows, panels, place_legend
from ablate.report.entries import Entry
from ablate.report.layout import Grid, Levels
from ablate.store.declaration import Declaration

MIN_TRIALS = 20
"""With fewer complete trials an importance is noise."""
DARKER = 0.85
"""The part of the colour map that is drawn with: its yellow is faint on white."""
Place = tuple[Levels, str]


def importances(entry: Entry, on_log: Collection[str] = ()) -> dict[str, float]:
    """Return the share of each tuned parameter that all complete trials of the cell have; empty with fewer than 20.

    `on_log` names the parameters that are searched on a logarithmic scale.
    """
    trials = _complete(entry)
    names = [name for name in entry.trials.cell.tuned if all(name in settings for settings, _ in trials)]
    if len(trials) < MIN_TRIALS or not names:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    columns = {name: [_plain(settings[name]) for settings, _ in trials] for name in names}
    spaces = {
        name: _space(values, name in on_log) for name, values in columns.items() if len(set(map(str, values))) > 1
    }
    if not spaces:
        return {}
    study = optuna.create_study(direction="maximize" if entry.trials.objective.direction == "max" else "minimize")
    for index, (_, value) in enumerate(trials):
        params = {name: columns[name][index] for name in spaces}
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=value))
    return {name: float(share) for name, share in optuna.importance.get_param_importances(study).items()}


def importance_figure(declaration: Declaration, grid: Grid) -> Figure | None:
    """Draw a panel for each parameter, laid out as the table; None if no cell has enough trials."""
    on_log = _on_log(declaration)
    found = {place: shares for place, entry in grid.at.items() if (shares := importances(entry, on_log))}
    if not found:
        return None
    names = list(dict.fromkeys(name for shares in found.values() for name in shares))
    rows = [row for row in grid.rows if any(place[0] == row for place in found)]
    columns = [column for column in grid.columns if any(place[1] == column for place in found)]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = panels(len(names), width=1.4 + 0.6 * len(columns), height=0.7 + 0.24 * len(rows), sharex=True)
        for each, name in zip(axes, names, strict=True):
            values = [[found.get((row, column), {}).get(name, math.nan) for column in columns] for row in rows]
            each.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for (y, row), (x, column) in itertools.product(enumerate(rows), enumerate(columns)):
                if (row, column) in found:
                    share = values[y][x]
                    text = "–" if math.isnan(share) else f"{share:.2f}"
                    each.text(x, y, text, ha="center", va="center", color=_ink(share), fontsize=8)
            each.set_title(name, loc="left", fontsize=10)
            each.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
            each.set_yticks(range(len(rows)), map(grid.label, rows))
        figure.supylabel(grid.header, fontsize=STYLE["font.size"])
    return figure


def _ink(share: float) -> str:
    return "#666666" if math.isnan(share) else "white" if share > 0.55 else "black"


def slices_figure(declaration: Declaration, grid: Grid) -> Figure | None:
    """Draw the complete trials over each tuned parameter, a panel for each column and parameter, rows by colour."""
    chosen = {place: entry for place, entry in grid.at.items() if len(_complete(entry)) >= MIN_TRIALS}
    wanted = list(
        dict.fromkeys((column, name) for (_, column), entry in chosen.items() for name in entry.trials.cell.tuned)
    )
    if not wanted:
        return None
    rows = [row for row in grid.rows if any(place[0] == row for place in chosen)]
    colours = matplotlib.colormaps["viridis"]
    with matplotlib.rc_context(STYLE):
        figure, found = panels(len(wanted), width=3.2, height=2.2)
        for axes, (column, name) in zip(found, wanted, strict=True):
            for index, row in enumerate(rows):
                if (row, column) in chosen:
                    colour = colours(DARKER * index / max(1, len(rows) - 1))
                    trials = _complete(chosen[row, column])
                    _draw_slice(axes, trials, declaration.tuned_metric, name, colour, grid.phrase(row))
            axes.set_title(column, loc="left", fontsize=9)
            axes.set_xlabel(name)
            if name in _on_log(declaration):
                axes.set_xscale("log")
                axes.minorticks_off()  # They take as long as the trials.
        axis = declaration.tuned_metric.axis
        found[0].set_ylabel(axis[0].lower() + axis[1:])
        handles = dict(zip(*reversed(found[0].get_legend_handles_labels()), strict=True))
        named = {name: handles[name] for name in map(grid.phrase, named_rows(rows)) if name in handles}
        place_legend(figure, named, "outside upper left")
    return figure


def _draw_slice(
    axes: Any, trials: list[tuple[dict[str, Any], float]], metric: Metric, name: str, colour: Any, label: str
) -> None:
    points = [(_plain(settings[name]), metric.scale * value) for settings, value in trials if name in settings]
    if not points:
        return
    x = [value for value, _ in points]
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in x)
    axes.scatter(
        x if is_number else [str(value) for value in x], [y for _, y in points], s=9, color=colour, label=label
    )


def _on_log(declaration: Declaration) -> set[str]:
    """Return the parameters that a definition in the sweep file searches on a logarithmic scale."""
    found = set()
    for name, space in declaration.tune.items():
        definitions = space if isinstance(space, list) else [space]
        if any(isinstance(each, dict) and each.get("log") for each in definitions):
            found.add(name)
    return found


def _complete(entry: Entry) -> list[tuple[dict[str, Any], float]]:
    trials = entry.trials
    return [
        (record.settings, record.metrics[trials.objective.name])
        for _, record in trials.tune
        if record is not None and record.state == "complete"
    ]


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _space(values: list[Any], is_log: bool) -> Any:
    import optuna

    if any(isinstance(value, bool | str) for value in values):
        return optuna.distributions.CategoricalDistribution(list(dict.fromkeys(values)))
    low, high = float(min(values)), float(max(values))
    return optuna.distributions.FloatDistribution(low, high, log=is_log and low > 0)
