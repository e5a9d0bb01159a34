"""How numbers and names are printed. Fractions in code are percent in print."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ablate.metrics import LONG, Metric
from ablate.redaction import redact
from ablate.report.entries import Entry
from ablate.report.inference import ALPHA, MIN_BOOTSTRAP, Estimate
from ablate.store.declaration import Declaration


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a table shows for a cell, for whoever prints it.

    `number` is a mean; where there is none, `values` are the single replicates or a word. `interval` stands in square
    brackets, `remark` in round ones. `doubt` says that tuning may not have sufficed, `mark` is a verdict's, and what
    `is_best` is bold.
    """

    number: str = ""
    values: str = ""
    interval: str = ""
    remark: str = ""
    doubt: str = ""
    mark: str = ""
    is_best: bool = False

    @property
    def note(self) -> str:
        """What stands behind the number: interval and remark."""
        return " ".join(part for part in (self.interval, f"({self.remark})" if self.remark else "") if part)

    @property
    def text(self) -> str:
        """All of it in one line, as in Markdown."""
        shown = f"**{self.number}**" if self.is_best else self.number or self.values
        mark = f" {self.mark}" if self.mark else ""
        return " ".join(part for part in (shown, self.note) if part) + self.doubt + mark


def printed_entry(entry: Entry | None, *, show_n: bool = False) -> Printed:
    """Return what the table prints for a cell; None is a cell that was not declared."""
    if entry is None:
        return Printed(values="–")
    found, shown = entry.estimate, entry.metric.text
    if entry.num_waiting > 0:
        return Printed(values="…", remark=f"{found.n}/{entry.num_rows} {entry.replicates}")
    if not found.n:
        return Printed(values="failed", remark=f"{entry.num_failed}/{entry.num_rows} {entry.replicates}")
    failed = f", {entry.num_failed} failed" if entry.num_failed else ""
    if found.is_mixed or found.mean is None:
        seeds = ", ".join(shown(value) for value in sorted(found.values)) or "–"
        return Printed(values=seeds, remark=f"{_collapse_text(found, entry.metric)}{failed}")
    number = shown(found.mean)
    if found.num_diverged:
        return Printed(number=number, remark=f"{found.num_diverged}/{found.num_seeds} diverged{failed}")
    if found.low is None or found.high is None:
        return Printed(number=number, remark=f"n=1, no interval{failed}")
    n = f"n={found.n}{failed}" if show_n or failed else ""
    return Printed(number=number, interval=f"[{shown(found.low)}, {shown(found.high)}]", remark=n)


def entry_text(entry: Entry | None, *, show_n: bool = False) -> str:
    """Return the same in one line."""
    return printed_entry(entry, show_n=show_n).text


def printed_difference(found: Estimate | None, metric: Metric, *, show_n: bool = False) -> Printed:
    """Return what the table of differences prints, in points if the metric is in percent; "–" where there is none."""
    signed = metric.signed
    if found is None or not found.values:
        return Printed(values="–")
    if found.mean is None:
        return Printed(values=", ".join(signed(value) for value in sorted(found.values)), remark="seeds collapsed")
    if found.low is not None and found.high is not None:
        interval = f"[{signed(found.low)}, {signed(found.high)}]"
        return Printed(number=signed(found.mean), interval=interval, remark=f"n={found.n}" if show_n else "")
    return Printed(number=signed(found.mean), remark="n=1, no interval")


def difference_text(found: Estimate | None, metric: Metric, *, show_n: bool = False) -> str:
    """Return the same in one line."""
    return printed_difference(found, metric, show_n=show_n).text


def p_text(p: float) -> str:
    """For example p=0.031, p<0.001; never rounded to 5% from above or below."""
    if p != ALPHA and float(f"{p:.2g}") == ALPHA:
        return f"p<{ALPHA}" if p < ALPHA else f"p>{ALPHA}"
    return "p<0.001" if p < 0.001 else f"p={p:.2g}" if p < 0.0995 else f"p={p:.2f}"


def hours_text(hours: float) -> str:
    """For example 0.010, 2.5 or 140: at least two significant digits."""
    return f"{hours:.0f}" if hours >= 9.95 else f"{hours:#.2g}"


def broken(name: str, width: int) -> list[str]:
    """Return a name in lines of about so many letters; it breaks after a plus, a hyphen or a blank only."""
    lines = [""]
    for piece in re.findall(r"[^-+ ]*[-+ ]|[^-+ ]+", name):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def value_text(value: Any) -> str:
    """Return a setting's value in short: three significant digits, choices without quotes."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(part) for part in value) + "]"
    return "null" if value is None else redact(str(value))


def interval_notes(declaration: Declaration, estimates: Iterable[Estimate] = ()) -> list[str]:
    """Return what the intervals of these estimates are, what they cover and what they do not, in parts."""
    found = list(estimates)
    split = declaration.metric.name.partition("_")[0]
    size = declaration.data.get(f"num_{split}")
    task = declaration.known_task
    what = task.items_of(declaration.data) if task is not None else "items"
    items = f" ({size:,} {what})" if isinstance(size, int) else ""
    kinds = {each.is_bootstrap for each in found if each.low is not None and each.sd}
    drawn = f" ({task.drawn})" if task is not None and task.drawn else ""
    kind = "bootstrap (BCa) " if kinds == {True} else "t " if kinds != {True, False} else ""
    name = declaration.replicates(2)
    which = (
        f", t with fewer than {MIN_BOOTSTRAP} {name} and bootstrap (BCa) from {MIN_BOOTSTRAP} on" if not kind else ""
    )
    over = {"seed": f"training seeds{drawn}", "study": "studies"}.get(
        declaration.replicate, "replicates, which are studies in some sweeps and training seeds in the others"
    )
    sample = f"the choice of the {LONG.get(split, split)} sample{items}"
    with_items = {each.crossed is not None for each in found if each.low is not None}
    if declaration.replicate == "seed":
        missed = ["the luck of tuning"] if declaration.is_tuned else ["other settings"]
        covered = "training"
    else:
        missed = ["the split", "the ranges that are searched", "the data set"]
        covered = (
            "tuning and training" if declaration.replicate == "study" else "training, and those over studies tuning"
        )
    text = f"[low, high]: 95% {kind}intervals over {over}{which}: they cover {covered}"
    if with_items == {True}:
        text += f", and {sample}"
    else:
        missed = [sample, *missed]
        if with_items == {True, False}:
            text += ", some of them the choice of the sample too"
    text += f"; they do not cover {' nor '.join(part for part in (', '.join(missed[:-1]), missed[-1]) if part)}."
    parts = [text]
    if any(each.low is not None and each.low == each.high for each in found):
        parts.append(f"An interval of no width: all {name} gave the same value, which says nothing about others.")
    if any(each.is_mixed for each in found):
        parts.append("Where some seeds train and some collapse, every one is listed and no interval is defined.")
    return parts


def interval_note(declaration: Declaration, estimates: Iterable[Estimate] = ()) -> str:
    """Return the same as one text."""
    return " ".join(interval_notes(declaration, estimates))


def floor_text(declaration: Declaration) -> str:
    """Return the table's floors with their meaning, for example "10.3%, the most frequent class's share"."""
    found = " and ".join(declaration.metric.with_unit(floor) for floor in declaration.floors)
    return ", ".join(part for part in (found, declaration.metric.floor_meaning) if part)


def floor_note(declaration: Declaration, estimates: Iterable[Estimate]) -> str:
    """Return what the metric's floor is where a table's entries speak of it or count with it; else ""."""
    speaks = any(each.num_diverged or each.num_collapsed for each in estimates)
    name = declaration.metric.floor_name.capitalize()
    return f"{name} is {floor_text(declaration)}." if speaks and declaration.floors else ""


def caption(declaration: Declaration, entries: list[Entry]) -> str:
    """Return the table's title, with n where all entries share it."""
    n = shared_n([entry.estimate for entry in entries if entry.is_settled])
    name = replicates(declaration, 2)
    over = f"n={n} {name}" if n is not None else name
    metric = declaration.metric
    what = f"{metric.label} in percent" if metric.unit == "percent" else metric.label
    return f"{what}, mean over {over}" if n != 1 else f"{what}, one {replicates(declaration, 1)}"


def replicates(declaration: Declaration, number: int) -> str:
    """Return what is repeated: "studies" or "training seeds"."""
    name = declaration.replicates(number)
    return f"training {name}" if declaration.replicate == "seed" else name


def shared_n(estimates: list[Estimate]) -> int | None:
    """Return the number of replicates that every estimate has, None if they differ."""
    numbers = {found.n for found in estimates}
    return numbers.pop() if len(numbers) == 1 else None


def first_line(message: str) -> str:
    """Return what a message says in its first line; of a traceback the line that names the error."""
    lines = [line.strip() for line in message.strip().splitlines()] or [""]
    line = next((line for line in reversed(lines) if line), "") if lines[0].startswith("Traceback") else lines[0]
    return redact(line)[:200]


def listed(names: list[str]) -> str:
    """For example "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _collapse_text(found: Estimate, metric: Metric) -> str:
    """For example "1/3 diverged", "1/3 diverged, 1 at the floor"."""
    parts = [f"{found.num_diverged}/{found.num_seeds} diverged"] if found.num_diverged else []
    if found.num_collapsed:
        parts.append(f"{found.num_collapsed}{'' if parts else f'/{found.num_seeds}'} at {metric.floor_name}")
    return ", ".join(parts)
