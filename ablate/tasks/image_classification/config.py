"""The scientific configuration of one trial: every choice that changes its numbers.

Where a trial runs (device, workers, paths) is not here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ablate.metrics import Metric
from ablate.tasks import registry
from ablate.tasks.parameters import Parameters
from ablate.tasks.registry import Parameter, Row, Value

KINDS = (
    "dataset", "augment", "model", "norm", "statistics", "init", "regularizer", "modulation", "optimizer",
    "lr_schedule", "loss",
)  # fmt: skip
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
    loss: str = _parameter(
        "str", "cross_entropy", "training loss; validation and test losses are cross-entropy",
        row_kind="loss", unwritten=("cross_entropy",),
    )  # fmt: skip
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
        settings = self.settings()
        return PARAMETERS.fingerprint(settings, PARAMETERS.stamps(settings), data_digest)


CORE: dict[str, Parameter] = {
    f.name: Parameter(name=f.name, default=f.default, **f.metadata)  # type: ignore[arg-type]
    for f in dataclasses.fields(TrialConfig)
    if f.name != "options"
}


def build(values: Mapping[str, Any]) -> TrialConfig:
    """Return the configuration of checked values."""
    core = {name: values[name] for name in CORE}
    return TrialConfig(**core, options={name: value for name, value in values.items() if name not in CORE})


OWN_INIT = "own"
"""The initialisation that leaves a net as its code makes it: that of users' nets, unless the file names another."""
PARAMETERS = Parameters(list(CORE.values()), KINDS, build, users={"model": {"init": OWN_INIT}})


def resolve(settings: Mapping[str, Any]) -> TrialConfig:
    """Return the checked configuration; defaults fill what is left out. See `Parameters.resolve`."""
    return build(PARAMETERS.resolve(settings))


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
