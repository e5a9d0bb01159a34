"""The nets for large images: plain and residual, of basic blocks or of bottlenecks.

Source: He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.1 and table 1; the plain nets are those of Xie, Xiong, Pu
2017. Deviations: a bottleneck's stride is on its 3×3 convolution, as in torchvision, not on its first 1×1. The
arrangement of a 44-layer net was not published; ours has all blocks that it has more than the 34-layer net in the
third stage, as the 101-layer net has more than the 50-layer net.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.models.layers import ConvBN, Modulate, Shortcut
from ablate.tasks.image_classification.models.norms import BATCH, Norm

BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 44: (3, 4, 11, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = 4


class Block(nn.Module):
    """Layers one after the other, with a shortcut around them in a residual net."""

    def __init__(self, layers: list[ConvBN], shortcut: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.shortcut = shortcut

    def forward(self, x: Tensor, token: Tensor, modulate: Modulate | None) -> tuple[Tensor, Tensor]:
        out = x
        for index, layer in enumerate(self.layers):
            out, token = layer(F.relu(out) if index else out, token, modulate)
        if isinstance(self.shortcut, ConvBN):
            projected, token = self.shortcut(x, token, modulate)
            out = out + projected
        elif self.shortcut is not None:
            out = out + self.shortcut(x)
        out = F.relu(out)
        return modulate(out, token, "block") if modulate is not None else (out, token)


class ImageNetNet(nn.Module):
    """Images (batch, in_channels, H, W) to logits (batch, num_classes); the last stage sees H/32 × W/32 pixels.

    `depth` counts the parametric layers on the longest path. The four stages have 1, 2, 4 and 8 times `width` channels,
    four times as many at a bottleneck's end; the published nets have width 64. `shortcut` is none, identity
    (parameter-free, option A) or projection (a 1×1 convolution with norm where the shape changes, option B, which the
    published residual nets of 50 layers and more have). The fc bias starts at 0.
    """

    def __init__(
        self, in_channels: int, num_classes: int, depth: int, width: int, shortcut: str = "projection",
        norm: Norm = BATCH,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shortcut, self.norm = shortcut, norm
        self.has_bottlenecks = depth in BOTTLENECK
        self.stem = ConvBN(in_channels, width, 2, kernel_size=7, norm=norm)
        self.blocks = nn.ModuleList()
        channels = width
        for stage, num_blocks in enumerate((BOTTLENECK if self.has_bottlenecks else BASIC)[depth]):
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                self.blocks.append(self._block(channels, width * 2**stage, stride))
                channels = width * 2**stage * (EXPANSION if self.has_bottlenecks else 1)
        self.fc = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.fc.bias)

    @classmethod
    def build(cls, config: TrialConfig, in_channels: int, num_classes: int) -> ImageNetNet:
        """Return the net that a configuration asks for."""
        norm: Norm = config.row("norm").load()
        return cls(in_channels, num_classes, config.depth, config.width, config.shortcut, norm)

    def _block(self, channels: int, inner: int, stride: int) -> Block:
        norm = self.norm
        if self.has_bottlenecks:
            outer = EXPANSION * inner
            layers = [
                ConvBN(channels, inner, kernel_size=1, norm=norm),
                ConvBN(inner, inner, stride, norm=norm),
                ConvBN(inner, outer, kernel_size=1, norm=norm),
            ]
        else:
            outer = inner
            layers = [ConvBN(channels, inner, stride, norm=norm), ConvBN(inner, inner, norm=norm)]
        if self.shortcut == "none":
            return Block(layers, None)
        if self.shortcut == "projection" and (stride > 1 or channels != outer):
            return Block(layers, ConvBN(channels, outer, stride, kernel_size=1, norm=norm))
        return Block(layers, Shortcut(channels, outer, stride))

    def forward(self, images: Tensor, modulate: Modulate | None = None) -> Tensor:
        token = self.fc.weight.new_zeros((), requires_grad=modulate is not None)
        x, token = self.stem(images, token, modulate)
        x = F.max_pool2d(F.relu(x), 3, 2, 1)
        for block in self.blocks:
            x, token = block(x, token, modulate)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
