"""What more tune trials would have brought.

Source: Dodge et al., "Show Your Work: Improved Reporting of Experimental Results", EMNLP 2019, arXiv:1909.03004.
Deviation: without replacement, as the trials of a cell are all there is.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from ablate.metrics import Metric
from ablate.report.curves import decimated
from ablate.report.drawing import STYLE, draw_legend, row_panels, style
from ablate.report.entries import Entry
from ablate.report.layout import Grid
from ablate.store.declaration import Declaration


def expected_best(values: Sequence[float]) -> list[float]:
    """Return for k = 1 … n the expected maximum of k of the n values, drawn without replacement."""
    return [math.fsum(map(operator.mul, sorted(values), weights)) for weights in _weights(len(values))]


@functools.cache
def _weights(n: int) -> list[list[float]]:
    """Return for k = 1 … n the probability of each of n values, ascending, to be the maximum of k of them."""
    return [[math.comb(index, k - 1) / math.comb(n, k) for index in range(n)] for k in range(1, n + 1)]


def expected_best_figure(declaration: Declaration, grid: Grid) -> Figure | None:
    """Draw the expected best objective against the number of tune trials of a study; None with fewer than two.

    The trials of all studies of a cell are drawn from, but no more of them than one study has.
    """
    objective = declaration.tuned_metric
    curves = {
        place: _expected_best(objective, _values(entry))[: declaration.of(entry.levels).num_tune]
        for place, entry in grid.at.items()
    }
    if not any(len(curve) > 1 for curve in curves.values()):
        return None
    with matplotlib.rc_context(STYLE):
        figure, found = row_panels(
            grid, "tune trials", "expected best (%)" if objective.unit == "percent" else "expected best"
        )
        for axes, row in zip(found, grid.rows, strict=True):
            for number, column in enumerate(grid.columns):
                curve = [objective.scale * value for value in curves.get((row, column), [])]
                look = style(number) | {"marker": style(number)["marker"] if len(curve) <= 12 else "none"}
                shown = decimated(len(curve))
                axes.plot(shown, [curve[k - 1] for k in shown], label=column, linewidth=1.2, markersize=3.5, **look)
        draw_legend(figure, *found)
    return figure


def _expected_best(objective: Metric, values: Sequence[float]) -> list[float]:
    """Return the expected best of k values: where less is better, the expected minimum."""
    return [objective.sign * best for best in expected_best([objective.sign * value for value in values])]


def _values(entry: Entry) -> list[float]:
    """Return each tune trial's objective, diverged at the floor, pruned as far as it came; not of what has none."""
    objective = entry.trials.objective
    found = [
        objective.floor if record.state == "diverged" else record.metrics.get(objective.name, objective.floor)
        for _, record in entry.trials.tune
        if record is not None and record.state != "failed"
    ]
    return [value for value in found if value is not None]
