"""A sweep that never ran: folder and ledger written through their own interfaces, with known numbers."""

from __future__ import annotations

import dataclasses
import math
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.metrics import Metric
from ablate.store.declaration import Declaration, DeclaredCell, DeclaredClaim, Proposal, SweepFolder
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.tasks.image_classification.config import OBJECTIVE, measured
from ablate.tasks.image_classification.task import TASK

DEPTHS = ("20", "56", "110")
ARMS = ("residual", "plain", "plain+ortho")
# Accuracy after the last epoch, by arm and depth.
TRUTH = {
    ("residual", "20"): 0.952, ("residual", "56"): 0.948, ("residual", "110"): 0.941,
    ("plain", "20"): 0.949, ("plain", "56"): 0.862, ("plain", "110"): 0.103,
    ("plain+ortho", "20"): 0.953, ("plain+ortho", "56"): 0.936, ("plain+ortho", "110"): 0.921,
}  # fmt: skip
NUM_EPOCHS = 12
# Confirm trials of two arms at one depth, whose difference is clear.
GAIN = {("plain+ortho", "56", seed): 0.9 + 0.001 * seed for seed in range(3)}
BASE = {("plain", "56", seed): 0.8 for seed in range(3)}


def accuracy(chance: float = 0.1, name: str = "test_accuracy") -> Metric:
    """Return an accuracy as the metric of a table."""
    return Metric(name=name, unit="percent", low=0.0, high=1.0, floor=chance, floor_name="chance")


TEST_ACCURACY, VAL_ACCURACY = accuracy(), accuracy(name="val_accuracy")


def declared_claim(
    text: str = "plain+ortho beats plain by at least 5 points at depth 56", **options: Any
) -> DeclaredClaim:
    """Return a claim as a declaration of the synthetic sweep holds it."""
    words = text.split()
    values = {
        "text": text, "axis": "arm", "better": words[0], "worse": words[2], "margin": 0.05, "levels": {"depth": "56"},
        "design": "d", "hash": "h", "num_seeds": 3, "looks": [3],
    }  # fmt: skip
    return DeclaredClaim(**{**values, **options})


@dataclass
class Synthetic:
    """Writes one sweep. `confirm` overrides confirm trials: (arm, depth, trial) to a state or an accuracy; "waiting"
    leaves one out, "running" proposes it only. Trials are counted over all studies. `freer_arm` has one more tuned
    parameter. With `num_items` confirm trials have outcomes of so many test items, whose mean is the accuracy."""

    out: Path
    sweep: str = "depth_ablation@smoke"
    num_tune: int = 6
    num_seeds: int = 3
    num_studies: int = 1
    is_tuned: bool = True
    num_items: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[str]] = field(default_factory=lambda: {"depth": list(DEPTHS), "arm": list(ARMS)})
    confirm: dict[tuple[str, str, int], str | float] = field(default_factory=dict)
    tune_states: tuple[str, ...] = ("complete", "complete", "pruned", "diverged", "complete", "failed")
    freer_arm: str = ""
    message: str = (
        'Traceback (most recent call last):\n  File "/home/alice/ablate/train.py", line 3\n'
        "RuntimeError: cannot open /home/alice/data/train.bin on alice@gpu7.example.org\n"
    )

    def write(self) -> Declaration:
        """Write the declaration, all proposals and all records."""
        declaration = self.declaration()
        folder, ledger = SweepFolder(self.out, self.sweep), Ledger(self.out)
        folder.write_declaration(declaration, "name: depth_ablation\n")
        for index, cell in enumerate(declaration.cells):
            for study in range(self.num_studies):
                for number in range(self.num_tune):
                    self._write_trial(folder, ledger, cell, index, study, "tune", number)
                for number in range(self.num_seeds):
                    self._write_trial(folder, ledger, cell, index, study, "confirm", number)
        return declaration

    def declaration(self) -> Declaration:
        """Return the declaration, with a folder that must never be shown."""
        cells = [
            DeclaredCell(
                key=f"cell{index}",
                levels=levels,
                settings={"dataset": "digits", "width": 8},
                tuned=self._tuned(levels.get("arm", "")),
            )
            for index, levels in enumerate(self._levels())
        ]
        report = {"rows": "depth", "columns": "arm", "metric": "test_accuracy", "baseline": "plain"}
        data = {"dataset": "digits", "digest": "5a3f0c9e", "num_train": 1097, "num_val": 350, "num_test": 350,
                "num_classes": 10, "image_shape": [1, 8, 8]}  # fmt: skip
        return Declaration(
            sweep=self.sweep,
            name="depth_ablation",
            profile="smoke",
            question="Do orthonormal weights let plain nets train at depths where they usually fail?",
            axes=self.axes,
            cells=cells,
            num_tune=self.num_tune,
            num_seeds=self.num_seeds,
            num_studies=self.num_studies,
            tune_key="budget.trials" if self.num_studies > 1 else "budget.trials_per_cell",
            sampler="tpe",
            pruner="median",
            seed=0,
            report={**report, **self.report},
            tune={
                "optimizer": ["sgd", "nesterov", "adam"],
                "lr": [
                    {"low": 1e-3, "high": 1.0, "log": True, "when": {"optimizer": ["sgd", "nesterov"]}},
                    {"low": 1e-5, "high": 1e-2, "log": True, "when": {"optimizer": "adam"}},
                ],
                "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "when": {"regularizer": "l2"}},
                "ortho_weight": {"low": 1e-6, "high": 0.1, "log": True, "when": {"regularizer": "orthonormal"}},
            },
            data=data,
            metrics=measured(data),
            notices=TASK.notices(data, [cell.settings for cell in cells]),
            objective=OBJECTIVE,
            file=str(self.out / "home" / "alice" / "search_spaces" / "depth_ablation.yaml"),
            history=["0f9d1c77aa", "b2c4e6f801"],
        )

    def _tuned(self, arm: str) -> list[str]:
        names = ["optimizer", "lr", "ortho_weight" if "ortho" in arm else "weight_decay"]
        names += ["warmup"] if arm and arm == self.freer_arm else []
        return names if self.is_tuned else []

    def _levels(self) -> list[dict[str, str]]:
        combinations: list[dict[str, str]] = [{}]
        for axis, levels in self.axes.items():
            combinations = [{**found, axis: level} for found in combinations for level in levels]
        return combinations

    def _write_trial(
        self, folder: SweepFolder, ledger: Ledger, cell: DeclaredCell, index: int, study: int, phase: str, number: int
    ) -> None:
        arm, depth = cell.levels.get("arm", "residual"), cell.levels.get("depth", "20")
        noise = random.Random(f"{index} {phase} {number}{f' of study {study}' if study else ''}")
        accuracy = min(1.0, TRUTH[arm, depth] + noise.gauss(0, 0.006))
        state = self.tune_states[number % len(self.tune_states)] if phase == "tune" else "complete"
        if phase == "confirm":
            asked = self.confirm.get((arm, depth, study * self.num_seeds + number), accuracy)
            state, accuracy = (asked, accuracy) if isinstance(asked, str) else ("complete", asked)
        elif number:
            accuracy = max(0.0, accuracy - 0.05 * number)  # the first tune trial wins
        if state == "waiting":
            return
        # Confirm trials repeat their study's winner, which is the first tune trial; the seed is shared by all arms.
        choice = 0 if phase == "confirm" else number
        seed = 1000 + number if phase == "confirm" else 10_000 + index * 100 + number
        seed += 1_000_000 * study
        # As many as there are settings: sweeps share a folder.
        fingerprint = f"{zlib.crc32(repr(sorted(cell.levels.items())).encode()):08x}{1000 * study + choice:08x}"
        key = f"{fingerprint}-{seed:014x}"
        settings = {
            **cell.settings, "depth": int(depth), "optimizer": ("sgd", "nesterov", "adam")[choice % 3],
            "lr": round(0.1 / (choice + 1) / (study + 1), 4), "modulation_window": [0, 0.1],
            **{name: 10.0 ** -(choice + 2) for name in cell.tuned[2:3]},
        }  # fmt: skip
        folder.append_proposal(
            Proposal(cell=cell.key, study=study, phase=phase, number=number, key=key, seed=seed, settings=settings)
        )
        if state != "running":
            record = self._record(key, fingerprint, seed, phase, state, settings, accuracy, noise)
            ledger.write(dataclasses.replace(record, study=study))

    def _outcomes(self, accuracy: float, noise: random.Random) -> list[float]:
        """Return which items are right: later ones are harder, with some luck."""
        luck = [item + noise.gauss(0, self.num_items / 20) for item in range(self.num_items)]
        right = sorted(range(self.num_items), key=luck.__getitem__)[: round(accuracy * self.num_items)]
        return [float(item in set(right)) for item in range(self.num_items)]

    def _record(
        self, key: str, fingerprint: str, seed: int, phase: str, state: str, settings: dict[str, Any],
        accuracy: float, noise: random.Random,
    ) -> TrialRecord:  # fmt: skip
        num_epochs = {"complete": NUM_EPOCHS, "pruned": 4, "diverged": 3, "failed": 0}[state]
        curve = [
            max(0.05, accuracy - (accuracy - 0.1) * math.exp(-epoch / 2.5) + noise.gauss(0, 0.004))
            for epoch in range(1, num_epochs + 1)
        ]
        metrics = {"val_accuracy": accuracy} if state == "complete" else {}
        items = {}
        if state == "complete" and phase == "confirm":
            metrics["test_accuracy"] = accuracy
        if "test_accuracy" in metrics and self.num_items:
            items["test_accuracy"] = self._outcomes(accuracy, noise)
            metrics["test_accuracy"] = math.fsum(items["test_accuracy"]) / self.num_items
        is_diverged = state == "diverged"
        messages = {"failed": self.message, "diverged": "the training loss is nan"}
        return TrialRecord(
            key=key, fingerprint=fingerprint, seed=seed, phase=phase, state=state, settings=settings,
            rows={"optimizer": "sgd 1"}, data_digest="5a3f0c9e", metrics=metrics,
            curves={"val_accuracy": curve, "train_accuracy": [min(1.0, value + 0.02) for value in curve]},
            num_epochs=num_epochs, num_parameters=4_960 * int(settings["depth"]), duration_s=36.0,
            reason="error" if state == "failed" else "", message=messages.get(state, ""),
            diverged_epoch=3 if is_diverged else None, diverged_step=41 if is_diverged else None,
            diverged_layer="stage2.block0.conv1" if is_diverged else "",
            provenance={"git_sha": "946241c", "git_dirty": "false", "torch": "2.14.0", "python": "3.11.7",
                        "device": "cpu", "hostname": "gpu7.example.org"},
            started_at="2025-12-31T23:59:24Z", finished_at="2026-01-01T00:00:00Z",
            items=items, items_digest="d" if items else "",
            sweep=self.sweep if state in ("pruned", "failed") else "",
        )  # fmt: skip
