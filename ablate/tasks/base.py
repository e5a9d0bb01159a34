"""The seam: a task is what a trial does. All else needs parameters in, numbers out, a seed and a place to stop."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any

from ablate.metrics import Metric
from ablate.places import Place
from ablate.tasks.parameters import Parameters
from ablate.tasks.registry import Value

Settings = dict[str, Value]
"""A whole configuration, flat: what `Parameters.resolve` returns."""


@dataclass(frozen=True)
class Divergence:
    """Where a trial went wrong: `epoch` counts from 1, `step` from 0 over the whole trial; `layer` is the first bad."""

    epoch: int
    step: int
    layer: str
    message: str


class TrialError(Exception):
    """What ended a trial in the user's own code: the text is for people, its last line says what and where.

    Raised `from` the error itself.
    """


lingering: list[Thread] = []
"""Threads of users' functions that were told to end and have not: this process must run no other trial."""


@dataclass
class Progress:
    """What a trial has so far, beside its own state. `curves` hold one number an epoch."""

    epoch: int = 0
    duration_s: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a task starts.

    `settings` is what `Parameters.resolve` returned; JSON may have made lists of its tuples. All random numbers follow
    from `seed`. `device` is "auto" or one of the task's `devices`. `data` is the prepared file, None without one.
    Test data may be touched only where `is_confirm`. `folder` is where the trial may write what else it makes, not
    there yet; None where nothing is kept.
    """

    settings: Settings
    seed: int
    device: str = "auto"
    data: Place | None = None
    is_confirm: bool = False
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Items:
    """What a complete confirm trial came to on each test item.

    `values` have for a metric one number a test item, all in one order; their mean is the metric. `of` says which
    items these are in which order: two trials have the same text only where these are the same. "" stands for those
    of the trial's data, whose digest says it.
    """

    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    of: str = ""


class Training(ABC):
    """One trial under way. An epoch is what lies between two of its reports, whatever a task does in it.

    `num_epochs` says after how many it is complete; a task whose trials end by themselves overrides `is_complete`. The
    trial is told to go on an epoch at a time, can be saved after
    each, and is measured at its end. Its numbers follow from its settings, its seed and its data alone.
    """

    progress: Progress
    num_epochs: int = 0
    num_parameters: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether it has nothing more to run."""
        return self.progress.epoch >= self.num_epochs

    @abstractmethod
    def run_epoch(self) -> Divergence | None:
        """Go on by one epoch and add to the curves, the objective among them; say where it diverged, if it did.

        A trial that ends by itself adds nothing where no epoch was left.
        """

    @abstractmethod
    def measure(self, is_confirmed: bool) -> dict[str, float]:
        """Return the metrics at the end; those on test data only if the trial is a complete confirm trial."""

    @abstractmethod
    def save(self) -> bytes:
        """Return all that is needed to go on from here; nothing where it cannot be cut off here."""

    @abstractmethod
    def load(self, content: bytes) -> None:
        """Go on from what `save` returned.

        Raises:
            Exception: It is none of this trial; the object is of no use then.
        """

    def digest(self) -> str:
        """Return a hash of what was trained, equal only where that is equal bit for bit; "" where there is none."""
        return ""

    def items(self) -> Items:
        """Return what the metrics on test data are means of; asked for after `measure`, of a confirm trial only."""
        return Items()

    def kept(self) -> bytes:
        """Return what was trained, for `confirm.keep_weights`; nothing where there is nothing to keep."""
        return b""

    def tables(self) -> dict[str, list[Any]]:
        """Return what was recorded of each epoch and part, as columns: epoch, position, layer, then numbers."""
        return {}

    def unread(self) -> list[str]:
        """Return the parameters that a complete trial was given and never looked at, where that can be known."""
        return []

    def close(self) -> None:  # noqa: B027 - most tasks hold nothing
        """End whatever still runs; called once, when the trial has ended in whatever way."""


@dataclass(frozen=True)
class Prepared:
    """Data that is ready: the file that workers read, None without one, its digest, and facts about it, as JSON."""

    path: Path | None = None
    digest: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What one epoch takes, in seconds, and what a trial and its checkpoint occupy, in MiB."""

    epoch_s: float
    memory_mib: float
    state_mib: float


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """How a measure is drawn. `is_log`: logarithmic colours, where zero is blank. `by_top`: divided by the value of
    the topmost layer that has one. `is_signed`: colours are symmetric about 0, logarithmic ones about 1."""

    measure: str
    title: str
    is_log: bool = False
    by_top: bool = False
    is_signed: bool = False


@dataclass(frozen=True, kw_only=True)
class SummaryCurve:
    """How a curve that sums up a trial's layers is drawn; `limits` are those of its axis."""

    name: str
    title: str
    is_log: bool = False
    limits: tuple[float, float] | None = None


class Task(ABC):
    """What a trial does. One object a task, stateless; `ablate.tasks.catalog` knows them by name.

    `version` is raised when the numbers of the procedure change: it is in the fingerprint of every trial, as is
    `origin`, the hash of the user's file that registered the task. `objective`
    is the metric that tuning optimises, after each epoch and at the end; `shown` the one of a table that names none.
    `alike` are the facts that sweeps in one table share, `items` is what the test data is made of and
    `drawn` what a seed draws, for prose.
    `small` are settings of a trial of two epochs or more that takes a second, for the checks of `ablate.testing`.
    `heat_maps` and `summary_curves` say how the columns of `Training.tables` and the curves that sum them up are drawn.
    `metrics` are all that a complete confirm trial can have. `length` is the parameter that says how many epochs a
    trial has. `data_parameters` choose the data, so that they cannot be tuned; `same_in_all` are those of them that
    all cells of a table share.
    """

    name: str
    version: int = 1
    origin: str = ""
    parameters: Parameters
    metrics: Sequence[Metric]
    objective: str
    shown: str
    length: str = "epochs"
    data_parameters: Sequence[str] = ()
    same_in_all: Sequence[str] = ()
    alike: Sequence[str] = ()
    items: str = "items"
    drawn: str = ""
    heat_maps: Sequence[HeatMap] = ()
    summary_curves: Sequence[SummaryCurve] = ()
    summary_title: str = ""
    summary_figure: str = "layers"
    published_note: str = ""
    small: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def start(self, trial: Trial) -> Training:
        """Return a trial that has not run yet.

        Raises:
            UsageError: The device is not there.
        """

    def metric(self, name: str) -> Metric:
        """Return the metric of a name.

        Raises:
            KeyError: There is none.
        """
        return {metric.name: metric for metric in self.metrics}[name]

    @property
    def stamp(self) -> str:
        """What fingerprints and records have of this task, for example "image_classification@1"."""
        return f"{self.name}@{self.version}" + (f"+{self.origin}" if self.origin else "")

    def fingerprint(self, settings: Mapping[str, Any], data_digest: str) -> str:
        """Return the fingerprint of a trial's configuration with the present versions of its rows and of the task."""
        return self.parameters.fingerprint(settings, self.parameters.stamps(settings), data_digest, self.stamp)

    def reference(self) -> Any:
        """Return plain values from which `catalog.get` makes this task in another process."""
        return self.name

    def provenance(self) -> dict[str, str]:
        """Return what else a record says of what its trial was computed with."""
        return {}

    def code(self) -> Mapping[str, Path]:
        """Return the user's files that workers on other machines need, by their place below one folder."""
        return {}

    def wrong_trial(self, unread: Sequence[str]) -> str:
        """Return why the first complete trial of a cell must stop its sweep; "" where it need not."""
        return ""

    def num_epochs(self, settings: Mapping[str, Any]) -> int:
        """Return how many epochs a trial of these settings has; 0 where it is not known before it has ended."""
        if not self.length:
            return 0
        core = self.parameters.core[self.length]
        return int(str(settings.get(self.length, core.default)))

    def work(self, settings: Mapping[str, Any]) -> float:
        """Return a rough measure of a trial's time: cells with more of it start first."""
        return float(max(1, self.num_epochs(settings)))

    def canonical(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings that are equal for two cells only if their trials do the same; what is tuned is left out."""
        return dict(settings)

    def prepare(self, settings: Settings, cache: Path) -> Prepared:
        """Return the data of a configuration; what it makes or fetches stays below `cache`.

        Raises:
            DataError: The data is not to be had, or the configuration asks too much of it.
        """
        return Prepared()

    def facts(self, prepared: Sequence[Prepared]) -> dict[str, Any]:
        """Return what the declaration says about the data of all cells."""
        return dict(prepared[0].facts)

    def check_facts(self, facts: Mapping[str, Any]) -> None:  # noqa: B027 - most tasks have none
        """Raise a ValueError where a declaration's facts are not what `facts` returns."""

    def measured(self, facts: Mapping[str, Any]) -> list[Metric]:
        """Return the metrics with their floors on these data."""
        return list(self.metrics)

    def largest(self, facts: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
        """Return the largest value that the data allows a parameter, and what it is, for errors."""
        return {}

    def remarks(self, settings: Settings, facts: Mapping[str, Any]) -> list[str]:
        """Return what the author should know of one whole configuration on its data before anything is trained.

        Raises:
            ConfigError: It does not suit the data.
        """
        return []

    def details(self, settings: Settings, facts: Mapping[str, Any]) -> list[str]:
        """Return what `train` says of a whole configuration before its first epoch."""
        return []

    def items_of(self, facts: Mapping[str, Any]) -> str:
        """Return what these test data are made of, for prose."""
        return self.items

    def data_line(self, facts: Mapping[str, Any]) -> str:
        """Return the data in one line for `plan` and the page; "" where there is none to speak of."""
        return ""

    def notices(self, facts: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what the data is too little to tell; `cells` are the settings of each."""
        return []

    def published(self, metric: str, settings: Mapping[str, Any]) -> str | None:
        """Return a published figure of the same experiment with its source; None where there is none."""
        return None

    def check_record(self, metrics: Mapping[str, float], curves: Mapping[str, Sequence[float]]) -> None:
        """Raise a ValueError where a record's numbers cannot be this task's: out of bounds, or NaN."""
        bounds = {metric.name: metric for metric in self.metrics}
        for name, numbers in [*((name, [number]) for name, number in metrics.items()), *curves.items()]:
            metric = bounds.get(name)
            if metric is not None and not all([metric.allows(number) for number in numbers]):
                wrong = next(number for number in numbers if not metric.allows(number))
                raise ValueError(f"{name[:50]} is {wrong}, but it must be {metric.range_text()}")

    def devices(self) -> tuple[str, ...]:
        """Return the names of the devices that it knows, there or not."""
        return ("auto", "cpu")

    def device_name(self, device: str) -> str:
        """Return the class of a device for provenance, for example "cpu" or "cuda: NVIDIA A100".

        Raises:
            UsageError: It is not there.
        """
        return "cpu"

    def num_gpus(self) -> int:
        """Return how many GPUs of this machine it can use."""
        return 0

    def cost(self, settings: Settings, device: str, data: Place | None) -> Cost | None:
        """Time a few steps on this hardware; None where that says nothing."""
        return None

    def cost_key(self, settings: Settings) -> dict[str, Value]:
        """Return the settings that the cost of an epoch depends on."""
        return dict(settings)


def refusal(metric: Metric, value: float) -> str:
    """Return why a value cannot be the metric's; "" where it can. NaN and infinite ones cannot."""
    if metric.allows(value) and math.isfinite(value):
        return ""
    hint = ": a metric in percent is a fraction" if metric.unit == "percent" and math.isfinite(value) else ""
    return f"{metric.name} must be {metric.range_text()}, but got {value:g}{hint}"


def check_measured(task: Task, numbers: Mapping[str, float]) -> None:
    """Check what a user's code measured against what its task declares.

    Raises:
        TrialError: A metric is out of its bounds or not finite.
    """
    for metric in task.metrics:
        if metric.name in numbers and (wrong := refusal(metric, numbers[metric.name])):
            raise TrialError(wrong)


ITEM_TOLERANCE = 1e-6
"""Of the largest item: what a metric may differ from the mean of its items, which are kept in single precision. One
of a million images is more."""


def checked_items(items: Items, metrics: Mapping[str, float]) -> dict[str, list[float]]:
    """Return the items of a trial with these metrics as its record has them, in single precision.

    Raises:
        TrialError: They are not finite numbers, as many for every metric, whose mean is the metric.
    """
    found: dict[str, list[float]] = {}
    for name, values in items.values.items():
        if name not in metrics:
            raise TrialError(f"there are items of {name}, which this trial has not: it has {', '.join(metrics)}")
        try:
            numbers = array("f", values).tolist()
        except (TypeError, OverflowError) as error:
            raise TrialError(f"items of {name} must be numbers: {error}") from None
        if not numbers:
            raise TrialError(f"items of {name} must be one number a test item, but there are none")
        if (
            wrong := next((index for index, number in enumerate(numbers) if not math.isfinite(number)), None)
        ) is not None:
            raise TrialError(f"items of {name} must be finite in single precision, but item {wrong} is {values[wrong]}")
        for other, before in found.items():
            if len(before) != len(numbers):
                raise TrialError(
                    f"all metrics must have the same items, but {other} has {len(before)} and {name} has {len(numbers)}"
                )
        mean = math.fsum(numbers) / len(numbers)
        if not abs(mean - metrics[name]) <= ITEM_TOLERANCE * max(map(abs, numbers)):
            raise TrialError(
                f"{name} must be the mean of its items, but it is {metrics[name]:.9g} and that is {mean:.9g}"
            )
        found[name] = numbers
    return found


def items_digest(items: Items, data_digest: str) -> str:
    """Return 16 hex digits of the number of items and of which they are; "" without items."""
    num = len(next(iter(items.values.values()), ()))
    content = json.dumps([num, items.of or f"data {data_digest}"])
    return hashlib.sha256(content.encode()).hexdigest()[:16] if num else ""


def to_json(state: Any) -> bytes:
    """Return plain values as `Training.save` may: for tasks whose state is numbers, texts, lists and mappings."""
    return json.dumps(state).encode()


def from_json(content: bytes) -> Any:
    """Return what `to_json` was given."""
    return json.loads(content)
