"""Orthonormality kept by changing the weights after the optimizer's step, instead of by a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.penalty_schedules import SCHEDULES
from ablate.tasks.image_classification.methods.regularizers import Moment, NoRegularizer, Stack, chosen_layers, stacks


class Constraint(NoRegularizer):
    """Replaces the chosen weights after a step. A subclass gives the new matrices."""

    def __init__(self, weights: Sequence[Tensor], config: TrialConfig) -> None:
        super().__init__(weights, config)
        self.stacks = stacks(chosen_layers(weights, str(config.options["ortho_layers"])))

    def replace(self, w: Tensor, moment: Moment) -> Tensor:
        """Return what the matrices (number of weights, C_out, f_in) become."""
        raise NotImplementedError

    def acts(self, moment: Moment) -> bool:
        """Say whether this step is one of those after which the weights are changed."""
        return True

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """Replace the weights, if this is a step for it."""
        if not self.acts(moment):
            return
        for stack in self.stacks:
            self._write(stack, self.replace(stack.matrices(), moment))

    @staticmethod
    def _write(stack: Stack, matrices: Tensor) -> None:
        torch._foreach_copy_(stack.weights, stack.unstack(matrices.contiguous()))


class SemiImplicit(Constraint):
    """The orthonormality penalty λ/2·‖w·wᵀ − I‖²_F as a step that cannot diverge.

    w⁺ = (1 + a)·(I + a·w·wᵀ)⁻¹·w with a = 2·lr·λ(t): the cubic term of the gradient flow is taken implicitly, the
    linear one explicitly. A singular value σ becomes σ·(1 + a)/(1 + a·σ²): its fixed points are those of the penalty,
    the derivative at σ = 1 is (1 − a)/(1 + a), and no σ exceeds (1 + a)/(2·sqrt(a)) afterwards, whatever it was.
    To first order in lr it is the decoupled penalty. Ours.
    """

    def __init__(self, weights: Sequence[Tensor], config: TrialConfig) -> None:
        super().__init__(weights, config)
        self.ortho_weight = config.number("ortho_weight")
        self.schedule = SCHEDULES[str(config.options["ortho_schedule"])]

    def replace(self, w: Tensor, moment: Moment) -> Tensor:
        """Return (1 + a)·(I + a·w·wᵀ)⁻¹·w, by the smaller of the two Gram matrices."""
        a = 2 * moment.lr * self.ortho_weight * self.schedule(moment.progress)
        is_wide = w.shape[1] > w.shape[2]
        rows = w.mT if is_wide else w
        system = torch.bmm(rows, rows.mT).mul_(a)
        system.diagonal(dim1=1, dim2=2).add_(1)
        factor, _ = torch.linalg.cholesky_ex(system)
        solution: Tensor = torch.cholesky_solve(rows.contiguous(), factor)
        return (1 + a) * (solution.mT if is_wide else solution)


class NormProjection(Constraint):
    """Every filter is scaled back to unit norm after every step; angles between filters are left alone.

    Ours, as a control: what is left of the retraction without the angles.
    """

    def replace(self, w: Tensor, moment: Moment) -> Tensor:
        """Return the filters divided by their norms."""
        norms: Tensor = torch.linalg.vector_norm(w, dim=2, keepdim=True)
        return w / norms.clamp_min(torch.finfo(w.dtype).tiny)


class Retraction(Constraint):
    """Hard orthonormality: every `retraction_every` steps the weights move to the nearest orthonormal ones.

    Newton-Schulz iteration Y ← 1.5·Y − 0.5·Y·Yᵀ·Y, which tends to the orthonormal factor of the polar decomposition.
    Y starts at w divided by sqrt(‖w·wᵀ‖_∞), a bound of its largest singular value, where that exceeds 1, so that the
    iteration cannot diverge. One iteration multiplies a singular value by at most 1.5, eight (the default) by 26:
    enough for what training changes between two retractions, but random 64×64 matrices have a smallest singular value
    of 0.005 to 0.12 after one retraction; the next ones go on from there. Source: the iteration of Huang et al. 2020,
    arXiv:2004.00917 (ONI), who apply it to a parametrisation of the weights in every forward pass; here it acts on the
    weights between steps.
    """

    def __init__(self, weights: Sequence[Tensor], config: TrialConfig) -> None:
        super().__init__(weights, config)
        self.every = int(config.number("retraction_every"))
        self.num_iterations = int(config.number("retraction_iterations"))

    def acts(self, moment: Moment) -> bool:
        """Say whether this step is a multiple of `retraction_every`, counted from 1."""
        return (moment.step + 1) % self.every == 0

    def replace(self, w: Tensor, moment: Moment) -> Tensor:
        """Return the orthonormal polar factor."""
        is_wide = w.shape[1] > w.shape[2]
        y = w.mT if is_wide else w
        bound = torch.bmm(y, y.mT).abs().sum(2).amax(1).view(-1, 1, 1)
        y = y / bound.clamp_min(1).sqrt()
        for _ in range(self.num_iterations):
            y = torch.baddbmm(y, torch.bmm(y, y.mT), y, beta=1.5, alpha=-0.5)
        return y.mT if is_wide else y
