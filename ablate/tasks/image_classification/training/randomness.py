"""What draws from global random generators, such as dropout and torch's own initialisations, is seeded here."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let all that is drawn from the global generators follow from a seed; afterwards they are as they were.

    These are torch's on the CPU and on the device, numpy's and Python's. Other devices' generators are left alone.
    """
    module = None if device.type == "cpu" else torch.get_device_module(device)
    python, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_device = module.get_rng_state(device) if module is not None else None
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if module is not None:
        module.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
        if module is not None:
            module.set_rng_state(of_device, device)
