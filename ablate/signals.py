"""Signals that stop a command."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

_came = threading.Event()


@contextlib.contextmanager
def graceful_signals() -> Iterator[None]:
    """Let SIGTERM stop what runs as gracefully as Ctrl-C does, and remember both, where this is the main thread.

    KeyboardInterrupt alone may be lost in a library that catches everything; `was_interrupted` is not.
    """
    if _is_main_thread():
        _came.clear()
    with _handled_by({signal.SIGINT: _interrupt, signal.SIGTERM: lambda *_: os.kill(os.getpid(), signal.SIGINT)}):
        yield


@contextlib.contextmanager
def interrupts_noted() -> Iterator[None]:
    """Let `was_interrupted` tell a KeyboardInterrupt of Ctrl-C from one that a user's code raised."""
    if _is_main_thread():
        _came.clear()
    with _handled_by({signal.SIGINT: _interrupt}):
        yield


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block where SIGINT or SIGTERM came within it.

    In the midst of it, it would be lost where Python ignores exceptions, as in the callbacks around a fork. A second
    signal does not wait: what runs there may hang.
    """
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    with _handled_by({signal.SIGINT: remember, signal.SIGTERM: remember}):
        yield
    if came:
        raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Say whether a signal came since `graceful_signals` or `interrupts_noted` was entered."""
    return _came.is_set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _handled_by(handlers: Mapping[int, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    """Let these handlers have their signals while the block runs, where this is the main thread: no other may."""
    if not _is_main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
