"""The tables as data, and their Markdown and HTML. A bold mean beats every other of its row."""

from __future__ import annotations

import dataclasses
import html
import re
from collections import Counter
from dataclasses import dataclass

import great_tables as gt
import pandas as pd

from ablate.command_lines import Commands
from ablate.metrics import signed_number
from ablate.report import appendix, sufficiency
from ablate.report.combine import Combined
from ablate.report.inference import Estimate, Verdict
from ablate.report.layout import Grid, Levels
from ablate.report.links import Links
from ablate.report.quoted import quoted_note, quoted_rows
from ablate.report.text import (
    Printed,
    caption,
    floor_note,
    hours_text,
    interval_note,
    interval_notes,
    listed,
    p_text,
    printed_difference,
    printed_entry,
    replicates,
    shared_n,
)
from ablate.store.declaration import Declaration, num_shared

MARKS = {"▲": "better", "▼": "worse", "△": "perhaps better", "▽": "perhaps worse", "≈": "equivalent"}
COST_CAPTION = "Cost: device-hours of all trials · trained parameters"

Text = list[list[str]]
"""A table as text: the header first, the row label in front of each row."""


@dataclass(frozen=True)
class Table:
    """A table as data: its header, then for each row its label and what is printed of its cells."""

    header: list[str]
    rows: list[tuple[str, list[Printed]]]

    @property
    def text(self) -> Text:
        """The same in plain lines."""
        return [self.header, *([label, *(cell.text for cell in cells)] for label, cells in self.rows)]


def entries_table(grid: Grid) -> Table:
    """Return the table of entries."""
    show_n = shared_n([entry.estimate for entry in grid.entries if entry.is_settled]) is None
    rows = [(grid.label(row), [_entry(grid, row, column, show_n) for column in grid.columns]) for row in grid.rows]
    return Table([grid.header, *grid.columns], rows)


def differences_table(grid: Grid) -> Table | None:
    """Return the differences to the baseline; None without a baseline to compare with."""
    columns = grid.compared()
    if not columns:
        return None
    rows = [(grid.label(row), [_difference(grid, row, column) for column in columns]) for row in grid.rows]
    return Table([grid.header, *columns], rows)


def difference_caption(declaration: Declaration, grid: Grid) -> str:
    """Return the title of the table of differences."""
    n = shared_n([found for found in _differences(grid) if found.n])
    name = replicates(declaration, n or 2)
    shared = name if n is None else f"the {name}" if n == 1 else f"the n={n} {name}"
    unit = " in percentage points" if declaration.metric.unit == "percent" else ""
    return f"Difference to {grid.baseline}{unit}, over {shared} that both have"


def tests_table(declaration: Declaration, grid: Grid) -> Table | None:
    """Return one row for every comparison with the baseline; None without one."""
    if not any(entry.difference is not None for entry in grid.entries):
        return None
    has_margin = any(verdict.equivalence_p is not None for verdict in grid.verdicts.values())
    equality = ["equivalence, Holm"] if has_margin else []
    header = [grid.header, grid.column_axis or "", "difference", "t test, Holm", *equality]
    header += ["permutation (least possible)", "g"]
    rows = []
    for row, column in [(row, column) for row in grid.rows for column in grid.compared()]:
        entry = grid.at.get((row, column))
        if entry is None or entry.difference is None:
            continue
        verdict = grid.verdicts.get((row, column))
        start = [Printed(values=column), printed_difference(entry.difference, entry.metric)]
        if verdict is None:
            one = f"one {declaration.replicate}"
            found = [*["–"] * (3 + len(equality)), "seeds collapsed" if entry.difference.is_mixed else one]
            rows.append((grid.label(row), [*start, *(Printed(values=text) for text in found)]))
            continue
        test = verdict.test
        effect = "–" if test.effect is None else signed_number(test.effect)
        permutation = Printed(values=p_text(test.permutation_p), remark=p_text(test.smallest_p).lstrip("p="))
        equal = "–" if verdict.equivalence_p is None else p_text(verdict.equivalence_p)
        p, same, *rest = (Printed(values=text) for text in (p_text(verdict.adjusted_p), equal, effect, _said(verdict)))
        rows.append((grid.label(row), [*start, p, *([same] if has_margin else []), permutation, *rest]))
    return Table([*header, "verdict"], rows)


def _said(verdict: Verdict) -> str:
    """For example "better, by less than 2.0 points", "perhaps worse", "not shown"."""
    joined = " " if verdict.word == "equivalent" else ", "
    return joined.join(part for part in (verdict.said, verdict.qualifier) if part)


def cost_table(grid: Grid) -> Table:
    """Return what each cell cost: device-hours of all its trials, and the parameters of its net."""
    rows = [(grid.label(row), [_cost(grid, row, column) for column in grid.columns]) for row in grid.rows]
    return Table([grid.header, *grid.columns], rows)


def marks_note(declaration: Declaration, grid: Grid) -> str:
    """Return what the marks and the bold means stand for; empty where nothing could be tested."""
    parts = []
    if grid.verdicts:
        number = f"{len(grid.verdicts)} comparisons" if len(grid.verdicts) > 1 else "one comparison"
        parts.append(
            f"▲ better, ▼ worse than {grid.baseline}: paired t test over shared {declaration.replicates(2)}, "
            f"Holm-adjusted over the table's {number}, at 5%; without a mark neither is shown. Every interval stands "
            "on its own, unadjusted: one of a difference that excludes 0 may carry no mark."
        )
        margin = declaration.report.get("margin")
        if margin is not None and any(each.equivalence_p is not None for each in grid.verdicts.values()):
            late = ", a margin written after the first trial" if declaration.is_late_margin else ""
            parts.append(
                f"≈ equivalent: the difference is less than {declaration.metric.amount(margin)}{late} (two one-sided "
                "tests, Holm-adjusted by themselves, at 5%). An error of either kind stays under 10%."
            )
        parts += _hollow_note(grid)
    if len(grid.columns) > 1:
        some = "Bold beats" if grid.best else "No entry is bold, as none beats"
        parts.append(f"{some} every other entry of its row (Holm over all pairs of all rows, at 5%).")
    return " ".join(parts)


def _hollow_note(grid: Grid) -> list[str]:
    reasons = Counter(reason for verdict in grid.verdicts.values() for reason in verdict.doubts)
    if not reasons:
        return []
    listing = "; ".join(f"{reason} ({count} mark{'s' * (count > 1)})" for reason, count in reasons.items())
    return [f"△ ▽ are hollow: they may not be found again by a rerun. Why: {listing}."]


def replicate_note(declaration: Declaration) -> str:
    """Return what a replicate is, and what the marks compare."""
    if isinstance(declaration, Combined):
        notes = {part.sweep: replicate_note(part) for part in declaration.parts}
        same = dict.fromkeys(notes.values())
        return next(iter(same)) if len(same) == 1 else " ".join(f"{sweep}: {note}" for sweep, note in notes.items())
    tune, seeds, num = declaration.num_tune, declaration.num_seeds, declaration.num_studies
    if not declaration.is_tuned:
        return "Nothing is tuned: fixed configurations are compared, and a replicate is one training seed."
    if declaration.replicate == "seed":
        return (
            "A replicate is one training seed of the configuration that one search found. The marks compare these "
            "configurations, not the methods; a rerun may change them."
        )
    shared = num_shared(declaration.sampler, tune)
    first = f"the first {shared} " if shared < tune else ""
    points = f" ({first}at the same points in all cells)" if shared else ""
    trainings = "one training" if seeds == 1 else f"{seeds} trainings"
    trials = f"{tune} tune trial{'s' * (tune != 1)}{points}"
    return f"A replicate is one study: {trials}, then {trainings} of the best; {num} studies a cell."


def notes(declaration: Declaration, grid: Grid) -> str:
    """Return the note under the table of entries."""
    estimates = [entry.estimate for entry in grid.entries]
    parts = [replicate_note(declaration), interval_note(declaration, estimates), floor_note(declaration, estimates)]
    return " ".join(part for part in [*parts, marks_note(declaration, grid)] if part)


def further_notes(declaration: Declaration, grid: Grid) -> str:
    """Return the note under the table of differences where that of the entries stands above it: only what is new."""
    above = interval_notes(declaration, [entry.estimate for entry in grid.entries])
    found = [part for part in interval_notes(declaration, _differences(grid)) if part not in above]
    return " ".join([*found, "See also the note under the table above."])


def difference_notes(declaration: Declaration, grid: Grid) -> str:
    """Return the note under the table of differences where that stands alone."""
    marks = marks_note(declaration, grid).partition(" Bold")[0].partition(" No entry")[0] if grid.verdicts else ""
    return f"{interval_note(declaration, _differences(grid))} {marks}".strip()


def tests_note(declaration: Declaration, grid: Grid) -> str:
    """Return what the columns of the table of tests are, and how often one looked."""
    words = Counter(each.said for each in grid.verdicts.values())
    order = ("better", "perhaps better", "worse", "perhaps worse", "equivalent", "not shown")
    counts = listed([f"{words[word]} {word}" for word in order if words[word]])
    name = declaration.replicates(2)
    with_items = {each.crossed is not None for each in _differences(grid) if each.low is not None}
    over = {frozenset([True]): f", over {name} and over test items too, whichever says less"}.get(
        frozenset(with_items), ""
    )
    return (
        f"{counts + '. ' if counts else ''}The verdict follows from the paired t test{over}, adjusted for all "
        "comparisons of the table; the permutation of signs assumes less and is not adjusted: in brackets the smallest "
        f"p that so many {name} allow. g: mean over standard deviation of the differences (Hedges)."
    )


def markdown(
    declaration: Declaration, grid: Grid, floor_notices: list[str], claims: Text | None, commands: Commands
) -> str:
    """Return the tables with their notes, aligned so that they read well in a terminal."""
    parts = [f"# {declaration.sweep}", *floor_notices]
    if claims:
        parts += ["**Claims**", markdown_table(claims)]
    parts += [f"**{caption(declaration, grid.entries)}**", markdown_table(entries_table(grid).text)]
    parts.append(notes(declaration, grid))
    parts += sufficiency.legend(declaration, [entry.trials for entry in grid.entries], commands)
    differences = differences_table(grid)
    if differences:
        parts.append(f"**{difference_caption(declaration, grid)}**")
        parts += [markdown_table(differences.text), further_notes(declaration, grid)]
    tests = tests_table(declaration, grid)
    if tests:
        parts += [f"**Tests against {grid.baseline}**", markdown_table(tests.text), tests_note(declaration, grid)]
    quoted = quoted_rows(declaration, grid)
    if quoted:
        parts += ["**Published beside measured**", markdown_table(quoted), quoted_note(declaration)]
    parts += [f"**{COST_CAPTION}**", markdown_table(cost_table(grid).text)]
    for section in appendix.sections(declaration, grid.entries):
        parts += [f"**{section.title}**", markdown_table(section.rows), section.note]
    return "\n\n".join(parts) + "\n"


def html_table(printed: Table, grid: Grid, name: str, links: Links | None = None) -> str:
    """Return a table for the page, styled there. `name` is its HTML id; `links` lead from entries to their runs."""
    header = printed.header
    columns = [f"c{number}" for number in range(len(header))]
    entries = [[label, *map(_html_entry, cells)] for label, cells in printed.rows]
    if links:
        for line, row in zip(entries, grid.rows, strict=True):
            for number, column in enumerate(grid.columns, start=1):
                entry = grid.at.get((row, column))
                address = links.get(tuple(entry.levels.values())) if entry else None
                if address:
                    line[number] = f'<a href="{html.escape(address)}">{line[number]}</a>'
    frame = pd.DataFrame(entries, columns=columns)
    table = gt.GT(frame, rowname_col="c0", id=name).tab_stubhead(header[0])
    labels = {
        column: gt.html(html.escape(label).replace("+", "+<wbr>"))
        for column, label in zip(columns[1:], header[1:], strict=True)
    }
    table = table.cols_label(**labels).cols_align("right", columns[1:]).fmt(str, columns=columns[1:])
    if grid.column_axis and header[1:] == grid.columns:
        table = table.tab_spanner(gt.html(html.escape(grid.column_axis)), columns=columns[1:])
    # The page has its own style for light and dark; some of this one's rules would reach other tables.
    return re.sub(r"<style>.*?</style>", "", str(table.as_raw_html()), flags=re.DOTALL)


def _html_entry(cell: Printed) -> str:
    tag = "b" if cell.is_best else "span"
    arrow = (
        f' <span class="{MARKS[cell.mark].split()[-1]}" title="{MARKS[cell.mark]}">{cell.mark}</span>'
        if cell.mark
        else ""
    )
    mean = f'<{tag} class="mean">{html.escape(cell.number or cell.values)}</{tag}>'
    return f'{mean}{arrow} <span class="interval">{html.escape(cell.note + cell.doubt)}</span>'


def markdown_table(text: Text) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in text]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ) + " |"
        for row in cells
    ]  # fmt: skip
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _entry(grid: Grid, row: Levels, column: str, show_n: bool) -> Printed:
    entry = grid.at.get((row, column))
    doubt = entry.mark if entry and entry.is_settled else ""
    is_best = (row, column) in grid.best
    printed = printed_entry(entry, show_n=show_n)
    return dataclasses.replace(printed, doubt=doubt, mark=_mark(grid, row, column), is_best=is_best)


def _difference(grid: Grid, row: Levels, column: str) -> Printed:
    entry = grid.at.get((row, column))
    show_n = shared_n([found for found in _differences(grid) if found.n]) is None
    printed = printed_difference(entry.difference, entry.metric, show_n=show_n) if entry else Printed(values="–")
    return dataclasses.replace(printed, mark=_mark(grid, row, column))


def _mark(grid: Grid, row: Levels, column: str) -> str:
    verdict = grid.verdicts.get((row, column))
    return verdict.mark if verdict is not None else ""


def _cost(grid: Grid, row: Levels, column: str) -> Printed:
    entry = grid.at.get((row, column))
    values = "–" if entry is None else f"{hours_text(entry.device_hours)} h · {entry.num_parameters:,}"
    return Printed(values=values)


def _differences(grid: Grid) -> list[Estimate]:
    return [entry.difference for entry in grid.entries if entry.difference is not None]
