"""Known points (`budget.start_from`): what they mean in each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablate.sweepfile.space import CellSpace, Definition
from ablate.tasks.parameters import ConfigError, Parameters
from ablate.tasks.registry import Value

Point = Mapping[str, Any]
"""Values by parameter; choices with names by their names."""


def start_points(space: CellSpace, points: Sequence[Point]) -> tuple[dict[str, Any], ...]:
    """Return the points as the sampler of a cell sees them, by sampled name.

    What a point says about parameters that the cell does not tune is left out, and points that are then the same
    are tried once, so that no cell spends trials twice. What a point does not say is left to the sampler.
    """
    found: list[dict[str, Any]] = []
    for point in points:
        sampled = {}
        for name, value in point.items():
            for definition in matching(space, name, point):
                drawn = as_sampled(space.parameters, definition, value)
                if drawn is not None:
                    sampled[definition.sampled_name] = drawn[0]
        if sampled and sampled not in found:
            found.append(sampled)
    return tuple(found)


def matching(space: CellSpace, name: str, point: Point) -> list[Definition]:
    """Return the definitions of a parameter that can hold at a point."""
    return [
        definition
        for definition in space.definitions(name)
        if all(_meets(space, condition, allowed, point) for condition, allowed in definition.when.items())
    ]


def as_sampled(parameters: Parameters, definition: Definition, value: Any) -> tuple[Any] | None:
    """Return (what the sampler would draw,) to get a value, None where it cannot be drawn."""
    if definition.kind == "categorical":
        for label, meant in definition.choices.items():
            if _same(value, label) or _same(value, meant):
                return (label,)
        return None
    try:
        number = parameters.check(definition.parameter, value)
    except ConfigError:
        return None
    if not isinstance(number, int | float) or not definition.low <= number <= definition.high:
        return None
    if definition.step:
        steps = (number - definition.low) / definition.step
        if abs(steps - round(steps)) > 1e-9 * max(1, steps):
            return None
    return (number,)


def _same(first: Any, second: Any) -> bool:
    return first == second and isinstance(first, bool) == isinstance(second, bool)


def _meets(space: CellSpace, condition: str, allowed: tuple[Value, ...], point: Point) -> bool:
    """Say whether a point leaves a condition possible."""
    if condition not in point:
        return True
    values = {
        definition.choices[drawn[0]] if definition.kind == "categorical" else drawn[0]
        for definition in space.definitions(condition)
        if (drawn := as_sampled(space.parameters, definition, point[condition])) is not None
    }
    return any(value in allowed for value in values)
