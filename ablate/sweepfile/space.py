"""What is searched in one cell, and how a trial draws from it.

A tuned parameter has one or more definitions, each perhaps with conditions (`when`) on other parameters, tuned or
not. In every cell the conditions on parameters that are not tuned are settled once; those on tuned parameters are
settled in every trial, so the parameters are drawn in the order of their conditions. A parameter of a row (momentum
of sgd) is drawn only in trials that choose the row. Where no definition holds, a parameter keeps its default, which a
row may bring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from itertools import product
from typing import Any, Literal, Protocol

from ablate.tasks import registry
from ablate.tasks.parameters import Parameters
from ablate.tasks.registry import ABSENT, Row, Value

Label = None | bool | int | float | str

MAX_CANDIDATES = 200


class Trial(Protocol):
    """What a definition draws from: an Optuna trial, or a stand-in."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Return a number in [low, high]."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Return an integer in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        """Return one of the choices."""
        ...


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One definition of a tuned parameter.

    `sampled_name` is the sampler's name of it: the parameter's, or "lr[optimizer=sgd|nesterov]" where the parameter
    has several definitions, so that one name never has two ranges. `low` and `high` are inclusive. `choices` maps
    what the sampler sees to the value. All conditions in `when` (parameter: values) must hold.
    """

    parameter: str
    sampled_name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: Mapping[Label, Value] = field(default_factory=dict)
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def suggest(self, trial: Trial) -> Value:
        """Draw a value from a trial."""
        if self.kind == "categorical":
            return self.choices[trial.suggest_categorical(self.sampled_name, list(self.choices))]
        if self.kind == "int":
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return int(trial.suggest_int(self.sampled_name, low, high, step=step, log=self.log))
        return float(trial.suggest_float(self.sampled_name, self.low, self.high, step=self.step, log=self.log))

    def candidates(self) -> tuple[Value, ...]:
        """Return the values that it can take: all choices, all of a few integers, or the two ends of a range."""
        if self.kind == "categorical":
            return tuple(self.choices.values())
        if self.kind == "int":
            integers = range(int(self.low), int(self.high) + 1, int(self.step or 1))
            return tuple(integers) if len(integers) <= MAX_CANDIDATES else (integers[0], integers[-1])
        return (self.low, self.high)

    def can_be(self, value: Value) -> bool:
        """Say whether it can take this value."""
        if self.kind == "categorical":
            return value in self.choices.values()
        return isinstance(value, int | float) and self.low <= value <= self.high

    def describe(self) -> dict[str, Any]:
        """Return all that decides what it draws, ready for JSON."""
        content: dict[str, Any] = {"name": self.sampled_name, "kind": self.kind}
        if self.kind == "categorical":
            content["choices"] = [[label, value] for label, value in self.choices.items()]
        else:
            content |= {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return content | {"when": {parameter: list(values) for parameter, values in sorted(self.when.items())}}


def dependencies(tune: Mapping[str, Sequence[Definition]], parameters: Parameters) -> dict[str, set[str]]:
    """Return for each tuned parameter the tuned parameters that must be drawn before it."""
    found = {}
    for parameter, definitions in tune.items():
        conditions = {condition for definition in definitions for condition in definition.when}
        kinds = {kind for name in (parameter, *conditions) for kind in parameters.owners(name)}
        found[parameter] = {name for name in conditions | kinds if name in tune}
    return found


def suggestion_order(tune: Mapping[str, Sequence[Definition]], parameters: Parameters) -> list[str]:
    """Return the tuned parameters in the order in which they are drawn, alphabetical where it is free.

    Raises:
        graphlib.CycleError: The conditions form a cycle.
    """
    sorter = TopologicalSorter(dependencies(tune, parameters))
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order.extend(ready)
        sorter.done(*ready)
    return order


class CellSpace:
    """The search space of one cell: the definitions that can hold in it.

    `settings` are the parameters that are not searched here, with the defaults of those left out; parameters that
    matter for no choice of rows in this cell are left out. `tuned` are the searched parameters in the order in which
    they are drawn. `names` are all parameters that the sweep file tunes, in this cell or not. `undecided` are the
    defaults of parameters that are neither given nor searched, and whose default is another for another choice of a row
    that is searched.
    """

    def __init__(
        self, parameters: Parameters, tune: Mapping[str, Sequence[Definition]], settings: Mapping[str, Value]
    ) -> None:
        self.parameters = parameters
        self.names = tuple(sorted(tune))
        self._given = dict(settings)
        self._kept: dict[str, tuple[Definition, ...]] = {}
        known = parameters.all()
        self._defaults = _possible_defaults(parameters, tune, settings)
        self._owners = {name: parameters.owners(name) for name in known}
        for parameter in suggestion_order(tune, parameters):
            kept = [definition for definition in tune[parameter] if self._can_hold(definition)]
            if kept:
                self._kept[parameter] = tuple(self._without_settled(definition) for definition in kept)
        self.tuned = list(self._kept)
        self.rows: list[Row] = [
            row for kind in parameters.kinds for row in registry.rows(kind) if self._can_take(kind, row.name)
        ]  # fmt: skip
        usable = dict.fromkeys(
            [*parameters.core, *(parameter.name for row in self.rows for parameter in row.parameters)]
        )
        untuned = {name: self._untuned(name) for name in usable if name not in self._kept}
        self.settings = {name: value for name, value in untuned.items() if value is not ABSENT}
        self.undecided = {
            name: self._defaults[name] for name in untuned if name not in self._given and len(self._defaults[name]) > 1
        }

    @property
    def num_dimensions(self) -> int:
        """How many parameters are searched over more than one value."""
        counts = {p: sum(len(set(map(str, d.candidates()))) for d in kept) for p, kept in self._kept.items()}
        return sum(count > 1 for count in counts.values())

    def definitions(self, parameter: str) -> tuple[Definition, ...]:
        """Return the definitions of a parameter that can hold in this cell, without the conditions that always do."""
        return self._kept.get(parameter, ())

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """Draw the tuned parameters of one trial; those that do not matter for it are left out."""
        drawn: dict[str, Value] = {}
        for parameter, definitions in self._kept.items():
            active = self.parameters.active({**self.settings, **drawn})
            if parameter not in active:
                continue
            values = {**self.parameters.defaults({**self.settings, **drawn}), **self._given, **drawn}
            for definition in definitions:
                if all(name in active and values[name] in allowed for name, allowed in definition.when.items()):
                    drawn[parameter] = definition.suggest(trial)
                    break
        return drawn

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Return all that decides what is drawn, by parameter in the order of drawing, ready for JSON."""
        return {parameter: [definition.describe() for definition in kept] for parameter, kept in self._kept.items()}

    def _untuned(self, parameter: str) -> Value:
        return self._given.get(parameter, self._defaults[parameter][0])

    def _can_take(self, parameter: str, value: Value) -> bool:
        kept = self._kept.get(parameter)
        if kept is None:
            return self._untuned(parameter) == value
        is_default = any(definition.when for definition in kept) and value in self._defaults[parameter]
        return is_default or any(definition.can_be(value) for definition in kept)

    def _can_matter(self, parameter: str, when: Mapping[str, tuple[Value, ...]]) -> bool:
        """Say whether a row that has the parameter can be chosen while the conditions hold."""
        rows = [(kind, name) for kind, names in self._owners[parameter].items() for name in names]
        return not rows or any(self._can_take(kind, name) and name in when.get(kind, (name,)) for kind, name in rows)

    def _can_hold(self, definition: Definition) -> bool:
        when = definition.when
        return all(self._can_matter(name, when) for name in (definition.parameter, *when)) and all(
            any(self._can_take(name, value) for value in values) for name, values in when.items()
        )

    def _without_settled(self, definition: Definition) -> Definition:
        """Drop the conditions that hold in every trial of the cell."""
        dynamic = {name: values for name, values in definition.when.items() if self._varies(name)}
        return replace(definition, when=dynamic)

    def _varies(self, parameter: str) -> bool:
        return parameter in self._kept or any(kind in self._kept for kind in self._owners[parameter])


def _possible_defaults(
    parameters: Parameters, tune: Mapping[str, Sequence[Definition]], given: Mapping[str, Value]
) -> dict[str, list[Value]]:
    """Return for every parameter the defaults that it can have, each once: rows bring some, and rows are searched."""
    searched: dict[str, list[str]] = {}
    for kind in (kind for kind in parameters.kinds if kind in tune):
        names = [str(value) for definition in tune[kind] for value in definition.candidates()]
        is_conditional = any(definition.when for definition in tune[kind])
        searched[kind] = [*dict.fromkeys([*names, *([str(parameters.core[kind].default)] if is_conditional else [])])]
    # Rows that bring defaults can come together; of all others one differs at a time.
    bringing = [kind for kind, names in searched.items() if any(registry.get(kind, name).defaults for name in names)]
    together = [dict(zip(bringing, names, strict=True)) for names in product(*(searched[kind] for kind in bringing))]
    single = [{kind: name} for kind, names in searched.items() if kind not in bringing for name in names]
    first = {**given, **{kind: names[0] for kind, names in searched.items()}}
    found: dict[str, list[Value]] = {}
    for chosen in [*together, *single]:
        for name, value in parameters.defaults({**first, **chosen}).items():
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {**{name: [parameter.default] for name, parameter in parameters.all().items()}, **found}


def labels(values: Iterable[Value]) -> str:
    """Return values as they are written in a sampled name, for example "sgd|nesterov"."""
    return "|".join(label(value) for value in values)


def label(value: object) -> str:
    """Return the label of a level or a choice: as it is written in a sweep file, "20", "0.1", "true", "adam"."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else repr(value).removesuffix(".0")
