"""Rivals of the orthonormality regularizer: other penalties on the same Gram matrix of the filters.

Notation: w is (C_out, f_in), one filter a row; D = w·wᵀ − I. Every penalty has the weight λ = `ortho_weight`, the
same schedules and the same coupling. All gradients are analytic and tested against autograd.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.regularizers import Moment, Orthonormal, Penalty, Stack, conv_stride


class DoubleSided(Orthonormal):
    """λ/2·(‖w·wᵀ − I‖²_F + ‖wᵀ·w − I‖²_F).

    Source: Bansal, Chen, Wang 2018, arXiv:1810.09102 (double soft orthogonality). The two norms differ by the constant
    |C_out − f_in|, so the gradient is exactly twice that of the one-sided penalty: the arm is a control, not a rival.
    """

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return 4·D·w."""
        return super().gradient(stack, moment).mul_(2)


class Diagonal(Penalty):
    """λ/2·Σ_i (‖w_i‖² − 1)²: the diagonal of D only, which is control of the filters' norms. Ours, as a control."""

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return 2·diag(D)·w."""
        w = stack.matrices()
        return w * (w.square().sum(2, keepdim=True) - 1).mul_(2)


class OffDiagonal(Penalty):
    """λ/2·Σ_{i≠j} (w_i·w_j)²: decorrelates filters and leaves their norms alone. Ours, as a control."""

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return 2·(D without its diagonal)·w."""
        w = stack.matrices()
        gram = torch.bmm(w, w.mT)
        gram.diagonal(dim1=1, dim2=2).zero_()
        return torch.bmm(gram, w).mul_(2)


class MutualCoherence(Penalty):
    """λ·max_ij |D_ij|.

    Source: Bansal, Chen, Wang 2018, arXiv:1810.09102, who take ‖·‖_∞ as the largest entry and differentiate it
    automatically. Here as there the subgradient is shared evenly by equal entries.
    """

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return 2·M·w, where M holds the signs of the largest entries of D, divided by their number."""
        w = stack.matrices()
        d = _minus_identity(torch.bmm(w, w.mT))
        largest = d.abs() == d.abs().amax((1, 2), keepdim=True)
        m = torch.where(largest, d.sign(), 0.0) / largest.sum((1, 2), keepdim=True)
        return torch.bmm(m, w).mul_(2)


class SpectralIsometry(Penalty):
    """λ·‖D‖₂, the largest singular value, by power iteration (SRIP).

    Source: Bansal, Chen, Wang 2018, arXiv:1810.09102, with their two iterations from a random vector. Deviations: the
    gradient 2·sign·v·vᵀ·w takes the vector v as constant, which is exact where the iteration has converged; and the
    random vector is derived from the step, so that nothing has to be saved.
    """

    def __init__(self, weights: Sequence[Tensor], config: TrialConfig) -> None:
        super().__init__(weights, config)
        self.num_iterations = int(config.number("srip_iterations"))

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return 2·sign(vᵀ·D·v)·v·vᵀ·w."""
        w = stack.matrices()
        d = _minus_identity(torch.bmm(w, w.mT))
        generator = torch.Generator().manual_seed(moment.step)
        v = torch.randn(*d.shape[:2], 1, dtype=d.dtype, generator=generator).to(d.device)
        for _ in range(self.num_iterations):
            v = torch.bmm(d, v)
            # Dividing by the largest entry first keeps the squares of a tiny D from underflowing.
            v /= v.abs().amax(1, keepdim=True).clamp_min(torch.finfo(d.dtype).tiny)
            v /= torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(torch.finfo(d.dtype).tiny)
        sign = torch.bmm(v.mT, torch.bmm(d, v)).sign_()
        return torch.bmm(v * sign, torch.bmm(v.mT, w)).mul_(2)


class Convolutional(Orthonormal):
    """λ/2·‖conv(K, K, padding P, stride S) − I₀‖²_F: orthogonality of the convolution itself (OCNN).

    P = ⌊(k − 1)/S⌋·S, and I₀ has the identity at the centre and zeros elsewhere.
    Source: Wang, Chen, Chakraborty, Yu 2020, arXiv:1911.12207. The fully connected layer, a 1×1 kernel, has D.
    """

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return 2·convᵀ(E, K) with E the matrix inside the norm: its two halves are equal by symmetry."""
        if not stack.is_kernel:
            return super().gradient(stack, moment)
        num, (filters, channels, height, width) = len(stack.weights), stack.shape
        stride = conv_stride(stack.weights[0])
        padding = ((height - 1) // stride * stride, (width - 1) // stride * stride)
        kernels = torch.stack(stack.weights)
        # One grouped convolution for all weights: images (C_out, num·C_in), kernels (num·C_out, C_in).
        images = kernels.transpose(0, 1).reshape(filters, num * channels, height, width)
        kernels = kernels.reshape(num * filters, channels, height, width)
        error = F.conv2d(images, kernels, stride=stride, padding=padding, groups=num)
        centre = error[:, :, error.shape[2] // 2, error.shape[3] // 2].view(filters, num, filters)
        centre.diagonal(dim1=0, dim2=2).sub_(1)
        change = F.conv_transpose2d(error, kernels, stride=stride, padding=padding, groups=num).mul_(2)
        change = change.view(filters, num, channels, height, width)
        return change.permute(1, 0, 3, 4, 2).reshape(num, filters, height * width * channels)


def _minus_identity(gram: Tensor) -> Tensor:
    gram.diagonal(dim1=1, dim2=2).sub_(1)
    return gram
