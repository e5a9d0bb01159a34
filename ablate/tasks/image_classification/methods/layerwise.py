"""Relatives of modulation that rescale each layer's gradient before the optimizer: rivals that isolate the claim.

A layer is a convolution with the norm after it, or the fully connected layer. All but `Profile` allow shortcuts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.layer_groups import Rescaling, gradients_below_points, layers
from ablate.tasks.image_classification.methods.modulation_base import Modulation
from ablate.tasks.image_classification.methods.modulation_post_hoc import ErrorReader, equalising
from ablate.tasks.image_classification.models.cifar import Modulate


class _ByNorm(Modulation):
    """Factors that follow from the norms of the layers' gradients."""

    def __init__(self, config: TrialConfig, net: nn.Module) -> None:
        super().__init__(config, net)
        self.rescaling = Rescaling(layers(net))

    def factors(self, norms: Tensor) -> Tensor:
        """Return a factor for each layer's gradient from its Euclidean norm."""
        raise NotImplementedError

    @torch.no_grad()
    def after_backward(self) -> None:
        """Rescale the gradients."""
        norms = torch.stack(torch._foreach_norm(self.rescaling.gradients()))
        squares = norms.new_zeros(self.rescaling.num_groups).index_add_(0, self.rescaling.group_of, norms.square())
        self.rescaling.apply(self.factors(squares.sqrt()))


class Clip(_ByNorm):
    """The gradient of a layer is scaled down to norm `clip_norm` where it is larger.

    Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, applied to each layer on its own.
    """

    def __init__(self, config: TrialConfig, net: nn.Module) -> None:
        super().__init__(config, net)
        self.clip_norm = config.number("clip_norm")

    def factors(self, norms: Tensor) -> Tensor:
        """Return min(1, clip_norm/norm)."""
        return torch.where(norms > self.clip_norm, self.clip_norm / norms, 1.0)


class Normalize(_ByNorm):
    """The gradient of every layer has norm 1.

    Source: Yu et al. 2017, arXiv:1707.04822 (block-normalized gradient), before the optimizer's momentum.
    """

    def factors(self, norms: Tensor) -> Tensor:
        """Return 1/norm; 1 where the gradient is zero."""
        return torch.where(norms > 0, 1 / norms, 1.0)


class Profile(Modulation):
    """A fixed learning rate for each layer, measured in the first modulated step: r_top/r_l ever after.

    What modulation would do there with tolerance 0, frozen: is modulation more than a per-layer learning rate? Ours.
    With shortcuts, where errors flow around the layers, it would be something else; the row's check refuses them.
    """

    def __init__(self, config: TrialConfig, net: nn.Module) -> None:
        super().__init__(config, net)
        self.rescaling = Rescaling(gradients_below_points(net, "conv", 1))
        self.factors: Tensor | None = None
        self.reader: ErrorReader | None = None

    def begin(self) -> Modulate | None:
        """Return what reads the errors of the first step, then None."""
        self.reader = ErrorReader("conv", 1) if self.factors is None else None
        return self.reader

    @torch.no_grad()
    def after_backward(self) -> None:
        """Measure, if that is still to be done; rescale the gradients."""
        if self.reader is not None:
            self.factors = equalising(self.reader.root_mean_squares())
        if self.factors is not None:
            self.rescaling.apply(self.factors)

    def state(self) -> dict[str, Tensor]:
        """Return the factors, once they are measured."""
        return {} if self.factors is None else {"factors": self.factors}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from the factors; from none, measure again."""
        self.factors = state.get("factors")
