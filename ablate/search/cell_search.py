"""The search inside one cell: an Optuna study that is a view of the ledger."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import Trial, TrialState

from ablate.metrics import Metric
from ablate.search.journal import Journal
from ablate.search.pruning import build_pruner, startup_trials
from ablate.search.samplers import build_sampler
from ablate.seeds import derive_seed
from ablate.store.declaration import num_shared
from ablate.store.record import TrialRecord
from ablate.sweepfile.cells import Cell
from ablate.sweepfile.grid_points import Place, any_order, num_points, place, shuffled_grid
from ablate.sweepfile.shared_points import shared_point
from ablate.tasks.registry import Value


def new_storage(file: Path) -> optuna.storages.BaseStorage:
    """Return an empty journal storage in a file that optuna-dashboard can open; an older one is replaced."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna.storages.JournalStorage(Journal(file))


class CellSearch:
    """Proposes the configurations of one cell and learns from their results.

    `seed` is the study's. Shared points derive from (seed, trial number), what a sampler draws from (seed, cell, trial
    number), so a proposal depends on nothing but the proposals and results before it. Proposals are numbered from 0
    without gaps, in Optuna as here.

    In a finite space no point is proposed again while another one was tried less often, by no sampler. Known points
    are proposed as they are.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        cell: Cell,
        *,
        sampler: str,
        pruner: str,
        num_tune: int,
        num_epochs: int,
        seed: int,
        objective: Metric,
    ) -> None:
        self.cell = cell
        self.sampler = sampler
        self.seed = seed
        self.objective = objective
        self.num_startup = startup_trials(num_tune)
        self.num_shared = num_shared(sampler, num_tune)
        self.is_finite = num_points(cell.space) is not None
        self._definitions = {d.sampled_name: d for name in cell.space.tuned for d in cell.space.definitions(name)}
        self._num_tried: Counter[Place] = Counter()
        self._places: dict[Place, dict[str, Any]] = {}
        order = derive_seed(seed, "grid", cell.key)
        self.points = shuffled_grid(cell.space, order) if sampler == "grid" else list(cell.start)
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction=self._direction,
            pruner=build_pruner(pruner, num_tune, num_epochs),
        )
        self.study.set_user_attr("cell", cell.key)
        self.study.set_metric_names([objective.name])
        self.trials: dict[int, Trial] = {}  # Those that have not ended.
        self.epochs: dict[int, int] = {}
        self.judged: dict[int, Trial] = {}

    @property
    def _direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.objective.direction == "max" else "minimize"

    def ask(self, number: int, known: dict[str, Any] | None = None) -> tuple[dict[str, Value], dict[str, Any]]:
        """Return (tuned parameters, the sampler's own values) of a proposal; `known` values are repeated."""
        given = self._given(number) if known is None else known
        is_open = known is None and (given is None or number < len(self.points))
        self.study.sampler = self._build_sampler(number) if is_open else optuna.samplers.RandomSampler(seed=0)
        if given is not None:
            self.study.enqueue_trial(dict(given))
        trial = self.study.ask()
        if trial.number != number:
            raise RuntimeError(f"Optuna numbered trial {number} of cell {self.cell.key} as {trial.number}")
        tuned = self.cell.space.suggest(trial)
        self.trials[number] = trial
        if self.is_finite:
            self._num_tried[place(self._definitions, trial.params)] += 1
        return tuned, dict(trial.params)

    def _given(self, number: int) -> Mapping[str, Any] | None:
        """Return what is known of a proposal before the study is asked, by sampled name; None where nothing is."""
        start = self.points[number] if number < len(self.points) else None
        if self.sampler == "grid":
            return start
        if number < self.num_shared:
            point = shared_point(self.cell.space, self.seed, number, start)
        elif self.is_finite and start is None:
            point = self._draw(number)
        else:
            return start
        return self._least_tried(point) if self.is_finite and start is None else point

    def _draw(self, number: int) -> dict[str, Any]:
        """Return what the study would propose, without proposing it: what a trial has drawn cannot be changed."""
        study = optuna.create_study(direction=self._direction, sampler=self._build_sampler(number))
        study.add_trials(self.study.get_trials(deepcopy=False))
        trial = study.ask()
        self.cell.space.suggest(trial)
        return dict(trial.params)

    def _least_tried(self, point: dict[str, Any]) -> dict[str, Any]:
        """Return a point of a finite space, or another one if that was tried less often.

        It is one of those tried least often, one that differs from the point in the fewest parameters, and of these
        the one that the seed chooses.
        """
        wanted = place(self._definitions, point)
        if not self._num_tried[wanted]:
            return point
        if not self._places:
            self._places = {place(self._definitions, each): each for each in any_order(self.cell.space)}
        least = min(self._num_tried[other] for other in self._places)
        if self._num_tried[wanted] == least:
            return point
        distances = {
            other: len({name for name, _ in other ^ wanted})
            for other in self._places
            if self._num_tried[other] == least
        }
        nearest = min(distances.values())
        among = (other for other, distance in distances.items() if distance == nearest)
        return self._places[min(among, key=lambda other: derive_seed(self.seed, "untried", str(sorted(other))))]

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Tell the pruner a trial's objective after an epoch, counted from 1; return whether to stop it.

        An epoch that a restarted trial reports once more was judged before and stops nothing. A trial whose record was
        lost runs when later ones are there: it is judged as it was then, by those of lower numbers.
        """
        if epoch <= self.epochs.get(number, 0):
            return False
        self.epochs[number] = epoch
        trial = self.trials[number]
        trial.report(value, epoch)
        decision = trial.should_prune()  # The pruner notes the value at its rungs.
        if number in self.judged:
            self.judged[number].report(value, epoch)
            decision = self.judged[number].should_prune()
        return decision

    def judge_as_before(self, number: int) -> None:
        """Have a trial judged by a study of the trials of lower numbers alone."""
        study = optuna.create_study(direction=self._direction, pruner=self.study.pruner)
        study.add_trials(self.study.get_trials()[:number])
        self.judged[number] = study.ask()

    def tell(self, number: int, record: TrialRecord) -> None:
        """Tell the study how a trial ended: a diverged one as the worst value, or as failed where there is none.

        Epochs that were not reported in this run are put before the pruner again: it notes the values at its rungs.
        """
        trial = self.trials[number]
        trial.set_user_attr("key", record.key)
        # A trial reports the worst value for the epoch in which it diverged; its curve does not have that epoch.
        worst = self.objective.worst
        last = [worst] if record.state == "diverged" and worst is not None else []
        for epoch, value in enumerate([*record.curves.get(self.objective.name, []), *last], start=1):
            self.report(number, epoch, value)
        if record.state == "complete":
            self.study.tell(trial, record.metrics[self.objective.name])
        elif record.state == "diverged" and worst is not None:
            self.study.tell(trial, worst)
        else:
            self.study.tell(trial, state=TrialState.PRUNED if record.state == "pruned" else TrialState.FAIL)
        del self.trials[number]

    def _build_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seed(self.seed, "sampler", self.cell.key, number) % 2**32
        return build_sampler(self.sampler, num_startup=self.num_startup, seed=seed)
