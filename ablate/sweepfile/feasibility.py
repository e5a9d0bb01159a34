"""Checks that every cell can be trained, and that every cell, parameter and definition is of use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, islice, product
from typing import Any

from ablate.sweepfile.cells import Cell, build_cells
from ablate.sweepfile.definitions import Tune
from ablate.sweepfile.model import SweepSpec
from ablate.sweepfile.positions import Findings, Keys
from ablate.sweepfile.space import Definition, Label, label
from ablate.tasks.base import Settings
from ablate.tasks.parameters import ConfigError
from ablate.tasks.registry import Row, Value

MAX_PAIRS = 100
"""Of choices that are tried together in a cell: bounds the time."""


def check_cells(spec: SweepSpec, tune: Tune, findings: Findings) -> None:
    """Resolve the configurations of all cells, and look for what no cell uses."""
    cells = build_cells(spec)
    _check_configs(spec, cells, tune, findings)
    _check_data(spec, cells, findings)
    _check_undecided(spec, cells, findings)
    for keys, name, of_use in _defined(spec, cells):
        if not of_use:
            findings.at_key(keys, f"{name} is used by no cell: the row that it belongs to is never chosen")
    for name, entries in tune.items():
        held = {definition.sampled_name for cell in cells for definition in cell.space.definitions(name)}
        for keys, definition in entries:
            if definition.sampled_name not in held:
                why = "its conditions never hold, or the row that it belongs to is never chosen"
                findings.at_key(keys, f"{name} is used by no cell: {why}")


def _check_configs(spec: SweepSpec, cells: list[Cell], tune: Tune, findings: Findings) -> None:
    told: set[str] = set()
    elsewhere: list[tuple[Keys, str]] = []
    for cell in cells:
        for forced, drawn in chain(_probes(cell, spec, tune), _pairs(cell, spec, tune)):
            try:
                cell.config(cell.space.suggest(_Forced(forced)))
            except ConfigError as error:
                keys = origin(spec, cell, error.parameter, drawn)
                if keys == ("tune", error.parameter):
                    # Another parameter is forced here; the one at fault is told better when its own turn comes.
                    elsewhere.append((keys, str(error)))
                    continue
                if str(error) not in told or len(drawn) < 2:
                    findings.at_value(keys, str(error))
                told.add(str(error))
    for keys, message in elsewhere:
        if message not in told:
            findings.at_value(keys, message)


def examples(cell: Cell) -> Iterator[Settings]:
    """Yield whole configurations that a cell's trials can have: one, and one more for each choice of a tuned row."""
    forced: list[dict[str, Any]] = [{}]
    for definition in (d for kind in cell.task.parameters.kinds for d in cell.space.definitions(kind)):
        needed = _satisfying(cell, definition)
        forced += [{**needed, definition.sampled_name: sampled} for sampled in _sampled_values(definition)]
    for each in forced:
        yield cell.config(cell.space.suggest(_Forced(each)))


def _check_data(spec: SweepSpec, cells: list[Cell], findings: Findings) -> None:
    for name in spec.task.data_parameters:
        if any(name in cell.space.tuned for cell in cells):
            findings.at_key(("tune", name), f"{name} cannot be tuned: every cell needs one set of validation data")
    for name in spec.task.same_in_all:
        for cell in cells:
            if cell.settings.get(name) != cells[0].settings.get(name):
                message = f"{name} must be the same in all cells of one table"
                findings.at_value(origin(spec, cell, name, {}), message)


def _check_undecided(spec: SweepSpec, cells: list[Cell], findings: Findings) -> None:
    """Refuse a parameter that nobody gives or searches, and that would be another in another trial of a cell."""
    for cell in cells:
        for name, defaults in cell.space.undecided.items():
            kind = next(kind for kind in cell.space.tuned if any(name in row.brings for row in _rows(cell, kind)))
            message = (
                f"{name} is not given, and its default is another for another {kind.replace('_', ' ')} "
                f"({', '.join(map(label, defaults))}): give {name} where {kind} is tuned"
            )
            findings.at_key(("tune", kind), message)


def _rows(cell: Cell, kind: str) -> list[Row]:
    return [row for row in cell.space.rows if row.kind == kind]


class _Forced:
    """Stands in for a trial: takes the forced values and otherwise the first."""

    def __init__(self, forced: Mapping[str, Any]) -> None:
        self._forced = forced

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return float(self._forced.get(name, low))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._forced.get(name, low))

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        return self._forced.get(name, choices[0])


def _probes(cell: Cell, spec: SweepSpec, tune: Tune) -> Iterator[tuple[dict[str, Any], dict[str, Keys]]]:
    """Yield what to force, so that each value of each definition is tried once, and where that value is written."""
    places = {definition.sampled_name: keys for entries in tune.values() for keys, definition in entries}
    yield {}, {}
    for parameter in cell.space.tuned:
        for definition in cell.space.definitions(parameter):
            needed = _satisfying(cell, definition)
            keys = places[definition.sampled_name]
            for index, sampled in enumerate(_sampled_values(definition)):
                place = _choice_place(spec, keys, index, sampled)
                yield {**needed, definition.sampled_name: sampled}, {parameter: place}


def _pairs(cell: Cell, spec: SweepSpec, tune: Tune) -> Iterator[tuple[dict[str, Any], dict[str, Keys]]]:
    """Yield what to force, so that each two values of two choices that can come together are tried together."""
    places = {definition.sampled_name: keys for entries in tune.values() for keys, definition in entries}
    choices = [d for name in cell.space.tuned for d in cell.space.definitions(name) if d.kind == "categorical"]
    for first, second in islice(combinations(choices, 2), MAX_PAIRS):
        if first.parameter == second.parameter:
            continue
        needed = {**_satisfying(cell, first), **_satisfying(cell, second)}
        for (i, one), (j, other) in product(enumerate(first.choices), enumerate(second.choices)):
            forced = {first.sampled_name: one, second.sampled_name: other}
            # What one needs the other may forbid: then they never come together.
            if all(forced.get(name, value) == value for name, value in needed.items()):
                drawn = {
                    first.parameter: _choice_place(spec, places[first.sampled_name], i, one),
                    second.parameter: _choice_place(spec, places[second.sampled_name], j, other),
                }
                yield {**needed, **forced}, drawn


def _choice_place(spec: SweepSpec, keys: Keys, index: int, sampled: Any) -> Keys:
    written: Any = spec.tree
    for key in keys:
        written = written[key]
    if isinstance(written, list):
        return (*keys, index)
    choices = written.get("choices")
    return (*keys, "choices", index if isinstance(choices, list) else sampled) if choices else keys


def _sampled_values(definition: Definition) -> list[Any]:
    return list(definition.choices) if definition.kind == "categorical" else list(definition.candidates())


def _satisfying(cell: Cell, definition: Definition) -> dict[str, Any]:
    """Return values of other parameters that make a definition hold."""
    forced: dict[str, Any] = {}
    for condition, allowed in definition.when.items():
        for other in cell.space.definitions(condition):
            for sampled in _sampled_values(other):
                value: Value = other.choices[sampled] if other.kind == "categorical" else sampled
                if value in allowed:
                    forced.setdefault(other.sampled_name, sampled)
    return forced


def origin(spec: SweepSpec, cell: Cell, parameter: str, drawn: Mapping[str, Keys]) -> Keys:
    """Return where a parameter of a cell is defined; `drawn` are the places of tuned values, by parameter."""
    if parameter in drawn:
        return drawn[parameter]
    for axis, level in cell.levels.items():
        if parameter in spec.axes[axis][level]:
            if isinstance(spec.tree["axes"][axis], dict):
                return ("axes", axis, level, parameter)
            return ("axes", axis, list(spec.axes[axis]).index(level))
    return ("tune" if parameter in spec.tune else "fixed", parameter)


def _defined(spec: SweepSpec, cells: list[Cell]) -> Iterator[tuple[Keys, str, bool]]:
    """Yield each parameter of `fixed` and `axes`: where it is, its name, whether it matters in some cell."""
    for name in spec.fixed:
        yield ("fixed", name), name, any(name in cell.settings for cell in cells)
    for axis, levels in spec.axes.items():
        if not isinstance(spec.tree["axes"][axis], dict):
            yield ("axes", axis), axis, any(axis in cell.settings for cell in cells)
            continue
        for level, settings in levels.items():
            of_level = [cell for cell in cells if cell.levels[axis] == level]
            for name in settings:
                yield ("axes", axis, level, name), name, any(name in cell.settings for cell in of_level)
