"""Which parameters form a layer, and which lie below a modulation point.

Nets must register their parameters in forward order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Rescaling:
    """Multiplies the gradients of groups of parameters by one factor a group, in one call."""

    def __init__(self, groups: list[list[nn.Parameter]]) -> None:
        self.num_groups = len(groups)
        self.parameters = [parameter for group in groups for parameter in group]
        group_of = [index for index, group in enumerate(groups) for _ in group]
        self.group_of = torch.tensor(group_of, device=self.parameters[0].device)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of all parameters; after a backward pass each has one."""
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def apply(self, factors: Tensor) -> None:
        """Rescale by the factors: (number of groups,)."""
        if len(factors) != self.num_groups:
            raise RuntimeError(f"the net has {self.num_groups} modulation points, but {len(factors)} errors were read")
        torch._foreach_mul_(self.gradients(), list(factors[self.group_of].unbind()))


def _parts(net: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    """Yield the modules with parameters of their own, in forward order."""
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        if own:
            yield module, own


def layers(net: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of each layer: a convolution with the norm after it, or the fully connected layer."""
    found: list[list[nn.Parameter]] = []
    for module, own in _parts(net):
        if isinstance(module, nn.Conv2d | nn.Linear) or not found:
            found.append([])
        found[-1] += own
    return found


def gradients_below_points(net: nn.Module, site: str, every_k: int) -> list[list[nn.Parameter]]:
    """Return for each point, from below up, the parameters between it and the point below it.

    The points are every k-th output of a convolution (site "conv") or of the norm after it ("norm"), counted from the
    input. What lies above the topmost point is in no group.
    """
    groups: list[list[nn.Parameter]] = []
    pending: list[nn.Parameter] = []
    index = -1
    for module, own in _parts(net):
        if site == "norm" and isinstance(module, nn.Linear | nn.Conv2d) and pending:
            index += 1
            if index % every_k == 0:
                groups.append(pending)
                pending = []
        pending = pending + own
        if site == "conv" and isinstance(module, nn.Conv2d):
            index += 1
            if index % every_k == 0:
                groups.append(pending)
                pending = []
    return groups
