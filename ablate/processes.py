"""A second process for work that Python's lock keeps on one core: reading many files, drawing many figures."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Semaphore, Thread
from typing import Any, TypeVar

from ablate.cpus import num_cpus

Item = TypeVar("Item")
Value = TypeVar("Value")


def map_in_two(function: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
    """Return the function's value of each item, in order, computed by this process and a second one.

    The second one takes items from the start as soon as they are there, this one from the end when it has got them all:
    they may be made on the way. Function, items and values are pickled for a pipe that nothing else can reach. Whatever
    fails there is done here.
    """
    if num_cpus() < 2:
        return list(map(function, items))
    waiting: deque[tuple[int, Item]] = deque()
    num_waiting = Semaphore(0)
    values: dict[int, Value] = {}
    process, connection = _second_process()

    def work_there() -> None:
        while num_waiting.acquire():
            try:
                number, item = waiting.popleft()
            except IndexError:
                return
            try:
                connection.send((function, item))
                values[number] = connection.recv()
            except Exception:  # The process has died, or what it is sent cannot be pickled.
                waiting.append((number, item))
                return

    thread = Thread(target=work_there, daemon=True)
    thread.start()
    num_items = 0
    try:
        for item in items:
            waiting.append((num_items, item))
            num_waiting.release()
            num_items += 1
        while len(values) < num_items:
            try:
                number, item = waiting.pop()
            except IndexError:
                num_waiting.release()
                thread.join()  # It has the last item, or gives it back.
            else:
                values[number] = function(item)
    finally:
        num_waiting.release()
        process.kill()
        process.wait()
        thread.join()
        connection.close()
    return [values[number] for number in range(num_items)]


def _second_process() -> tuple[subprocess.Popen[bytes], Any]:
    """Start a process that computes what it is sent, and return it with the connection to it.

    It is started by hand: multiprocessing would run the script of its caller once more, concurrent.futures hangs when
    a process dies after a future was cancelled, and the workers of joblib outlive the process that started them
    when that is killed. This one ends when the connection does, that is, with this process.
    """
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from ablate.processes import _serve; _serve({theirs.fileno()})"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # A terminal's Ctrl-C is for the one that started it.
        )  # fmt: skip
    return process, ours


def _serve(file_descriptor: int) -> None:
    gc.disable()  # This process ends before there is much to collect.
    with Connection(file_descriptor) as connection:
        while True:
            try:
                function, item = connection.recv()
            except EOFError:
                return
            connection.send(function(item))
