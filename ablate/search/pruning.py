"""Pruners: they compare a trial with the other trials of its own cell only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna

REDUCTION = 3
"""Successive halving and Hyperband let one trial in three pass a rung."""


def startup_trials(num_tune: int) -> int:
    """Return how many trials of a cell run before sampler and pruner draw on results: about a third, at least 2."""
    return max(2, round(num_tune / 3))


def first_rung(num_epochs: int) -> int:
    """Return the epoch of the first rung of successive halving: a ninth of the epochs."""
    return max(1, num_epochs // REDUCTION**2)


def build_pruner(name: str, num_tune: int, num_epochs: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner for a cell.

    The median pruner stops no trial in the first third of its epochs. Successive halving is the asynchronous kind
    (Li et al. 2020, arXiv:1810.05934) with rungs at the first rung's epoch times 1, 3, 9 …; Hyperband (Li et al. 2018,
    arXiv:1603.06560) runs several of these with later and later first rungs.
    """
    if name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=startup_trials(num_tune), n_warmup_steps=max(1, num_epochs // 3)
        )
    if name == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung(num_epochs), reduction_factor=REDUCTION)
    if name == "hyperband":
        return _Hyperband(
            min_resource=first_rung(num_epochs), max_resource=num_epochs, reduction_factor=REDUCTION
        )  # fmt: skip
    return optuna.pruners.NopPruner()


class _Hyperband(optuna.pruners.HyperbandPruner):
    """Puts trial k into the same bracket in every cell: Optuna's own choice depends on the study's name too."""

    def _get_bracket_id(self, study: Any, trial: optuna.trial.FrozenTrial) -> int:
        return super()._get_bracket_id(SimpleNamespace(study_name="cell"), trial)  # type: ignore[arg-type]
