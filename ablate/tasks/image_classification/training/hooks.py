"""What acts beside the loss in every step, as one list: statistics, modulation and regularizer, each with its state."""

from __future__ import annotations

from typing import Any

from ablate.tasks.image_classification.methods.modulation_base import Modulation
from ablate.tasks.image_classification.methods.regularizers import Moment, Regularizer
from ablate.tasks.image_classification.models.layers import Modulate
from ablate.tasks.image_classification.training.statistics import StatisticsSchedule


class Hook:
    """Each method is called once a step, in the order in which they stand here. Here: nothing happens."""

    def before_forward(self, moment: Moment) -> Modulate | None:
        """Prepare the net; return what its forward pass calls at the modulation points, if anything."""
        return None

    def after_backward(self, moment: Moment) -> None:
        """Change the gradients before the optimizer's step."""

    def after_step(self, moment: Moment) -> None:
        """Change the weights after the optimizer's step."""

    def state(self) -> dict[str, Any]:
        """Return what later steps depend on."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class StatisticsHook(Hook):
    """Sets batch norm to what the progress asks for."""

    def __init__(self, schedule: StatisticsSchedule) -> None:
        self.schedule = schedule

    def before_forward(self, moment: Moment) -> None:
        """Set the norms."""
        self.schedule.at(moment.progress)


class ModulationHook(Hook):
    """Lets a modulation act in the steps of its window."""

    def __init__(self, modulation: Modulation, num_steps: int) -> None:
        self.modulation = modulation
        self.num_steps = num_steps

    def before_forward(self, moment: Moment) -> Modulate | None:
        """Return the points of this step's forward pass."""
        return self.modulation.begin() if self._acts(moment) else None

    def after_backward(self, moment: Moment) -> None:
        """Change the gradients as the modulation does."""
        if self._acts(moment):
            self.modulation.after_backward()

    def _acts(self, moment: Moment) -> bool:
        return self.modulation.acts(moment.step, self.num_steps)

    def state(self) -> dict[str, Any]:
        """Return the modulation's state."""
        return self.modulation.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.modulation.load_state(state)


class RegularizerHook(Hook):
    """Calls a regularizer; one with `state` and `load_state` of its own goes on from them."""

    def __init__(self, regularizer: Regularizer) -> None:
        self.regularizer = regularizer

    def after_backward(self, moment: Moment) -> None:
        """Add the gradient of the penalty."""
        self.regularizer.add_gradient(moment)

    def after_step(self, moment: Moment) -> None:
        """Change the weights as the regularizer does."""
        self.regularizer.after_step(moment)

    def state(self) -> dict[str, Any]:
        """Return the regularizer's state, if it has one."""
        found: dict[str, Any] = self.regularizer.state() if hasattr(self.regularizer, "state") else {}
        return found

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        if hasattr(self.regularizer, "load_state"):
            self.regularizer.load_state(state)
