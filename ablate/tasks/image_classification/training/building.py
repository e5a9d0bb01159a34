"""A net and its modulation, built as a configuration asks: a user's own as well as those that come with Ablate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ablate.signals import was_interrupted
from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods import inits, modulation
from ablate.tasks.image_classification.methods.modulation_base import Modulation
from ablate.tasks.image_classification.models.kernels import match_gains
from ablate.tasks.image_classification.models.layers import regularized_weights
from ablate.tasks.image_classification.training.randomness import seeded
from ablate.tasks.parameters import ConfigError
from ablate.tasks.registry import described, error_text


def build_net(config: TrialConfig, shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return the net for items of a shape, as its code makes it.

    `build(config, shape, num_classes)` is given the whole shape where its second parameter has this name, otherwise
    the number of channels.
    """
    build = config.row("model").load()
    net: nn.Module = build(config, tuple(shape) if _names(build)[1:2] == ["shape"] else shape[0], num_classes)
    return net


def initialise(net: nn.Module, config: TrialConfig, seed: int) -> None:
    """Overwrite the conv and fc weights with what the configuration names; `own` leaves everything as it is."""
    init = config.row("init").load()
    if init is inits.own:
        return
    generator = torch.Generator().manual_seed(seed)
    for weight in regularized_weights(net):
        init(weight, generator)
    match_gains(net)


def build_modulation(config: TrialConfig, net: nn.Module) -> Modulation | None:
    """Return the modulation of a net, None for none.

    Raises:
        ConfigError: It acts at points of the forward pass, which the net does not have.
    """
    build = config.row("modulation").load()
    if _has_points(build) and "modulate" not in _names(net.forward):
        raise ConfigError(
            f"modulation '{config.modulation}' acts inside the net, so forward of {described(config.row('model'))} "
            "needs the parameter `modulate`, which it calls as ConvBN does: forward(images, modulate=None)",
            "modulation",
        )
    made: Modulation | None = build(config, net)
    return made


def _has_points(build: Callable[..., Any]) -> bool:
    """Say whether a modulation is called in the forward pass; relatives that only rescale gradients are not."""
    is_outside = isinstance(build, type) and getattr(build, "begin", None) is Modulation.begin
    return build is not modulation.none and not is_outside


def _names(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters of a user's function or class, none where Python does not know them."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


@dataclass(frozen=True)
class Look:
    """What is known of a net before it is trained: the names of the tensors that `regularized_weights` returns, and
    how many tensors are trained or frozen in all."""

    weights: tuple[str, ...]
    num_tensors: int


def look(config: TrialConfig, shape: Sequence[int], num_classes: int) -> Look:
    """Build a net and its modulation once, on the CPU.

    Raises:
        ConfigError: The net cannot be built for this shape, or not with this modulation.
    """
    row = config.row("model")
    with seeded(0, torch.device("cpu")):
        try:
            net = build_net(config, shape, num_classes)
            weights = {id(weight) for weight in regularized_weights(net)}
            named = [(name, id(tensor)) for name, tensor in net.named_parameters()]
        except BaseException as error:
            if was_interrupted():
                raise
            size = "×".join(map(str, shape))
            raise ConfigError(
                f"{described(row)} cannot be built for data of {size}: {error_text(error)}", "model"
            ) from error
        build_modulation(config, net)
    return Look(tuple(name for name, key in named if key in weights), len(named))
