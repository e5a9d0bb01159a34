"""All points of a cell's space: for the grid sampler, and for all others where the space is finite."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ablate.sweepfile.space import CellSpace, Definition, Label

MAX_POINTS = 10_000


def grid(space: CellSpace) -> list[dict[str, Any]]:
    """Return the points of a cell, by sampled name, at most MAX_POINTS + 1 of them; the last name varies fastest.

    A parameter whose conditions do not hold at a point is not in it. Numbers need a step, unless they are integers.
    """
    points: list[dict[str, Any]] = []
    for trial in _walk(space):
        points.append(trial.point)
        if len(points) > MAX_POINTS:
            break
    return points


def shuffled_grid(space: CellSpace, seed: int) -> list[dict[str, Any]]:
    """Return the points in an order of their own, so that an unfinished search or a pruner sees no corner first."""
    points = grid(space)
    random.Random(seed).shuffle(points)
    return points


def num_points(space: CellSpace) -> int | None:
    """Return how many points a cell has; None where a number has no step or there are more than MAX_POINTS."""
    definitions = [definition for name in space.tuned for definition in space.definitions(name)]
    if any(definition.kind == "float" and definition.step is None for definition in definitions):
        return None
    total = 0
    for trial in _walk(space, _free(space)):
        total += math.prod(map(len, trial.free.values()))
        if total > MAX_POINTS:
            return None
    return total


def any_order(space: CellSpace) -> Iterator[dict[str, Any]]:
    """Yield the points of a finite space, those that `grid` returns, in an order that does not matter; much faster."""
    for trial in _walk(space, _free(space)):
        for values in product(*trial.free.values()):
            yield {**trial.point, **dict(zip(trial.free, values, strict=True))}


def _free(space: CellSpace) -> set[str]:
    """Return the sampled names of the parameters on which no other one depends: they need not be walked."""
    definitions = [definition for name in space.tuned for definition in space.definitions(name)]
    deciding = {*space.parameters.kinds, *(name for definition in definitions for name in definition.when)}
    return {definition.sampled_name for definition in definitions if definition.parameter not in deciding}


def stepped(low: float, high: float, step: float, index: int) -> float:
    """Return a value of a stepped range, from 0; the last is `high`, whatever the rounding."""
    return min(low + index * step, high)


Place = frozenset[tuple[str, Any]]
"""A point by sampled name, with the numbers of steps instead of numbers: equal where only rounding differs."""


def place(definitions: Mapping[str, Definition], point: Mapping[str, Any]) -> Place:
    """Return the place of a point; `definitions` are those of a finite space, by sampled name."""
    return frozenset((name, _option(definitions[name], value)) for name, value in point.items())


def _option(definition: Definition, value: Any) -> Any:
    return value if definition.kind == "categorical" else round((value - definition.low) / (definition.step or 1))


def _walk(space: CellSpace, free: Collection[str] = ()) -> Iterator[_Path]:
    """Yield one walk through the space for each point: the last decision that has a next option takes it."""
    way: list[int] = []
    while True:
        trial = _Path(way, free)
        space.suggest(trial)
        yield trial
        way = trial.taken
        while way and way[-1] + 1 == trial.num_options[len(way) - 1]:
            way.pop()
        if not way:
            return
        way[-1] += 1


class _Path:
    """Stands in for a trial: takes the options that it is told, then the first ones, and notes how many there were.

    Of the names in `free` it takes the first option and notes all of them.
    """

    def __init__(self, way: Sequence[int], free: Collection[str]) -> None:
        self._way = list(way)
        self._free = free
        self.taken: list[int] = []
        self.num_options: list[int] = []
        self.point: dict[str, Any] = {}
        self.free: dict[str, Sequence[Any]] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        if step is None:
            raise ValueError(f"{name} has no step")
        # One more than MAX_POINTS tells that there are too many, here and below.
        num = min(round((high - low) / step), MAX_POINTS) + 1
        return float(self._take(name, _Steps(low, high, step, num)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._take(name, range(low, high + 1, step)[: MAX_POINTS + 1]))

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        return self._take(name, choices)

    def _take(self, name: str, options: Sequence[Any]) -> Any:
        if name in self._free:
            self.free[name] = options
            self.point[name] = options[0]
            return options[0]
        position = len(self.taken)
        index = self._way[position] if position < len(self._way) else 0
        self.taken.append(index)
        self.num_options.append(len(options))
        self.point[name] = options[index]
        return options[index]


class _Steps(Sequence[float]):
    """The values of a stepped range, made when they are asked for."""

    def __init__(self, low: float, high: float, step: float, num: int) -> None:
        self._range = (low, high, step)
        self._num = num

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._num:
            raise IndexError(index)
        return float(stepped(*self._range, index))
