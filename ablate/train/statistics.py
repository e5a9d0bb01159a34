"""The statistics of batch norm over training: the remedies of the gap between batch and running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ablate.config import TrialConfig
from ablate.models.norms import BatchRenorm2d, batch_norms, batch_statistics


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
def estimate_statistics(net: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], Any]) -> None:
    """Set all running statistics to mean and variance over all images of `batches`, which have one size.

    Every layer normalises with the statistics of its batch meanwhile; the variance is that within the batches plus
    that of their means. Source: Wu, Johnson 2021, arXiv:2105.07576, section 3 ("PreciseBN").
    """
    norms = batch_norms(net)
    counts = dict.fromkeys(norms, 0)
    means = {norm: torch.zeros_like(_running(norm)[0]) for norm in norms}
    variances = {norm: torch.zeros_like(_running(norm)[0]) for norm in norms}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(norm, nn.BatchNorm2d):
            return
        variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3), correction=0)
        counts[norm] += 1
        num = counts[norm]
        delta = mean - means[norm]
        means[norm] += delta / num
        variances[norm] += (variance + delta.square() * (num - 1) / num - variances[norm]) / num

    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        with batch_statistics(net):
            for images in batches:
                forward(images)
    finally:
        for handle in handles:
            handle.remove()
    for norm in norms:
        mean, variance = _running(norm)
        mean.copy_(means[norm])
        variance.copy_(variances[norm])


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise RuntimeError("a batch norm without running statistics")
    return norm.running_mean, norm.running_var
