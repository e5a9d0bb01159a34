"""Training losses: `build(config)` returns a function of logits (num, classes) and labels (num,), a mean over images.

Validation and test losses are cross-entropy whatever is trained, so that arms can be compared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ablate.tasks.image_classification.config import TrialConfig

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(config: TrialConfig) -> Loss:
    """−ln p of the label."""
    return F.cross_entropy


def label_smoothing(config: TrialConfig) -> Loss:
    """Cross-entropy with (1 − ε)·label + ε/classes.

    Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2016, arXiv:1512.00567, section 7, in torch's form.
    """
    return functools.partial(F.cross_entropy, label_smoothing=config.number("label_smoothing"))
