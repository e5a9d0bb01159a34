"""Initialisations of conv and fc weights. Each takes one weight (C_out, C_in, kh, kw) or (C_out, C_in), in place.

Biases start at 0 and batch norm at γ=1, β=0; random numbers come from the generator only.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


@torch.no_grad()
def he(weight: Tensor, generator: Generator) -> None:
    """Fill with a normal distribution of variance 2/fan-in.

    Source: He, Zhang, Ren, Sun 2015, arXiv:1502.01852.
    """
    fan_in = weight[0].numel()
    weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)


@torch.no_grad()
def orthonormal(weight: Tensor, generator: Generator) -> None:
    """Fill with orthonormal filters: with w = weight.flatten(1), w·wᵀ = I, unit norm and no gain.

    Where the filters outnumber their inputs they form ceil(C_out/f_in) groups, each orthonormal.
    Source: Xie, Xiong, Pu 2017, arXiv:1703.01827, who use Gram-Schmidt. QR with the signs of R's diagonal
    moved into Q has the same distribution. The grouping is ours: the paper does not describe that case.
    """
    num_filters, fan_in = weight.shape[0], weight[0].numel()
    weight.copy_(_orthonormal_rows(num_filters, fan_in, generator).view(weight.shape))


@torch.no_grad()
def xavier(weight: Tensor, generator: Generator) -> None:
    """Fill with a uniform distribution of variance 2/(fan-in + fan-out); a kernel's size counts in both.

    Source: Glorot, Bengio 2010, AISTATS.
    """
    fan_in, fan_out = weight[0].numel(), weight[:, 0].numel()
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    weight.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def delta_orthogonal(weight: Tensor, generator: Generator) -> None:
    """Fill with zeros but for the kernels' centre, a random matrix (C_out, C_in) with orthonormal rows, no gain.

    Source: Xiao et al. 2018, arXiv:1806.05393, for C_out >= C_in, where the columns are orthonormal. Deviations: where
    C_out > C_in the rows form orthonormal groups, as in `orthonormal`, so that every filter has unit norm; where
    C_out < C_in, which the source leaves out, the rows are orthonormal. The fully connected layer is its own centre.
    """
    centre = _orthonormal_rows(weight.shape[0], weight.shape[1], generator).to(weight)
    _fill_centre(weight, centre)


@torch.no_grad()
def dirac(weight: Tensor, generator: Generator) -> None:
    """Fill with kernels that pass their channels through: filter i is one at its centre for channel i, else zero.

    Source: the identity of Zagoruyko, Komodakis 2017, arXiv:1706.00388, as an initialisation only. Deviations: where
    C_out > C_in, channels repeat (filter i takes channel i mod C_in), because filters of zeros would leave batch norm
    nothing to normalise. The fully connected layer has no identity and gets `he`.
    """
    if weight.dim() == 2:
        he(weight, generator)
        return
    channels = torch.arange(weight.shape[0]) % weight.shape[1]
    _fill_centre(weight, torch.nn.functional.one_hot(channels, weight.shape[1]).to(weight))


def own(weight: Tensor, generator: Generator) -> None:
    """Leave the weight as the model's own code has made it, from torch's generator with the trial's seed."""


def _orthonormal_rows(num_rows: int, num_columns: int, generator: Generator) -> Tensor:
    """Return (num_rows, num_columns) in float64: rows in groups of at most num_columns, each group orthonormal."""
    groups = []
    for start in range(0, num_rows, num_columns):
        size = min(num_columns, num_rows - start)
        gaussian = torch.empty(num_columns, size, dtype=torch.float64).normal_(generator=generator)
        q, r = torch.linalg.qr(gaussian)
        groups.append((q * torch.sign(torch.diagonal(r))).T)
    return torch.cat(groups)


def _fill_centre(weight: Tensor, centre: Tensor) -> None:
    if weight.dim() == 2:
        weight.copy_(centre)
        return
    weight.zero_()
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = centre
