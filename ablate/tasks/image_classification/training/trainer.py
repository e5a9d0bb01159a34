"""Training of one trial, an epoch at a time."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.seeds import derive_seed
from ablate.tasks import registry
from ablate.tasks.base import Divergence, Items, Progress, Training
from ablate.tasks.image_classification.config import STATISTICS, TrialConfig
from ablate.tasks.image_classification.data.dataset import Batch, Dataset, Images
from ablate.tasks.image_classification.data.tensors import read_tensors
from ablate.tasks.image_classification.methods.diagnostics import MEASURES, Probe
from ablate.tasks.image_classification.methods.modulation_base import RuledModulation
from ablate.tasks.image_classification.methods.regularizers import Moment
from ablate.tasks.image_classification.models.layers import Modulate, regularized_weights
from ablate.tasks.image_classification.models.norms import batch_statistics
from ablate.tasks.image_classification.training.building import build_modulation, build_net, initialise
from ablate.tasks.image_classification.training.divergence import first_offence
from ablate.tasks.image_classification.training.hooks import Hook, ModulationHook, RegularizerHook, StatisticsHook
from ablate.tasks.image_classification.training.lr_schedules import lr_at
from ablate.tasks.image_classification.training.randomness import seeded
from ablate.tasks.image_classification.training.statistics import (
    Statistics,
    StatisticsSchedule,
    estimate,
    holding,
    running_statistics,
)

CHECK_EVERY = 64
EVAL_BATCH = 512
MAX_PIXELS = 2**20
"""Pixels of one batch from which statistics are estimated, if the training batch has no more: bounds the memory."""


@dataclass
class ImageProgress(Progress):
    """What a trial has so far: everything but the weights.

    `layers` holds for each epoch what `Probe.measure` returns, if diagnostics are asked for.
    """

    layers: list[Tensor] = field(default_factory=list)


class Trainer(Training):
    """One net, its optimizer and its random streams.

    All random numbers derive from `seed`: the initial weights, and for every epoch anew the order of the images,
    the augmentation and what a net draws itself, such as dropout. So nothing random has to be saved, and the same seed
    gives the same numbers wherever an epoch is run again.
    """

    def __init__(self, config: TrialConfig, dataset: Dataset, seed: int, device: torch.device) -> None:
        self.config = config
        self.dataset = dataset
        self.seed = seed
        self.device = device
        self.progress: ImageProgress = ImageProgress()
        self.steps_per_epoch = len(dataset.train.labels) // config.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(f"batch_size {config.batch_size} exceeds the {len(dataset.train.labels)} training images")
        self.num_epochs = config.epochs
        self.num_steps = self.steps_per_epoch * config.epochs
        ones = (1,) * (len(dataset.image_shape) - 1)
        self.mean = dataset.mean.to(device).view(1, -1, *ones)
        self.std = dataset.std.to(device).view(1, -1, *ones)
        self.augment = config.row("augment").load()
        has_pixels = len(dataset.image_shape) == 3 and device.type != "mps"
        self.layout = torch.channels_last if has_pixels else torch.contiguous_format
        self.net = self._build_net().to(device)
        if self.layout == torch.channels_last:
            self.net = self.net.to(memory_format=self.layout)
        self.loss = config.row("loss").load()(config)
        self.probe = Probe(self.net, self.loss) if config.diagnostics == "epoch" else None
        self.statistics = StatisticsSchedule(self.net, config)
        self.found: dict[str, Statistics] = {}  # For the present weights, by row of `statistics`.
        self.is_right: dict[str, Tensor] = {}  # (num_test,), bool, on the device, by accuracy of a confirm trial.
        weights = regularized_weights(self.net)
        self.regularizer = config.row("regularizer").load()(weights, config)
        self.modulation = build_modulation(config, self.net)
        self.hooks: dict[str, Hook] = {"statistics": StatisticsHook(self.statistics)}
        if self.modulation is not None:
            self.hooks["modulation"] = ModulationHook(self.modulation, self.num_steps)
        self.hooks["regularizer"] = RegularizerHook(self.regularizer)
        self.optimizer = self._build_optimizer(weights)
        self.num_parameters = sum(parameter.numel() for parameter in self.net.parameters())

    def drawing(self, what: str = "steps") -> AbstractContextManager[None]:
        """Seed what is drawn from global generators: for the steps of an epoch, or another part of it, each anew."""
        return seeded(derive_seed(self.seed, what, self.progress.epoch), self.device)

    def _build_net(self) -> nn.Module:
        with self.drawing("build"):
            net = build_net(self.config, self.dataset.image_shape, self.dataset.num_classes)
        initialise(net, self.config, derive_seed(self.seed, "init"))
        return net

    def _build_optimizer(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        chosen = {id(weight) for weight in weights}
        rest = [each for each in self.net.parameters() if id(each) not in chosen and each.requires_grad]
        groups = [
            {"params": weights, "weight_decay": self.regularizer.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer = self.config.row("optimizer").load()(groups, self.config)
        return optimizer

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on from here, as tensors, numbers and strings only."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hooks": {name: hook.state() for name, hook in self.hooks.items()},
            "epoch": self.progress.epoch,
            "duration_s": self.progress.duration_s,
            "curves": self.progress.curves,
            "layers": self.progress.layers,
            "measures": list(MEASURES),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            Exception: It is no state of this trial; the trainer is of no use then.
        """
        progress = ImageProgress(state["epoch"], state["duration_s"], state["curves"], state.get("layers", []))
        _check(progress, self.config.epochs)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, hook in self.hooks.items():
            hook.load_state(state["hooks"][name])
        self.progress = progress
        self.found = {}

    def save(self) -> bytes:
        """Return `state` as a file of tensors."""
        return written(self.state())

    def load(self, content: bytes) -> None:
        """Go on from what `save` returned; read as tensors only, never unpickled.

        Raises:
            Exception: It is none of this trial; the trainer is of no use then.
        """
        state = read_tensors(io.BytesIO(content), self.device)
        # Layers that were looked at with other measures cannot be gone on with.
        if state.get("layers") and state.get("measures") != list(MEASURES):
            raise ValueError("its layers were looked at with other measures")
        self.load_state(state)

    def run_epoch(self) -> Divergence | None:
        """Train for one epoch and evaluate on the validation images; say where it diverged, if it did."""
        started = time.perf_counter()
        saved = copy.deepcopy(self.state())
        self.found = {}
        losses = torch.zeros(self.steps_per_epoch, device=self.device)
        correct = torch.zeros((), device=self.device)
        self.net.train()
        bad, depth_curves = None, {}
        with self.drawing():
            for index, (images, labels) in enumerate(self.batches()):
                loss, logits = self.step(images, labels, index)
                losses[index] = loss
                correct += (logits.argmax(1) == labels).sum()
                if index % CHECK_EVERY == CHECK_EVERY - 1 or index == self.steps_per_epoch - 1:
                    bad = self._first_bad_step(losses[: index + 1])
                    if bad is not None:
                        break
        if bad is not None:
            divergence = self._locate(saved, bad)
            self.progress.duration_s += time.perf_counter() - started
            return divergence
        if self.probe is not None:
            depth_curves = self._measure_layers(self.probe, images, labels, index)
        self._make_precise()
        num_seen = self.steps_per_epoch * self.config.batch_size
        self.progress.epoch += 1
        val_loss, val_accuracy = self.evaluate(self.dataset.val)
        self._record(
            train_loss=losses.mean().item(),
            train_accuracy=correct.item() / num_seen,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            lr=self.optimizer.param_groups[0]["lr"],
            **depth_curves,
        )
        self.progress.duration_s += time.perf_counter() - started
        return None

    def _measure_layers(self, probe: Probe, images: Tensor, labels: Tensor, index: int) -> dict[str, float]:
        step = self.progress.epoch * self.steps_per_epoch + index
        acts = self.modulation is not None and self.modulation.acts(step, self.num_steps)
        modulation = self.modulation if acts else None
        lr = self.optimizer.param_groups[0]["lr"]
        with self.drawing("probe"):
            self.progress.layers.append(probe.measure(self.forward, images, labels, lr, modulation))
        return probe.depth_curves(self.progress.layers[-1], isinstance(self.modulation, RuledModulation))

    def batches(self) -> Any:
        """Yield (images, labels) of the present epoch: augmented, normalised, in the epoch's own order."""
        epoch = self.progress.epoch
        split = self.dataset.train
        order_generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        augment_generator = torch.Generator().manual_seed(derive_seed(self.seed, "augment", epoch))
        order = torch.randperm(len(split), generator=order_generator)
        size = self.config.batch_size
        order = order[: self.steps_per_epoch * size]
        for images, labels in split.batches(order, size, self.augment, augment_generator):
            yield self.normalise(images), labels

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 images, or floats, to floats with mean 0 and variance 1 over the training images."""
        values = images if images.is_floating_point() else images.float() / 255
        return ((values - self.mean) / self.std).contiguous(memory_format=self.layout)

    def step(self, images: Tensor, labels: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Do one step, the `index`-th of the epoch; return the loss before it, detached, and the logits."""
        step = self.progress.epoch * self.steps_per_epoch + index
        lr = lr_at(self.config, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        moment = Moment(step=step, progress=step / self.num_steps, lr=lr)
        modulate = None
        for hook in self.hooks.values():
            modulate = hook.before_forward(moment) or modulate
        logits = self.forward(images, modulate)
        loss: Tensor = self.loss(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for hook in self.hooks.values():
            hook.after_backward(moment)
        self.optimizer.step()
        for hook in self.hooks.values():
            hook.after_step(moment)
        return loss.detach(), logits.detach()

    def forward(self, images: Tensor, modulate: Modulate | None = None) -> Tensor:
        """Return the logits in float32, computed in the configuration's precision."""
        points = {} if modulate is None else {"modulate": modulate}
        if self.config.precision == "float32":
            return self.net(images, **points)  # type: ignore[no-any-return]
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.net(images, **points)
        return logits.float()

    def _make_precise(self) -> None:
        """After the last epoch, if asked for: precise statistics over the first batches of that epoch."""
        num_batches = int(str(self.config.options.get("precise_batches", 0)))
        if num_batches and self.progress.epoch == self.config.epochs - 1:
            images = (images for images, _ in itertools.islice(self.batches(), num_batches))
            with self.drawing("statistics"):
                found = estimate(self.net, images, self.forward)
            for kept, new in zip(running_statistics(self.net), found, strict=True):
                kept[0].copy_(new[0])
                kept[1].copy_(new[1])

    def statistics_of(self, name: str) -> Statistics:
        """Return what a row of `statistics` gives every batch norm for the present weights."""
        if name not in self.found:
            row = registry.get("statistics", name)
            with self.drawing("statistics"):
                self.found[name] = row.load()(self.net, self.config, self._draw, self.forward)
        return self.found[name]

    def _draw(self, num: int) -> Iterator[Tensor]:
        """Yield `num` training images, or all, as in training: drawn anew for every epoch that has ended.

        One batch has them all, unless that is more than MAX_PIXELS and than a batch of training.
        """
        split, epoch = self.dataset.train, self.progress.epoch
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "statistics", epoch))
        num = min(num, len(split))
        num_pixels = math.prod(self.dataset.image_shape[1:])
        size = min(num, max(self.config.batch_size, MAX_PIXELS // num_pixels))
        order = torch.randperm(len(split), generator=generator)[: num // size * size]
        for images, _ in split.batches(order, size, self.augment, generator):
            yield self.normalise(images)

    def _first_bad_step(self, losses: Tensor) -> int | None:
        bad = ~torch.isfinite(losses) | (losses > self.config.max_loss)
        if bool(bad.any()):
            return int(bad.int().argmax())
        norms = torch.stack(torch._foreach_norm(list(self.net.parameters())))
        return None if bool(torch.isfinite(norms).all()) else len(losses) - 1

    def _locate(self, saved: dict[str, Any], index: int) -> Divergence:
        self.load_state(saved)
        with self.drawing():
            index, layer, message = first_offence(self, index)
        step = self.progress.epoch * self.steps_per_epoch + index
        return Divergence(self.progress.epoch + 1, step, layer, message)

    @torch.no_grad()
    def evaluate(
        self, split: Images, statistics: str = "", is_right: list[Tensor] | None = None
    ) -> tuple[float, float]:  # fmt: skip
        """Return (mean loss, accuracy in [0, 1]) over a split; add to `is_right` a bool an image, batch by batch.

        Batch norm uses what a row of `statistics` gives, by default that of the configuration, or those of each "batch"
        of `batch_size` images. The last batch may be smaller; a single image that is left over, which has no
        statistics where the last stage is 1×1, joins the batch before it. The net keeps its running statistics.
        """
        self.net.eval()
        if statistics == "batch":
            with batch_statistics(self.net), self.drawing("evaluation"):
                return self._measure(split, _without_single(split.in_order(self.config.batch_size)), is_right)
        with holding(self.net, self.statistics_of(statistics or self.config.statistics)), self.drawing("evaluation"):
            return self._measure(split, split.in_order(EVAL_BATCH), is_right)

    def measure(self, is_confirmed: bool) -> dict[str, float]:
        """Return the last number of every curve, and the accuracies with each of the statistics of batch norm.

        Only what `is_confirmed` sees the test images.
        """
        started = time.perf_counter()
        metrics = {name: curve[-1] for name, curve in self.progress.curves.items() if name != "lr"}
        splits = {"val": self.dataset.val, **({"test": self.dataset.test} if is_confirmed else {})}
        for name, split in splits.items():
            if name == "test":
                test_loss, metrics["test_accuracy"] = self._evaluate_each("test_accuracy", split)
                # The ledger takes a NaN for damage, unless the validation images ended so too.
                if not math.isnan(test_loss) or math.isnan(metrics["val_loss"]):
                    metrics["test_loss"] = test_loss
            for statistics in STATISTICS:
                accuracy = f"{name}_accuracy_{statistics}_statistics"
                measured = self._evaluate_each(accuracy, split, statistics) if name == "test" \
                    else self.evaluate(split, statistics)  # fmt: skip
                metrics[accuracy] = measured[1]
        self.progress.duration_s += time.perf_counter() - started
        return metrics

    def _evaluate_each(self, accuracy: str, split: Images, statistics: str = "") -> tuple[float, float]:
        """Return what `evaluate` does, and keep which images were right."""
        is_right: list[Tensor] = []
        found = self.evaluate(split, statistics, is_right)
        self.is_right[accuracy] = torch.cat(is_right)
        return found

    def items(self) -> Items:
        """Return for every accuracy on test images whether each of them was right, in the order of the test set.

        They are of the same images wherever these and their labels are, before any resizing, the same in the same
        order: `num_train`, `num_val` and `image_size` do not matter. For prepared files of before that is unknown where
        `image_size` was given; the resized images count then.
        """
        if not self.is_right:
            return Items()
        values = torch.stack(list(self.is_right.values())).tolist()
        return Items(values=dict(zip(self.is_right, values, strict=True)), of=self.dataset.test_digest)

    def digest(self) -> str:
        """Return 16 hex digits over all weights and buffers."""
        return weights_digest(self.net)

    def kept(self) -> bytes:
        """Return weights and buffers as they are evaluated, as a file of tensors."""
        return written({"net": self.evaluated_net()})

    def tables(self) -> dict[str, list[Any]]:
        """Return the diagnostics as columns; empty without diagnostics."""
        if self.probe is None or not self.progress.layers:
            return {}
        names, num_epochs = self.probe.names, len(self.progress.layers)
        values = torch.stack(self.progress.layers).transpose(0, 1).flatten(1)
        return {
            "epoch": [epoch for epoch in range(1, num_epochs + 1) for _ in names],
            "position": list(range(len(names))) * num_epochs,
            "layer": names * num_epochs,
            **{name: row.tolist() for name, row in zip(MEASURES, values, strict=True)},
        }

    def evaluated_net(self) -> dict[str, Tensor]:
        """Return weights and buffers as they are evaluated."""
        with holding(self.net, self.statistics_of(self.config.statistics)):
            return dict(self.net.state_dict())

    def _measure(
        self, split: Images, batches: Iterable[Batch], is_right: list[Tensor] | None
    ) -> tuple[float, float]:  # fmt: skip
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        for images, labels in batches:
            logits = self.forward(self.normalise(images))
            loss += F.cross_entropy(logits, labels, reduction="sum")
            right = logits.argmax(1) == labels
            correct += right.sum()
            if is_right is not None:
                is_right.append(right)
        return loss.item() / len(split.labels), correct.item() / len(split.labels)

    def _record(self, **numbers: float) -> None:
        for name, number in numbers.items():
            self.progress.curves.setdefault(name, []).append(float(number))


def _without_single(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches; one of a single image is added to the batch before it."""
    held: Batch | None = None
    for images, labels in batches:
        if held is not None and len(labels) == 1:
            images, labels = torch.cat([held[0], images]), torch.cat([held[1], labels])
        elif held is not None:
            yield held
        held = images, labels
    if held is not None:
        yield held


def _check(progress: ImageProgress, num_epochs: int) -> None:
    """Raise a ValueError where this is not how far a trial of so many epochs can be."""
    epoch, curves = progress.epoch, progress.curves
    is_right = (
        isinstance(epoch, int)
        and 0 <= epoch <= num_epochs
        and isinstance(progress.duration_s, float)
        and isinstance(curves, dict)
        and ("val_accuracy" in curves or epoch == 0)
        and all(isinstance(curve, list) and len(curve) == epoch for curve in curves.values())
        and all(isinstance(number, float) for curve in curves.values() for number in curve)
        and isinstance(progress.layers, list)
        and len(progress.layers) in (0, epoch)
        and all(isinstance(table, Tensor) for table in progress.layers)
    )
    if not is_right:
        raise ValueError("its epoch, its curves and its tables of layers do not fit together")


def written(state: dict[str, Any]) -> bytes:
    """Return a state as `torch.save` writes it."""
    sink = io.BytesIO()
    torch.save(state, sink)
    return sink.getvalue()


def weights_digest(net: nn.Module) -> str:
    """Return 16 hex digits over all weights and buffers, equal only where these are equal bit for bit."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
