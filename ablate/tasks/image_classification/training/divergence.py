"""Finds the layer in which a training step went wrong, by running the epoch again with checks on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ablate.tasks.image_classification.config import TrialConfig


class Stepper(Protocol):
    """What is run again: a trainer, whose module imports this one."""

    net: nn.Module
    config: TrialConfig

    def batches(self) -> Any: ...

    def step(self, images: Tensor, labels: Tensor, index: int) -> tuple[Tensor, Tensor]: ...


def first_offence(trainer: Stepper, last: int) -> tuple[int, str, str]:
    """Run the epoch up to its step `last`, from the trainer's present state; return (step, layer, what was wrong).

    The step can be earlier than `last`: a gradient that is not finite shows in the loss one step later.

    Values are checked in the order in which they are computed: the layers' outputs, the loss, the errors from the
    top down, the gradients, the weights after the step. The layer is "loss" where all values are finite and only the
    loss exceeds `max_loss`, and "unknown" where the second run stays finite, as it can on a GPU.
    """
    found: list[tuple[str, str]] = []
    handles = _watch(trainer.net, found)
    trainer.net.train()
    loss = torch.zeros(())
    index = 0
    try:
        for index, (images, labels) in enumerate(trainer.batches()):
            loss, _ = trainer.step(images, labels, index)
            if not found:
                found.extend(_bad_parameters(trainer.net))
            if found or index == last:
                break
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return index, *found[0]
    if loss.item() > trainer.config.max_loss:
        return index, "loss", f"training loss {loss.item():.4g} exceeds max_loss {trainer.config.max_loss:g}"
    return index, "unknown", "running the epoch again stayed finite"


def _watch(net: nn.Module, found: list[tuple[str, str]]) -> list[Any]:
    handles = []
    for name, module in net.named_modules():
        if not any(module.children()):
            handles.append(module.register_forward_hook(_output_check(name, found)))
    return handles


def _output_check(name: str, found: list[tuple[str, str]]) -> Callable[[nn.Module, Any, Any], None]:
    def note(what: str) -> Callable[[Tensor], None]:
        def check(value: Tensor) -> None:
            if not found and not bool(torch.isfinite(value).all()):
                found.append((name, what))

        return check

    def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
        # Some layers, such as torch's LSTM, return several tensors.
        for output in (each for each in tree_leaves(outputs) if isinstance(each, Tensor)):
            note("non-finite output")(output)
            if output.requires_grad:
                output.register_hook(note("non-finite backpropagated error"))

    return hook


def _bad_parameters(net: nn.Module) -> list[tuple[str, str]]:
    for what, values in (
        ("non-finite gradient", [(name, p.grad) for name, p in net.named_parameters()]),
        ("non-finite weights after the step", list(net.named_parameters())),
    ):
        for name, value in values:
            if value is not None and not bool(torch.isfinite(value).all()):
                return [(name.rpartition(".")[0], what)]
    return []
