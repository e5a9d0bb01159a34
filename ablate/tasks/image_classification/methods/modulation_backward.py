"""The backward form of modulation: a node in the graph after each point, which rescales the error that passes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.modulation_base import RuledModulation, Smoothing, root_mean_square
from ablate.tasks.image_classification.methods.modulation_rule import Rule
from ablate.tasks.image_classification.models.cifar import Modulate


class _Modulate(torch.autograd.Function):
    """Identity forward. Backward: (error, r of the reference) to (ρ·error, r that the point below compares with).

    `token` is a 0-d tensor whose only purpose is to carry r down from point to point in its gradient; 0 stands for no
    reference. The gradient of the 0-d `probe` is ln(ratio), which is how the running means get it without any state
    in here.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, token: Tensor, probe: Tensor | None, memory: Tensor | None, correction: Tensor | None,
        rule: Rule,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.rule = rule
        ctx.has_memory = memory is not None
        if memory is not None and correction is not None:
            ctx.save_for_backward(memory, correction)
        return x.view_as(x), token.view_as(token)

    @staticmethod
    def backward(ctx: Any, error: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None, None]:
        smoothed = ctx.saved_tensors if ctx.has_memory else None
        r = root_mean_square(error, reference.dtype)
        rho, below, log_ratio = ctx.rule.correct(r, reference, smoothed)
        return error * rho, below, log_ratio, None, None, None


class _Points:
    """The points of one forward pass, in the backward form."""

    def __init__(self, rule: Rule, smoothing: Smoothing | None, probe: Tensor | None) -> None:
        self.rule = rule
        self.smoothing = smoothing
        self.probe = probe
        self.index = -1

    def __call__(self, x: Tensor, token: Tensor, site: str = "conv") -> tuple[Tensor, Tensor]:
        """Return x and the token, with a node between them and what comes after."""
        if site != self.rule.site:
            return x, token
        self.index += 1
        if self.index % self.rule.every_k:
            return x, token
        if self.smoothing is None or self.probe is None:
            return _Modulate.apply(x, token, None, None, None, self.rule)  # type: ignore[no-any-return]
        probe, memory = self.probe[self.index], self.smoothing.memory[self.index]
        return _Modulate.apply(x, token, probe, memory, self.smoothing.correction, self.rule)  # type: ignore[no-any-return]


class BackwardModulation(RuledModulation):
    """The error itself is rescaled in the backward pass: for every net, and under `torch.compile(fullgraph=True)`."""

    def __init__(self, config: TrialConfig, net: nn.Module, rule: Rule) -> None:
        super().__init__(config, net, rule)
        self.probe: Tensor | None = None

    def begin(self) -> Modulate:
        """Return the points of one forward pass."""
        if self.smoothing is not None:
            self.smoothing.start_step()
            self.probe = torch.zeros_like(self.smoothing.memory).requires_grad_()
        return _Points(self.rule, self.smoothing, self.probe)

    def after_backward(self) -> None:
        """Take up the ratios that the backward pass has measured."""
        if self.smoothing is not None and self.probe is not None and self.probe.grad is not None:
            self.smoothing.take(self.probe.grad)
