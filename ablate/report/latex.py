"""The tables of entries and of differences for LaTeX."""

from __future__ import annotations

import itertools
import re
import textwrap

from ablate.report import sufficiency
from ablate.report.layout import Grid
from ablate.report.tables import (
    Table,
    difference_caption,
    difference_notes,
    differences_table,
    entries_table,
    notes,
)
from ablate.report.text import Printed, broken, caption
from ablate.store.declaration import Declaration

LATEX_SPECIALS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "…": r"\ldots{}", "–": "--", "−": "$-$", "·": r"\textperiodcentered{}",
    "†": r"\textdagger{}",
    "▲": r"$\uparrow$", "▼": r"$\downarrow$", "△": r"$(\uparrow)$", "▽": r"$(\downarrow)$", "≈": r"$\approx$",
    "[": "{[}", "]": "{]}",
}  # fmt: skip
MAX_LETTERS = 14
"""Of a line of a column's name."""
MAX_SMALL = 18
"""Of a line below a mean: an interval with its n."""


def latex(declaration: Declaration, grid: Grid) -> str:
    """Return the tables for LaTeX with the packages booktabs and graphicx; they shrink where the page is too narrow."""
    note = f"{caption(declaration, grid.entries)}. {notes(declaration, grid)}"
    if any(entry.mark for entry in grid.entries):
        note += f" {sufficiency.MARK} tuning may not have sufficed."
    label = re.sub(r"[^A-Za-z0-9]+", "-", declaration.sweep)
    lines = [r"% \usepackage{booktabs,graphicx}", *_table(entries_table(grid), note, label)]
    differences = differences_table(grid)
    if differences:
        note = f"{difference_caption(declaration, grid)}. {difference_notes(declaration, grid)}"
        lines += ["", *_table(differences, note, f"{label}-differences")]
    return "\n".join([*lines, ""])


def latex_escaped(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return "".join(LATEX_SPECIALS.get(character, character) for character in text)


def _table(table: Table, note: str, label: str) -> list[str]:
    header = table.header
    names = [[latex_escaped(line) for line in broken(name, MAX_LETTERS)] for name in header]
    # The names end where the numbers begin.
    height = max(map(len, names))
    lines = [[""] * (height - len(name)) + name for name in names]
    return [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_escaped(note)}}}",
        rf"  \label{{tab:{label}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"    \toprule",
        *_lines(lines),
        r"    \midrule",
        *(line for name, cells in table.rows for line in _lines([[latex_escaped(name)], *map(_cell, cells)])),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]


def _lines(cells: list[list[str]]) -> list[str]:
    """Return the lines of LaTeX for one row, whose cells have lines of their own."""
    return ["    " + " & ".join(line) + r" \\" for line in itertools.zip_longest(*cells, fillvalue="")]


def _cell(cell: Printed) -> list[str]:
    """Return an entry as lines: its mean with the marks, then in smaller type the interval or what else is said."""
    marks = [mark for mark in (cell.doubt.strip(), cell.mark) if mark]
    mean = latex_escaped(cell.number)
    mean = rf"\textbf{{{mean}}}" if cell.is_best else mean
    # Single seeds are no mean: they stand with what is said of them. A word or a dash stands in its place.
    is_list = "," in cell.values or cell.values == "…"
    shown = mean or ("" if is_list else latex_escaped(cell.values))
    rest = " ".join(part for part in (cell.values if is_list else "", cell.note) if part)
    # What is in brackets stays together where it can.
    parts = [rest] if len(rest) <= MAX_SMALL else re.split(r" (?=\()", rest)
    wrapped = [line for part in parts for line in textwrap.wrap(part, MAX_SMALL)]
    small = [rf"{{\scriptsize {latex_escaped(line)}}}" for line in wrapped]
    if not shown and small:
        return [" ".join([small[0], *map(latex_escaped, marks)]), *small[1:]]
    return [" ".join([shown, *map(latex_escaped, marks)]), *small]
