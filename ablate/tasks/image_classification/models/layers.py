"""What all nets are built of: a convolution, its normalisation and the modulation point between them."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from ablate.tasks.image_classification.models.norms import BATCH, Norm


class Modulate(Protocol):
    """What a net calls at its modulation points, in forward order, with the token that links them.

    Sites: "conv", after a convolution; "norm", after the norm that follows it; "block", after a block.
    """

    def __call__(self, x: Tensor, token: Tensor, site: str = "conv") -> tuple[Tensor, Tensor]:
        """Return x and the token for the next point."""


class ConvBN(nn.Module):
    """A convolution (padded to keep the size at stride 1) and its norm, with a modulation point after each."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3, norm: Norm = BATCH
    ) -> None:
        super().__init__()
        # A 1×1 convolution with a stride takes every `stride`-th pixel beforehand: oneDNN's gradient of the strided one
        # writes past its workspace for few input channels in channels_last (uxlfoundation/oneDNN issue 6035).
        self.every, stride = (stride, 1) if kernel_size == 1 else (1, stride)
        self.conv = norm.conv(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=norm.has_bias
        )
        self.bn = norm.after(out_channels)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, token: Tensor, modulate: Modulate | None) -> tuple[Tensor, Tensor]:
        x = self.conv(x[:, :, :: self.every, :: self.every] if self.every > 1 else x)
        if modulate is not None:
            x, token = modulate(x, token)
        x = self.bn(x)
        return modulate(x, token, "norm") if modulate is not None else (x, token)


class Shortcut(nn.Module):
    """The parameter-free shortcut (option A): every `stride`-th pixel, new channels are zeros on both sides.

    Source: He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.num_new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        before = self.num_new_channels // 2
        return F.pad(x, (0, 0, 0, 0, before, self.num_new_channels - before)) if self.num_new_channels else x


def regularized_weights(net: nn.Module) -> list[Tensor]:
    """Return the weights of all Conv2d and Linear layers in forward order: what init, L2 and regularizers act on.

    Those that are trained as they are, each once: none that is frozen, or computed by a parametrization of torch's.
    Of a reparametrised convolution it is the stored `weight`, whose filters are normalised in the forward pass, and
    not the kernel that is computed from it. Its gains are not regularized, as those of batch norm are not.
    A kernel carries the stride of its convolution as `conv_stride`, which one regularizer asks for.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.weight.conv_stride = layer.stride[0]  # type: ignore[attr-defined]
    weights = {id(layer.weight): layer.weight for layer in layers if isinstance(layer.weight, nn.Parameter)}
    return [weight for weight in weights.values() if weight.requires_grad]
