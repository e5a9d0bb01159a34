"""Convolutions whose kernel is computed from the stored weight in every forward pass.

The stored `weight` is what initialisation and regularizer act on; `kernel()` is what convolves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReparametrisedConv2d(nn.Conv2d):
    """A convolution with `kernel()`: (C_out, C_in, kh, kw), the shape of the weight, in place of the weight."""

    def kernel(self) -> Tensor:
        """Return what the input is convolved with."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, self.kernel(), self.bias)
        return out

    def unit_filters(self) -> Tensor:
        """Return the weight with each filter divided by its Euclidean norm."""
        return F.normalize(self.weight.flatten(1), dim=1).view_as(self.weight)


class WeightNormConv2d(ReparametrisedConv2d):
    """Kernel g·w/‖w‖, with a trained gain g and a bias for every filter.

    Source: Salimans, Kingma 2016, arXiv:1602.07868. Deviation: `match_gains` starts g at the norms of the initial
    weight, so that training starts from the kernel that the initialisation gave, in place of their data-dependent
    initialisation of g and the bias.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, **options: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, **options)
        self.gain = nn.Parameter(torch.ones(out_channels))

    def kernel(self) -> Tensor:
        """Return g·w/‖w‖."""
        return self.gain.view(-1, 1, 1, 1) * self.unit_filters()


class DiracConv2d(ReparametrisedConv2d):
    """Kernel diag(a)·δ + diag(b)·w/‖w‖, where δ maps channel i of the input to channel i of the output.

    a starts at 1 and b at 0.1; neither is regularized. Source: Zagoruyko, Komodakis 2017, arXiv:1706.00388. Where the
    numbers of channels differ, δ is 1 for the channels that both have, as in torch.nn.init.dirac_. Deviation: with a
    stride, which they replace by max pooling, δ takes every `stride`-th pixel.
    """

    delta: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, **options: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, **options)
        self.a = nn.Parameter(torch.ones(out_channels))
        self.b = nn.Parameter(torch.full((out_channels,), 0.1))
        self.register_buffer("delta", nn.init.dirac_(torch.empty_like(self.weight)), persistent=False)

    def kernel(self) -> Tensor:
        """Return diag(a)·δ + diag(b)·w/‖w‖."""
        return self.a.view(-1, 1, 1, 1) * self.delta + self.b.view(-1, 1, 1, 1) * self.unit_filters()


def kernel(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """Return what a layer multiplies its input with: the computed kernel, or the weight itself."""
    return layer.kernel() if isinstance(layer, ReparametrisedConv2d) else layer.weight


@torch.no_grad()
def match_gains(net: nn.Module) -> None:
    """Set the gains of all weight-normalised convolutions to the norms of their filters."""
    for module in net.modules():
        if isinstance(module, WeightNormConv2d):
            module.gain.copy_(module.weight.flatten(1).norm(dim=1))
