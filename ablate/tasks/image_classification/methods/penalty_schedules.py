"""Schedules of the weight λ of a penalty: its factor as a function of the progress of training in [0, 1)."""

from __future__ import annotations

import math


def constant(progress: float) -> float:
    """λ throughout."""
    return 1.0


def bansal(progress: float) -> float:
    """×1e-3 after epoch 20 of 200, ×1e-4 after 50, ×1e-6 after 70, 0 after 120.

    Source: Bansal, Chen, Wang 2018, arXiv:1810.09102, who start at λ = 1e-2. The epochs are fractions of training here.
    """
    for start, factor in ((0.6, 0.0), (0.35, 1e-6), (0.25, 1e-4), (0.1, 1e-3)):
        if progress >= start:
            return factor
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from λ to zero. Ours, after the learning rate schedule of arXiv:1608.03983."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def piecewise(progress: float) -> float:
    """÷10 at half and at three quarters of training. Ours, after the learning rate schedule of arXiv:1512.03385."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


SCHEDULES = {"constant": constant, "bansal": bansal, "cosine": cosine, "piecewise": piecewise}
