"""How what is recorded of every layer is drawn: heat maps of layers over epochs, and curves that sum the layers up."""

from __future__ import annotations

from ablate.tasks.base import HeatMap, SummaryCurve

HEAT_MAPS = (
    HeatMap(measure="error_mean_square", by_top=True, is_log=True,
            title="Mean square of the backpropagated error over that of the topmost convolution, without modulation"),
    HeatMap(measure="gradient_ratio", is_log=True, title="Norm of the loss's gradient over the norm of the weight"),
    HeatMap(measure="defect", is_log=True, title="Orthogonality defect minus its floor"),
    HeatMap(measure="diagonal_defect", is_log=True, title="Orthogonality defect, diagonal: norms"),
    HeatMap(measure="off_diagonal_defect", is_log=True, title="Orthogonality defect, off-diagonal: angles"),
    HeatMap(measure="cosine", is_signed=True, title="Mean cosine between two filters"),
    HeatMap(measure="absolute_cosine", title="Mean absolute cosine between two filters"),
    HeatMap(measure="singular_min", title="Smallest singular value of the flattened kernel"),
    HeatMap(measure="singular_max", title="Largest singular value of the flattened kernel"),
    HeatMap(measure="dead_share", title="Share of channels that are positive for no image of the batch"),
    HeatMap(measure="activation_cosine", title="Mean cosine between two images' activations; 1 is collapse"),
    HeatMap(measure="norm_gain", title="Mean |γ|/σ of batch norm"),
    HeatMap(measure="norm_gap", is_log=True,
            title="Relative difference of a layer's output with running and with batch statistics"),
    HeatMap(measure="effective_lr", is_log=True, title="Effective learning rate: mean over the filters of lr/‖w‖²"),
    HeatMap(measure="modulation_factor", is_log=True, is_signed=True,
            title="Factor ρ that modulation gives a layer's error"),
)  # fmt: skip
DEPTH_CURVES = (
    SummaryCurve(name="error_log_slope", title="slope of ln q over depth"),
    SummaryCurve(
        name="error_top_over_bottom", title="q of the topmost over that of the lowest convolution", is_log=True
    ),
    SummaryCurve(
        name="modulated_share", title="share of the convolutions whose error is modulated", limits=(-0.03, 1.03)
    ),
)
"""Curves of a trial that sum up its layers; q is the mean square of the error without modulation."""
