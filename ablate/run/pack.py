"""Training of a pack: one or more trials of one cell, side by side, an epoch at a time."""

from __future__ import annotations

import hashlib
import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from ablate.errors import is_out_of_memory
from ablate.registry import KINDS
from ablate.run.checkpoints import Checkpoints
from ablate.signals import was_interrupted
from ablate.store.ledger import TrialRecord
from ablate.tasks.image_classification.config import STATISTICS, TrialConfig, resolve
from ablate.tasks.image_classification.data.dataset import Dataset
from ablate.tasks.image_classification.methods.diagnostics import MEASURES
from ablate.tasks.image_classification.training.trainer import Divergence, Trainer
from ablate.tasks.request import Task

# Called after each epoch with the epoch, counted from 1, and each member's validation accuracy in [0, 1]: 0 where it
# diverged in this epoch, None where it ended before. Returns the members, counted from 0, to stop here.
Report = Callable[[int, list[float | None]], set[int]]

CHECKPOINT_EVERY_S = 30.0
log = logging.getLogger(__name__)


def report_nothing(epoch: int, values: list[float | None]) -> set[int]:
    """Stop no member."""
    return set()


@dataclass
class _Member:
    """A trial in training; `record` is set when it has ended."""

    task: Task
    config: TrialConfig
    started_at: str
    trainer: Trainer | None = None
    saved_at: float = field(default_factory=time.monotonic)
    record: TrialRecord | None = None
    note: str = ""


class Pack:
    """Trains its members until each is complete, pruned, diverged or failed."""

    def __init__(
        self,
        tasks: Sequence[Task],
        dataset: Dataset,
        device: torch.device,
        checkpoints: Checkpoints | None = None,
        provenance: dict[str, str] | None = None,
        weights: Checkpoints | None = None,
    ) -> None:
        self.dataset = dataset
        self.device = device
        self.checkpoints = checkpoints
        self.weights = weights
        self.provenance = {**(provenance or {}), "device": device_name(device)}
        self.members = [_Member(task, resolve(task.settings), _now()) for task in tasks]

    def train(self, report: Report = report_nothing) -> list[TrialRecord]:
        """Return the members' records, in the order of the tasks.

        An error inside a member's training ends that member as failed; an error of `report` is not caught.
        """
        for member in self.members:
            self._guarded(member, self._start)
        epoch = 0  # A member that goes on from a checkpoint reports the epochs before it once more.
        while any(member.record is None for member in self.members):
            epoch += 1
            values = [self._advance(member, epoch) for member in self.members]
            for index in report(epoch, values):
                self._guarded(self.members[index], lambda member: self._end(member, "pruned"))
            for member in self.members:
                if epoch >= member.config.epochs:
                    self._guarded(member, lambda member: self._end(member, "complete"))
        return [member.record for member in self.members if member.record is not None]

    def _start(self, member: _Member) -> None:
        member.trainer = self._new_trainer(member)
        if self.checkpoints is None or not self.checkpoints.path(member.task.key).exists():
            return
        state = self.checkpoints.load(member.task.key, self.device)
        try:
            # Layers that were looked at with other measures cannot be gone on with: the trial starts over.
            if state is not None and (not state.get("layers") or state.get("measures") == list(MEASURES)):
                member.trainer.load_state(state)
        except Exception as error:  # A file that torch reads can hold anything.
            log.warning("the checkpoint of the trial %s is none of its own: %r", member.task.key, error)
            member.trainer, state = self._new_trainer(member), None
        if state is None:
            member.note = "its checkpoint could not be read, so it started over"

    def _new_trainer(self, member: _Member) -> Trainer:
        return Trainer(member.config, self.dataset, member.task.seed, self.device)

    def _advance(self, member: _Member, epoch: int) -> float | None:
        if member.record is not None:
            return None
        self._guarded(member, lambda m: self._run_epoch(m, epoch))
        if member.record is not None:
            return 0.0
        if member.trainer is None:
            raise RuntimeError("a running member has no trainer")
        return member.trainer.progress.curves["val_accuracy"][epoch - 1]

    def _run_epoch(self, member: _Member, epoch: int) -> None:
        trainer = member.trainer
        if trainer is None or trainer.progress.epoch >= epoch:
            return
        divergence = trainer.run_epoch()
        if divergence is not None:
            self._finish(member, "diverged", divergence)
        elif self.checkpoints and time.monotonic() - member.saved_at >= CHECKPOINT_EVERY_S:
            try:
                self.checkpoints.save(member.task.key, trainer.state())
            except OSError as error:  # It costs time only if the trial is cut off.
                log.warning("no checkpoint of the trial %s: %s", member.task.key, error)
            member.saved_at = time.monotonic()

    def _guarded(self, member: _Member, step: Callable[[_Member], None]) -> None:
        if member.record is not None:
            return
        try:
            step(member)
        except BaseException as error:  # A user's row can raise SystemExit and KeyboardInterrupt too.
            if was_interrupted():
                raise
            is_memory = isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error)
            reason = "out_of_memory" if is_memory else "error"
            self._finish(member, "failed", reason=reason, message=traceback.format_exc())

    def _end(self, member: _Member, state: str) -> None:
        """Measure what a trial came to, complete or pruned; only a complete confirm trial sees the test images."""
        if member.trainer is None:
            raise RuntimeError("a running member has no trainer")
        started = time.perf_counter()
        metrics = {name: curve[-1] for name, curve in member.trainer.progress.curves.items() if name != "lr"}
        splits = {"val": self.dataset.val}
        is_confirmed = state == "complete" and member.task.phase == "confirm"
        if is_confirmed:
            splits["test"] = self.dataset.test
        for name, split in splits.items():
            if name == "test":
                test_loss, metrics["test_accuracy"] = member.trainer.evaluate(split)
                # The ledger takes a NaN for damage, unless the validation images ended so too.
                if not math.isnan(test_loss) or math.isnan(metrics["val_loss"]):
                    metrics["test_loss"] = test_loss
            for statistics in STATISTICS:
                accuracy = member.trainer.evaluate(split, statistics)[1]
                metrics[f"{name}_accuracy_{statistics}_statistics"] = accuracy
        member.trainer.progress.duration_s += time.perf_counter() - started
        if self.weights and is_confirmed:
            self.weights.save(member.task.key, {"net": member.trainer.evaluated_net()})
        self._finish(member, state, metrics=metrics)

    def _finish(
        self,
        member: _Member,
        state: str,
        divergence: Divergence | None = None,
        metrics: dict[str, float] | None = None,
        reason: str = "",
        message: str = "",
    ) -> None:
        trainer, task = member.trainer, member.task
        member.record = TrialRecord(
            key=task.key,
            fingerprint=task.fingerprint,
            seed=task.seed,
            phase=task.phase,
            state=state,
            settings=task.settings,
            rows={kind: member.config.row(kind).stamp for kind in KINDS},
            data_digest=task.data_digest,
            metrics=metrics or {},
            curves=trainer.progress.curves if trainer else {},
            num_epochs=trainer.progress.epoch if trainer else 0,
            num_parameters=trainer.num_parameters if trainer else 0,
            duration_s=trainer.progress.duration_s if trainer else 0.0,
            reason=reason,
            message=divergence.message if divergence else message or member.note,
            diverged_epoch=divergence.epoch if divergence else None,
            diverged_step=divergence.step if divergence else None,
            diverged_layer=divergence.layer if divergence else "",
            weights_digest=weights_digest(trainer.net) if trainer and state == "complete" else "",
            layers=layer_columns(trainer) if trainer else {},
            provenance=self.provenance,
            started_at=member.started_at,
            finished_at=_now(),
        )
        member.trainer = None


def layer_columns(trainer: Trainer) -> dict[str, list[Any]]:
    """Return the diagnostics of a trial as the columns of the ledger's table of layers; empty without diagnostics."""
    if trainer.probe is None or not trainer.progress.layers:
        return {}
    names, num_epochs = trainer.probe.names, len(trainer.progress.layers)
    values = torch.stack(trainer.progress.layers).transpose(0, 1).flatten(1)
    return {
        "epoch": [epoch for epoch in range(1, num_epochs + 1) for _ in names],
        "position": list(range(len(names))) * num_epochs,
        "layer": names * num_epochs,
        **{name: row.tolist() for name, row in zip(MEASURES, values, strict=True)},
    }


def weights_digest(net: torch.nn.Module) -> str:
    """Return 16 hex digits over all weights and buffers, equal only where these are equal bit for bit."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def device_name(device: torch.device) -> str:
    """Return the class of device, for example "cpu" or "cuda: NVIDIA A100"."""
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
