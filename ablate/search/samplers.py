"""Samplers: what proposes the next configuration of a cell."""

from __future__ import annotations

import optuna


def build_sampler(name: str, *, num_startup: int, seed: int) -> optuna.samplers.BaseSampler:
    """Return a sampler for one proposal that is neither a given point nor a shared one.

    Args:
        name: auto, tpe, random, qmc or grid.
        num_startup: How many trials tpe draws at random. After shared points TPE is guided by whatever has ended.
        seed: The proposal's own.
    """
    if name in ("auto", "tpe"):
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=num_startup if name == "tpe" else 1, seed=seed,
            constant_liar=True,
        )  # fmt: skip
    return optuna.samplers.RandomSampler(seed=seed)
