"""The cells of a sweep: one for each combination of levels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

from ablate.sweepfile.model import SweepSpec
from ablate.sweepfile.shared_points import SEQUENCE_VERSION
from ablate.sweepfile.space import CellSpace
from ablate.sweepfile.start_points import start_points
from ablate.tasks.base import Settings, Task
from ablate.tasks.parameters import FIRST_TASK
from ablate.tasks.registry import Value


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the table.

    `levels` maps each axis to the label of its level. `settings` are the parameters that are not tuned in this cell,
    with defaults. `stamps` name kind, name and version of all rows that a trial of the cell can use. `start` are the
    known points that are tried first, by sampled name.

    `key` is 12 hex digits that identify what is searched and how: settings, space, rows, sampler (with the version of
    shared points where it uses them), pruner, batch, known points, the sweep's seed, and the levels. It does not depend
    on the number of trials or seeds, so a longer budget goes on with the same cell. The levels count so that two cells
    with equal settings stay two; renaming a level therefore makes a new cell (its finished trials are found again by
    their own keys). See `with_known_keys` for axes that are added.
    """

    task: Task
    levels: Mapping[str, str]
    settings: Mapping[str, Value]
    space: CellSpace
    stamps: tuple[str, ...]
    key: str
    start: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def name(self) -> str:
        """For example "width=16, arm=plain"."""
        return ", ".join(f"{axis}={level}" for axis, level in self.levels.items())

    @property
    def max_epochs(self) -> int:
        """The most epochs that a trial of the cell can have."""
        definitions = self.space.definitions(self.task.length)
        values = [value for definition in definitions for value in definition.candidates()]
        numbers = [int(str(value)) for value in values]
        if not values or any(definition.when for definition in definitions):
            numbers.append(self.task.num_epochs(self.settings))
        return max(numbers)

    def config(self, tuned: Mapping[str, Value]) -> Settings:
        """Return the whole configuration of a trial with these values of the tuned parameters.

        Raises:
            ConfigError: A value is wrong, or a row does not allow the combination.
        """
        return self.task.parameters.resolve({**self.settings, **tuned})


def build_cells(spec: SweepSpec) -> list[Cell]:
    """Return the cells, in the order of the file: the last axis varies fastest."""
    cells, core = [], spec.task.parameters.core
    for labels in product(*spec.axes.values()):
        levels = dict(zip(spec.axes, labels, strict=True))
        given = dict(spec.fixed)
        for axis, level in levels.items():
            given.update(spec.axes[axis][level])
        space = CellSpace(spec.task.parameters, spec.tune, given)
        stamps = tuple(f"{row.kind}:{row.stamp}" for row in space.rows if row.name not in core[row.kind].unwritten)
        start = start_points(space, spec.budget.start_from)
        key = _key(spec, levels, space, stamps, start)
        cells.append(
            Cell(
                task=spec.task, levels=levels, settings=space.settings, space=space, stamps=stamps, key=key, start=start
            )
        )
    return cells


def with_known_keys(spec: SweepSpec, cells: Sequence[Cell], known: Collection[str]) -> list[Cell]:
    """Return the cells; one that an earlier declaration had with fewer axes keeps the key that it had then.

    So a sweep that gets an axis goes on in the cells that it has already: those of the level that was fixed before, or
    was the default. `known` are the keys of the earlier declaration's cells.
    """
    taken = {cell.key for cell in cells}
    found = []
    for cell in cells:
        if cell.key not in known:
            keys = (_key(spec, levels, cell.space, cell.stamps, cell.start) for levels in _fewer(cell.levels))
            earlier = next((key for key in keys if key in known and key not in taken), cell.key)
            taken.add(earlier)
            cell = dataclasses.replace(cell, key=earlier)
        found.append(cell)
    return found


def _fewer(levels: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the levels without one axis, without two, and so on."""
    for count in range(len(levels) - 1, -1, -1):
        for axes in combinations(levels, count):
            yield {axis: levels[axis] for axis in axes}


def _key(
    spec: SweepSpec, levels: Mapping[str, str], space: CellSpace, stamps: tuple[str, ...], start: Sequence[Any]
) -> str:
    content: dict[str, Any] = {
        "levels": levels,
        "settings": spec.task.parameters.written(space.settings),
        "space": space.describe(),
        "rows": stamps,
        "sampler": spec.budget.sampler,
        "pruner": spec.budget.pruner,
        "batch": spec.budget.batch,
        "seed": spec.seed,
    }
    if spec.budget.sampler in ("auto", "qmc"):
        content["sequence"] = SEQUENCE_VERSION
    if start:
        content["start"] = start
    if spec.task.stamp != FIRST_TASK:
        # Without the code: its changes leave the search as it was.
        content["task"] = f"{spec.task.name}@{spec.task.version}"
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
