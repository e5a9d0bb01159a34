"""Measures of a layer's filters: how far they are from orthonormal, what angles they have, how they stretch.

Sources: the defect: Xie, Xiong, Pu 2017, arXiv:1703.01827; its split into norms and angles: Bansal, Chen, Wang 2018,
arXiv:1810.09102.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_measures(w: Tensor) -> dict[str, Tensor]:
    """Return the measures of flattened kernels, (num, filters, inputs), each (num,)."""
    if w.device.type != "mps":
        w = w.double()
    num_filters, num_inputs = w.shape[1:]
    gram = w @ w.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    diagonal = (squares - 1).square().sum(1)
    off_diagonal = gram.square().sum((1, 2)) - squares.square().sum(1)
    norms = squares.sqrt().clamp(min=1e-12)
    cosines = gram / (norms.unsqueeze(1) * norms.unsqueeze(2))
    num_pairs = num_filters * (num_filters - 1)
    own = cosines.diagonal(dim1=1, dim2=2).sum(1)
    small = gram if num_filters <= num_inputs else w.mT @ w
    singular = torch.linalg.eigvalsh(small).clamp(min=0).sqrt()
    return {
        "defect": diagonal + off_diagonal - max(0, num_filters - num_inputs),
        "diagonal_defect": diagonal,
        "off_diagonal_defect": off_diagonal,
        "cosine": (cosines.sum((1, 2)) - own) / num_pairs if num_pairs else torch.full_like(own, torch.nan),
        "absolute_cosine": (cosines.abs().sum((1, 2)) - own) / num_pairs
        if num_pairs
        else torch.full_like(own, torch.nan),
        "singular_min": singular[:, 0],
        "singular_max": singular[:, -1],
    }
