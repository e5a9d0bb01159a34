"""Regularizers of conv and fc weights. Batch norm and biases are never regularized, in no arm.

A regularizer is built with the weights, in forward order, and the configuration. `weight_decay` goes to the optimizer:
decoupled in AdamW and Muon, added after the gradient's normalisation in NovoGrad, added to the gradient in all others.
`add_gradient` is called after backward, before the optimizer's step, so what it adds goes through momentum as weight
decay does in SGD. `after_step` is called after the optimizer's step: the place of decoupled penalties and of
constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.penalty_schedules import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where training is: the step, counted from 0; the progress in [0, 1); the learning rate of the step."""

    step: int
    progress: float
    lr: float


class Regularizer(Protocol):
    """What the trainer asks of a regularizer."""

    weight_decay: float

    def add_gradient(self, moment: Moment) -> None:
        """Add the gradient of the penalty to the weights' `.grad`."""

    def after_step(self, moment: Moment) -> None:
        """Change the weights themselves, after the optimizer has."""


class NoRegularizer:
    """No penalty."""

    weight_decay = 0.0

    def __init__(self, weights: Sequence[Tensor], config: TrialConfig) -> None:
        pass

    def add_gradient(self, moment: Moment) -> None:
        """Add nothing."""

    def after_step(self, moment: Moment) -> None:
        """Change nothing."""


class L2(NoRegularizer):
    """weight_decay/2·Σ‖W‖², left to the optimizer."""

    def __init__(self, weights: Sequence[Tensor], config: TrialConfig) -> None:
        super().__init__(weights, config)
        self.weight_decay = config.number("weight_decay")


class Stack:
    """Weights of one shape, handled in one batch: on small nets the number of kernel launches is what costs.

    A weight (C_out, C_in, kh, kw) is a matrix (C_out, f_in), one filter a row. The order within a row follows the
    memory (channels last), which no penalty depends on, so that stacking is one plain copy.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.shape = weights[0].shape
        self.is_kernel = weights[0].dim() == 4

    def matrices(self) -> Tensor:
        """Return the weights, copied: (number of weights, C_out, f_in)."""
        if self.is_kernel:
            return torch.stack([weight.permute(0, 2, 3, 1) for weight in self.weights]).flatten(2)
        return torch.stack(self.weights)

    def unstack(self, matrices: Tensor) -> list[Tensor]:
        """Return views of the matrices in the weights' shape."""
        if self.is_kernel:
            filters, channels, height, width = self.shape
            matrices = matrices.view(-1, filters, height, width, channels).permute(0, 1, 4, 2, 3)
        return list(matrices.unbind())


def stacks(weights: Sequence[Tensor]) -> list[Stack]:
    """Return the weights grouped by shape."""
    by_shape: dict[tuple[object, ...], list[Tensor]] = {}
    for weight in weights:
        by_shape.setdefault((weight.shape, conv_stride(weight)), []).append(weight)
    return [Stack(group) for group in by_shape.values()]


def conv_stride(weight: Tensor) -> int:
    """Return the stride of the convolution that a weight belongs to, as noted by `regularized_weights`."""
    return int(getattr(weight, "conv_stride", 1))


def chosen_layers(weights: Sequence[Tensor], layers: str) -> list[Tensor]:
    """Return the weights that `ortho_layers` names: all, conv, fc, or all but the first convolution."""
    if layers == "not_first":
        return list(weights[1:])
    dims = {"all": (2, 4), "conv": (4,), "fc": (2,)}[layers]
    return [weight for weight in weights if weight.dim() in dims]


class Penalty(NoRegularizer):
    """λ(t) times a penalty that keeps filters orthonormal. A subclass gives the gradient at λ = 1.

    `ortho_coupling` says where it acts: "coupled" adds it to the gradient before the optimizer, as the paper does;
    "decoupled" subtracts lr·λ(t)·gradient from the weights after the optimizer's step, as AdamW does with weight decay.
    """

    def __init__(self, weights: Sequence[Tensor], config: TrialConfig) -> None:
        super().__init__(weights, config)
        self.ortho_weight = config.number("ortho_weight")
        self.schedule = SCHEDULES[str(config.options["ortho_schedule"])]
        self.is_coupled = config.options["ortho_coupling"] == "coupled"
        self.stacks = stacks(chosen_layers(weights, str(config.options["ortho_layers"])))

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return the gradient of the penalty at λ = 1: (number of weights, C_out, f_in)."""
        raise NotImplementedError

    def strength(self, moment: Moment) -> float:
        """Return λ at this moment."""
        return self.ortho_weight * self.schedule(moment.progress)

    @torch.no_grad()
    def add_gradient(self, moment: Moment) -> None:
        """Add λ(t)·gradient, if the penalty is coupled."""
        strength = self.strength(moment)
        if not self.is_coupled or strength == 0:
            return
        for stack in self.stacks:
            grads = [weight.grad for weight in stack.weights if weight.grad is not None]
            torch._foreach_add_(grads, stack.unstack(self.gradient(stack, moment)), alpha=strength)

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """Subtract lr·λ(t)·gradient from the weights, if the penalty is decoupled."""
        strength = self.strength(moment)
        if self.is_coupled or strength == 0:
            return
        for stack in self.stacks:
            change = stack.unstack(self.gradient(stack, moment))
            torch._foreach_add_(stack.weights, change, alpha=-moment.lr * strength)


class Orthonormal(Penalty):
    """ortho_weight/2·Σ‖w·wᵀ − I‖²_F with w = weight.flatten(1), one filter a row, in place of weight decay.

    Source: Xie, Xiong, Pu 2017, arXiv:1703.01827; the soft orthogonality of Bansal et al. 2018, arXiv:1810.09102.
    The gradient 2·(w·wᵀ − I)·w is analytic. Where the filters outnumber their inputs, w·(wᵀ·w − I) is the same matrix
    with the smaller Gram matrix.
    The gradient is cubic in w, so a plain step diverges once a singular value of w exceeds sqrt(1 + 1/(lr·λ)).
    """

    def gradient(self, stack: Stack, moment: Moment) -> Tensor:
        """Return 2·(w·wᵀ − I)·w."""
        w = stack.matrices()
        if w.shape[1] <= w.shape[2]:
            return torch.baddbmm(w, torch.bmm(w, w.mT), w, beta=-2, alpha=2)
        return torch.baddbmm(w, w, torch.bmm(w.mT, w), beta=-2, alpha=2)


def defect(weight: Tensor) -> Tensor:
    """Return ‖w·wᵀ − I‖²_F minus its floor, the number of filters beyond the number of inputs."""
    w = weight.flatten(1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return (gram - torch.eye(gram.shape[0], dtype=w.dtype, device=w.device)).square().sum()
