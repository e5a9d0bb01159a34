"""All points of a cell's space, for the grid sampler."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from ablate.sweepfile.space import CellSpace, Label

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


def stepped(low: float, high: float, step: float, index: int) -> float:
    """Return a value of a stepped range, from 0; the last is `high`, whatever the rounding."""
    return min(low + index * step, high)


def _walk(space: CellSpace) -> Iterator[_Path]:
    """Yield one walk through the space for each point: the last decision that has a next option takes it."""
    way: list[int] = []
    while True:
        trial = _Path(way)
        space.suggest(trial)
        yield trial
        way = trial.taken
        while way and way[-1] + 1 == trial.num_options[len(way) - 1]:
            way.pop()
        if not way:
            return
        way[-1] += 1


class _Path:
    """Stands in for a trial: takes the options that it is told, then the first ones, and notes how many there were."""

    def __init__(self, way: Sequence[int]) -> None:
        self._way = list(way)
        self.taken: list[int] = []
        self.num_options: list[int] = []
        self.point: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        if step is None:
            raise ValueError(f"{name} has no step")
        # One more than MAX_POINTS tells that there are too many.
        num = min(round((high - low) / step), MAX_POINTS) + 1
        self.point[name] = stepped(low, high, step, self._take(name, range(num)))
        return float(self.point[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._take(name, range(low, high + 1, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        return self._take(name, choices)

    def _take(self, name: str, options: Sequence[Any]) -> Any:
        position = len(self.taken)
        index = self._way[position] if position < len(self._way) else 0
        self.taken.append(index)
        self.num_options.append(len(options))
        self.point[name] = options[index]
        return options[index]
