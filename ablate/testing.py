"""Checks of a task or a row of your own: what Ablate relies on, as errors that say what is wrong.

from ablate.testing import check_row, check_task

def test_my_regularizer():
    check_row("my_methods.py", "regularizer", "sparse", {"sparsity": 0.1})

def test_my_task(tmp_path):
    check_task("my_task.py", "line", tmp_path, {"epochs": 3})
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.tasks import catalog, registry
from ablate.tasks.base import Divergence, Prepared, Settings, Task, Training, Trial, TrialError, checked_items
from ablate.tasks.parameters import ConfigError


class ConformanceError(AssertionError):
    """A task or a row does not do what the rest of the program relies on."""


def check_task(
    file: str | Path | None, name: str, folder: Path, settings: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Run trials of a task as a sweep does, in this process; return the metrics of a confirm trial.

    Args:
        file: The user's file that registers it; None for a task that is known already.
        name: The task's.
        folder: Takes what the task prepares.
        settings: Parameters that differ from their defaults. A trial must have two epochs at least.

    Raises:
        UsageError: The file, the task or a setting is wrong.
        ConformanceError: It does not repeat its numbers, does not go on from what it saved, reports a metric that it
            does not declare, sees test data while tuning, has items whose mean is not their metric, or has a
            fingerprint that does not survive JSON.
    """
    if file is not None:
        registry.load_imports([Path(file)])
    task = catalog.get(name)
    resolved = task.parameters.resolve(settings or {})
    _check_declared(task, resolved)
    prepared = task.prepare(resolved, folder)
    task.remarks(resolved, prepared.facts)
    _expect(prepared.digest == task.prepare(resolved, folder).digest, "prepare gives another digest the second time")
    whole = _Run(task, resolved, prepared, seed=1, is_confirm=False)
    whole.go_on(whole.training.num_epochs)
    _check_epochs(task, whole)
    tuned = whole.training.measure(is_confirmed=False)
    confirmed = _finished(task, resolved, prepared, seed=1, until=0)
    _check_metrics(task, tuned, confirmed, whole.training)
    _same(confirmed, _finished(task, resolved, prepared, seed=1, until=0), "a trial with the same seed")
    _same(confirmed, _finished(task, resolved, prepared, seed=1, until=1), "a trial that goes on after its first epoch")
    metrics: dict[str, float] = confirmed["metrics"]
    return metrics


def check_row(
    file: str | Path | None, kind: str, name: str, settings: Mapping[str, Any] | None = None, *, task: str = ""
) -> dict[str, float]:
    """Train a small trial that uses a row, as `check_task` does, and check that the row makes a difference.

    A data set is not compared with another, nor is a row where the default one does not suit the data.

    Args:
        file: The user's file that registers it; None for a row that is known already.
        kind: Its kind, for example "regularizer".
        name: Its name.
        settings: Further parameters, its own among them.
        task: The task whose row it is, by default that of a sweep file which names none.

    Raises:
        UsageError: The file, the row or a setting is wrong.
        ConformanceError: As `check_task`, or the numbers are those of the default row.
    """
    if file is not None:
        registry.load_imports([Path(file)])
    asked = catalog.get(task or catalog.DEFAULT)
    registry.get(kind, name)
    with tempfile.TemporaryDirectory() as folder:
        found = check_task(None, asked.name, Path(folder), {**asked.small, **(settings or {}), kind: name})
        default = str(asked.parameters.core[kind].default)
        if name != default and kind not in asked.data_parameters:
            without = _metrics_of(asked, kind, default, {**asked.small, **(settings or {})}, Path(folder))
            _expect(without != found, f"{kind} '{name}' gives the numbers of '{default}'")
    return found


def _metrics_of(
    task: Task, kind: str, default: str, settings: Mapping[str, Any], folder: Path
) -> dict[str, float] | None:
    """Return the metrics with the default row of a kind; None where it does not go with the other settings."""
    others = task.parameters.active({kind: default})
    try:
        resolved = task.parameters.resolve({n: v for n, v in settings.items() if n in others and n != kind})
        prepared = task.prepare(resolved, folder)
        task.remarks(resolved, prepared.facts)
    except ConfigError:
        return None
    metrics: dict[str, float] = _finished(task, resolved, prepared, seed=1, until=0)["metrics"]
    return metrics


class _Run:
    """One trial under way, an epoch at a time."""

    def __init__(self, task: Task, settings: Settings, prepared: Prepared, seed: int, *, is_confirm: bool) -> None:
        plain = json.loads(json.dumps(settings))
        self.training: Training = task.start(
            Trial(settings=plain, seed=seed, device="cpu", data=prepared.path, is_confirm=is_confirm)
        )
        self.divergence: Divergence | None = None

    def go_on(self, until: int) -> None:
        """Run up to an epoch."""
        while self.training.progress.epoch < until and self.divergence is None:
            before = self.training.progress.epoch
            self.divergence = self.training.run_epoch()
            moved = self.training.progress.epoch - before
            _expect(moved == (self.divergence is None), f"run_epoch moved progress.epoch by {moved}")
        _expect(self.divergence is None, f"the trial diverged: {self.divergence}; give settings with which it does not")


def _finished(task: Task, settings: Settings, prepared: Prepared, seed: int, until: int) -> dict[str, Any]:
    """Return what a confirm trial comes to; after the epoch `until` it is saved and goes on in another object."""
    run = _Run(task, settings, prepared, seed, is_confirm=True)
    if until:
        run.go_on(until)
        content = run.training.save()
        run = _Run(task, settings, prepared, seed, is_confirm=True)
        run.training.load(content)
        _expect(run.training.progress.epoch == until, f"after load progress.epoch is {run.training.progress.epoch}")
    run.go_on(run.training.num_epochs)
    metrics = run.training.measure(is_confirmed=True)
    items = run.training.items()
    try:
        kept = checked_items(items, metrics)
    except TrialError as error:
        raise ConformanceError(str(error)) from None
    return {"curves": run.training.progress.curves, "metrics": metrics, "digest": run.training.digest(),
            "items": kept, "text for its items": items.of}  # fmt: skip


def _check_declared(task: Task, settings: Settings) -> None:
    names = [metric.name for metric in task.metrics]
    _expect(len(set(names)) == len(names), "a metric is declared twice")
    for which in ("objective", "shown"):
        _expect(getattr(task, which) in names, f"{which} is '{getattr(task, which)}', which is none of its metrics")
    _expect(task.length in task.parameters.core, f"length names the parameter '{task.length}', which there is not")
    plain = json.loads(json.dumps(settings))
    again = task.parameters.resolve(plain)
    _expect(again == settings, "its settings are others after JSON")
    _expect(task.fingerprint(again, "d") == task.fingerprint(settings, "d"), "its fingerprint is another after JSON")
    _expect(task.num_epochs(plain) >= 2, "the check needs a trial of two epochs at least: give settings")


def _check_epochs(task: Task, run: _Run) -> None:
    num, asked = run.training.num_epochs, task.num_epochs({task.length: run.training.num_epochs})
    _expect(num == asked, f"num_epochs of a trial is {num}, but its settings ask for {asked}")
    curve = run.training.progress.curves.get(task.objective, [])
    _expect(len(curve) == num, f"the curve of {task.objective} has {len(curve)} numbers after {num} epochs")


def _check_metrics(task: Task, tuned: Mapping[str, float], confirmed: Mapping[str, Any], training: Training) -> None:
    known = {metric.name for metric in task.metrics}
    found = confirmed["metrics"]
    for name in (task.objective, task.shown):
        _expect(name in found, f"a confirm trial has no {name}")
    _expect(task.objective in tuned, f"a tune trial has no {task.objective}")
    unknown = sorted(found.keys() - known - training.progress.curves.keys())
    _expect(not unknown, f"it measures {', '.join(unknown)}, which it does not declare")
    seen = sorted(name for name in tuned if name.startswith("test_"))
    _expect(not seen, f"a tune trial measures {', '.join(seen)}: tuning must not see test data")
    try:
        task.check_record(found, training.progress.curves)
    except ValueError as error:
        raise ConformanceError(str(error)) from None


def _same(first: Mapping[str, Any], second: Mapping[str, Any], what: str) -> None:
    for part in first:
        # As text, in which a NaN is equal to itself.
        _expect(repr(first[part]) == repr(second[part]), f"{what} has other {part}: {first[part]} and {second[part]}")


def _expect(is_right: bool, message: str) -> None:
    if not is_right:
        raise ConformanceError(message)
