"""Signals that stop a command."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_came = threading.Event()


@contextlib.contextmanager
def graceful_signals() -> Iterator[None]:
    """Let SIGTERM stop what runs as gracefully as Ctrl-C does, and remember both, where this is the main thread.

    KeyboardInterrupt alone may be lost in a library that catches everything; `was_interrupted` is not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _came.clear()
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, _interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT)),
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block where SIGINT or SIGTERM came within it.

    In the midst of it, it would be lost where Python ignores exceptions, as in the callbacks around a fork. A second
    signal does not wait: what runs there may hang.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Say whether a signal came since `graceful_signals` was entered."""
    return _came.is_set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt
