"""What every modulation and every relative of it is to the trainer, and the state of the running means."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.methods.modulation_rule import Rule
from ablate.tasks.image_classification.models.cifar import Modulate


class Modulation:
    """What the trainer asks of a modulation: once a net. Here: no change of any error or gradient.

    A step that is modulated calls `begin` and hands the result to the net's forward pass, and `after_backward`
    between the backward pass and the regularizer. `state` is what a checkpoint must hold.
    """

    def __init__(self, config: TrialConfig, net: nn.Module) -> None:
        self.config = config
        self.net = net
        self.window = config.window("modulation_window")
        steps = config.options.get("modulation_window_steps")
        self.window_steps = steps if isinstance(steps, tuple) else None

    def acts(self, step: int, num_steps: int) -> bool:
        """Say whether a step, counted from 0, lies in the window."""
        if self.window_steps is not None:
            start, end = self.window_steps
            return start <= step < end
        start, end = self.window
        return start * num_steps <= step < end * num_steps

    def begin(self) -> Modulate | None:
        """Return what one forward pass calls at its points; None where errors are not needed."""
        return None

    def after_backward(self) -> None:
        """Change the gradients, and take up what the backward pass has measured."""

    def state(self) -> dict[str, Tensor]:
        """Return what later steps depend on."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""


class RuledModulation(Modulation):
    """Modulation proper: what both forms of a `Rule` share."""

    def __init__(self, config: TrialConfig, net: nn.Module, rule: Rule) -> None:
        super().__init__(config, net)
        self.rule = rule
        self.smoothing = Smoothing(rule, net) if rule.ema else None

    def state(self) -> dict[str, Tensor]:
        """Return the running means, if there are any."""
        return self.smoothing.state() if self.smoothing is not None else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from the running means."""
        if self.smoothing is not None:
            self.smoothing.load_state(state)


class Smoothing:
    """The state of `modulation_ema`: for every point the running mean of ln(ratio), on the device.

    `memory` is ema·mean, summed up from 0, as Adam's first moment is; `correction` is 1 − ema^t after t steps.
    """

    def __init__(self, rule: Rule, net: nn.Module) -> None:
        like = next(net.parameters())
        # No net has more points than convolutions.
        num_points = sum(isinstance(module, nn.Conv2d) for module in net.modules())
        self.ema = rule.ema
        self.memory = like.new_zeros(num_points)
        self.correction = like.new_zeros(())

    def start_step(self) -> None:
        """Count one more step."""
        self.memory = self.memory * self.ema
        self.correction = self.correction * self.ema + (1 - self.ema)

    def take(self, log_ratios: Tensor) -> None:
        """Add what this step has measured: (number of points,)."""
        self.memory = self.memory + (1 - self.ema) * log_ratios

    def state(self) -> dict[str, Tensor]:
        """Return the two tensors."""
        return {"memory": self.memory, "correction": self.correction}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from the two tensors."""
        self.memory, self.correction = state["memory"], state["correction"]


def norm(error: Tensor, dtype: torch.dtype) -> Tensor:
    """Return sqrt(sum(error²)), 0-d, summed in the given type."""
    # No type is named where nothing is to be cast: torch would go the way that casts all the same.
    result: Tensor = torch.linalg.vector_norm(error, dtype=None if error.dtype == dtype else dtype)
    return result


def root_mean_square(error: Tensor, dtype: torch.dtype) -> Tensor:
    """Return sqrt(mean(error²)), 0-d, summed in the given type."""
    return norm(error, dtype) / math.sqrt(error.numel())
