"""Checks `fixed`, `axes` and `report`, and that each parameter is defined in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

from ablate.errors import choices_text, shown
from ablate.metrics import Metric
from ablate.sweepfile.claims import SIZE
from ablate.sweepfile.definitions import checked
from ablate.sweepfile.model import ReportLayout
from ablate.sweepfile.positions import Findings, Keys
from ablate.sweepfile.shape import NAME, ReportOptions
from ablate.sweepfile.space import label
from ablate.tasks.base import Task
from ablate.tasks.parameters import Parameters
from ablate.tasks.registry import Value

MAX_CELLS = 5000

Levels = dict[str, dict[str, Value]]


def read_fixed(fixed: Mapping[str, Any], parameters: Parameters, findings: Findings) -> dict[str, Value]:
    """Return the fixed values that hold no mistake, in their parameters' types."""
    values = {name: checked(parameters, name, ("fixed", name), value, findings) for name, value in fixed.items()}
    return {name: value for name, value in values.items() if ("fixed", name) not in findings.spoiled}


def read_axes(axes: Mapping[str, Any], parameters: Parameters, findings: Findings) -> dict[str, Levels]:
    """Return {axis: {label: settings}}, without what holds a mistake."""
    found: dict[str, Levels] = {}
    for axis, levels in axes.items():
        keys: Keys = ("axes", axis)
        if not NAME.fullmatch(axis):
            findings.at_key(keys, f"an axis must be letters, digits and . _ + -, but got {shown(axis)}")
        elif not levels:
            findings.at_value(keys, f"the axis {axis} has no levels")
        elif isinstance(levels, dict):
            found[axis] = _read_arms(parameters, keys, levels, findings)
        elif _is_variable(parameters, axis, keys, findings):
            found[axis] = _read_levels(parameters, axis, keys, levels, findings)
    num_cells = prod(len(levels) for levels in found.values())
    if num_cells > MAX_CELLS:
        findings.at_key(("axes",), f"a sweep has at most {MAX_CELLS} cells, but the axes make {num_cells}")
    return found


def _read_levels(parameters: Parameters, axis: str, keys: Keys, levels: list[Any], findings: Findings) -> Levels:
    found: Levels = {}
    for index, raw in enumerate(levels):
        place = (*keys, index)
        value = checked(parameters, axis, place, raw, findings)
        if place in findings.spoiled:
            continue
        if label(value) in found:
            findings.at_value(place, f"the axis {axis} has the level {label(value)} twice")
        found[label(value)] = {axis: value}
    return found


def _read_arms(parameters: Parameters, keys: Keys, arms: dict[str, dict[str, Any]], findings: Findings) -> Levels:
    found: Levels = {}
    for arm, settings in arms.items():
        place = (*keys, arm)
        if not NAME.fullmatch(arm):
            findings.at_key(place, f"an arm's name must be letters, digits and . _ + -, but got {shown(arm)}")
            continue
        found[arm] = {}
        for name, raw in settings.items():
            if _is_variable(parameters, name, (*place, name), findings):
                value = checked(parameters, name, (*place, name), raw, findings)
                if (*place, name) not in findings.spoiled:
                    found[arm][name] = value
    return found


def _is_variable(parameters: Parameters, name: str, keys: Keys, findings: Findings) -> bool:
    known = parameters.all()
    if name not in known:
        what = "unknown parameter" if len(keys) > 2 else "an axis with a list of levels must be a parameter: unknown"
        findings.at_key(keys, f"{what} '{name}'. {choices_text(name, known)}")
        return False
    if known[name].fixed_only:
        findings.at_key(keys, f"{name} must be the same for all trials: give it in 'fixed'")
        return False
    return True


def check_defined_once(
    fixed: Mapping[str, Any], axes: Mapping[str, Any], tune: Mapping[str, Any], findings: Findings
) -> None:
    """A parameter is defined in one place; only named arms may override `fixed`."""
    first: dict[str, tuple[str, Keys]] = {name: ("fixed", ("fixed", name)) for name in fixed}
    for axis, levels in axes.items():
        for name, keys, is_arm in _set_by(axis, levels):
            place, known = first.get(name, ("", ()))
            if place and not (place == "fixed" and is_arm):
                _defined_twice(name, (place, known), (f"axes.{axis}", keys), findings)
            first[name] = f"axes.{axis}", keys
    for name in tune:
        if name in first:
            _defined_twice(name, first[name], ("tune", ("tune", name)), findings)


def _set_by(axis: str, levels: Any) -> list[tuple[str, Keys, bool]]:
    """Return the parameters that an axis sets, each once: name, place, whether named arms set it."""
    if not isinstance(levels, dict):
        return [(axis, ("axes", axis), False)]
    found: dict[str, tuple[str, Keys, bool]] = {}
    for arm, settings in levels.items():
        for name in settings:
            found.setdefault(name, (name, ("axes", axis, arm, name), True))
    return list(found.values())


def _defined_twice(name: str, first: tuple[str, Keys], second: tuple[str, Keys], findings: Findings) -> None:
    """Tell it at the second place, or at the one that an override brought; the other's line stands in the message."""
    is_override = findings.positions.key(first[1]).line is None
    here, there = (first[1], second[1]) if is_override else (second[1], first[1])
    line = findings.positions.key(there).line
    where = f" (the other is in line {line})" if line is not None else ""
    findings.at_key(here, f"{name} is defined in {first[0]} and in {second[0]}: define it in one place{where}")


def read_report(options: ReportOptions, task: Task, axes: Mapping[str, Any], labels: Mapping[str, Levels],
                findings: Findings) -> ReportLayout:  # fmt: skip
    """Return the table's layout; rows and columns that are left out are the first axes that are free.

    `axes` are all axes of the file, `labels` those of which the levels are known.
    """
    for key in ("rows", "columns"):
        axis = getattr(options, key)
        if axis is not None and axis not in axes:
            findings.at_value(("report", key), f"{key} must be an axis, but got '{axis}'. {choices_text(axis, axes)}")
    rows, columns = options.rows, options.columns
    if rows is not None and rows == columns:
        key = "rows" if findings.positions.value(("report", "rows")).line is None else "columns"  # from an override
        findings.at_value(("report", key), f"rows and columns must be two axes, but got '{rows}' for both")
    if columns is None:
        free = [axis for axis in axes if axis != rows]
        columns = free[1] if rows is None and len(free) > 1 else free[0] if free else None
    if rows is None:
        rows = next((axis for axis in axes if axis != columns), None)
    known_metrics = [metric.name for metric in task.metrics]
    shown_metric = options.metric or task.shown
    if shown_metric not in known_metrics:
        unknown = f"unknown metric '{shown_metric}'. {choices_text(shown_metric, known_metrics)}"
        findings.at_value(("report", "metric"), unknown)
    baseline = None if options.baseline is None else label(options.baseline)
    known = labels.get(columns or "", {})
    if baseline is not None and baseline not in known and (known or columns is None):
        rule = "baseline must be a level of the column axis"
        message = f"{rule} {columns}, but got '{baseline}'. {choices_text(baseline, known)}"
        findings.at_value(("report", "baseline"), message if columns else f"{rule}, but there is none")
    margin = None
    if options.margin is not None and shown_metric in known_metrics:
        margin = _margin(str(options.margin), task.metric(shown_metric), findings)
    return ReportLayout(rows=rows, columns=columns, metric=shown_metric, baseline=baseline, margin=margin)


def _margin(text: str, metric: Metric, findings: Findings) -> float | None:
    """Return the smallest difference that matters, in the metric."""
    unit = "points" if metric.unit == "percent" else f"in {metric.name}"
    match = re.fullmatch(SIZE, " ".join(text.split()))
    has_unit = match is not None and (match["points"] if metric.unit == "percent" else match["metric"] == metric.name)
    size = float(match["size"]) / metric.scale if match is not None and has_unit else 0.0
    if not size > 0:
        example = f"{2 if unit == 'points' else 0.02} {unit}"
        findings.at_value(
            ("report", "margin"), f"margin must be a size with its unit, such as {example}, but got {shown(text)}"
        )
    return size or None
