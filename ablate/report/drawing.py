"""What all figures share: style, panels, legend, and SVG and PDF with the same bytes for the same numbers.

Colours: Okabe and Ito, "Color Universal Design" (2008), told apart by people with any colour vision; markers and
line styles differ as well, so that the figures survive a grey print.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ablate.metrics import Metric
from ablate.report.layout import Grid, Levels
from ablate.report.text import broken

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
STYLE = {
    "svg.hashsalt": "ablate",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    # Else the ticks of every panel are measured once more in every drawing, in case some stand above it.
    "axes.titley": 1.0,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    # Else the panels of a heat map become one picture with the resolution of a screen.
    "image.composite_image": False,
}


MAX_NAMED = 5
"""Of more rows than these a legend of degrees names only some."""
MAX_TICKED = 9
"""With more panels only the outer ones have tick labels, and fewer of them."""
MAX_BESIDE, MAX_DOWN = 6, 7
"""Tables of more columns or rows get a panel a row: one a cell would be too small, or the figure longer than a page."""


def render_pages(figures: Sequence[Figure]) -> tuple[list[bytes], bytes]:
    """Return each figure as an SVG, and all of them as the pages of one PDF, without dates.

    One PDF, because its fonts take as long as a drawing. Each is drawn once: `Figure.savefig` draws a figure that has a
    layout engine twice for every format.
    """
    svgs, pdf = [], io.BytesIO()
    with matplotlib.rc_context(STYLE), PdfPages(pdf, metadata={"CreationDate": None}) as pages:
        for figure in figures:
            svg = io.BytesIO()
            FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
            svgs.append(svg.getvalue())
            # The first drawing has settled the layout, which takes as long as the drawing where there are many panels.
            figure.set_layout_engine("none")
            FigureCanvasPdf(figure).print_pdf(pages)
    return svgs, pdf.getvalue()


def across(number: int) -> int:
    """Return how many of so many panels stand side by side."""
    return number if number <= 3 else 2 if number == 4 else 3 if number <= MAX_TICKED else 5


def panels(
    number: int, width: float, height: float, *, sharex: bool = False, sharey: bool = True
) -> tuple[Figure, list[Any]]:
    """Return a figure with so many axes, each about so many inches wide and high."""
    beside = across(number)
    down = math.ceil(number / beside)
    scale = 1.0 if beside == 1 else min(1.0, 10.2 / (width * beside))
    figure = Figure(figsize=(max(5.2, width * beside * scale), height * down + 0.5), layout="constrained")
    grid = figure.subplots(down, beside, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for axes in grid[number:]:
        axes.remove()
    return figure, list(grid[:number])


def row_panels(grid: Grid, xlabel: str, ylabel: str) -> tuple[Figure, list[Any]]:
    """Return a figure with a panel for each row of the table, over epochs or trials, and one label for each axis."""
    number = len(grid.rows)
    is_many = number > MAX_TICKED
    figure, found = panels(number, width=3.4, height=1.7 if is_many else 2.5, sharex=is_many)
    if is_many:
        found[0].locator_params(nbins=3)
    for axes, row in zip(found, grid.rows, strict=True):
        axes.set_title(grid.phrase(row), loc="left", fontsize=10)
        axes.locator_params(axis="x", integer=True)
    for axes in found[-across(number) :]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel(xlabel, fontsize=STYLE["font.size"])
    figure.supylabel(ylabel, fontsize=STYLE["font.size"])
    return figure, found


def cell_panels(grid: Grid, xlabel: str, ylabel: str) -> tuple[Figure, dict[tuple[Levels, str], Any]]:
    """Return a figure laid out as the table, and the axes of each cell; in large tables a row shares them."""
    beside, down = len(grid.columns), len(grid.rows)
    if beside == 1 or beside > MAX_BESIDE or down > MAX_DOWN:
        figure, found = row_panels(grid, xlabel, ylabel)
        return figure, {(row, c): axes for row, axes in zip(grid.rows, found, strict=True) for c in grid.columns}
    width, height = min(3.4, 10.2 / beside), 2.0 if down < 4 else 1.6
    figure = Figure(figsize=(width * beside, height * down + 0.6), layout="constrained")
    panels = figure.subplots(down, beside, sharex=True, sharey=True, squeeze=False)
    panels[0, 0].locator_params(axis="x", integer=True, nbins=4)
    # About eleven letters of this size an inch, in what ticks and gaps leave of a panel.
    for axes, column in zip(panels[0], grid.columns, strict=True):
        axes.set_title(lines(column, int(10 * width)), loc="left", fontsize=9)
    for axes, row in zip(panels[:, -1], grid.rows, strict=True):
        parts = [lines(part, int(10 * height)) for part in grid.phrase(row).split(", ")]
        text = "\n".join(parts)
        axes.annotate(text, (1.03, 0.5), xycoords="axes fraction", rotation=270, va="center", fontsize=8)
    figure.supxlabel(xlabel, fontsize=STYLE["font.size"])
    figure.supylabel(ylabel, fontsize=STYLE["font.size"])
    return figure, {(row, c): panels[y, x] for y, row in enumerate(grid.rows) for x, c in enumerate(grid.columns)}


def lines(name: str, letters: int) -> str:
    """Return a name in lines of at most so many letters, cut off where it cannot break."""
    cut = [line if len(line) <= letters else f"{line[: letters - 1]}…" for line in broken(name, letters)]
    return "\n".join(cut)


def set_levels(axes: Any, positions: list[float], labels: list[str]) -> None:
    """Put levels at the ticks of the x axis, upright where they would touch."""
    inches = axes.get_figure().get_figwidth() * axes.get_position().width
    # About eleven letters an inch at this size, and one between two labels.
    axes.set_xticks(positions, labels, rotation=90 if sum(len(label) + 1 for label in labels) > 11 * inches else 0)


def draw_floors(axes: Any, metric: Metric, floors: Iterable[float]) -> None:
    """Draw what useless trials score as lines; sweeps on different data have one each."""
    for floor in floors:
        axes.axhline(metric.scale * floor, color="#777777", linestyle=":", linewidth=1.1, label=metric.floor_name)


def draw_legend(figure: Figure, *panels: Any, last: str = "") -> None:
    """Draw one legend for all panels above them, the name `last` at its end."""
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    if last in named:
        named[last] = named.pop(last)
    place_legend(figure, named, "outside upper left")


def place_legend(figure: Figure, named: dict[str, Any], loc: str) -> None:
    """Put a legend of {name: handle} beside the panels, with as many columns as fit."""
    # About eleven letters an inch at this size, and a handle as wide as six.
    fitting = int(11 * figure.get_figwidth() / (max(map(len, named), default=0) + 6))
    figure.legend(named.values(), named.keys(), loc=loc, ncols=max(1, min(fitting, len(named))))


def named_rows(rows: list[Levels]) -> list[Levels]:
    """Return the rows that a legend names where rows differ by degree: all, or of many the first to the last."""
    if len(rows) <= MAX_NAMED:
        return rows
    return [rows[round(index * (len(rows) - 1) / (MAX_NAMED - 1))] for index in range(MAX_NAMED)]


def style(number: int) -> dict[str, Any]:
    """Return colour, marker and line of a column, by its position."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }
