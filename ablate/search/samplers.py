"""Samplers: what proposes the next configuration of a cell."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ablate.sweepfile.space import CellSpace, Definition


def build_sampler(
    name: str, space: CellSpace, *, index: int, num_startup: int, seed: int, sequence_seed: int
) -> optuna.samplers.BaseSampler:
    """Return a sampler for one proposal.

    Args:
        name: tpe, random, qmc or grid.
        space: What is searched in the cell.
        index: Which point of a quasi-random sequence it is, from 0; below 0 for a given point.
        num_startup: How many trials TPE draws at random.
        seed: The proposal's own.
        sequence_seed: The cell's: it scrambles the quasi-random sequence.
    """
    if name == "tpe":
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=num_startup, seed=seed, constant_liar=True
        )
    if name == "qmc" and index >= 0:
        return _Sequence(space, index, sequence_seed)
    return optuna.samplers.RandomSampler(seed=seed)


class _Sequence(optuna.samplers.QMCSampler):
    """One point of a scrambled Sobol' sequence over all definitions of a cell.

    Optuna counts the points in the study and takes the space from the first trial. Here the caller counts, and every
    definition has a coordinate, used or not: so point k is the same whatever ran before, also where definitions depend
    on conditions.
    """

    def __init__(self, space: CellSpace, index: int, seed: int) -> None:
        super().__init__(
            scramble=True, seed=seed, independent_sampler=optuna.samplers.RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )  # fmt: skip
        self._space = {d.sampled_name: distribution(d) for name in space.tuned for d in space.definitions(name)}
        self._index = index

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return dict(sorted(self._space.items()))

    def _find_sample_id(self, study: Any, search_space: Any) -> int:
        return self._index


def distribution(definition: Definition) -> BaseDistribution:
    """Return Optuna's form of a definition."""
    if definition.kind == "categorical":
        return CategoricalDistribution(list(definition.choices))
    low, high, log, step = definition.low, definition.high, definition.log, definition.step
    if definition.kind == "int":
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)
