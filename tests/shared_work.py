"""Functions for a second process, which has to import them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ablate.report import drawing


def meet(first: int, mark: Path) -> int:
    """Return the number of the process that this runs in; the first one waits until the second has begun."""
    if os.getpid() != first:
        mark.touch()
    while not mark.exists():
        time.sleep(0.01)
    return os.getpid()


def meet_and_sleep(first: int, mark: Path) -> None:
    """Meet, and be at work for a while."""
    meet(first, mark)
    time.sleep(0.2)


def meet_and_die(first: int, mark: Path) -> int:
    """Meet, and kill the second process."""
    if meet(first, mark) != first:
        os.kill(os.getpid(), signal.SIGKILL)
    return first


def meet_and_draw(first: int, mark: Path, figures: list) -> tuple[int, object]:
    """Meet, and return what was drawn as well."""
    return meet(first, mark), drawing.render_pages(figures)
