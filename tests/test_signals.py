"""Signals that stop a command."""

import contextlib
import os
import signal

import pytest

from ablate.signals import graceful_signals, interrupts_deferred, was_interrupted


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_deferred_signal_interrupts_at_the_end_of_the_block_and_not_in_its_midst(sent):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    done = []

    def block() -> None:
        with interrupts_deferred():
            os.kill(os.getpid(), sent)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


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


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_a_library_swallows_is_remembered(sent):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with graceful_signals():
        assert not was_interrupted()
        done = []
        with contextlib.suppress(BaseException):  # as `except:` does
            os.kill(os.getpid(), sent)
            done.append("the rest of the block")
        assert not done
        assert was_interrupted()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    with graceful_signals():
        assert not was_interrupted()
