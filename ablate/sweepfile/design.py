"""Designs: `design` and `components` become the axis `arm`, of which each level switches some components on."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

from ablate.errors import choices_text
from ablate.sweepfile.positions import Findings, Keys
from ablate.sweepfile.shape import NAME, SweepFile

MAX_FULL = 8
"""Components of a full design: 2**8 arms."""
AXIS = "arm"

Components = dict[str, tuple[str, ...]]
"""The components that each arm switches on."""


def expand(file: SweepFile, tree: dict[str, Any], findings: Findings) -> tuple[SweepFile, dict[str, Any], Components]:
    """Return the file and its tree with the arms of its design, and what each arm switches on.

    Without a design both are returned as they are. Baseline and column axis of the report are those of the design
    where the file names none.
    """
    if not _is_right(file, findings):
        return file, tree, {}
    arms = _arms(file)
    settings = {arm: dict(chain.from_iterable(file.components[c].items() for c in on)) for arm, on in arms.items()}
    for arm, on in arms.items():
        _place(arm, on, file, findings)
    report = file.report
    if report.columns in (None, AXIS) and report.rows != AXIS:
        baseline = report.baseline if report.baseline is not None else _baseline(file)
        report = report.model_copy(update={"columns": AXIS, "baseline": baseline})
    expanded = {**tree, "axes": {**(tree.get("axes") or {}), AXIS: settings}}
    return file.model_copy(update={"axes": {**file.axes, AXIS: settings}, "report": report}), expanded, arms


def _arms(file: SweepFile) -> Components:
    names = list(file.components)
    match file.design:
        case "leave-one-out":
            return {"full": tuple(names), **{f"full-{left}": tuple(n for n in names if n != left) for left in names}}
        case "add-one":
            return {"baseline": (), **{f"baseline+{name}": (name,) for name in names}}
        case "list":
            chosen = [tuple(name for name in names if name in on) for on in file.combinations]
        case _:
            chosen = [on for count in range(len(names) + 1) for on in combinations(names, count)]
    return {"+".join(on) or "baseline": on for on in chosen}


def _baseline(file: SweepFile) -> str | None:
    arms = _arms(file)
    return next((arm for arm in ("baseline", "full") if arm in arms), None)


def _is_right(file: SweepFile, findings: Findings) -> bool:
    """Check the parts of a design; False where there is none or it holds a mistake."""
    if file.design is None:
        for key in ("components", "combinations"):
            if getattr(file, key) and ("design",) not in findings.spoiled:
                findings.at_key((key,), f"{key} need a design: full, leave-one-out, add-one or list")
        return False
    known = list(file.components)
    if not known:
        message = f"design {file.design} needs components: named bundles of settings that are switched on and off"
        findings.at_key(("design",), message)
    if AXIS in file.axes:
        findings.at_key(("axes", AXIS), "a design makes the axis arm: give components or arms, not both")
    if file.design == "full" and len(known) > MAX_FULL:
        message = f"design full has at most {MAX_FULL} components (2**{MAX_FULL} arms), but got {len(known)}"
        findings.at_key(("components",), message)
    _check_components(file, findings)
    _check_combinations(file, findings)
    return not findings


def _check_components(file: SweepFile, findings: Findings) -> None:
    first: dict[str, str] = {}
    for component, settings in file.components.items():
        keys: Keys = ("components", component)
        if not NAME.fullmatch(component) or "+" in component or component in ("baseline", "full"):
            rule = "must be letters, digits and . _ -, and neither baseline nor full"
            findings.at_key(keys, f"a component's name {rule}, but got '{component}'")
        if not settings:
            findings.at_key(keys, f"the component {component} switches nothing")
        for name in settings:
            if name in first:
                message = (
                    f"{name} is set by the components {first[name]} and {component}: which of them acts is unclear"
                )
                findings.at_key((*keys, name), message)
            first[name] = component


def _check_combinations(file: SweepFile, findings: Findings) -> None:
    if file.design != "list":
        if file.combinations:
            findings.at_key(("combinations",), f"combinations are for design list, but the design is {file.design}")
        return
    if not file.combinations:
        findings.at_key(("design",), "design list needs combinations: [[], [component], …]")
    seen: set[frozenset[str]] = set()
    for index, on in enumerate(file.combinations):
        for position, name in enumerate(on):
            if name not in file.components:
                message = f"unknown component '{name}'. {choices_text(name, file.components)}"
                findings.at_value(("combinations", index, position), message)
        if frozenset(on) in seen:
            findings.at_value(("combinations", index), "this combination is given twice")
        seen.add(frozenset(on))


def _place(arm: str, on: tuple[str, ...], file: SweepFile, findings: Findings) -> None:
    """Let mistakes in an arm point to the component that they are in."""
    positions = findings.positions
    for keys in ((), (arm,)):
        positions.add(("axes", AXIS, *keys), positions.key(("design",)), positions.value(("design",)))
    for component in on:
        for name in file.components[component]:
            positions.replace(("axes", AXIS, arm, name), positions, ("components", component, name))
