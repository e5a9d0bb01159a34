"""Every random stream comes from here."""

from __future__ import annotations

import hashlib


def derive_seed(root: int, *parts: int | str) -> int:
    """Return a seed in [0, 2**53) that depends on the root and on every part, and on nothing else.

    The same call gives the same seed in every process and on every platform. 53 bits survive JSON.
    The arm of a trial is never a part, so arms share their seeds and can be compared in pairs.
    """
    text = "\x1f".join([str(root), *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11


def study_seed(root: int, study: int) -> int:
    """Return the seed of a study, from which all of its streams derive; that of study 0 is the sweep's own."""
    return root if study == 0 else derive_seed(root, "study", study)
