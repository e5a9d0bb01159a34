"""Running a pack: one or more trials of one cell, side by side, an epoch at a time, whatever their task is.

Here, for all tasks, pruning, divergence, lack of memory, errors and checkpoints become records.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablate.errors import AblateError, is_out_of_memory
from ablate.metrics import is_of_test_data
from ablate.places import Place
from ablate.run.checkpoints import Checkpoints
from ablate.signals import was_interrupted
from ablate.store.record import TrialRecord
from ablate.tasks.base import Divergence, Items, Task, Training, Trial, TrialError, checked_items, items_digest

# Called after each epoch with the epoch, counted from 1, and each member's objective: its worst value where the member
# diverged in this epoch, None where it ended before or there is no worst. Returns the members, from 0, to stop here.
Report = Callable[[int, list[float | None]], set[int]]

CHECKPOINT_EVERY_S = 30.0
MAX_MESSAGE = 20_000
"""Characters of a message that are kept, from its end."""
log = logging.getLogger(__name__)


def report_nothing(epoch: int, values: list[float | None]) -> set[int]:
    """Stop no member."""
    return set()


@dataclass(frozen=True, kw_only=True)
class Request:
    """A trial to be run, in plain values that survive JSON. Test data is touched only where `phase` is "confirm"."""

    key: str
    fingerprint: str
    seed: int
    phase: str
    settings: dict[str, Any]
    data_digest: str


def failed(request: Request, task: str, reason: str, message: str) -> TrialRecord:
    """Return the record of a trial that never began, or that nothing is left of; `task` is its task's stamp."""
    return TrialRecord(
        **dataclasses.asdict(request), task=task, state="failed", reason=reason, message=readable(message), rows={}
    )  # fmt: skip


@dataclass
class _Member:
    """A trial on its way; `record` is set when it has ended."""

    request: Request
    started_at: str
    training: Training | None = None
    saved_at: float = field(default_factory=time.monotonic)
    record: TrialRecord | None = None
    note: str = ""

    def is_over(self, epoch: int) -> bool:
        """Whether it had run to its end after an epoch."""
        return self.training is not None and self.training.is_complete and self.training.progress.epoch <= epoch


class Pack:
    """Runs its members until each is complete, pruned, diverged or failed.

    Below `folder` each trial may have a folder of its own.
    `start` stands in for the start of the task's trials where their data is in memory already.
    """

    def __init__(
        self,
        task: Task,
        requests: Sequence[Request],
        device: str,
        data: Place | None = None,
        checkpoints: Checkpoints | None = None,
        provenance: dict[str, str] | None = None,
        weights: Checkpoints | None = None,
        folder: Path | None = None,
        start: Callable[[Request], Training] | None = None,
    ) -> None:
        self.task = task
        self.checkpoints = checkpoints
        self.weights = weights
        self.provenance = {**(provenance or {}), "device": task.device_name(device)}
        self.members = [_Member(request, _now()) for request in requests]
        self._new = start or (
            lambda request: task.start(
                Trial(
                    settings=request.settings,
                    seed=request.seed,
                    device=device,
                    data=data,
                    is_confirm=request.phase == "confirm",
                    folder=folder / request.key if folder else None,
                )
            )
        )

    def run(self, report: Report = report_nothing) -> list[TrialRecord]:
        """Return the members' records, in the order of the requests.

        An error inside a member's training ends that member as failed; an error of `report` is not caught.
        """
        try:
            return self._run(report)
        finally:
            for member in self.members:
                if member.training is not None:  # It was cut off.
                    member.training.close()

    def _run(self, report: Report) -> list[TrialRecord]:
        for member in self.members:
            self._guarded(member, self._start)
        epoch = 0  # A member that goes on from a checkpoint reports the epochs before it once more.
        while any(member.record is None for member in self.members):
            epoch += 1
            running = [member for member in self.members if member.record is None]
            values = [self._advance(member, epoch) for member in self.members]
            # One that turned out to have ended after the epoch before it has nothing to report.
            if not all(member.is_over(epoch - 1) for member in running):
                for index in report(epoch, values):
                    self._guarded(self.members[index], lambda member: self._end(member, "pruned"))
            for member in self.members:
                if member.is_over(epoch):
                    self._guarded(member, lambda member: self._end(member, "complete"))
        return [member.record for member in self.members if member.record is not None]

    def _start(self, member: _Member) -> None:
        member.training = self._new(member.request)
        if self.checkpoints is None:
            return
        key = member.request.key
        try:
            content = self.checkpoints.load(key)
            if content is not None:
                member.training.load(content)
        except Exception as error:  # It can hold anything.
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            name = self.checkpoints.path(key).name
            log.warning("the checkpoint %s cannot be read, so its trial starts over: %s", name, reason)
            member.training = self._new(member.request)
            member.note = "its checkpoint could not be read, so it started over"

    def _advance(self, member: _Member, epoch: int) -> float | None:
        if member.record is not None:
            return None
        self._guarded(member, lambda m: self._run_epoch(m, epoch))
        objective = self.task.metric(self.task.objective)
        if member.record is not None:
            return objective.worst
        if member.training is None:
            raise RuntimeError("a running member has no training")
        return None if member.is_over(epoch - 1) else member.training.progress.curves[objective.name][epoch - 1]

    def _run_epoch(self, member: _Member, epoch: int) -> None:
        training = member.training
        if training is None or training.progress.epoch >= epoch or training.is_complete:
            return
        divergence = training.run_epoch()
        if divergence is not None:
            self._finish(member, "diverged", divergence)
        elif self.checkpoints and time.monotonic() - member.saved_at >= CHECKPOINT_EVERY_S:
            try:
                if content := training.save():
                    self.checkpoints.save(member.request.key, content)
            except OSError as error:  # It costs time only if the trial is cut off.
                log.warning("no checkpoint of the trial %s: %s", member.request.key, error)
            member.saved_at = time.monotonic()

    def _guarded(self, member: _Member, step: Callable[[_Member], None]) -> None:
        if member.record is not None:
            return
        try:
            step(member)
        except BaseException as error:  # A user's row can raise SystemExit and KeyboardInterrupt too.
            if was_interrupted():
                raise
            is_users = isinstance(error, TrialError | AblateError)
            cause = error.__cause__ if is_users and error.__cause__ is not None else error
            reason = "out_of_memory" if is_out_of_memory(cause) else "error"
            message = str(error) if is_users else traceback.format_exc()
            self._finish(member, "failed", reason=reason, message=message)

    def _end(self, member: _Member, state: str) -> None:
        """Measure what a trial came to, complete or pruned; only a complete confirm trial sees the test data."""
        if member.training is None:
            raise RuntimeError("a running member has no training")
        is_confirmed = state == "complete" and member.request.phase == "confirm"
        metrics = member.training.measure(is_confirmed)
        if not is_confirmed:  # Whatever a task returns: nothing before the table sees test data.
            metrics = {name: value for name, value in metrics.items() if not self._is_held_back(name)}
        items = member.training.items() if is_confirmed else Items()
        kept = checked_items(items, metrics)
        if self.weights and is_confirmed and (content := member.training.kept()):
            self.weights.save(member.request.key, content)
        digest = items_digest(items, member.request.data_digest)
        self._finish(member, state, metrics=metrics, items=kept, digest=digest)

    def _is_held_back(self, name: str) -> bool:
        """Whether a metric is for confirm trials only: on test data by its name, or the one that the table shows."""
        return name != self.task.objective and (is_of_test_data(name) or name == self.task.shown)

    def _finish(
        self,
        member: _Member,
        state: str,
        divergence: Divergence | None = None,
        metrics: dict[str, float] | None = None,
        items: dict[str, list[float]] | None = None,
        digest: str = "",
        reason: str = "",
        message: str = "",
    ) -> None:
        training, request = member.training, member.request
        unread = training.unread() if training and state == "complete" else []
        if training:
            training.close()
        progress = training.progress if training else None
        member.record = TrialRecord(
            key=request.key,
            fingerprint=request.fingerprint,
            seed=request.seed,
            phase=request.phase,
            state=state,
            task=self.task.stamp,
            settings=request.settings,
            rows=self.task.parameters.stamps(request.settings),
            data_digest=request.data_digest,
            metrics=metrics or {},
            items=items or {},
            items_digest=digest,
            curves={
                name: curve
                for name, curve in (progress.curves if progress else {}).items()
                if request.phase == "confirm" or not self._is_held_back(name)
            },
            num_epochs=progress.epoch if progress else 0,
            num_parameters=training.num_parameters if training else 0,
            duration_s=progress.duration_s if progress else 0.0,
            reason=reason,
            message=readable(divergence.message if divergence else message or member.note),
            diverged_epoch=divergence.epoch if divergence else None,
            diverged_step=divergence.step if divergence else None,
            diverged_layer=divergence.layer if divergence else "",
            unread=unread,
            weights_digest=training.digest() if training and state == "complete" else "",
            layers=training.tables() if training else {},
            provenance=self.provenance,
            started_at=member.started_at,
            finished_at=_now(),
        )
        member.training = None


def readable(message: str) -> str:
    """Return the end of a message as text that every file can hold."""
    return message[-MAX_MESSAGE:].encode("utf-8", errors="backslashreplace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
