"""Signals that stop a command."""

import contextlib
import os
import pty
import signal
import sys

import pytest

from ablate.signals import graceful_signals, interrupts_deferred, was_interrupted

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_deferred_signal_interrupts_at_the_end_of_the_block_and_not_in_its_midst(sent):
    handlers = [signal.getsignal(number) for number in SIGNALS]
    done = []

    def block() -> None:
        with interrupts_deferred():
            os.kill(os.getpid(), sent)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_a_second_signal_does_not_wait():
    done = []

    def block() -> None:
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["after the first"]


def test_an_error_within_the_block_is_raised_as_it_is():
    def block() -> None:
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("inside")

    with pytest.raises(ValueError, match=r"^inside$"):
        block()


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_that_a_library_swallows_is_remembered(sent):
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with graceful_signals():
        assert not was_interrupted()
        done = []
        with contextlib.suppress(BaseException):  # as `except:` does
            os.kill(os.getpid(), sent)
            done.append("the rest of the block")
        assert not done
        assert was_interrupted()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    with graceful_signals():
        assert not was_interrupted()


@pytest.mark.parametrize("context", [graceful_signals, interrupts_deferred])
def test_under_nohup_a_closed_terminal_stops_nothing(context):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with context():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert not was_interrupted()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("context", ["graceful_signals", "interrupts_deferred"])
def test_after_a_closed_terminal_what_is_printed_vanishes_and_what_goes_to_a_file_stays(tmp_path, context):
    """To write to a terminal that is gone fails. The child leads the terminal's session, so the kernel sends SIGHUP."""
    code = (
        "import os, signal, sys\n"
        "wakes, woken = os.pipe()\n"  # To wait for a signal that may have come already.
        "os.set_blocking(woken, False)\n"
        "signal.set_wakeup_fd(woken)\n"
        f"from ablate.signals import {context}\n"
        "try:\n"
        f"    with {context}():\n"
        "        print('ready', flush=True)\n"
        "        os.read(wakes, 1)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
        "    print('told', file=sys.stderr)\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.dup2(os.open(tmp_path / "errors", os.O_WRONLY | os.O_CREAT), 2)
        os.execv(sys.executable, [sys.executable, "-c", code])
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "errors").read_text() == "told\n"
