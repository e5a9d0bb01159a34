"""Which statistics batch norm should be evaluated with: running, estimated anew in several ways, or those of batches.

Trains nets of several depths, arms, data sets and seeds, untuned, and evaluates each on the test images in every way.
"batches N": N training images in batches of training's size; "one batch N": all at once, which is layer by layer.
CIFAR-10 is looked for as docs/commands.md says, and left out where it is not found.

    python benchmarks/batch_norm_statistics.py --folder /tmp/statistics
    python benchmarks/batch_norm_statistics.py --folder /tmp/statistics --cost
    python benchmarks/batch_norm_statistics.py --folder /tmp/statistics --remedies --depths 56

The second prints what an estimate costs, in percent of an epoch's training steps (CPU time, median of 5), the third
what becomes of other remedies of the gap.
It takes about an hour on two cores. Trained nets stay in --folder, so that a run that was cut off goes on. `--shard
0/2` and `--shard 1/2` share the work between two processes; a last run without --shard prints the whole table. The
last line is JSON: the test accuracies in [0, 1] of every seed, {} where it diverged.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ablate.errors import DataError
from ablate.seeds import derive_seed
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.dataset import Dataset
from ablate.tasks.image_classification.data.prepare import load, prepare
from ablate.tasks.image_classification.training.device import prepare_process
from ablate.tasks.image_classification.training.statistics import estimate
from ablate.tasks.image_classification.training.trainer import Trainer

CPU = torch.device("cpu")
COMMON = {"optimizer": "nesterov", "lr": 0.05, "lr_schedule": "one_cycle"}
DATA: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "width": 8, "batch_size": 64},
    "fashion_mnist 14x14": {
        "dataset": "fashion_mnist", "image_size": 14, "num_train": 4_500, "num_val": 500, "width": 8, "batch_size": 64,
        "epochs": 2,
    },
    "cifar10 16x16": {
        "dataset": "cifar10", "image_size": 16, "num_train": 4_500, "num_val": 500, "width": 8, "batch_size": 64,
        "epochs": 2,
    },
}  # fmt: skip
NUM_TEST = 1_000
"""Test images: every way of evaluation looks at all of them."""
EPOCHS_OF_DIGITS = {20: 10, 44: 20, 56: 30, 80: 60, 110: 120}
"""Deep plain nets need many steps, and digits have 16 an epoch."""
PLAIN = {"shortcut": "none"}
ORTHO = {**PLAIN, "init": "orthonormal", "regularizer": "orthonormal"}
ARMS: dict[str, dict[str, Any]] = {
    "residual": {"shortcut": "identity", "regularizer": "l2"},
    "plain": {**PLAIN, "regularizer": "l2"},
    "plain+ortho": ORTHO,
    "plain+ortho+modulation": {**ORTHO, "modulation": "anchor"},
}
REMEDIES: dict[str, dict[str, Any]] = {
    "frozen 5%": {"frozen_statistics": 0.05},
    "frozen 20%": {"frozen_statistics": 0.2},
    "frozen 50%": {"frozen_statistics": 0.5},
    "batch renorm": {"norm": "batch_renorm"},
}
"""Of the plain net with both ingredients on digits, evaluated with running statistics."""
SIZES = (256, 512, 1024, 2048, 4096)
SEEDS = 3
DEEP = 56
"""Nets of digits have three seeds at all depths; those of larger images at this depth and below, and one above it."""


def settings_of(data: str, depth: int, arm: str) -> dict[str, Any]:
    """Return the settings of one training."""
    remedy = {**ARMS["plain+ortho+modulation"], **REMEDIES[arm], "statistics": "running"} if arm in REMEDIES else {}
    settings = {**COMMON, **DATA[data], **(remedy or ARMS[arm]), "depth": depth}
    return {"epochs": EPOCHS_OF_DIGITS.get(depth, 60), **settings}


def ways(trainer: Trainer, seed: int) -> dict[str, list[torch.Tensor]]:
    """Return the batches of training images, normalised, of each estimator."""
    split, found = trainer.dataset.train, {}
    generator = torch.Generator().manual_seed(derive_seed(seed, "statistics"))
    order = torch.randperm(len(split), generator=generator)
    for size in SIZES:
        if len(split) < size:
            break
        for name, batch in (("batches", trainer.config.batch_size), ("one batch", size)):
            batches = split.batches(order[:size], batch, trainer.augment, generator)
            found[f"{name} {size}"] = [trainer.normalise(images) for images, _ in batches]
    return found


def measured(trainer: Trainer, seed: int) -> dict[str, float]:
    """Return the test accuracy of a trained net in every way, and the training accuracy of its last epoch."""
    split = trainer.dataset.test
    found = {name: trainer.evaluate(split, name)[1] for name in ("running", "batch")}
    if trainer.config.statistics == "running":  # Of a remedy nothing else is asked.
        return {**found, "train": trainer.progress.curves["train_accuracy"][-1]}
    for name, batches in ways(trainer, seed).items():
        trainer.found["estimated"] = estimate(trainer.net, batches, trainer.forward)
        found[name] = trainer.evaluate(split, "estimated")[1]
    return {**found, "train": trainer.progress.curves["train_accuracy"][-1]}


def one(data: str, dataset: Dataset, depth: int, arm: str, seed: int, folder: Path) -> dict[str, float]:
    """Return what a training comes to; the result of an earlier run is read."""
    file = folder / f"{data}-{depth}-{arm}-{seed}".replace(" ", "_")
    if file.with_suffix(".json").exists():
        return json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    trainer = Trainer(resolve(settings_of(data, depth, arm)), dataset, derive_seed(seed, "trial"), CPU)
    started = time.perf_counter()
    if file.with_suffix(".pt").exists():
        trainer.load_state(torch.load(file.with_suffix(".pt")))
    while trainer.progress.epoch < trainer.config.epochs and trainer.run_epoch() is None:
        pass
    if trainer.progress.epoch < trainer.config.epochs:
        result: dict[str, float] = {}
        print(f"{file.name} diverged in epoch {trainer.progress.epoch + 1} of {trainer.config.epochs}", flush=True)
    else:
        torch.save(trainer.state(), file.with_suffix(".pt"))
        result = measured(trainer, seed)
    file.with_suffix(".json").write_text(json.dumps(result), encoding="utf-8")
    print(f"{file.name}: {time.perf_counter() - started:.0f} s {result or 'diverged'}", flush=True)
    return result


def cost(data: str, dataset: Dataset, depth: int, arm: str) -> dict[str, float]:
    """Return what each estimate costs, as a share of the steps of an epoch, both in CPU time."""
    trainer = Trainer(resolve(settings_of(data, depth, arm)), dataset, 0, CPU)
    steps_s, found_s = [], collections.defaultdict(list)
    for _ in range(5):
        trainer.net.train()
        batches = list(itertools.islice(trainer.batches(), 16))
        steps_s.append(
            timed(lambda batches=batches: [trainer.step(*batch, index) for index, batch in enumerate(batches)])
        )
        for name, images in ways(trainer, 0).items():
            found_s[name].append(timed(lambda images=images: estimate(trainer.net, images, trainer.forward)))
    epoch_s = statistics.median(steps_s) / len(batches) * trainer.steps_per_epoch
    return {name: statistics.median(values) / epoch_s for name, values in found_s.items()}


def timed(work: Callable[[], Any]) -> float:
    """Return the CPU time that work takes, in seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 44, 56, 80, 110])
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--remedies", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    prepare_process(CPU)
    datasets = {}
    for data, settings in DATA.items():
        try:
            dataset = load(prepare(resolve(settings), options.folder / "data").path)
            datasets[data] = dataclasses.replace(
                dataset, test=dataset.test.take(torch.arange(NUM_TEST)[: len(dataset.test)])
            )
        except DataError as error:
            print(f"without {data}: {error}")
    if options.cost:
        for data, depth, arm in itertools.product(datasets, options.depths, ARMS):
            shares = cost(data, datasets[data], depth, arm)
            shown = "  ".join(f"{way} {100 * share:.1f}%" for way, share in shares.items())
            print(f"{data:20} {depth:4} {arm:24} {shown}", flush=True)
        return
    shard, num_shards = map(int, options.shard.split("/"))
    results: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    work = [
        (seed, data, depth, arm)
        for seed, data, depth, arm in itertools.product(range(SEEDS), datasets, options.depths, ARMS)
        if seed == 0 or data == "digits" or depth <= DEEP
    ]
    if options.remedies:
        work = [(seed, "digits", depth, arm) for depth in options.depths for seed in range(SEEDS) for arm in REMEDIES]
    for index, (seed, data, depth, arm) in enumerate(work):
        if index % num_shards == shard:
            found = one(data, datasets[data], depth, arm, seed, options.folder)
            results.setdefault((data, depth, arm), []).append(found)
    for (data, depth, arm), found in results.items():
        trained = [result for result in found if result]
        means = {
            way: statistics.mean(result[way] for result in trained) for way in trained[0]
        } if trained else {}  # fmt: skip
        shown = "  ".join(f"{way} {100 * mean:.1f}" for way, mean in means.items())
        print(f"{data:20} {depth:4} {arm:24} n={len(trained)}/{len(found)}  {shown}")
    print(json.dumps({"|".join(map(str, key)): found for key, found in results.items()}))


if __name__ == "__main__":
    main()
