"""The task itself: what everything above training asks about trials that train nets on images."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ablate.metrics import Metric
from ablate.places import Place
from ablate.storage import fetched
from ablate.tasks.base import Cost, Prepared, Settings, Task, Training, Trial
from ablate.tasks.image_classification.config import (
    ACCURACIES,
    METRICS,
    OBJECTIVE,
    PARAMETERS,
    SHOWN,
    TrialConfig,
    build,
    measured,
    resolve,
)
from ablate.tasks.image_classification.figures import DEPTH_CURVES, HEAT_MAPS
from ablate.tasks.image_classification.published import NOTE, published
from ablate.tasks.parameters import ConfigError
from ablate.tasks.registry import Value

if TYPE_CHECKING:
    import torch

    from ablate.tasks.image_classification.data.dataset import Dataset
    from ablate.tasks.image_classification.training.building import Look

NUMBERS = ("num_train", "num_val", "num_test", "num_classes")
ENOUGH_IMAGES = 100
"""With fewer images one of them is worth more than a point."""
BOUNDED = {metric.name: metric for metric in METRICS if metric.name in ACCURACIES}
SIZES = ("depth", "width", "batch_size", "image_size")
"""The numbers that change the time of an epoch, or the memory."""
TIMELESS = ("lr_schedule", "init")
"""The choices that do not."""
STRUCTURE = ("dataset", "model", "shortcut", "norm", "modulation")
"""The choices that a net is built by, beside its sizes and what its row has."""
NUM_NAMED = 5


class ImageClassification(Task):
    """Plain and residual nets, trained on images; torch is imported where it is needed."""

    name = "image_classification"
    parameters = PARAMETERS
    metrics = METRICS
    objective = OBJECTIVE
    shown = SHOWN
    data_parameters = ("dataset", "image_size", "num_train", "num_val")
    same_in_all = ("dataset",)
    alike = ("num_classes",)
    items = "images"
    drawn = "initialisation, data order, augmentation"
    heat_maps = HEAT_MAPS
    summary_curves = DEPTH_CURVES
    summary_title = "Errors over depth"
    summary_figure = "layers_over_depth"
    published_note = NOTE
    small = MappingProxyType({"depth": 8, "width": 4, "batch_size": 256, "epochs": 2, "lr": 0.01})

    def start(self, trial: Trial) -> Training:
        """Return a trial that has not run yet; the data of the last two files stays in memory."""
        from ablate.tasks.image_classification.training.device import choose_device, prepare_process
        from ablate.tasks.image_classification.training.trainer import Trainer

        chosen = choose_device(trial.device)
        prepare_process(chosen)
        return Trainer(resolve(trial.settings), _dataset(trial.data, chosen), trial.seed, chosen)

    def work(self, settings: Mapping[str, Any]) -> float:
        """Return layers times epochs."""
        return float(settings.get("depth") or 20) * float(settings.get("epochs") or 20)

    def canonical(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return adam for adamw where no weight decays: they differ in nothing else."""
        is_plain = settings.get("regularizer", "l2") != "l2" or settings.get("weight_decay") == 0
        other = {"optimizer": "adam"} if settings.get("optimizer") == "adamw" and is_plain else {}
        return {**settings, **other}

    def prepare(self, settings: Settings, cache: Path) -> Prepared:
        """Return the prepared file of a configuration's data."""
        from ablate.tasks.image_classification.data.prepare import prepare

        data = prepare(build(settings), cache)
        facts = {name: getattr(data, name) for name in ("dataset", "digest", *NUMBERS)}
        facts["image_shape"] = list(data.image_shape)
        if data.test_counts:
            facts["test_counts"] = list(data.test_counts)
        if data.absent:
            facts["absent"] = {part: list(names) for part, names in data.absent.items()}
        return Prepared(data.path, data.digest, facts)

    def facts(self, prepared: Sequence[Prepared]) -> dict[str, Any]:
        """Return the facts of the first cell's data, with the classes that are absent in any cell's."""
        absent: dict[str, list[str]] = {}
        for part, names in (entry for each in prepared for entry in each.facts.get("absent", {}).items()):
            absent[part] = list(dict.fromkeys([*absent.get(part, []), *names]))
        return {**prepared[0].facts, **({"absent": absent} if absent else {})}

    def check_facts(self, facts: Mapping[str, Any]) -> None:
        """Raise a ValueError where a declaration's facts are not what `facts` returns."""
        for name in NUMBERS:
            number = facts.get(name)
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"data.{name} must be a number of images or classes")
        counts = facts.get("test_counts")
        if counts is not None and not _are_counts(counts, facts["num_classes"], facts["num_test"]):
            raise ValueError("data.test_counts must be the number of test images of each class")
        absent = facts.get("absent", {})
        if not isinstance(absent, dict) or not all(isinstance(names, list) for names in absent.values()):
            raise ValueError("data.absent must be lists of classes")

    def measured(self, facts: Mapping[str, Any]) -> list[Metric]:
        """Return the metrics, accuracies with chance as their floor."""
        return measured(facts)

    def largest(self, facts: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
        """Return the training images, which must fill a batch."""
        number = facts.get("num_train")
        if not isinstance(number, int):
            return {}
        return {"batch_size": (number, f"the {number} training images of {facts.get('dataset')}")}

    def remarks(self, settings: Settings, facts: Mapping[str, Any]) -> list[str]:
        """Say how much of a user's net is initialised otherwise than its code does; check nets and augmentation."""
        config = build(settings)
        _check_shape(config, facts["image_shape"])
        own = config.row("model").defaults.get("init")
        if own is None:
            return []
        found = _looked_at(config, facts)
        if config.init == own:
            return []
        return [
            f"init '{config.init}' overwrites {len(found.weights)} of the {found.num_tensors} tensors of model "
            f"'{config.model}': init '{own}' is its own"
        ]

    def details(self, settings: Settings, facts: Mapping[str, Any]) -> list[str]:
        """Name the tensors that L2 and the regularizers act on."""
        config = build(settings)
        remarks = self.remarks(settings, facts)
        found = _looked_at(config, facts)
        named = ", ".join(found.weights[:NUM_NAMED])
        more = f" and {len(found.weights) - NUM_NAMED} more" if len(found.weights) > NUM_NAMED else ""
        text = f"L2 and regularizers act on {len(found.weights)} of {found.num_tensors} tensors"
        return [*remarks, f"{text}: {named}{more}" if named else text]

    def data_line(self, facts: Mapping[str, Any]) -> str:
        """For example "digits 1×8×8, 1,200 training, 237 validation and 360 test images"."""
        # The first declarations had neither name nor shape.
        parts = (str(facts.get("dataset", "")), "×".join(map(str, facts.get("image_shape", ()))))
        name = f"{' '.join(part for part in parts if part)}, " if any(parts) else ""
        numbers = f"{facts['num_train']} training, {facts['num_val']} validation and {facts['num_test']} test"
        return f"{name}{numbers} {_items(facts)}"

    def notices(self, facts: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what the images are too few to tell, or cannot tell."""
        found = []
        items = _items(facts)
        asked = [settings.get("num_val") for settings in cells]
        num_val = min(number if isinstance(number, int) else facts["num_val"] for number in asked)
        for part, number, effect in (
            (
                "validation",
                num_val,
                "tune trials can tie, and the first of them is confirmed then; num_val holds out more",
            ),
            ("test", facts["num_test"], "smaller differences cannot be seen in a single trial"),
        ):
            if number < ENOUGH_IMAGES:
                found.append(f"one of the {number} {part} {items} is worth {100 / number:.1f} points: {effect}")
        for part, names in facts.get("absent", {}).items():
            shown = ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            one = items.removesuffix("s")
            found.append(f"no {part} {one} shows {shown}: accuracy says nothing about what has no {one}")
        return found

    def published(self, metric: str, settings: Mapping[str, Any]) -> str | None:
        """Return a published accuracy of the same experiment with its source; None where there is none."""
        found = published(metric, settings)
        return found.text if found is not None else None

    def check_record(self, metrics: Mapping[str, float], curves: Mapping[str, Sequence[float]]) -> None:
        """Check that accuracies are within bounds, and that a loss is NaN only where that of validation ended so."""
        for name, numbers in [*((name, [number]) for name, number in metrics.items()), *curves.items()]:
            metric = BOUNDED.get(name)
            if metric is not None and not all([metric.allows(number) for number in numbers]):
                wrong = next(number for number in numbers if not metric.allows(number))
                raise ValueError(f"{name[:50]} is {wrong}, but it must be {metric.range_text()}")
        for name, number in metrics.items():
            curve = curves.get(name.replace("test_", "val_"), [])
            if "loss" in name and math.isnan(number) and not (curve and math.isnan(curve[-1])):
                raise ValueError(f"{name[:50]} is nan")

    def devices(self) -> tuple[str, ...]:
        """Return torch's names of the devices."""
        from ablate.tasks.image_classification.training.device import DEVICES

        return DEVICES

    def device_name(self, device: str) -> str:
        """Return the class of a device, for example "cpu" or "cuda: NVIDIA A100"."""
        from ablate.tasks.image_classification.training.device import choose_device, device_name

        return device_name(choose_device(device))

    def num_gpus(self) -> int:
        """Return the number of CUDA devices of this machine."""
        from ablate.tasks.image_classification.training.device import num_gpus

        return num_gpus()

    def cost(self, settings: Settings, device: str, data: Place | None) -> Cost | None:
        """Time a few steps of the net."""
        from ablate.tasks.image_classification.training.device import choose_device, prepare_process
        from ablate.tasks.image_classification.training.timing import time_epoch

        chosen = choose_device(device)
        prepare_process(chosen)
        return time_epoch(build(settings), _dataset(data, chosen), chosen)

    def cost_key(self, settings: Settings) -> dict[str, Value]:
        """Return the settings that tell one net from another."""
        return {
            name: value
            for name, value in settings.items()
            if name in SIZES or (isinstance(value, str) and name not in TIMELESS)
        }


def _items(facts: Mapping[str, Any]) -> str:
    """Return what the data are made of, for prose."""
    return "images" if len(facts.get("image_shape", ())) in (0, 3) else "examples"


def _check_shape(config: TrialConfig, shape: Sequence[int]) -> None:
    """Refuse nets and augmentations for images where the data has another shape."""
    for row in (config.row("model"), config.row("augment")):
        if row.needs_images and len(shape) != 3:
            choices = " Name one of your own: see docs/extending.md" if row.kind == "model" else " Name none"
            raise ConfigError(
                f"{row.kind} '{row.name}' needs images (channels, height, width), but an item of the data set "
                f"'{config.dataset}' has the shape {tuple(shape)}.{choices}",
                row.kind,
            )


def _looked_at(config: TrialConfig, facts: Mapping[str, Any]) -> Look:
    """Return what a net of this configuration has; nets that differ in nothing else than their training share it."""
    names = {parameter.name for kind in ("model", "modulation") for parameter in config.row(kind).parameters}
    kept = {name: value for name, value in config.settings().items() if name in (*SIZES, *STRUCTURE, *names)}
    return _look(tuple(kept.items()), tuple(facts["image_shape"]), facts["num_classes"])


@functools.lru_cache(maxsize=64)
def _look(settings: tuple[tuple[str, Value], ...], shape: tuple[int, ...], num_classes: int) -> Look:
    from ablate.tasks.image_classification.training.building import look

    kept = dict(settings)
    return look(build({**PARAMETERS.defaults(kept), **kept}), shape, num_classes)


def _are_counts(counts: Any, num_classes: int, total: int) -> bool:
    is_list = isinstance(counts, list) and len(counts) == num_classes
    return is_list and all(type(count) is int and count >= 0 for count in counts) and sum(counts) == total


def _dataset(data: Place | None, device: torch.device) -> Dataset:
    if data is None:
        raise ValueError("this task needs data")
    return _loaded(str(data), str(device))


@functools.lru_cache(maxsize=2)
def _loaded(path: str, device: str) -> Dataset:
    import torch

    from ablate.places import to_place
    from ablate.tasks.image_classification.data.prepare import load

    return load(fetched(to_place(path))).to(torch.device(device))


TASK = ImageClassification()
