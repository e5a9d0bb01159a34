"""Checks the conditions between parameters: overlaps, cycles, and values that are never taken."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError
from itertools import combinations

from ablate.sweepfile.definitions import Tune
from ablate.sweepfile.positions import Findings
from ablate.sweepfile.space import Definition, label, suggestion_order
from ablate.tasks.parameters import Parameters
from ablate.tasks.registry import Value

Axes = Mapping[str, Mapping[str, Mapping[str, Value]]]


def check_overlaps(tune: Tune, findings: Findings) -> None:
    """Two definitions of one parameter must never hold together."""
    for name, entries in tune.items():
        for (_, first), (keys, second) in combinations(entries, 2):
            if not _exclude_each_other(first, second):
                message = f"two definitions of {name} can hold together; tell them apart by 'when'"
                findings.at_value(keys, message)


def _exclude_each_other(first: Definition, second: Definition) -> bool:
    shared = first.when.keys() & second.when.keys()
    return any(not set(first.when[name]) & set(second.when[name]) for name in shared)


def check_cycles(tune: Tune, parameters: Parameters, findings: Findings) -> None:
    """No tuned parameter may depend on itself through others, nor through the row that it belongs to."""
    try:
        suggestion_order(
            {name: [definition for _, definition in entries] for name, entries in tune.items()}, parameters
        )
    except CycleError as error:
        cycle = list(reversed(error.args[1]))
        conditional = [name for name in cycle if any(definition.when for _, definition in tune[name])]
        name = conditional[0]
        keys = next(keys for keys, definition in tune[name] if definition.when)
        findings.at_key((*keys, "when"), f"conditions must not form a cycle, but got {' → '.join(cycle)}")


def check_values(
    tune: Tune, axes: Axes, fixed: Mapping[str, Value], parameters: Parameters, findings: Findings
) -> None:
    """A condition must name a value that its parameter takes somewhere in this file."""
    for name, entries in tune.items():
        for keys, definition in entries:
            for condition, values in definition.when.items():
                place = (*keys, "when", condition)
                definitions = [other for _, other in tune.get(condition, ())]
                if any(other.kind == "float" for other in definitions):
                    findings.at_key(place, f"{name} cannot depend on {condition}, which is searched over a range")
                    continue
                for index, value in enumerate(values):
                    taken = _taken(parameters, condition, definitions, axes, fixed)
                    if label(value) not in taken and not any(each.can_be(value) for each in definitions):
                        message = f"{condition} is never {label(value)} here. It takes: {', '.join(taken)}"
                        findings.at_value((*place, index), message)


def _taken(
    parameters: Parameters, name: str, definitions: list[Definition], axes: Axes, fixed: Mapping[str, Value]
) -> list[str]:
    """Return labels of all values that a parameter takes in some cell; of an integer range its ends or a few."""
    taken = [value for definition in definitions for value in definition.candidates()]
    taken += [settings[name] for levels in axes.values() for settings in levels.values() if name in settings]
    is_set_always = any(all(name in settings for settings in levels.values()) for levels in axes.values() if levels)
    is_conditional = any(definition.when for definition in definitions) or bool(parameters.owners(name))
    is_drawn_always = bool(definitions) and not is_conditional
    if not is_set_always and not is_drawn_always:
        taken += [fixed[name]] if name in fixed else parameters.any_defaults(name)
    return list(dict.fromkeys(label(value) for value in taken))
