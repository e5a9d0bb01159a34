"""How long a net takes on this hardware, from a few timed steps."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping

import torch

from ablate.tasks.base import Cost
from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.data.dataset import Dataset
from ablate.tasks.image_classification.training.trainer import Trainer

WARMUP_STEPS = 2
MAX_STEPS = 8
MAX_S = 0.6


def time_epoch(config: TrialConfig, dataset: Dataset, device: torch.device) -> Cost:
    """Time some training steps and one evaluation; nothing is recorded.

    The first steps, which allocate, do not count. The memory is that of the device on a GPU, elsewhere that of the
    whole process, libraries included.
    """
    trainer = Trainer(config, dataset, 0, device)
    trainer.net.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    num_timed, started, began = 0, 0.0, time.perf_counter()
    with trainer.drawing():
        for index, (images, labels) in enumerate(trainer.batches()):
            if index == WARMUP_STEPS:
                _wait(device)
                started = time.perf_counter()
            trainer.step(images, labels, index)
            num_timed = index + 1 - WARMUP_STEPS
            if num_timed >= MAX_STEPS or (num_timed >= 1 and time.perf_counter() - began > MAX_S):
                break
    _wait(device)
    step_s = (time.perf_counter() - (started if num_timed > 0 else began)) / max(1, num_timed)
    return Cost(
        epoch_s=step_s * trainer.steps_per_epoch + _evaluation_s(trainer, dataset, device),
        memory_mib=_memory_mib(device),
        state_mib=_state_mib(trainer),
    )


def _evaluation_s(trainer: Trainer, dataset: Dataset, device: torch.device) -> float:
    num = min(64, len(dataset.val.labels))
    split = dataset.val.take(torch.arange(num))
    began = time.perf_counter()
    trainer.statistics_of(trainer.config.statistics)
    _wait(device)
    started = time.perf_counter()
    trainer.evaluate(split)
    _wait(device)
    return started - began + (time.perf_counter() - started) * len(dataset.val.labels) / num


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _state_mib(trainer: Trainer) -> float:
    tensors = [*_tensors(trainer.net.state_dict()), *_tensors(trainer.optimizer.state_dict())]
    num_bytes: int = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return num_bytes / 2**20


def _tensors(state: object) -> Iterator[torch.Tensor]:
    """Yield all tensors of a state; an optimizer may nest its own as it likes."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)
