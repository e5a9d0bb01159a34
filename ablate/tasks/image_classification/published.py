"""Published figures, printed beside ours only where the experiment is the same. They are quoted, not measured here.

A figure stands beside an entry whose data set, augmentation, width, depth and method are those of its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablate.tasks.image_classification.config import SHOWN

XIE = "Xie, Xiong, Pu 2017, arXiv:1703.01827"
HE = "He, Zhang, Ren, Sun 2016, arXiv:1512.03385"
WHOLE_CIFAR10 = {"dataset": "cifar10", "image_size": None, "num_train": None, "width": 16}
PLAIN = {"shortcut": "none", "modulation": "none"}
RESIDUAL = {"shortcut": "identity", "modulation": "none"}
L2 = {"regularizer": "l2", "init": "he"}
ORTHO = {"regularizer": "orthonormal", "init": "orthonormal"}


@dataclass(frozen=True)
class Published:
    """A published test error in percent; `settings` are what an entry must share with it.

    `is_read_off` marks a number read off a figure, to about 0.2 points.
    """

    error: float
    source: str
    settings: Mapping[str, Any]
    is_read_off: bool = False

    @property
    def text(self) -> str:
        """The accuracy in percent as it is printed, with its source."""
        accuracy = 100 - self.error
        if self.is_read_off:
            return f"≈ {accuracy:.1f}, read off a figure of {self.source}"
        return f"{accuracy:.1f}, {self.source}"


def _without_augmentation(error: float, depth: int, *parts: Mapping[str, Any], is_read_off: bool = True) -> Published:
    settings = {**WHOLE_CIFAR10, "augment": "none", "depth": depth}
    for part in parts:
        settings |= part
    return Published(error, XIE, settings, is_read_off)


def _residual_with_augmentation(error: float, depth: int) -> Published:
    return Published(error, HE, {**WHOLE_CIFAR10, "augment": "crop_flip", "depth": depth, **RESIDUAL, **L2})


PUBLISHED = (
    _without_augmentation(16.3, 44, PLAIN, L2),
    _without_augmentation(12.85, 44, PLAIN, ORTHO),
    _without_augmentation(12.15, 44, RESIDUAL, L2),
    _without_augmentation(13.4, 110, RESIDUAL, L2),
    _without_augmentation(10.0, 110, RESIDUAL, ORTHO),
    _without_augmentation(18.4, 110, PLAIN, ORTHO, {"modulation": "anchor"}, is_read_off=False),
    _residual_with_augmentation(8.75, 20),
    _residual_with_augmentation(7.51, 32),
    _residual_with_augmentation(7.17, 44),
    _residual_with_augmentation(6.97, 56),
    _residual_with_augmentation(6.43, 110),
)
NOTE = (
    "Published numbers are quoted beside ours because data set, augmentation and width are the same; they were not "
    "measured in this sweep, tuning and training may differ, and no test compares them. Intervals "
    "cover neither the choice of the test sample nor the luck of tuning."
)


def published(metric: str, settings: Mapping[str, Any]) -> Published | None:
    """Return the published figure of the same experiment; None where there is none, or the metric is another."""
    if metric != SHOWN:
        return None
    for figure in PUBLISHED:
        if all(name in settings and settings[name] == value for name, value in figure.settings.items()):
            return figure
    return None
