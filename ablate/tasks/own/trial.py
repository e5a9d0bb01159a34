"""What a user's function is given beside its configuration."""

from __future__ import annotations

import importlib
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ablate.seeds import derive_seed
from ablate.tasks.own.state import from_bytes, to_bytes

SAVE_EVERY_S = 20.0
"""`save` looks at the state that it is given at most this often."""


class TrialStopped(BaseException):
    """Ends a user's function inside of `report` or `steps`; no Exception, so that `except Exception` lets it pass."""


class Trial:
    """One trial of a user's function.

    `seed`, below 2^31, is what all its random numbers follow from, `device` "cpu", "cuda" or "mps". Test data may be
    used only where `is_confirm`. random, numpy and torch are seeded before the function is called, and by `steps` anew
    before each step, so that a trial that goes on after an interruption draws the same numbers.
    """

    def __init__(
        self,
        seed: int,
        device: str,
        is_confirm: bool,
        folder: Path | None,
        check: Callable[[dict[str, float]], None],
        wait: Callable[[], None],
    ) -> None:
        self.seed = seed
        self.device = device
        self.is_confirm = is_confirm
        self._folder = folder
        self._check = check
        self._wait = wait
        self._curves: dict[str, list[float]] = {}
        self._step = 0
        self._in_steps = False
        self._pending: bytes | None = None
        self._saved_at = -math.inf
        self._saved: tuple[bytes, int, dict[str, list[float]]] | None = None
        self._found: tuple[bytes, int, dict[str, list[float]]] | None = None

    @property
    def folder(self) -> Path:
        """A folder of this trial alone, for whatever the function writes."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ablate-trial-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def steps(self, num_steps: int) -> Iterator[int]:
        """Yield the steps from 0 to `num_steps` - 1; after `load` has returned a state, those that are left."""
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(f"trial.steps needs a whole number >= 1, but got {num_steps!r}")
        if self._in_steps:
            raise RuntimeError("trial.steps is there once in a trial")
        self._in_steps = True
        while self._step < num_steps:
            seed_all(derive_seed(self.seed, "step", self._step))
            yield self._step
            self._step += 1
            self._settle()

    def report(self, **metrics: float) -> None:
        """Tell the metrics of a step, the objective among them; does not return where the trial is to be stopped.

        Raises:
            TypeError: A metric is no number.
            ValueError: The names are others than before.
        """
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        if self._curves and numbers.keys() != self._curves.keys():
            before, now = ", ".join(self._curves), ", ".join(numbers)
            raise ValueError(f"trial.report had {before} before, but now has {now}: a curve has a number every time")
        self._check(numbers)
        for name, number in numbers.items():
            self._curves.setdefault(name, []).append(number)
        self._wait()

    def save(self, state: Any) -> None:
        """Keep a state to go on from: tensors, arrays and plain values; call it at the end of a step, after `report`.

        It is looked at now, or not at all: calling it every step costs little.

        Raises:
            TypeError: Something else is in it.
            RuntimeError: The loop is not over `steps`.
        """
        if not self._in_steps:
            raise RuntimeError("trial.save needs trial.steps: only steps that it counts and seeds can be gone on with")
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._pending = to_bytes(state)
            self._saved_at = time.monotonic()

    def load(self) -> Any:
        """Return the state that an interrupted run of this trial saved last, tensors on the CPU; None without one."""
        if self._found is None or self._in_steps:
            return None
        content, self._step, curves = self._found
        self._found = None
        self._curves = {name: list(curve) for name, curve in curves.items()}
        return from_bytes(content)

    def _settle(self) -> None:
        """Make what was saved in a step count, now that the step has ended."""
        if self._pending is not None:
            curves = {name: list(curve) for name, curve in self._curves.items()}
            self._saved = (self._pending, self._step, curves)
            self._pending = None


def seed_all(seed: int) -> None:
    """Seed random, and numpy and torch where they are imported, on all devices."""
    random.seed(seed)
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    if torch is not None:
        torch.manual_seed(seed)


def import_first(names: frozenset[str]) -> None:
    """Import numpy and torch if a function may import them later: they would go without a seed in a first trial."""
    for name in ("numpy", "torch"):
        if name in names:
            importlib.import_module(name)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"trial.report needs numbers, but {name} is {type(value).__name__}") from None
