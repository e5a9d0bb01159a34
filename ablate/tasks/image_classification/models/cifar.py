"""The 6n+2-layer nets for small images, plain or residual, and their Dirac twins.

Source: He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.2; the plain nets are those of Xie, Xiong, Pu 2017.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.models.kernels import DiracConv2d
from ablate.tasks.image_classification.models.layers import ConvBN, Modulate, Shortcut, regularized_weights
from ablate.tasks.image_classification.models.norms import BATCH, Norm

__all__ = ["Block", "CifarNet", "ConvBN", "Modulate", "regularized_weights"]


class Block(nn.Module):
    """Two layers, with the parameter-free shortcut around them in a residual net."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, has_shortcut: bool, norm: Norm) -> None:
        super().__init__()
        self.first = ConvBN(in_channels, out_channels, stride, norm=norm)
        self.second = ConvBN(out_channels, out_channels, norm=norm)
        self.shortcut = Shortcut(in_channels, out_channels, stride) if has_shortcut else None

    def forward(self, x: Tensor, token: Tensor, modulate: Modulate | None) -> tuple[Tensor, Tensor]:
        out, token = self.first(x, token, modulate)
        out, token = self.second(F.relu(out), token, modulate)
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        out = F.relu(out)
        return modulate(out, token, "block") if modulate is not None else (out, token)


class CifarNet(nn.Module):
    """Images (batch, in_channels, H, W) to logits (batch, num_classes).

    `depth` counts the convolutions and the fully connected layer: 6n+2. The three stages have `width`, 2·`width`
    and 4·`width` channels; the second and the third halve the image with a convolution of stride 2.
    Plain and residual nets of one depth have the same parameters. The fc bias starts at 0.
    The stem has `stem_norm`, all other layers have `norm`.
    """

    def __init__(
        self, in_channels: int, num_classes: int, depth: int, width: int, has_shortcut: bool,
        norm: Norm = BATCH, stem_norm: Norm = BATCH,
    ) -> None:  # fmt: skip
        super().__init__()
        blocks_per_stage = (depth - 2) // 6
        self.stem = ConvBN(in_channels, width, norm=stem_norm)
        self.blocks = nn.ModuleList()
        channels = width
        for stage in range(3):
            for index in range(blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                self.blocks.append(Block(channels, width * 2**stage, stride, has_shortcut, norm))
                channels = width * 2**stage
        self.fc = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.fc.bias)

    @classmethod
    def build(cls, config: TrialConfig, in_channels: int, num_classes: int) -> CifarNet:
        """Return the net that a configuration asks for."""
        norm: Norm = config.row("norm").load()
        has_shortcut = config.shortcut == "identity"
        return cls(in_channels, num_classes, config.depth, config.width, has_shortcut, norm, norm)

    @classmethod
    def build_dirac(cls, config: TrialConfig, in_channels: int, num_classes: int) -> CifarNet:
        """Return the plain net with Dirac kernels in all convolutions but the stem.

        Source: Zagoruyko, Komodakis 2017, arXiv:1706.00388. Deviation: the 6n+2 nets' own layout (strides and no max
        pooling, widths), so that it differs from the plain arm in the kernels only.
        """
        norm: Norm = config.row("norm").load()
        dirac = dataclasses.replace(norm, conv=DiracConv2d)
        return cls(in_channels, num_classes, config.depth, config.width, False, dirac, norm)

    def forward(self, images: Tensor, modulate: Modulate | None = None) -> Tensor:
        token = self.fc.weight.new_zeros((), requires_grad=modulate is not None)
        x, token = self.stem(images, token, modulate)
        x = F.relu(x)
        for block in self.blocks:
            x, token = block(x, token, modulate)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
