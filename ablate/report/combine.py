"""Several sweeps as one table, and another layout of a table: nothing runs again for either."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from ablate.command_lines import Commands
from ablate.errors import UsageError, choices_text
from ablate.store.declaration import CellTrials, Declaration

AXIS = "sweep"
BUDGET = (
    ("studies a cell", "num_studies"),
    ("tune trials a {searched}", "num_tune"),
    ("confirm seeds a {searched}", "num_seeds"),
)


@dataclass(frozen=True, kw_only=True)
class Combined(Declaration):
    """Several declarations as one, with the sweep as an axis; `parts` are those it was made of."""

    parts: list[Declaration] = field(default_factory=list)

    def command(self, name: str, commands: Commands, options: Mapping[str, str | None] | None = None) -> str:
        """Return the command lines of all parts."""
        return " && ".join(part.command(name, commands, options) for part in self.parts)

    def overridden(self, key: str, value: object) -> Combined:
        """Return the sweeps with one `--set` more each."""
        names = {part.tune_key for part in self.parts}
        parts = [part.overridden(part.tune_key if key in names else key, value) for part in self.parts]
        return dataclasses.replace(self, parts=parts)

    def of(self, levels: Mapping[str, str]) -> Declaration:
        """Return the declaration of the sweep that the cell of these levels belongs to."""
        return next(part for part in self.parts if part.sweep == levels[AXIS])

    @property
    def replicate(self) -> str:
        """What is repeated in all sweeps; "replicate" where it is not the same."""
        kinds = {part.replicate for part in self.parts}
        return kinds.pop() if len(kinds) == 1 else "replicate"

    @property
    def num_trials(self) -> int:
        """How many trials the sweeps ask for together."""
        return sum(part.num_trials for part in self.parts)


def combine(found: list[tuple[Declaration, list[CellTrials]]]) -> tuple[Declaration, list[CellTrials]]:
    """Return one declaration and its cells; a single sweep stays as it is.

    Raises:
        UsageError: The sweeps have different axes, metrics or numbers of classes.
    """
    if len(found) == 1:
        return found[0]
    parts = [declaration for declaration, _ in found]
    first = parts[0]
    for other in parts[1:]:
        _check_alike(first, other)
    axes = {AXIS: [part.sweep for part in parts]}
    for part in parts:
        for axis, levels in part.axes.items():
            axes[axis] = list(dict.fromkeys([*axes.get(axis, []), *levels]))
    cells = [
        dataclasses.replace(
            trials, cell=dataclasses.replace(trials.cell, levels={AXIS: part.sweep, **trials.cell.levels})
        )
        for part, of_part in found
        for trials in of_part
    ]
    claims = [
        dataclasses.replace(claim, levels={AXIS: part.sweep, **claim.levels}) for part in parts for claim in part.claims
    ]
    fields = {each.name: getattr(first, each.name) for each in dataclasses.fields(Declaration)}
    # Of sweeps with different margins none holds for all.
    margins = {part.report.get("margin") for part in parts}
    fields |= {
        "sweep": "+".join(part.sweep for part in parts),
        "name": " and ".join(part.sweep for part in parts),
        "profile": "",
        "question": " ".join(dict.fromkeys(part.question for part in parts)),
        "axes": axes,
        "cells": [trials.cell for trials in cells],
        "claims": claims,
        **{name: max(getattr(part, name) for part in parts) for _, name in BUDGET},
        "report": {**first.report, "margin": margins.pop() if len(margins) == 1 else None},
        "is_late_margin": any(part.is_late_margin for part in parts),
        "tune": {name: space for part in reversed(parts) for name, space in part.tune.items()},
        "history": [digest for part in parts for digest in part.history],
        "file": "",
        "path": "",
        "overrides": [],
    }
    return Combined(parts=parts, **fields), cells


def laid_out_as(
    declaration: Declaration, rows: str | None = None, columns: str | None = None, metric: str | None = None
) -> Declaration:
    """Return the declaration with another layout or metric of its table; the baseline stays where it is a column.

    Raises:
        UsageError: `rows` or `columns` is no axis, or they are the same one.
    """
    report = dict(declaration.report)
    for name, axis in (("rows", rows), ("columns", columns)):
        if axis is not None and axis not in declaration.axes:
            raise UsageError(f"--{name} must be an axis, but got '{axis}'. {choices_text(axis, declaration.axes)}")
    if rows is not None and rows == columns:
        raise UsageError(f"--rows and --columns must be two axes, but got '{rows}' for both")
    if rows is not None and rows == report.get("columns") and columns is None:
        columns = report.get("rows")
    if columns is not None and columns == report.get("rows") and rows is None:
        rows = report.get("columns")
    report |= {name: value for name, value in {"rows": rows, "columns": columns, "metric": metric}.items() if value}
    if metric is not None and metric != declaration.report["metric"]:
        report["margin"] = None  # It is a difference of the declared metric.
    if report.get("baseline") not in declaration.axes.get(report.get("columns") or "", []):
        report["baseline"] = None
    return dataclasses.replace(declaration, report=report)


def unlike(declaration: Declaration) -> list[str]:
    """Return a sentence for each way in which combined sweeps were not run alike."""
    if not isinstance(declaration, Combined):
        return []
    sentences = []
    for what, name in BUDGET:
        values = [getattr(part, name) for part in declaration.parts]
        if len(set(values)) > 1:
            each = ", ".join(f"{part.sweep} {value}" for part, value in zip(declaration.parts, values, strict=True))
            sentences.append(f"The sweeps differ in {what.format(searched=declaration.searched)}: {each}.")
    if len({part.data.get("digest") for part in declaration.parts}) > 1:
        sentences.append("The sweeps use different data: compare within one sweep only.")
    return sentences


def _check_alike(first: Declaration, other: Declaration) -> None:
    alike = first.known_task.alike if first.known_task is not None else ()
    for what, one, two in (
        ("axes", sorted(first.axes), sorted(other.axes)),
        ("metrics", first.report.get("metric"), other.report.get("metric")),
        ("tasks", first.task, other.task),
        *((f"values of {name}", first.data.get(name), other.data.get(name)) for name in alike),
    ):
        if one != two:
            raise UsageError(
                f"the sweeps '{first.sweep}' and '{other.sweep}' have different {what} and cannot share a table: "
                f"{one} and {two}"
            )
