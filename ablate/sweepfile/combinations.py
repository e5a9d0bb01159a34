"""Checks that sampler, pruner, known points and seeds fit together and fit the cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ablate.errors import choices_text, shown
from ablate.seeds import derive_seed, study_seed
from ablate.sweepfile.cells import Cell, build_cells
from ablate.sweepfile.definitions import Tune
from ablate.sweepfile.grid_points import MAX_POINTS, grid
from ablate.sweepfile.model import SweepSpec
from ablate.sweepfile.positions import Findings
from ablate.sweepfile.shared_points import NUM_COORDINATES
from ablate.sweepfile.space import Definition
from ablate.sweepfile.start_points import as_sampled, matching

MAX_TRIALS = 1_000_000


def check_combinations(spec: SweepSpec, tune: Tune, findings: Findings) -> None:
    """Add what is wrong between the parts of `budget` and `confirm`, and between them and the cells."""
    cells = build_cells(spec)
    asked = len(cells) * spec.budget.num_studies * (spec.budget.num_tune + spec.confirm.seeds)
    if asked > MAX_TRIALS:
        findings.at_value(
            spec.budget.key, f"a sweep has at most {MAX_TRIALS} trials, but {len(cells)} cells make {asked}"
        )
        return
    _check_pruner(spec, cells, findings)
    _check_start_points(spec, cells, findings)
    if spec.budget.sampler == "grid":
        _check_grid(spec, cells, tune, findings)
    _check_studies(spec, findings)
    if spec.budget.sampler in ("auto", "qmc") and len(tune) > NUM_COORDINATES:
        message = f"sampler {spec.budget.sampler} takes at most {NUM_COORDINATES} tuned parameters, but got {len(tune)}"
        findings.at_key(("tune",), message)
    _check_confirm(spec, findings)
    _check_seeds(spec, findings)


def _check_pruner(spec: SweepSpec, cells: Sequence[Cell], findings: Findings) -> None:
    """A pruner that the file names must have something to judge.

    The default one may be idle, and so may every pruner while `--set` shortens a sweep for a quick look.
    """
    budget = spec.budget
    written = spec.tree.get("budget") or {}
    if budget.pruner == "none":
        if budget.audit:
            findings.at_value(("budget", "audit"), "audit needs a pruner: with pruner none no trial is stopped")
        return
    if "pruner" not in written and not budget.audit:
        return
    keys = ("budget", "pruner" if "pruner" in written else "audit")
    if not spec.task.length:
        reason = "no parameter says how often a trial reports. Name it as task.length, or set pruner: none"
        findings.at_value(keys, f"the pruner {budget.pruner} cannot judge: {reason}")
        return
    is_shortened = any(
        findings.positions.value(place).line is None for place in (spec.budget.key, ("fixed", spec.task.length))
    )
    if is_shortened:
        return
    if max(cell.max_epochs for cell in cells) < 2:
        reason = f"with {spec.task.length} 1 no trial can be stopped before its end"
        findings.at_value(keys, f"the pruner {budget.pruner} has nothing to judge: {reason}. Set pruner: none")
    least = 3 if budget.pruner == "median" else 2
    if budget.num_tune < least:
        reason = f"it needs at least {least} trials a {budget.searched}, but {budget.key[1]} is {budget.num_tune}"
        findings.at_value(keys, f"the pruner {budget.pruner} has nothing to judge: {reason}. Set pruner: none")


def _check_start_points(spec: SweepSpec, cells: Sequence[Cell], findings: Findings) -> None:
    points, budget = spec.budget.start_from, spec.budget
    if points and budget.sampler == "grid":
        findings.at_key(("budget", "start_from"), "start_from and sampler grid cannot be combined: a grid tries all")
    if len(points) > budget.num_tune:
        message = f"start_from has {len(points)} points, but {budget.key[1]} is {budget.num_tune}"
        findings.at_key(("budget", "start_from"), message)
    for index, point in enumerate(points):
        if not point:
            findings.at_value(("budget", "start_from", index), "a known point names no parameter")
        for name, value in point.items():
            keys = ("budget", "start_from", index, name)
            if name not in spec.tune:
                what = "is not tuned here" if name in spec.task.parameters.all() else "is no parameter"
                findings.at_key(keys, f"'{name}' {what}: known points name tuned parameters. "
                                + choices_text(name, spec.tune))  # fmt: skip
                continue
            wrong = _first_wrong(cells, name, value, point)
            if wrong is not None:
                findings.at_value(keys, f"{wrong.sampled_name} takes {_range_text(wrong)}, but got {shown(value)}")


def _first_wrong(cells: Sequence[Cell], name: str, value: Any, point: dict[str, Any]) -> Definition | None:
    for cell in cells:
        for definition in matching(cell.space, name, point):
            if as_sampled(cell.space.parameters, definition, value) is None:
                return definition
    return None


def _range_text(definition: Definition) -> str:
    if definition.kind == "categorical":
        return ", ".join(str(label) for label in definition.choices)
    step = f" in steps of {definition.step:g}" if definition.step else ""
    return f"{definition.low:g} to {definition.high:g}{step}"


def _check_grid(spec: SweepSpec, cells: Sequence[Cell], tune: Tune, findings: Findings) -> None:
    for name, entries in tune.items():
        for keys, definition in entries:
            if definition.kind == "float" and definition.step is None:
                findings.at_key(keys, f"sampler grid needs a step or choices for {name}: a range has no end of points")
    if findings:
        return
    asked = spec.budget.num_tune
    numbers = {cell.name: len(grid(cell.space)) for cell in cells}
    wrong = {name: number for name, number in numbers.items() if number != asked}
    if wrong:
        listed = ", ".join(
            f"{name or 'the only cell'}: {number if number <= MAX_POINTS else f'more than {MAX_POINTS}'}"
            for name, number in list(wrong.items())[:3]
        )
        message = "sampler grid needs as many points in every cell as " + spec.budget.key[1]
        findings.at_value(spec.budget.key, f"{message}, but got {asked} and points {listed}")


def _check_studies(spec: SweepSpec, findings: Findings) -> None:
    budget = spec.budget
    place = ("budget", "studies") if "studies" in (spec.tree.get("budget") or {}) else budget.key
    if budget.num_studies > 1 and budget.sampler == "grid":
        message = "sampler grid tries the same points in every study: set studies to 1"
        findings.at_value(place, f"{message}, but got {budget.num_studies}")
    if budget.num_studies > 1 and not spec.tune:
        message = "nothing is tuned, so a study is no more than a seed: set studies to 1 and give confirm.seeds"
        findings.at_value(place, f"{message}, but got {budget.num_studies} studies")
    if budget.num_studies > 1 or not spec.tune:
        return
    reason = "needs several studies: with one, the luck of its tuning can hide any difference"
    if spec.report.margin is not None:
        findings.at_value(("report", "margin"), f"margin {reason}. Set budget.studies")
    for index, claim in enumerate(spec.claims):
        if claim.kind == "equals":
            findings.at_value(("claims", index), f"a claim that two arms are equal {reason}. Set budget.studies")


def _check_confirm(spec: SweepSpec, findings: Findings) -> None:
    """What is asked of confirm trials needs some, unless `--set` left them out for a quick look."""
    confirm = spec.confirm
    for name, is_asked in (("runner_up", confirm.runner_up), ("keep_weights", confirm.keep_weights)):
        if is_asked and confirm.seeds == 0 and findings.positions.value(("confirm", "seeds")).line is not None:
            findings.at_value(("confirm", name), f"{name} needs confirm trials, but seeds is 0")
    if confirm.runner_up and spec.budget.num_tune < 2 and findings.positions.value(spec.budget.key).line is not None:
        findings.at_value(
            ("confirm", "runner_up"),
            f"runner_up needs at least 2 trials a {spec.budget.searched}, but {spec.budget.key[1]} is 1",
        )


def _check_seeds(spec: SweepSpec, findings: Findings) -> None:
    """The seeds of a sweep are hashes of 53 bits; should two be equal, a confirm trial would repeat a tune trial."""
    asked = {"tune": spec.budget.num_tune, "confirm": spec.confirm.seeds}
    roots = [study_seed(spec.seed, study) for study in range(spec.budget.num_studies)]
    seeds = [
        derive_seed(root, phase, number) for root in roots for phase, count in asked.items() for number in range(count)
    ]
    if len(set(seeds)) < len(seeds):
        findings.at_value(("seed",), f"two trials of a cell would share a seed with seed {spec.seed}: take another")
