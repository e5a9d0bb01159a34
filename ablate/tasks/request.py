"""What a worker is given: one trial to train, in plain values that survive JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial to be trained. Test data is touched only where `phase` is "confirm"."""

    key: str
    fingerprint: str
    seed: int
    phase: str
    settings: dict[str, Any]
    data_digest: str
