"""Quasi-random points that all cells of a sweep share.

A study has one Sobol' sequence of NUM_COORDINATES dimensions (Sobol' 1967), scrambled by the study's seed (Matoušek
1998, as scipy.stats.qmc.Sobol does it). Every parameter has a coordinate of its own, which follows from the seed and
the parameter's name. So point k gives a parameter the same number in [0, 1) in every cell, whatever else is tuned
there and in which order. All definitions of a parameter read its one coordinate.

The first 2^m points of a coordinate lie in different 2^m-ths of [0, 1). Two coordinates of a sequence can agree in
their leading digits, however they are scrambled: half of all pairs do in the first 4 points, a quarter in the first 8.
With the seed in the choice of coordinates other parameters go together in another study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ablate.seeds import derive_seed
from ablate.sweepfile.grid_points import stepped
from ablate.sweepfile.space import CellSpace, Label

SEQUENCE_VERSION = 1
"""Of the rule from seed, name and number to a value. It is part of the key of each cell that uses it."""
NUM_COORDINATES = 256
"""The most parameters that a sweep can tune with these points."""
BLOCK = 64
"""So many points are computed at once."""


def shared_point(space: CellSpace, seed: int, index: int, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return point `index` (from 0) of a study in a cell, by sampled name; `given` values replace its own.

    A parameter whose conditions do not hold at the point is not in it.
    """
    where = coordinates(seed, space.names)
    row = _block(seed, index // BLOCK)[index % BLOCK]
    sampled = {d.sampled_name: row[where[name]] for name in space.tuned for d in space.definitions(name)}
    trial = _Shared(sampled, given or {})
    space.suggest(trial)
    return trial.point


@lru_cache(maxsize=64)
def coordinates(seed: int, names: tuple[str, ...]) -> dict[str, int]:
    """Return the coordinate of each name; no two have the same.

    `names` are all tuned names of a sweep file, so that all its cells agree. A name takes the first coordinate of its
    own pseudo-random list that is free. All first choices come before any second one, and of two equal choices the
    alphabet decides. So a name's coordinate depends on another name only where that one wants the same.

    Raises:
        ValueError: There are more names than coordinates.
    """
    if len(names) > NUM_COORDINATES:
        raise ValueError(f"{len(names)} names need more than {NUM_COORDINATES} coordinates")
    taken: dict[int, str] = {}
    waiting, choice = sorted(names), 0
    while waiting:
        for name in waiting:
            taken.setdefault(derive_seed(seed, "coordinate", name, choice) % NUM_COORDINATES, name)
        placed = set(taken.values())
        waiting, choice = [name for name in waiting if name not in placed], choice + 1
    return {name: coordinate for coordinate, name in taken.items()}


@lru_cache(maxsize=64)
def _block(seed: int, number: int) -> list[list[float]]:
    """Return the points from number · BLOCK on, (BLOCK, NUM_COORDINATES) numbers in [0, 1)."""
    # It takes a second to load, and only some samplers need it.
    from scipy.stats.qmc import Sobol

    engine = Sobol(NUM_COORDINATES, scramble=True, rng=derive_seed(seed, "sequence"))
    if number:
        engine.fast_forward(number * BLOCK)
    points: list[list[float]] = engine.random(BLOCK).tolist()
    return points


class _Shared:
    """Stands in for a trial: takes what is given, else what its numbers in [0, 1) say."""

    def __init__(self, numbers: Mapping[str, float], given: Mapping[str, Any]) -> None:
        self._numbers = numbers
        self._given = given
        self.point: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        u = self._numbers[name]
        if step is not None:
            value = stepped(low, high, step, int(u * (round((high - low) / step) + 1)))
        elif log:
            value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        else:
            value = low + u * (high - low)
        return float(self._take(name, min(max(value, low), high)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        u = self._numbers[name]
        if log:
            # Each integer has the length of log [value - 1/2, value + 1/2], as in Optuna.
            first, last = math.log(low - 0.5), math.log(high + 0.5)
            value = min(max(round(math.exp(first + u * (last - first))), low), high)
        else:
            value = low + step * int(u * ((high - low) // step + 1))
        return int(self._take(name, value))

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        return self._take(name, choices[int(self._numbers[name] * len(choices))])

    def _take(self, name: str, value: Any) -> Any:
        self.point[name] = self._given.get(name, value)
        return self.point[name]
