"""The places where Ray Tune asks us something: what to run next, what to do with a result, whether to stop."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from ablate.run.launch.ray_private import forget_ended_trials
from ablate.run.pack import failed
from ablate.run.schedule import PackAssignment, Schedule
from ablate.signals import was_interrupted
from ablate.store.record import TrialRecord

log = logging.getLogger(__name__)
MAX_RETRIES = 2
"""Of a pack whose worker was lost."""
LOST = "the worker or its node was lost, also after two retries"


class Packs:
    """The packs that are running, by Ray Tune's trial id, and the first error in our own code."""

    def __init__(self, schedule: Schedule, describe: Callable[[PackAssignment], dict[str, Any]]) -> None:
        self.schedule = schedule
        self.describe = describe
        self.running: dict[str, PackAssignment] = {}
        self.has_letters: set[str] = set()
        self.error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle to nothing: Ray Tune snapshots searcher and scheduler, and nobody reads the snapshot."""
        return {}

    def fail(self, error: BaseException) -> None:
        """Remember an error of ours; nothing new is launched after it."""
        if self.error is None:
            self.error = error
            log.debug("%s", traceback.format_exc())


class ScheduleSearcher(Searcher):
    """Hands out the packs of a schedule. An exception here would abort the experiment, so none leaves."""

    def __init__(self, packs: Packs, mailbox: Any) -> None:
        super().__init__(metric="epoch", mode="max")
        self.packs = packs
        self.mailbox = mailbox

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next pack's config, None to wait, or FINISHED."""
        packs = self.packs
        if packs.error is not None or packs.schedule.is_finished():
            return str(Searcher.FINISHED)
        try:
            pack = packs.schedule.next_pack()
        except Exception as error:
            packs.fail(error)
            return str(Searcher.FINISHED)
        if pack is None:
            return None
        packs.running[trial_id] = pack
        return packs.describe(pack)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand the records back; a pack without records ended through the machine, not through its training."""
        pack = self.packs.running.pop(trial_id, None)
        if pack is None:
            return
        if trial_id in self.packs.has_letters:
            self.packs.has_letters.discard(trial_id)
            self.mailbox.clear.remote(trial_id)
        try:
            if result and "records" in result:
                records = [TrialRecord(**record) for record in result["records"]]
                result["records"].clear()  # Ray Tune keeps the last result of every trial; the ledger has the records.
            elif error:
                records = [
                    failed(request, proposal.task, "infrastructure", LOST)
                    for request, proposal in zip(pack.requests, pack.proposals, strict=True)
                ]
            else:
                return
            self.packs.schedule.on_finished(pack, records)
        except Exception as problem:
            self.packs.fail(problem)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the ledger is the state."""


class CellPruning(FIFOScheduler):
    """Asks the cell's pruner after each epoch and leaves the members to stop in the mailbox."""

    def __init__(self, packs: Packs, mailbox: Any) -> None:
        super().__init__()
        self.packs = packs
        self.mailbox = mailbox

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Leave the letter before CONTINUE is returned, because the pack looks as soon as its report returns."""
        pack = self.packs.running.get(trial.trial_id)
        if pack is not None and "values" in result and self.packs.error is None:
            try:
                members = self.packs.schedule.on_values(pack, result["epoch"], result["values"])
                if members:
                    ray.get(self.mailbox.put.remote(trial.trial_id, result["epoch"], members))
                    self.packs.has_letters.add(trial.trial_id)
            except Exception as error:
                self.packs.fail(error)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Drop the trials that ended before this one, which Ray Tune still works with."""
        forget_ended_trials(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Say that a pack is tried again after its worker was lost. (A Tune callback would make Tune import mlflow.)"""
        pack = self.packs.running.get(trial.trial_id)
        if pack is None or trial.num_failures > MAX_RETRIES:
            return
        cell = self.packs.schedule.studies[pack.study].declared.name
        for proposal in pack.proposals:
            log.warning(
                "the worker of %s %s was lost; the trial goes on from its checkpoint elsewhere (retry %d of %d)",
                cell, proposal.name, trial.num_failures, MAX_RETRIES,
            )  # fmt: skip


class Deadline(Stopper):
    """Stops everything at a value of `time.monotonic()`, after a signal or an error, also while no trial reports."""

    def __init__(self, deadline: float, packs: Packs) -> None:
        self.deadline = deadline
        self.packs = packs

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the time is over, or an error or a signal came that Ray Tune did not see."""
        return was_interrupted() or self.packs.error is not None or time.monotonic() >= self.deadline
