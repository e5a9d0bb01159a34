"""The rule of modulation at one point: from two root mean squares to the factor ρ. Tensors of 0 dimensions only.

It never reads a number on the host, so a GPU is not waited for, and it keeps no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ablate.tasks.image_classification.config import TrialConfig

Smoothed = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The switches of modulation.

    reference: what a point is compared with: "previous", the point above; "anchor", the point modulated last; "top".
    tolerance: modulate where the ratio of the mean squares, or its inverse, exceeds this; up to 1 it always does.
    clamp: ρ stays in [1/clamp, clamp]. side: "both", "damp" (ρ < 1 only), "boost" (ρ > 1 only).
    ema: ln(ratio) is a running mean over steps with this decay, corrected for its start at 0, as in Adam.
    site, every_k: the points are every k-th output, counted from the input, of the kind `site`.
    """

    reference: str
    tolerance: float = 0.0
    clamp: float = math.inf
    side: str = "both"
    ema: float = 0.0
    site: str = "conv"
    every_k: int = 1

    @classmethod
    def of(cls, config: TrialConfig, reference: str) -> Rule:
        """Return the rule that a configuration asks for."""
        clamp = config.options["modulation_clamp"]
        return cls(
            reference=reference,
            tolerance=config.number("modulation_tolerance"),
            clamp=math.inf if clamp is None else config.number("modulation_clamp"),
            side=str(config.options["modulation_side"]),
            ema=config.number("modulation_ema"),
            site=str(config.options["modulation_site"]),
            every_k=int(config.number("modulation_every_k")),
        )

    @property
    def equalises(self) -> bool:
        """Whether every point always takes exactly the magnitude of the topmost one."""
        return self.tolerance <= 1 and self.side == "both" and math.isinf(self.clamp) and not self.ema

    def correct(self, r: Tensor, reference: Tensor, smoothed: Smoothed | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return (ρ, the r that the point below compares with, ln(ratio) or None).

        `r` is the root mean square of this point's error, `reference` that of the point it is compared with, 0 where
        there is none. `smoothed` is (ema·running mean, its correction), where there is a running mean.
        A dead or infinite error is left alone.
        """
        has_reference = reference > 0
        ratio = reference / r
        is_usable = (ratio > 0) & (ratio < math.inf)
        log_ratio = None
        if smoothed is not None:
            memory, correction = smoothed
            log_ratio = torch.where(is_usable, ratio, 1.0).log()
            ratio = ((memory + (1 - self.ema) * log_ratio) / correction).exp()
        fires = self._fires(ratio, is_usable)
        if not math.isinf(self.clamp):
            ratio = ratio.clamp(1 / self.clamp, self.clamp)
        rho = torch.where(fires, ratio, 1.0)
        kept = torch.where(has_reference, reference, r)
        if self.reference == "top":
            return rho, kept, log_ratio
        # Where nothing limits a correction, a modulated point has exactly the reference's magnitude.
        is_exact = math.isinf(self.clamp) and smoothed is None
        after = reference if is_exact else rho * r
        if is_exact and self.reference == "anchor":
            return rho, kept, log_ratio
        return rho, torch.where(fires, after, kept if self.reference == "anchor" else r), log_ratio

    def _fires(self, ratio: Tensor, is_usable: Tensor) -> Tensor:
        fires = is_usable
        if self.tolerance > 1:
            fires = fires & (torch.maximum(ratio, 1 / ratio) > math.sqrt(self.tolerance))
        if self.side == "damp":
            fires = fires & (ratio < 1)
        elif self.side == "boost":
            fires = fires & (ratio > 1)
        return fires
