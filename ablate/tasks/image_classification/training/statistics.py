"""The statistics of batch norm: those that training normalises with, and those that an evaluation does.

A row of `statistics` is a function of the net, its configuration, `draw` and `forward` that returns mean and variance
of every batch norm for the present weights. `draw` takes a number and yields that many training images, augmented and
normalised, in batches of one size; `forward` computes logits in the configuration's precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ablate.tasks import registry
from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.models.norms import BatchNorm, BatchRenorm2d, batch_norms, batch_statistics

Statistics = list[tuple[Tensor, Tensor]]
"""(mean, variance) of every batch norm in forward order, each (channels,), float32."""
Draw = Callable[[int], Iterable[Tensor]]


class StatisticsSchedule:
    """Sets every batch norm to what the progress of training asks for; nets without batch norm have nothing to set.

    `frozen_statistics`: in this last fraction of training the running statistics are kept and normalise, so what is
    trained is what is evaluated (Wu, Johnson 2021, arXiv:2105.07576: FrozenBN in the last epochs). `renorm_window`:
    from its start to its end the limits of batch renormalisation rise linearly from (1, 0), batch norm, to
    (`renorm_r_max`, `renorm_d_max`). Ioffe 2017 (arXiv:1702.03275) relaxes them in two windows of steps, 5k to 40k and
    5k to 25k; here it is one window for both, in fractions of training.
    """

    def __init__(self, net: nn.Module, config: TrialConfig) -> None:
        self.norms = batch_norms(net)
        self.renorms = [norm for norm in self.norms if isinstance(norm, BatchRenorm2d)]
        self.frozen_from = 1.0 - float(str(config.options.get("frozen_statistics", 0.0)))
        self.config = config

    def at(self, progress: float) -> None:
        """Set the norms of a net in training mode for a step at this progress in [0, 1)."""
        if progress >= self.frozen_from and self.norms and self.norms[0].training:
            for norm in self.norms:
                norm.eval()
        if self.renorms:
            start, end = self.config.window("renorm_window")
            share = 1.0 if progress >= end else 0.0 if progress <= start else (progress - start) / (end - start)
            for renorm in self.renorms:
                renorm.r_max = 1.0 + share * (self.config.number("renorm_r_max") - 1.0)
                renorm.d_max = share * self.config.number("renorm_d_max")


@torch.no_grad()
def estimate(net: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], Any]) -> Statistics:
    """Return mean and variance of every batch norm over all images of `batches`, which have one size.

    Every layer normalises with the statistics of its batch meanwhile; the variance is that within the batches plus
    that of their means. Over one batch these are the statistics that each layer has where those below it normalise
    with theirs. Source: Wu, Johnson 2021, arXiv:2105.07576, section 3 ("PreciseBN").
    """
    norms = batch_norms(net)
    counts = dict.fromkeys(norms, 0)
    found = {norm: (torch.zeros_like(mean), torch.zeros_like(variance))
             for norm, (mean, variance) in zip(norms, running_statistics(net), strict=True)}  # fmt: skip

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(norm, BatchNorm):
            return
        values = inputs[0].float()
        variance, mean = torch.var_mean(values, (0, *range(2, values.dim())), correction=0)
        counts[norm] += 1
        num, (means, variances) = counts[norm], found[norm]
        delta = mean - means
        means += delta / num
        variances += (variance + delta.square() * (num - 1) / num - variances) / num

    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.num_batches_tracked = None
    try:
        with batch_statistics(net):
            for images in batches if norms else ():
                forward(images)
    finally:
        for handle in handles:
            handle.remove()
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter
    return list(found.values())


def estimated(net: nn.Module, config: TrialConfig, draw: Draw, forward: Callable[[Tensor], Any]) -> Statistics:
    """Estimate the statistics for the present weights from `statistics_images` training images.

    Source: Wu, Johnson 2021, arXiv:2105.07576, who estimate them once, after training.
    """
    default = registry.get("statistics", "estimated").parameters[0].default
    num_images = int(str(config.options.get("statistics_images", default)))
    return estimate(net, draw(num_images), forward)


def running(net: nn.Module, config: TrialConfig, draw: Draw, forward: Callable[[Tensor], Any]) -> Statistics:
    """Return the statistics that training keeps. Source: Ioffe, Szegedy 2015, arXiv:1502.03167, in torch's form."""
    return running_statistics(net)


def running_statistics(net: nn.Module) -> Statistics:
    """Return (mean, variance) of every batch norm, in forward order: the tensors that the net holds."""
    found = []
    for norm in batch_norms(net):
        if norm.running_mean is None or norm.running_var is None:
            raise RuntimeError("a batch norm without running statistics")
        found.append((norm.running_mean, norm.running_var))
    return found


@contextlib.contextmanager
def holding(net: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Let a net in evaluation mode have these statistics; afterwards it has its own again, the same tensors."""
    kept = running_statistics(net)
    _hold(net, statistics)
    try:
        yield
    finally:
        _hold(net, kept)


def _hold(net: nn.Module, statistics: Statistics) -> None:
    for norm, (mean, variance) in zip(batch_norms(net), statistics, strict=True):
        norm.running_mean, norm.running_var = mean, variance
