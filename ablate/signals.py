"""Signals that stop a command."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_came = threading.Event()


@contextlib.contextmanager
def graceful_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a closed terminal, stop what runs as gracefully as Ctrl-C does, and remember it.

    KeyboardInterrupt alone may be lost in a library that catches everything; `was_interrupted` is not. In other threads
    than the main one nothing changes.
    """
    if _is_main_thread():
        _came.clear()
    with _handled_by(
        {signal.SIGINT: _interrupt, signal.SIGTERM: lambda *_: _interrupt_self(), signal.SIGHUP: _hang_up}
    ):
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
    """Raise KeyboardInterrupt at the end of the block where SIGINT, SIGTERM or SIGHUP came within it.

    In the midst of it, it would be lost where Python ignores exceptions, as in the callbacks around a fork. A second
    signal does not wait: what runs there may hang.
    """
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            drop_dead_outputs()
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    with _handled_by(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), remember)):
        yield
    if came:
        raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Say whether a signal came since `graceful_signals` or `interrupts_noted` was entered."""
    return _came.is_set()


def drop_dead_outputs() -> None:
    """Let what is printed to a terminal that is gone vanish: to write there fails, and would stop us in the midst."""
    for descriptor in (1, 2):
        output = select.poll()
        output.register(descriptor, 0)  # errors are told all the same
        if any(event & (select.POLLHUP | select.POLLERR) for _, event in output.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextlib.contextmanager
def outputs_outlast_readers() -> Iterator[None]:
    """Let what is printed vanish once nobody reads it any more, as after `| head`, instead of stopping what runs."""
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
                stack.enter_context(_lasting(name, stream))
        yield


@contextlib.contextmanager
def _lasting(name: str, stream: io.TextIOWrapper) -> Iterator[None]:
    stream.flush()
    raw = _LastingFile(stream.fileno(), "wb", closefd=False)
    lasting = io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=stream.line_buffering
    )
    setattr(sys, name, lasting)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        lasting.flush()


class _LastingFile(io.FileIO):
    """A pipe that may be written to after its reader has gone."""

    def write(self, content: Buffer, /) -> int:
        """Write the content, to nowhere where nobody reads it."""
        try:
            return super().write(content)
        except BrokenPipeError:
            drop_dead_outputs()
            return super().write(content)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt


def _interrupt_self() -> None:
    # Whoever handles SIGINT now: Ray Tune does while trials run.
    os.kill(os.getpid(), signal.SIGINT)


def _hang_up(number: int, frame: FrameType | None) -> None:
    drop_dead_outputs()
    _interrupt_self()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _handled_by(handlers: Mapping[int, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    """Let these handlers have their signals while the block runs, where this is the main thread: no other may.

    A SIGHUP that whoever started us let be ignored stays so.
    """
    if not _is_main_thread():
        yield
        return
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    previous = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if number != signal.SIGHUP or not is_nohup
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
