"""A sweep that is scheduled in this process; its trials end as a test makes up, instead of training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ablate.run.plan import make_plan
from ablate.run.runner import study_runs
from ablate.run.schedule import Schedule
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.tasks.image_classification.config import KINDS, resolve

FILE = """
name: small
fixed: {epochs: 9, batch_size: 32}
axes:
  depth: [8, 14]
  arm: {plain: {shortcut: none}, residual: {shortcut: identity}}
tune:
  lr: {low: 1e-4, high: 1, log: true}
  optimizer: [sgd, adam]
  momentum: {low: 0, high: 0.99, when: {optimizer: sgd}}
budget: {trials_per_cell: 7}
confirm: {seeds: 3}
report: {baseline: plain}
"""


def stamps(task) -> dict[str, str]:
    config = resolve(task.settings)
    return {kind: config.row(kind).stamp for kind in KINDS}


class Sweep:
    """A sweep whose trials end as `score(settings, phase)` says."""

    def __init__(self, tmp_path: Path, *overrides: str, score=None):
        file = tmp_path / "small.yaml"
        file.write_text(FILE)
        self.plan = make_plan(file, None, overrides, tmp_path / "runs")
        self.plan.declare()
        self.score = score or (lambda settings, phase: 1 - abs(settings["lr"] - 0.1))
        self.ended = []
        self.ledger = Ledger(self.plan.out)
        self.schedule = Schedule(
            self.plan.declaration,
            study_runs(self.plan),
            self.plan.folder,
            self.ledger,
            self.plan.spec.budget.batch,
        )
        self.reused = []
        self.schedule.listener = lambda cell, proposal, record, is_new: (self.ended if is_new else self.reused).append(
            (cell.name, proposal, record)
        )

    def run(self, num_packs: int = 10**6, parallel: int = 1):
        """End packs, `parallel` at a time, the last launched first; leave the rest running."""
        for _ in range(num_packs):
            packs = [pack for pack in (self.schedule.next_pack() for _ in range(parallel)) if pack is not None]
            if not packs:
                break
            for pack in reversed(packs):
                self.finish(pack)
        return self

    def finish(self, pack, state: str = "complete"):
        task, proposal = pack.requests[0], pack.proposals[0]
        value = self.score(task.settings, task.phase)
        stop_after = 9
        if value is None:
            state, stop_after = "diverged", 2
            if task.phase == "tune":  # as a pack does it: accuracy 0 for the epoch that it diverged in
                for epoch, accuracy in enumerate([0.0, 0.0, 0.0], start=1):
                    self.schedule.on_values(pack, epoch, [accuracy])
        if state == "complete" and task.phase == "tune":
            for epoch in range(1, 10):
                if self.schedule.on_values(pack, epoch, [value * epoch / 9]):
                    state, stop_after = "pruned", epoch
                    break
        record = TrialRecord(
            **dataclasses.asdict(task), state=state, num_epochs=stop_after,
            rows=stamps(task),
            metrics={"val_accuracy": value, "test_accuracy": value} if state == "complete" else {},
            curves={"val_accuracy": [(value or 0) * epoch / 9 for epoch in range(1, stop_after + 1)]},
            diverged_step=int(task.settings["lr"] * 1000) if state == "diverged" else None,
            diverged_epoch=3 if state == "diverged" else None,
        )  # fmt: skip
        self.schedule.on_finished(pack, [record])
        return proposal

    def proposals(self):
        return [(p.cell, p.phase, p.number, p.key) for p in self.plan.folder.read_proposals()]
