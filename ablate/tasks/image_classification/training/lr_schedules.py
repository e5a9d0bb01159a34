"""Learning rate schedules: the factor of the peak learning rate, as a function of the progress in [0, 1)."""

from __future__ import annotations

import math

from ablate.tasks.image_classification.config import TrialConfig


def constant(progress: float) -> float:
    """The peak throughout."""
    return 1.0


def step(progress: float) -> float:
    """÷10 at half and at three quarters of training.

    Source: He et al. 2016, arXiv:1512.03385, who divide at 32k and 48k of 64k iterations.
    """
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def step_thirds(progress: float) -> float:
    """÷10 at one third and at two thirds of training.

    Source: He et al. 2016, arXiv:1512.03385, whose nets for ImageNet get a tenth of the rate when the error no longer
    falls. Deviation: at fixed points, after 30 and 60 of 90 epochs, as it is usually repeated.
    """
    return 1.0 if progress < 1 / 3 else 0.1 if progress < 2 / 3 else 0.01


def cosine(progress: float) -> float:
    """Half a cosine from the peak to zero. Source: Loshchilov, Hutter 2016, arXiv:1608.03983, without restarts."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float) -> float:
    """Cosine from 1/25 of the peak up to it in the first 30%, then cosine down to 1/10,000 of the start.

    Source: Smith, Topin 2017, arXiv:1708.07120, with torch's defaults; the momentum is not cycled.
    """
    start, end, peak_at = 1 / 25, 1 / 25e4, 0.3
    if progress < peak_at:
        return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * progress / peak_at))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (progress - peak_at) / (1 - peak_at)))


def lr_at(config: TrialConfig, step_index: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0, with the linear warm-up on top of the schedule."""
    schedule = config.row("lr_schedule").load()
    factor: float = schedule(step_index / num_steps)
    warmup_steps = config.warmup * num_steps
    if step_index < warmup_steps:
        factor *= (step_index + 1) / (warmup_steps + 1)
    return config.lr * factor
