"""From a sweep file to what it asks for: cells, data, declaration. Trains nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.command_lines import Commands
from ablate.cpus import num_cpus
from ablate.errors import DataError, UsageError, printable
from ablate.places import Place, local_view
from ablate.run.capacity import Node, num_fitting
from ablate.store.declaration import MIN_EQUIVALENCE, Declaration, DeclaredCell, SweepFolder, public_file
from ablate.sweepfile.cells import Cell, build_cells, with_known_keys
from ablate.sweepfile.claims import frozen_claims, is_late_margin
from ablate.sweepfile.feasibility import examples, origin
from ablate.sweepfile.grid_points import num_points
from ablate.sweepfile.positions import Findings
from ablate.sweepfile.spec import SEEDS_OF_MANY, SEEDS_OF_ONE_STUDY, SweepSpec, load_spec, resolved_yaml
from ablate.tasks.base import Prepared, Task
from ablate.tasks.parameters import ConfigError

FEW_TRIALS = 5
"""Studies of fewer tune trials are told about."""


@dataclass(frozen=True)
class Plan:
    """A sweep that can be run: nothing in it depends on results. `data` has one entry a cell."""

    spec: SweepSpec
    cells: list[Cell]
    data: list[Prepared]
    declaration: Declaration
    out: Place

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder under the output folder."""
        return SweepFolder(self.out, self.spec.sweep_id)

    def declare(self) -> None:
        """Write the declaration and the resolved sweep file; one that cannot be read is kept aside."""
        self.folder.set_aside_damaged()
        self.folder.write_declaration(self.declaration, resolved_yaml(self.spec))

    def command(self, name: str, options: Mapping[str, str | None] | None = None) -> str:
        """Return the command line that runs `name` on this sweep again, with further options."""
        return self.declaration.command(name, Commands(self.out), options)

    def summary(self) -> dict[str, Any]:
        """Return what the sweep asks for, for scripts."""
        declaration, metric = self.declaration, self.declaration.metric
        return {
            "sweep": declaration.sweep,
            "trials": declaration.num_trials,
            "studies": declaration.num_studies,
            "tune_trials": declaration.num_tune,
            "confirm_seeds": declaration.num_seeds,
            "cells": [{"levels": cell.levels, "tuned": cell.tuned} for cell in declaration.cells],
            "data": declaration.data,
            **({metric.floor_name: metric.floor} if metric.floor is not None else {}),
            "warnings": self.warnings(),
        }

    def lines(self) -> list[str]:
        """Return what the sweep asks for, for people."""
        declaration = self.declaration
        metric = declaration.tuned_metric if declaration.metric.floor is None else declaration.metric
        axes = " × ".join(f"{len(levels)} {axis}" for axis, levels in declaration.axes.items())
        floor = ""
        if metric.floor is not None:
            meaning = f", {metric.floor_meaning}" if metric.floor_meaning else ""
            floor = f"; {metric.floor_name} is {metric.with_unit(metric.floor)}{meaning}"
        return [
            f"{declaration.sweep}: {printable(declaration.question) or '(no question written)'}",
            f"{f'{axes} = {len(declaration.cells)} cells, each' if axes else '1 cell with'} "
            f"{_budget_text(declaration)}: {declaration.num_trials} trials",
            *self._seeds_left_out(),
            *([f"data: {declaration.data_line}{floor}"] if declaration.data_line or floor else []),
            *(f"warning: {warning}" for warning in self.warnings()),
        ]

    def cell_lines(self) -> list[str]:
        """Return one line a cell: what is tuned in it."""
        return [f"{cell.name or 'the cell'}: {', '.join(cell.tuned) or 'nothing'}" for cell in self.declaration.cells]

    def warnings(self) -> list[str]:
        """Return what the author should know before the first trial: too little data, cells not treated alike."""
        return [
            *self.declaration.notices,
            *self._fewer_seeds(),
            *self._small_studies(),
            *self._too_few_to_be_equal(),
            *self._few_points(),
            *self._alike(),
            *self._uneven_epochs(),
            *self._uneven_dimensions(),
        ]

    @property
    def _has_default_seeds(self) -> bool:
        return "seeds" not in (self.spec.written.get("confirm") or {})

    def _seeds_left_out(self) -> list[str]:
        if not self._has_default_seeds:
            return []
        return [
            f"confirm.seeds is left out, so it is {self.declaration.num_seeds}: {SEEDS_OF_ONE_STUDY} where a cell has "
            f"one study, {SEEDS_OF_MANY} where it has several"
        ]

    def _fewer_seeds(self) -> list[str]:
        """Tell that confirm trials stop counting because more studies bring another default of `confirm.seeds`."""
        earlier, num = self.folder.earlier_declaration(), self.declaration.num_seeds
        if earlier is None or earlier.num_seeds <= num or not self._has_default_seeds:
            return []
        if not any(p.phase == "confirm" and p.number >= num for p in self.folder.read_proposals()):
            return []
        return [
            f"confirm.seeds falls from {earlier.num_seeds} to {num}, as a cell has several studies now: the confirm "
            f"trials of further seeds do not count; --set confirm.seeds={earlier.num_seeds} keeps them"
        ]

    def _small_studies(self) -> list[str]:
        budget = self.spec.budget
        if budget.trials is None or budget.trials >= FEW_TRIALS or not self.spec.tune:
            return []
        line = self.spec.positions.value(budget.key).line
        where = f"{self.spec.path}:{line}: " if line is not None else ""
        return [
            f"{where}trials is {budget.trials}: a study of fewer than {FEW_TRIALS} tune trials often finds nothing "
            "that trains, and a few such studies make a cell's numbers fall into two groups"
        ]

    def _too_few_to_be_equal(self) -> list[str]:
        num = self.declaration.num_replicates
        asks = self.spec.report.margin is not None or any(claim.kind == "equals" for claim in self.spec.claims)
        if not asks or num >= MIN_EQUIVALENCE:
            return []
        name = self.declaration.replicates(num)
        return [f"{num} {name} cannot show that two arms are equivalent: that takes at least {MIN_EQUIVALENCE}"]

    def _few_points(self) -> list[str]:
        asked, num = self.spec.budget.num_tune, self.declaration.num_tune
        if num >= asked:
            return []
        points, trials = (f"{num} {name}{'s' * (num != 1)}" for name in ("point", "tune trial"))
        return [f"no cell has more than {points} to try: each study has {trials} instead of {asked}"]

    def _alike(self) -> list[str]:
        """Name the cells whose trials do the same: what differs between them has no effect."""
        groups: dict[str, list[str]] = {}
        for cell in self.cells:
            asked = [self.spec.task.canonical(cell.settings), cell.space.describe()]
            groups.setdefault(json.dumps(asked, sort_keys=True), []).append(cell.name)
        return [
            f"the cells {' and '.join(names)} do the same: their settings differ in nothing that has an effect"
            for names in groups.values()
            if len(names) > 1
        ]

    def _uneven_epochs(self) -> list[str]:
        columns = self.spec.report.columns
        rows: dict[tuple[str, ...], set[int]] = {}
        for cell in self.cells:
            row = tuple(level for axis, level in cell.levels.items() if axis != columns)
            rows.setdefault(row, set()).add(cell.max_epochs)
        uneven = sorted(number for numbers in rows.values() if len(numbers) > 1 for number in numbers)
        if not uneven:
            return []
        return [
            f"cells that are compared with each other allow a trial between {uneven[0]} and {uneven[-1]} "
            f"{self.spec.task.length}: what differs between them may be the longer training"
        ]

    def _uneven_dimensions(self) -> list[str]:
        columns, baseline = self.spec.report.columns, self.spec.report.baseline
        if columns is None or baseline is None:
            return []
        most = max(cell.space.num_dimensions for cell in self.cells)
        least = min(c.space.num_dimensions for c in self.cells if c.levels[columns] == str(baseline))
        if least >= most:
            return []
        return [
            f"the baseline '{baseline}' has {least} tuned dimensions, another cell {most}: it is tuned less freely, "
            "with the same number of trials"
        ]


def make_plan(file: Path, profile: str | None, overrides: Sequence[str], out: Place, function: Any = None) -> Plan:
    """Check a sweep file, fetch its data and return the plan; `function` is the one of a `task` that lies in no file.

    Raises:
        UsageError: The name of the file or the folder is no text.
        SpecError: The file has mistakes, or asks more of the data than there is.
        DataError: The data is not to be had.
    """
    _check_name(file)
    _check_name(out)
    spec = load_spec(file, profile, overrides, function)
    folder = SweepFolder(out, spec.sweep_id)
    earlier = folder.earlier_declaration()
    cells = with_known_keys(spec, build_cells(spec), {cell.key for cell in earlier.cells} if earlier else ())
    data = _prepare_data(spec, cells, out)
    remarks = _remarks(spec, cells, data)
    return Plan(spec, cells, data, _declaration(spec, overrides, cells, data, folder, remarks), out)


def _check_name(place: Place) -> None:
    """Refuse a name with bytes that the locale cannot read: Ray, MLflow and the declaration cannot hold it."""
    name = str(place.resolve())
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        locale = f"this locale ({sys.getfilesystemencoding()})"
        raise UsageError(f"the name {shown} is no text in {locale}: rename it, or set PYTHONUTF8=1") from None


def default_jobs(plan: Plan) -> int:
    """Return how many trials fit on this machine at a time."""
    wanted = plan.spec.resources
    return max(1, num_fitting([Node(num_cpus(), plan.spec.task.num_gpus())], Node(wanted.cpus, wanted.gpus)))


def _prepare_data(spec: SweepSpec, cells: list[Cell], out: Place) -> list[Prepared]:
    known: dict[tuple[Any, ...], Prepared] = {}
    prepared = []
    for cell in cells:
        wanted = {name: cell.settings[name] for name in spec.task.data_parameters if name in cell.settings}
        key = tuple(sorted(wanted.items(), key=lambda item: item[0]))
        if key not in known:
            known[key] = _prepared(spec, cell, wanted, local_view(out) / "data")
        prepared.append(known[key])
        _check_largest(spec, cell, known[key])
    return prepared


def _prepared(spec: SweepSpec, cell: Cell, wanted: dict[str, Any], cache: Path) -> Prepared:
    try:
        return spec.task.prepare(spec.task.parameters.resolve(wanted), cache)
    except DataError as error:
        if error.parameter:
            _refuse(spec, cell, error.parameter, error)
        raise


def _check_largest(spec: SweepSpec, cell: Cell, data: Prepared) -> None:
    for name in spec.task.largest(data.facts):
        tried = [value for definition in cell.space.definitions(name) for value in definition.candidates()]
        numbers = [value for value in tried or [cell.settings.get(name)] if isinstance(value, int | float)]
        try:
            check_data(spec.task, {name: max(numbers, default=None)}, data)
        except ConfigError as error:
            _refuse(spec, cell, name, error)


def _remarks(spec: SweepSpec, cells: list[Cell], data: list[Prepared]) -> list[str]:
    """Return what the task says of the cells' configurations on their data, each once."""
    found: dict[str, None] = {}
    for cell, prepared in zip(cells, data, strict=True):
        try:
            for settings in examples(cell):
                found.update(dict.fromkeys(spec.task.remarks(settings, prepared.facts)))
        except ConfigError as error:
            _refuse(spec, cell, error.parameter, error)
    return list(found)


def check_data(task: Task, settings: Mapping[str, Any], data: Prepared) -> None:
    """Check that settings ask no more of the data than there is.

    Raises:
        ConfigError: They do.
    """
    for name, (most, meaning) in task.largest(data.facts).items():
        value = settings.get(name)
        if isinstance(value, int | float) and value > most:
            raise ConfigError(f"{name} must be <= {meaning}, but got {value}", name)


def _refuse(spec: SweepSpec, cell: Cell, parameter: str, error: UsageError) -> None:
    """Tell a mistake where the parameter is defined."""
    findings = Findings(spec.positions)
    findings.at_value(origin(spec, cell, parameter, {}), str(error))
    findings.raise_all()


def _declaration(
    spec: SweepSpec,
    overrides: Sequence[str],
    cells: list[Cell],
    data: list[Prepared],
    folder: SweepFolder,
    remarks: list[str],
) -> Declaration:
    content = {"spec": resolved_yaml(spec), "cells": [cell.key for cell in cells], "data": [d.digest for d in data]}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    earlier = folder.earlier_declaration()
    history = earlier.history if earlier else []
    if not history or history[-1] != digest:
        history = [*history, digest]
    facts = {**spec.task.facts(data), "digest": data[0].digest}
    points = [num_points(cell.space) for cell in cells]
    return Declaration(
        sweep=spec.sweep_id,
        name=spec.name,
        profile=spec.profile,
        question=spec.question,
        axes={axis: list(dict.fromkeys(cell.levels[axis] for cell in cells)) for axis in spec.axes},
        cells=[
            DeclaredCell(
                key=cell.key,
                levels=dict(cell.levels),
                settings=_plain(dict(cell.settings)),
                tuned=cell.space.tuned,
                space=_plain(cell.space.describe()),
                num_points=num,
            )
            for cell, num in zip(cells, points, strict=True)
        ],
        num_tune=_num_tune(spec, points),
        num_seeds=spec.confirm.seeds,
        sampler=spec.budget.sampler,
        pruner=spec.budget.pruner,
        seed=spec.seed,
        report=dataclasses.asdict(spec.report),
        tune=_plain(spec.tree.get("tune") or {}),
        data=facts,
        metrics=spec.task.measured(facts),
        objective=spec.task.objective,
        task=spec.task.name,
        length=spec.task.length,
        data_line=spec.task.data_line(facts),
        notices=[*spec.task.notices(facts, [cell.settings for cell in cells]), *remarks],
        file=public_file(str(spec.path)),
        path=str(spec.path),
        overrides=list(overrides),
        history=history,
        runner_up=spec.confirm.runner_up,
        audit=spec.budget.audit,
        design=spec.design,
        components={arm: list(on) for arm, on in spec.components.items()},
        claims=frozen_claims(spec, cells, folder),
        num_studies=spec.budget.num_studies,
        tune_key=".".join(spec.budget.key),
        is_late_margin=is_late_margin(spec, cells, folder),
    )


def _num_tune(spec: SweepSpec, points: Sequence[int | None]) -> int:
    """Return the tune trials of a study; no more than a cell has points, the same for all cells."""
    asked = spec.budget.num_tune
    if spec.budget.trials is None:
        return asked
    return min(asked, max(num or asked for num in points))


def _budget_text(declaration: Declaration) -> str:
    """For example "5 studies of 6 tune trials and 1 confirm seed"."""
    tune, seeds = declaration.num_tune, declaration.num_seeds
    trials = f"{tune} tune trial{'s' * (tune != 1)} and {seeds} confirm seed{'s' * (seeds != 1)}"
    return f"{declaration.num_studies} studies of {trials}" if declaration.num_studies > 1 else trials


def _plain(content: Any) -> Any:
    return json.loads(json.dumps(content))
