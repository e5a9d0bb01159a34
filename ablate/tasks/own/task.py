"""What a user's function and a user's script have in common: metrics and parameters that the sweep file declares."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.errors import UsageError, choices_text
from ablate.metrics import Metric, is_of_test_data
from ablate.tasks.base import Task, Training, Trial
from ablate.tasks.own.parameters import OwnParameters

LENGTHS = ("epochs", "steps")
"""Parameters that say how often a trial reports, where the sweep file names none."""


class OwnTask(Task):
    """A user's own training, as the entry `task` of a sweep file describes it.

    `entry` is that entry, `values` are all that the file gives each parameter, and the paths in the entry lie below
    `folder`. Where `version` pins the code by hand, changed files keep their trials.
    """

    items = "test items"
    drawn = "all that the training draws at random"

    def __init__(self, entry: Mapping[str, Any], values: Mapping[str, Iterable[Any]], folder: Path) -> None:
        self.entry = dict(entry)
        self.folder = folder
        self.parameters = self.own_parameters = OwnParameters(values)
        self.metrics = read_metrics(entry)
        self.objective = self.metrics[0].name
        self.shown = self.metrics[min(1, len(self.metrics) - 1)].name
        self.length = entry.get("length") or next((name for name in LENGTHS if name in self.parameters.core), "")
        # A worker has no values: it is told what each trial sets.
        if values and entry.get("length") and self.length not in self.parameters.core:
            known = choices_text(self.length, self.parameters.core)
            raise UsageError(f"length must be a parameter of this file, but got '{self.length}'. {known}", "length")
        length = self.parameters.core.get(self.length)
        if length is not None and length.type != "int":
            if entry.get("length"):
                raise UsageError(f"length names {self.length}, which must be a whole number in every trial", "length")
            self.length = ""
        self.timeout_s = entry.get("trial_timeout")

    def reference(self) -> Any:
        """Return what `catalog.get` makes this task from in another process."""
        # `folder` of the entry is in the task's already.
        entry = {name: value for name, value in self.entry.items() if name != "folder"}
        return {"entry": {**entry, "digest": self.code_digest}, "folder": str(self.folder)}

    def check_unchanged(self, name: str) -> None:
        """Check in a worker that the code is what it was when the sweep was planned; `name` is how errors name it.

        Raises:
            UsageError: It is not.
        """
        if self.entry.get("digest", "") not in ("", self.code_digest):
            raise UsageError(f"{name}, or what it imports, changed while it was in use; run the command again")

    def num_epochs(self, settings: Mapping[str, Any]) -> int:
        """Return how often a trial reports, if a parameter says it; else 0."""
        asked = settings.get(self.length)
        return asked if isinstance(asked, int) and asked > 0 else 0

    def provenance(self) -> dict[str, str]:
        """Return the digest of the code, which `version` keeps out of the fingerprint."""
        return {"code": self.code_digest} if self.code_digest else {}

    @property
    def code_digest(self) -> str:
        """The digest of the user's files; "" where there are none."""
        return ""

    def wrong_trial(self, unread: Sequence[str]) -> str:
        """Return which parameters do nothing: the first complete trial of a cell never read them."""
        if not unread or self.entry.get("unread") == "allow":
            return ""
        return f"{unread[0]}\nA parameter that does nothing makes equal trials; `unread: allow` in `task` lets it be."

    def devices(self) -> tuple[str, ...]:
        """Return the names of the devices."""
        return ("auto", "cpu", "cuda", "mps")

    def device_name(self, device: str) -> str:
        """Return the class of a device; what is on it is the user's business."""
        chosen = chosen_device(device)
        if chosen == "cuda" and not self.num_gpus():
            raise UsageError("the device cuda is not there: this machine has no NVIDIA GPU")
        models = [_gpu_model(file) for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
        return f"cuda: {models[0]}" if chosen == "cuda" and models else chosen

    def num_gpus(self) -> int:
        """Return how many NVIDIA GPUs this process may use."""
        return num_gpus()


class MisdescribedTask(OwnTask):
    """Stands in for a task whose entry holds a mistake, so that the rest of its sweep file can be checked."""

    name = "unknown"

    def __init__(self, values: Mapping[str, Iterable[Any]], metrics: Sequence[str]) -> None:
        named = [{"name": name, "direction": "max"} for name in metrics or ("objective",)]
        super().__init__({"objective": named[0], "metrics": named[1:]}, values, Path())

    def start(self, trial: Trial) -> Training:
        """Start nothing."""
        raise NotImplementedError


def num_gpus() -> int:
    """Return how many NVIDIA GPUs this process may use, without a library of theirs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return present if visible is None else min(present, len([name for name in visible.split(",") if name.strip()]))


def user_seed(seed: int) -> int:
    """Return a trial's seed as users' code is given it: numpy takes 32 bits, other libraries 31."""
    return seed % 2**31


def chosen_device(device: str) -> str:
    """Return the device that "auto" stands for: cuda where there is a GPU, else the CPU."""
    return device if device != "auto" else "cuda" if num_gpus() else "cpu"


def _gpu_model(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "NVIDIA")


def read_metrics(entry: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the objective and the other metrics that a `task` entry declares.

    Raises:
        UsageError: A metric is declared twice, or it is not known which way is better; the second argument names the
            key of the entry.
    """
    objective = _metric(_mapping(entry["objective"]), None, "objective")
    if is_of_test_data(objective.name):
        raise UsageError(
            f"the objective is '{objective.name}', but tuning must not see test data: name a metric on validation data",
            "objective",
        )
    metrics = [objective, *(_metric(_mapping(each), objective, "metrics") for each in entry.get("metrics") or ())]
    for index, metric in enumerate(metrics):
        if metric.name in [other.name for other in metrics[:index]]:
            raise UsageError(f"the metric '{metric.name}' is declared twice", "metrics")
    return tuple(metrics)


def _mapping(metric: Any) -> dict[str, Any]:
    return {"name": metric} if isinstance(metric, str) else {k: v for k, v in metric.items() if v is not None}


def _metric(given: dict[str, Any], objective: Metric | None, key: str) -> Metric:
    name = given["name"]
    if objective is not None and Metric(name=name).quantity == objective.quantity:
        alike = {each: getattr(objective, each) for each in ("direction", "unit", "low", "high", "floor")}
        given = {**{each: value for each, value in alike.items() if value is not None}, **given}
    if "direction" not in given:
        rule = "say which way is better: {name: " + name + ", direction: max} or direction: min"
        raise UsageError(f"is more or less better in {name}? {rule}", key)
    if given.get("unit") == "percent":
        given = {"low": 0.0, "high": 1.0, **given}
    metric = Metric(**given)
    low, high, floor = metric.low, metric.high, metric.floor
    if low is not None and high is not None and low >= high:
        raise UsageError(f"low of {name} must be below high, but got {low:g} and {high:g}", key)
    if floor is not None and not metric.allows(floor):
        raise UsageError(f"the floor of {name} must be {metric.range_text()}, but got {floor:g}", key)
    return metric
