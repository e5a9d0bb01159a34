"""A sweep file → a checked `SweepSpec`, or a SpecError with one line for every mistake."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from ablate.errors import Problem, SpecError, UsageError, choices_text, shown
from ablate.files import read_regular
from ablate.sweepfile.checks import Levels, check_defined_once, read_axes, read_fixed, read_report
from ablate.sweepfile.claims import read_claims
from ablate.sweepfile.combinations import check_combinations
from ablate.sweepfile.conditions import check_cycles, check_overlaps, check_values
from ablate.sweepfile.definitions import Tune, read_tune
from ablate.sweepfile.design import Components, expand
from ablate.sweepfile.document import Document
from ablate.sweepfile.feasibility import check_cells
from ablate.sweepfile.merge import Merged, merge
from ablate.sweepfile.model import Claim, ReportLayout, SweepSpec
from ablate.sweepfile.positions import Findings
from ablate.sweepfile.shape import (
    DEFAULT_STUDIES,
    NAME,
    Budget,
    Choices,
    Confirm,
    OwnTask,
    Range,
    SweepFile,
    check_shape,
)
from ablate.tasks import catalog, registry
from ablate.tasks.base import Task
from ablate.tasks.registry import Value

MAX_BYTES = 1_000_000
MAX_PROFILES = 100
SEEDS_OF_ONE_STUDY, SEEDS_OF_MANY = 3, 1
"""Confirm seeds of a study that is a cell's only one, and of each of several, where a file does not say."""

__all__ = ["ReportLayout", "SweepSpec", "load_spec", "resolved_yaml"]


class _Parts(NamedTuple):
    """A file read part by part."""

    file: SweepFile
    task: Task
    tree: dict[str, Any]
    components: Components
    fixed: dict[str, Value]
    axes: dict[str, Levels]
    tune: Tune
    report: ReportLayout
    claims: tuple[Claim, ...]


def load_spec(path: Path, profile: str | None = None, overrides: Sequence[str] = (), function: Any = None) -> SweepSpec:
    """Read a sweep file, lay the profile and then the overrides (KEY=VALUE) over it, and check all of it.

    The user's Python files of `imports` are run. Profiles that are not asked for are checked
    up to what only whole cells can tell. `function` is the one of a `task` that lies in no file.

    Raises:
        SpecError: The file, the profile or an override holds mistakes; all that can be told apart are in it.
    """
    path = Path(path)
    document = Document(_read_text(path), str(path))
    if not isinstance(document.tree, dict):
        found = "an empty file" if document.tree is None else shown(document.tree)
        document.findings.at(document.positions.value(()), f"a sweep file must be a mapping, but got {found}")
        document.findings.raise_all()
    merged = merge(document, profile, overrides)
    findings = merged.findings
    file = check_shape(merged.tree, findings)
    if file is None:
        _check_other_profiles(document, merged, profile, None, path.parent, function)
        findings.raise_all()
        raise SpecError(Problem("the file has a mistake that cannot be told apart", str(path)))
    _load_imports(path, file, findings)
    _check_other_profiles(document, merged, profile, file.imports, path.parent, function)
    return _check(file, merged, path, profile or "", function)


def resolved_yaml(spec: SweepSpec) -> str:
    """Return the merged file as YAML, without profiles; in the same folder it loads again to an equal spec."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(dict(spec.written), stream)
    return stream.getvalue()


def _read_text(path: Path) -> str:
    try:
        content = read_regular(path, MAX_BYTES, "a sweep file")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(Problem(f"cannot read the sweep file: {reason}", str(path))) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", errors="replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"a sweep file must be UTF-8 text, but got the byte 0x{content[error.start]:02x}"
        raise SpecError(Problem(message, str(path), line, column)) from None


def _check_other_profiles(
    document: Document,
    merged: Merged,
    chosen: str | None,
    imports: Sequence[str] | None,
    folder: Path,
    function: Any,
) -> None:
    """Add the mistakes that profiles which are not chosen bring; `imports` are those that are loaded."""
    others = [name for name in merged.profiles or {} if name != chosen]
    without = _mistakes(document, None, imports, folder, function) if others else Findings(document.positions)
    if len(merged.profiles or {}) > MAX_PROFILES:
        place = document.positions.key(("profiles",))
        return merged.findings.at(place, f"a sweep file has at most {MAX_PROFILES} profiles")
    for name in merged.profiles or {}:
        if not NAME.fullmatch(name):
            message = f"a profile's name must be letters, digits and . _ + -, but got {shown(name)}"
            merged.findings.at(document.positions.key(("profiles", name)), message)
        if name in others:
            brought = _mistakes(document, name, imports, folder, function).without(without)
            merged.findings.take(brought.marked(f"with --profile {name}: ", document.positions, ("profiles", name)))
    return None


def _mistakes(
    document: Document, profile: str | None, imports: Sequence[str] | None, folder: Path, function: Any
) -> Findings:
    """Return the mistakes of a file with a profile and no overrides, up to what only whole cells can tell."""
    merged = merge(document, profile)
    file = check_shape(merged.tree, merged.findings, is_complete=False)
    if file is not None and file.imports == imports and not merged.findings:
        _read_parts(file, merged, folder, function)
    return merged.findings


def _load_imports(path: Path, file: SweepFile, findings: Findings) -> None:
    for index, name in enumerate(file.imports):
        try:
            registry.load_imports([path.parent / name])
        except (UsageError, ValueError) as error:
            findings.at_value(("imports", index), str(error))


def _read_parts(file: SweepFile, merged: Merged, folder: Path, function: Any) -> _Parts:
    """Read what can be read part by part; add the mistakes to the findings."""
    findings = merged.findings
    file, tree, components = expand(file, merged.tree, findings)
    task = _task(file, findings, folder, function)
    parameters = task.parameters
    fixed = read_fixed(file.fixed, parameters, findings)
    axes = read_axes(file.axes, parameters, findings)
    tune = read_tune(file.tune, parameters, findings)
    check_defined_once(file.fixed, file.axes, file.tune, findings)
    check_overlaps(tune, findings)
    check_cycles(tune, parameters, findings)
    written = tree.get("axes")
    all_axes = written if isinstance(written, dict) else {}
    report = read_report(file.report, task, all_axes, axes, findings)
    claims = read_claims(file.claims, axes, report, task.metric(report.metric), findings) if not findings else ()
    if not findings:
        # What a parameter takes is known only in a file whose parts are all right.
        check_values(tune, axes, fixed, parameters, findings)
    return _Parts(file, task, tree, components, fixed, axes, tune, report, claims)


def _own_task(file: SweepFile, entry: OwnTask, findings: Findings, folder: Path, function: Any) -> Task:
    """Return the task that a file describes; one that stands in for it after a mistake."""
    content = {
        name: value for name, value in entry.model_dump(exclude_none=True, warnings=False).items() if value != []
    }
    if (entry.function is None) == (entry.command is None):
        findings.at_value(("task",), "task needs either a function or a command")
        return catalog.misdescribed(given_values(file), file.report.metric)
    try:
        return catalog.own(content, given_values(file), folder, function)
    except UsageError as error:
        key = str(error.args[1]) if len(error.args) > 1 else "function" if entry.function else "command"
        findings.at_value(("task", key), str(error.args[0]))
        return catalog.misdescribed(given_values(file), file.report.metric)


def given_values(file: SweepFile) -> dict[str, list[Any]]:
    """Return all values that a file gives each parameter; of a range its ends, and a float if it has a step."""
    found: dict[str, list[Any]] = {}

    def add(name: str, *values: Any) -> None:
        found.setdefault(name, []).extend(values)

    for settings in (file.fixed, *file.components.values()):
        for name, value in settings.items():
            add(name, value)
    for axis, levels in file.axes.items():
        if isinstance(levels, dict):
            for arm in levels.values():
                for name, value in arm.items():
                    add(name, value)
        else:
            add(axis, *levels)
    for name, entry in file.tune.items():
        found.setdefault(name, [])
        for part in entry if isinstance(entry, list) else [entry]:
            if isinstance(part, Range):
                add(name, part.low, part.high, *([] if part.step is None else [part.step]))
            elif isinstance(part, Choices):
                add(name, *(part.choices.values() if isinstance(part.choices, dict) else part.choices))
            else:
                add(name, part)
    return found


def _task(file: SweepFile, findings: Findings, folder: Path, function: Any) -> Task:
    """Return the task that the file names or describes; the default one after a mistake."""
    if isinstance(file.task, OwnTask):
        return _own_task(file, file.task, findings, folder, function)
    found = catalog.find(file.task)
    if found is None:
        findings.at_value(("task",), f"unknown task '{file.task}'. {choices_text(file.task, catalog.names())}")
    return found or catalog.get(catalog.DEFAULT)


def _budget(file: SweepFile, task: Task) -> Budget:
    """Return the budget with what follows from the rest of a file where the file does not say it.

    Where the length of a trial is not known no pruner acts. A single study is proposed by TPE. Where nothing is tuned,
    seeds are the replicates and more than one study has no sense.
    """
    budget = file.budget
    update: dict[str, Any] = {}
    if not task.length and "pruner" not in budget.model_fields_set:
        update["pruner"] = "none"
    if budget.trials is None and "sampler" not in budget.model_fields_set:
        update["sampler"] = "tpe"
    if budget.trials is not None and budget.studies is None:
        update["studies"] = DEFAULT_STUDIES if file.tune else 1
    return budget.model_copy(update=update)


def _confirm(file: SweepFile, budget: Budget) -> Confirm:
    """Return how winners are confirmed: by default with one seed a study, a single study with several."""
    seeds = SEEDS_OF_MANY if budget.num_studies > 1 else SEEDS_OF_ONE_STUDY
    return (
        file.confirm if "seeds" in file.confirm.model_fields_set else file.confirm.model_copy(update={"seeds": seeds})
    )


def _check(file: SweepFile, merged: Merged, path: Path, profile: str, function: Any) -> SweepSpec:
    findings = merged.findings
    parts = _read_parts(file, merged, path.parent, function)
    findings.raise_all()
    file = parts.file
    budget = _budget(file, parts.task)
    spec = SweepSpec(
        name=file.name, question=file.question, task=parts.task, fixed=parts.fixed, axes=parts.axes,
        tune={name: tuple(definition for _, definition in entries) for name, entries in parts.tune.items()},
        budget=budget, confirm=_confirm(file, budget), report=parts.report, resources=file.resources,
        seed=file.seed,
        imports=tuple(file.imports), claims=parts.claims, path=path, profile=profile, design=file.design or "",
        components=parts.components, tree=parts.tree, written=merged.tree, positions=findings.positions,
    )  # fmt: skip
    check_cells(spec, parts.tune, findings)
    if not findings:
        check_combinations(spec, parts.tune, findings)
    findings.raise_all()
    return spec
