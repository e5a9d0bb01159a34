"""Backward error modulation: rescale the backpropagated error between consecutive layers.

Source: Xie, Xiong, Pu 2017, arXiv:1703.01827: at every iteration q_l is the mean square of the error at the output of
layer l, and the error of layer l is multiplied by ρ_l = sqrt(q_{l+1}/q_l), upper over lower, where the magnitudes
mismatch. What a mismatch is, and when modulation acts, was not published: `modulation_tolerance`, the reference,
`modulation_window` and all other switches are ours.

The error is measured at every point of one `modulation_site`: the outputs of the convolutions, of the norms after them,
or of the blocks. The chain starts at the topmost point, which keeps its error: between the topmost convolution and the
fully connected layer lies the global average pool, whose factor 1/(H·W) is no mismatch.

Two forms give the same gradients in a net without shortcuts: the *backward* form (`modulation_backward`), which
rescales the error itself, and the *post-hoc* form (`modulation_post_hoc`), which rescales the finished gradients, as
long as the squares of the unmodulated errors that it reads stay finite.
Everything is computed in root mean squares, r = sqrt(q), which keep twice the range of exponents.
"""

from __future__ import annotations

from torch import nn

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.modulation_backward import BackwardModulation
from ablate.tasks.image_classification.methods.modulation_base import Modulation
from ablate.tasks.image_classification.methods.modulation_post_hoc import PostHocModulation
from ablate.tasks.image_classification.methods.modulation_rule import Rule
from ablate.tasks.image_classification.rows import POST_HOC_MAX_DEPTH


def none(config: TrialConfig, net: nn.Module) -> None:
    """Build no modulation."""


def _build(config: TrialConfig, net: nn.Module, reference: str) -> Modulation:
    rule = Rule.of(config, reference)
    form = config.options["modulation_form"]
    is_exact = config.shortcut == "none" and rule.site != "block" and config.depth <= POST_HOC_MAX_DEPTH
    is_post_hoc = form == "post_hoc" or (form == "auto" and is_exact)
    return PostHocModulation(config, net, rule) if is_post_hoc else BackwardModulation(config, net, rule)


def previous(config: TrialConfig, net: nn.Module) -> Modulation:
    """Compare with the point above."""
    return _build(config, net, "previous")


def anchor(config: TrialConfig, net: nn.Module) -> Modulation:
    """Compare with the point that was modulated last."""
    return _build(config, net, "anchor")


def top(config: TrialConfig, net: nn.Module) -> Modulation:
    """Compare with the topmost point."""
    return _build(config, net, "top")
