"""Modulation after the fact: read the errors in the backward pass, then rescale the finished gradients.

In a net without shortcuts everything below a point passes through it, so rescaling its error by ρ multiplies all
gradients below by ρ. The product of the ρ above a layer is therefore exactly the factor of that layer's gradients,
whatever optimizer comes after. It is cheaper than the backward form: the errors are read once and never written, and
all factors are applied in one call. With shortcuts errors flow around the points, and the two forms part company.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.layer_groups import Rescaling, gradients_below_points
from ablate.tasks.image_classification.methods.modulation_base import RuledModulation, norm
from ablate.tasks.image_classification.methods.modulation_rule import Rule
from ablate.tasks.image_classification.models.cifar import Modulate


class ErrorReader:
    """Reads the root mean square of the error at the points of one forward pass; changes nothing."""

    def __init__(self, site: str, every_k: int) -> None:
        self.site = site
        self.every_k = every_k
        self.index = -1
        self.norms: dict[int, Tensor] = {}
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, token: Tensor, site: str = "conv") -> tuple[Tensor, Tensor]:
        """Return x and the token as they are."""
        if site == self.site:
            self.index += 1
            if self.index % self.every_k == 0:
                self.sizes.append(x.numel())
                x.register_hook(functools.partial(self._note, self.index, token.dtype))
        return x, token

    def _note(self, index: int, dtype: torch.dtype, error: Tensor) -> None:
        self.norms[index] = norm(error, dtype)

    def root_mean_squares(self) -> Tensor:
        """Return r of all points, from below up: (number of points,)."""
        norms = torch.stack([self.norms[index] for index in sorted(self.norms)])
        return norms / torch.tensor(self.sizes, dtype=norms.dtype, device=norms.device).sqrt()


def equalising(r: Tensor) -> Tensor:
    """Return r_top/r, the factors that give every error the topmost one's magnitude; 1 where that is impossible."""
    ratio = r[-1] / r
    return torch.where((ratio > 0) & (ratio < torch.inf), ratio, 1.0)


class PostHocModulation(RuledModulation):
    """Modulation by rescaling gradients: for nets without shortcuts, sites "conv" and "norm"."""

    def __init__(self, config: TrialConfig, net: nn.Module, rule: Rule) -> None:
        super().__init__(config, net, rule)
        self.rescaling = Rescaling(gradients_below_points(net, rule.site, rule.every_k))
        self.reader: ErrorReader | None = None

    def begin(self) -> Modulate:
        """Return what reads the errors of one forward pass."""
        self.reader = ErrorReader(self.rule.site, self.rule.every_k)
        return self.reader

    @torch.no_grad()
    def after_backward(self) -> None:
        """Rescale the gradients."""
        if self.reader is None:
            raise RuntimeError("after_backward comes after begin and the backward pass")
        self.rescaling.apply(self._factors(self.reader.root_mean_squares()))
        self.reader = None

    def _factors(self, root_mean_squares: Tensor) -> Tensor:
        """Return for every point, from below up, the product of the ρ at it and above it."""
        if self.rule.equalises:
            return equalising(root_mean_squares)
        r = root_mean_squares.unbind()
        smoothing = self.smoothing
        if smoothing is not None:
            smoothing.start_step()
        factor, reference = torch.ones_like(r[-1]), torch.zeros_like(r[-1])
        factors: list[Tensor] = []
        log_ratios = torch.zeros_like(smoothing.memory) if smoothing is not None else None
        for place in reversed(range(len(r))):
            index = place * self.rule.every_k
            smoothed = (smoothing.memory[index], smoothing.correction) if smoothing is not None else None
            rho, reference, log_ratio = self.rule.correct(factor * r[place], reference, smoothed)
            factor = factor * rho
            factors.append(factor)
            if log_ratios is not None and log_ratio is not None:
                log_ratios[index] = log_ratio
        if smoothing is not None and log_ratios is not None:
            smoothing.take(log_ratios)
        return torch.stack(factors[::-1])
