"""The scientific configuration of one trial, and its fingerprint.

What is here changes the numbers of a trial. Where a trial runs (device, workers, paths) is not here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ablate.tasks.image_classification.rows  # noqa: F401  (registers the built-in rows)
from ablate import registry
from ablate.errors import UsageError, choices_text
from ablate.metrics import Metric
from ablate.registry import KINDS, Parameter, Row, Value
from ablate.signals import was_interrupted

STATISTICS = ("running", "estimated", "batch")
"""The statistics that batch norm can be evaluated with. Every complete confirm trial records its accuracy with each."""
OBJECTIVE = "val_accuracy"
"""The metric that tuning maximises."""
SHOWN = "test_accuracy"
"""The metric that a table shows unless the file names another."""
ACCURACIES = (
    "train_accuracy",
    *(
        f"{split}_accuracy{suffix}"
        for split in ("val", "test")
        for suffix in ("", *(f"_{name}_statistics" for name in STATISTICS))
    ),
)
METRICS = (
    *(Metric(name=name, unit="percent", low=0.0, high=1.0, floor_name="chance") for name in ACCURACIES),
    *(Metric(name=f"{split}_loss", direction="min", low=0.0) for split in ("train", "val", "test")),
)
"""What a complete confirm trial records and a table can show. No loss is a floor: one that diverges has no number."""


class ConfigError(UsageError):
    """A parameter of a trial is unknown or has a value that it cannot take. `parameter` is its name."""

    def __init__(self, message: str, parameter: str = "") -> None:
        super().__init__(message, parameter)
        self.parameter = parameter

    def __str__(self) -> str:
        return str(self.args[0])


def _parameter(type_: str, default: Value, summary: str, **rules: Any) -> Any:
    return field(default=default, metadata={"type": type_, "summary": summary, **rules})


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Every choice that a trial is made of. Build it with `resolve`, which checks it.

    `options` holds the parameters of the chosen rows, for example `weight_decay` of the regularizer "l2".
    """

    dataset: str = _parameter("str", "digits", "data set", row_kind="dataset")
    image_size: int | None = _parameter(
        "int",
        None,
        "average images down, or crop files, to this height and width; null keeps them, or crops to 224",
        low=4,
        optional=True,
    )
    num_train: int | None = _parameter(
        "int", None, "use this many training images, stratified; null uses all", low=10, optional=True
    )
    num_val: int | None = _parameter(
        "int",
        None,
        "use this many validation images; null uses the data set's own number",
        low=10,
        optional=True,
    )
    augment: str = _parameter("str", "none", "augmentation of training images", row_kind="augment")
    model: str = _parameter("str", "cifar", "family of nets", row_kind="model")
    depth: int = _parameter("int", 20, "number of parametric layers on the longest path", low=1)
    width: int = _parameter("int", 16, "channels of the first stage", low=1)
    shortcut: str = _parameter(
        "str", "none",
        "none makes a plain net; identity a residual one without further parameters, projection one with 1×1 "
        "convolutions where the shape changes",
        choices=("none", "identity", "projection"),
    )  # fmt: skip
    norm: str = _parameter("str", "batch", "what keeps the scale of each convolution", row_kind="norm")
    statistics: str = _parameter(
        "str", "estimated", "the statistics that batch norm is evaluated with; those of training stay as they are",
        row_kind="statistics", unwritten=("running",),
    )  # fmt: skip
    init: str = _parameter("str", "he", "initialisation of conv and fc weights", row_kind="init")
    regularizer: str = _parameter("str", "none", "regularizer of conv and fc weights", row_kind="regularizer")
    modulation: str = _parameter(
        "str", "none", "backward error modulation, named by its reference, or a relative", row_kind="modulation"
    )
    optimizer: str = _parameter("str", "sgd", "optimizer", row_kind="optimizer")
    lr: float = _parameter("float", 0.1, "peak learning rate", low=0, low_open=True)
    lr_schedule: str = _parameter("str", "cosine", "learning rate over training", row_kind="lr_schedule")
    warmup: float = _parameter(
        "float",
        0.0,
        "fraction of training in which lr rises linearly from zero to its schedule",
        low=0,
        high=0.9,
    )
    batch_size: int = _parameter("int", 128, "training images a step; the last, smaller batch is dropped", low=2)
    epochs: int = _parameter("int", 20, "passes over the training images", low=1)
    precision: str = _parameter(
        "str", "float32", "of activations and errors; weights, optimizer and the regularizer's Gram stay in float32",
        choices=("float32", "bfloat16"),
        refused=(
            ("float16", "errors of deep plain nets leave its range (65,504); use bfloat16 or float32"),
        ),
    )  # fmt: skip
    diagnostics: str = _parameter(
        "str", "none", "epoch records what every layer looks like after each epoch; training's numbers stay the same",
        choices=("none", "epoch"), fixed_only=True,
    )  # fmt: skip
    max_loss: float = _parameter(
        "float", 1e3, "a training loss above this is divergence, the same for all arms",
        low=0, low_open=True, fixed_only=True,
    )  # fmt: skip
    options: Mapping[str, Value] = field(default_factory=dict)

    def row(self, kind: str) -> Row:
        """Return the chosen row of a kind."""
        return registry.get(kind, getattr(self, kind))

    def number(self, option: str) -> float:
        """Return a numeric option of a chosen row."""
        value = self.options[option]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"option {option} is {value!r}, not a number")
        return float(value)

    def window(self, option: str) -> tuple[float, float]:
        """Return a window option of a chosen row."""
        value = self.options[option]
        if not isinstance(value, tuple):
            raise TypeError(f"option {option} is {value!r}, not a window")
        start, end = value
        return start, end

    def settings(self) -> dict[str, Value]:
        """Return all parameters as one flat mapping: what `resolve` takes."""
        flat = {name: getattr(self, name) for name in CORE}
        return {**flat, **self.options}

    def fingerprint(self, data_digest: str) -> str:
        """Return 16 hex digits that identify the scientific configuration, the data and the rows' versions."""
        return fingerprint(self.settings(), {kind: self.row(kind).stamp for kind in KINDS}, data_digest)


def fingerprint(settings: Mapping[str, Any], stamps: Mapping[str, str], data_digest: str) -> str:
    """Return the fingerprint of a whole configuration; `stamps` has the name and version of the row of each kind."""
    kept = written(settings)
    rows = {kind: stamps[kind] for kind in KINDS if kind in kept and kind in stamps}
    content = {"settings": kept, "rows": rows, "data": data_digest}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trial_key(fingerprint: str, seed: int) -> str:
    """Return the name of a trial in the ledger."""
    return f"{fingerprint}-{seed:014x}"


CORE: dict[str, Parameter] = {
    f.name: Parameter(name=f.name, default=f.default, **f.metadata)  # type: ignore[arg-type]
    for f in dataclasses.fields(TrialConfig)
    if f.name != "options"
}


registry.reserve(CORE)


def written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as fingerprints and cells' keys have them: without parameters at their unwritten value."""
    return {name: value for name, value in settings.items() if name not in CORE or value not in CORE[name].unwritten}


def as_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that some version of this program recorded, with the parameters that it did not know yet."""
    return {**{name: core.unwritten[0] for name, core in CORE.items() if core.unwritten}, **settings}


def measured(data: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics with their floor, chance, on these data.

    Chance is the accuracy of the best constant answer, in (0, 1]: the most frequent class's share of the test images;
    one in so many classes where an earlier version counted no images.

    Raises:
        KeyError: The data's facts do not say how many classes there are.
    """
    counts = data.get("test_counts")
    if counts:
        chance, meaning = max(counts) / sum(counts), "the most frequent class's share of the test images"
    else:
        chance, meaning = 1 / int(data["num_classes"]), f"one in {data['num_classes']} classes"
    floored = {"floor": min(1.0, chance), "floor_meaning": meaning}
    return [dataclasses.replace(metric, **floored) if metric.name in ACCURACIES else metric for metric in METRICS]


def parameters() -> dict[str, Parameter]:
    """Return every parameter that a sweep file can name: the core ones and those of all registered rows."""
    known = dict(CORE)
    for kind in KINDS:
        for row in registry.rows(kind):
            for parameter in row.parameters:
                known.setdefault(parameter.name, parameter)
    return known


def check_parameter(name: str, value: Any) -> Value:
    """Return the value in the type of the parameter.

    Raises:
        ConfigError: There is no such parameter, or it cannot take this value.
    """
    return _checked(name, value, parameters())


def _checked(name: str, value: Any, known: Mapping[str, Parameter]) -> Value:
    if name not in known:
        raise ConfigError(f"unknown parameter '{name}'. {choices_text(name, known)}", name)
    try:
        return known[name].check(value)
    except ValueError as error:
        raise ConfigError(str(error), name) from None


def active_parameters(settings: Mapping[str, Value]) -> dict[str, Parameter]:
    """Return the parameters that matter for these settings: the core ones and those of the chosen rows."""
    active = dict(CORE)
    for kind in KINDS:
        row = registry.get(kind, str(settings.get(kind, CORE[kind].default)))
        active.update({parameter.name: parameter for parameter in row.parameters})
    return active


def resolve(settings: Mapping[str, Any]) -> TrialConfig:
    """Return the checked configuration; defaults fill what is left out.

    Parameters of rows that are not chosen are dropped: `ortho_weight` means nothing where the regularizer is l2.

    Raises:
        ConfigError: A parameter is unknown, has a wrong value, or a row does not allow the combination.
    """
    known = parameters()
    checked = {name: _checked(name, value, known) for name, value in settings.items()}
    active = active_parameters(checked)
    values = {name: checked.get(name, parameter.default) for name, parameter in active.items()}
    core: dict[str, Any] = {name: values.pop(name) for name in CORE}
    config = TrialConfig(**core, options=values)
    for kind in KINDS:
        parameter, message = _refusal(config, config.row(kind))
        if message:
            raise ConfigError(message, parameter)
    return config


def _refusal(config: TrialConfig, row: Row) -> tuple[str, str]:
    """Return (parameter, message) of a row's check; ("", "") where it allows the configuration."""
    try:
        parameter, message = (row.check(config) if row.check else None) or ("", "")
    except BaseException as error:
        if was_interrupted():
            raise
        return row.kind, f"the check of {registry.described(row)} failed: {registry.error_text(error)}"
    return parameter, message
