"""The report as one HTML page that needs no network and no scripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from ablate.command_lines import Commands
from ablate.errors import printable
from ablate.redaction import redact
from ablate.report import appendix, notices, sufficiency, tables
from ablate.report.claim_results import ClaimResult, claims_footer
from ablate.report.combine import Combined
from ablate.report.entries import Entry, finished, tune_counts
from ablate.report.layout import Grid
from ablate.report.links import Links
from ablate.report.quoted import quoted_note, quoted_rows
from ablate.report.summary import best_settings
from ablate.report.text import caption, first_line, floor_text, value_text
from ablate.report.tidy import provenance
from ablate.store.declaration import CellTrials, Declaration

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """A figure on the page: `svg` as matplotlib wrote it, `title` says what it shows."""

    name: str
    title: str
    svg: bytes


def page(
    declaration: Declaration,
    grid: Grid,
    cells: list[CellTrials],
    *,
    pictures: list[Picture],
    left_out: list[Picture],
    claims: list[ClaimResult],
    links: Links,
    layout: Mapping[str, str | None],
    commands: Commands,
) -> str:
    """Return the report's HTML. `left_out` are figures that it only names, `layout` the options of the command."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_without_controls
    )
    environment.lstrip_blocks = True
    environment.filters["breakable"] = breakable
    folder = files("ablate.report")
    template = environment.from_string(folder.joinpath("page.html").read_text(encoding="utf-8"))
    differences, tests = tables.differences_table(grid), tables.tests_table(declaration, grid)
    return template.render(
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        declaration=declaration,
        question=redact(declaration.question),
        answer=notices.answer(declaration, grid),
        claims=claims,
        claims_footer=claims_footer(declaration),
        notices=notices.notices(declaration, grid, cells, commands),
        doubts=sufficiency.legend(declaration, cells, commands),
        caption=caption(declaration, grid.entries),
        table=Markup(tables.html_table(tables.entries_table(grid), grid, "entries", links)),
        note=tables.notes(declaration, grid),
        differences=Markup(tables.html_table(differences, grid, "differences")) if differences else None,
        difference_caption=tables.difference_caption(declaration, grid),
        difference_note=tables.further_notes(declaration, grid),
        tests=Markup(tables.html_table(tests, grid, "tests")) if tests else None,
        tests_note=tables.tests_note(declaration, grid),
        baseline=grid.baseline,
        quoted=quoted_rows(declaration, grid),
        quoted_note=quoted_note(declaration),
        data_name=declaration.data.get("dataset", ""),
        cost=Markup(tables.html_table(tables.cost_table(grid), grid, "cost")),
        cost_caption=tables.COST_CAPTION,
        pictures=[(picture, Markup(inline_svg(picture))) for picture in pictures],
        left_out=left_out,
        budgets=[budget(entry) for entry in grid.entries],
        server=next(iter(links.values())).partition("/#/")[0] if links else None,
        spaces=[(name, space_text(space)) for name, space in declaration.tune.items()],
        diverged=troubles(cells, "diverged"),
        failed=troubles(cells, "failed"),
        origin=origin(cells),
        states=Counter(record.state for record in finished(cells)),
        device_hours=sum(record.duration_s for record in finished(cells)) / 3600,
        appendix=appendix.sections(declaration, grid.entries),
        origins=[*appendix.origin_lines(cells), *filter(None, [appendix.regret_text(cells)])],
        command=declaration.command("sweep", commands),
        floor=floor_text(declaration) if declaration.floors else "",
        objective=declaration.tuned_metric.label.lower() + (" %" if declaration.tuned_metric.unit == "percent" else ""),
        report_command=report_command(declaration, layout, commands),
        ui_command=commands.line("ui", *([] if isinstance(declaration, Combined) else [declaration.sweep])),
    )


def _without_controls(value: object) -> object:
    """Return what is put into the page; text that is no HTML of ours without control characters."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(printable, value.split("\n")))
    return value


def breakable(name: str) -> Markup:
    """Return a name for the page that may break after each plus, and so not within a word."""
    return Markup(Markup.escape(name).replace("+", Markup("+<wbr>")))


def report_command(declaration: Declaration, layout: Mapping[str, str | None], commands: Commands) -> str:
    """Return the command that writes this report again."""
    parts = declaration.parts if isinstance(declaration, Combined) else [declaration]
    return commands.line("report", *(part.sweep for part in parts), options=layout)


def inline_svg(picture: Picture) -> str:
    """Return an SVG for use inside the page: no prologue, ids of its own, a title for screen readers."""
    text = picture.svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{picture.name}-", text)
    title = Markup.escape(picture.title)
    width = re.search(r'width="([\d.]+)pt"', text)
    style = f' style="--width: {width[1]}pt"' if width else ""
    return re.sub(r"^<svg ", f'<svg role="img" aria-label="{title}"{style} ', text)


def budget(entry: Entry) -> dict[str, Any]:
    """Return what tuning a cell cost and found."""
    counts = tune_counts(entry.trials)
    records = [record for _, record in (*entry.trials.tune, *entry.trials.confirm) if record is not None]
    winners = {id(winner) for winner in entry.trials.winners()}
    objective = entry.trials.objective
    best = [r.metrics.get(objective.name) for p, r in entry.trials.tune if r is not None and id(p) in winners]
    shown = ["–" if value is None else objective.text(value) for value in best]
    numbers = [study.number + 1 for study in entry.trials.studies if study.winner() is not None]
    settings = best_settings(entry.trials)
    return {
        "cell": ", ".join(entry.levels.values()),
        "num_tuned": len(entry.trials.cell.tuned),
        "tuned": ", ".join(entry.trials.cell.tuned) or "nothing",
        "counts": counts,
        "num_epochs": sum(record.num_epochs for _, record in entry.trials.tune if record is not None),
        "num_confirm_epochs": sum(record.num_epochs for _, record in entry.trials.confirm if record is not None),
        "device_hours": sum(record.duration_s for record in records) / 3600,
        "num_parameters": max((record.num_parameters for record in records), default=0),
        "winners": [
            (number, value, [(name, value_text(setting)) for name, setting in found.items()])
            for number, value, found in zip(numbers, shown, settings, strict=True)
        ],
    }


def troubles(cells: list[CellTrials], state: str) -> Rows:
    """Return where diverged trials went wrong, or why failed ones failed."""
    return [
        {
            "cell": ", ".join(cell.cell.levels.values()),
            "trial": proposal.name,
            "epoch": record.diverged_epoch,
            "step": record.diverged_step,
            "layer": record.diverged_layer,
            "reason": record.reason.replace("_", " ") or "error",
            "message": first_line(record.message),
        }
        for cell in cells
        for proposal, record in (*cell.tune, *cell.confirm)
        if record is not None and record.state == state
    ]


def origin(cells: list[CellTrials]) -> list[tuple[str, str]]:
    """Return each provenance entry with its distinct values over all trials."""
    values: dict[str, set[str]] = {}
    for record in finished(cells):
        for name, value in provenance(record).items():
            values.setdefault(name, set()).add(value)
    return [(name.replace("_", " "), ", ".join(sorted(values[name]))) for name in sorted(values)]


def space_text(space: Any) -> str:
    """Return one entry of `tune` in words."""
    if isinstance(space, list) and any(isinstance(part, dict) for part in space):
        return "; ".join(space_text(part) for part in space)
    if isinstance(space, list):
        return ", ".join(value_text(value) for value in space)
    if not isinstance(space, dict):
        return value_text(space)
    choices = space.get("choices")
    if isinstance(choices, dict):
        text = ", ".join(f"{name} {value_text(value)}" for name, value in choices.items())
    elif choices is not None:
        text = space_text(choices)
    elif "low" in space and "high" in space:
        text = f"{value_text(space['low'])} to {value_text(space['high'])}" + (" (log)" if space.get("log") else "")
    else:
        text = ", ".join(f"{name} {value_text(value)}" for name, value in space.items() if name != "when")
    when = space.get("when")
    conditions = [
        f"{name} is {_alternatives(value)}" for name, value in (when if isinstance(when, dict) else {}).items()
    ]
    return f"{text} when {' and '.join(conditions)}" if conditions else text


def _alternatives(value: Any) -> str:
    return " or ".join(value_text(part) for part in value) if isinstance(value, list) else value_text(value)
