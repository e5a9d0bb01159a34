"""The rows of `norm`: which convolution a layer has, and what follows it.

Sources: `batch`: Ioffe, Szegedy 2015, arXiv:1502.03167, in torch's form; `weight`: Salimans, Kingma 2016,
arXiv:1602.07868, with the deviations of `WeightNormConv2d`; `batch_renorm`: Ioffe 2017, arXiv:1702.03275, with those
of `BatchRenorm2d`; `none` has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablate.tasks.image_classification.models.kernels import WeightNormConv2d


class BatchRenorm2d(nn.BatchNorm2d):
    """Batch norm whose output in training is corrected toward that with running statistics.

    In training (x − μ_B)/σ_B·r + d with r = σ_B/σ clipped to [1/r_max, r_max] and d = (μ_B − μ)/σ clipped to
    [−d_max, d_max], both constants for the backward pass; μ and σ are the running statistics before their update.
    With r_max = 1 and d_max = 0, where it starts, it is batch norm; the trainer relaxes the limits.
    Source: Ioffe 2017, arXiv:1702.03275. Deviations: the running variance is unbiased and its momentum is 0.1, as in
    torch's batch norm (the paper: 0.01), so that the two arms differ in r and d only.
    """

    r_max = 1.0
    d_max = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or (self.r_max == 1.0 and self.d_max == 0.0):
            return super().forward(x)
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            raise RuntimeError("batch renormalisation needs running statistics")
        x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        std, running_std = (variance + self.eps).sqrt(), (self.running_var + self.eps).sqrt()
        with torch.no_grad():
            r = (std / running_std).clamp(1 / self.r_max, self.r_max)
            d = ((mean - self.running_mean) / running_std).clamp(-self.d_max, self.d_max)
            size = x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (size / (size - 1)), self.momentum or 0.0)
            self.num_batches_tracked.add_(1)
        scale = self.weight * r / std
        shift = self.bias + self.weight * d - mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


@dataclass(frozen=True)
class Norm:
    """One way to keep the scale of a layer: `conv` with or without bias, then `after`, built with the channels."""

    after: Callable[[int], nn.Module] = nn.Identity
    has_bias: bool = True
    conv: type[nn.Conv2d] = nn.Conv2d


BATCH = Norm(nn.BatchNorm2d, has_bias=False)
BATCH_RENORM = Norm(BatchRenorm2d, has_bias=False)
NONE = Norm()
WEIGHT = Norm(conv=WeightNormConv2d)


BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def batch_norms(net: nn.Module) -> list[BatchNorm]:
    """Return all batch norms with running statistics, in forward order; BatchRenorm2d is one of them."""
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None]


@contextlib.contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Let every norm use the statistics of its batch alone, and leave the running ones as they are."""
    norms = batch_norms(net)
    before = [(norm.training, norm.momentum) for norm in norms]
    limits = [(norm, norm.r_max, norm.d_max) for norm in norms if isinstance(norm, BatchRenorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
    for renorm, _, _ in limits:
        renorm.r_max, renorm.d_max = 1.0, 0.0
    try:
        yield
    finally:
        for norm, (is_training, momentum) in zip(norms, before, strict=True):
            norm.train(is_training)
            norm.momentum = momentum
        for renorm, r_max, d_max in limits:
            renorm.r_max, renorm.d_max = r_max, d_max
