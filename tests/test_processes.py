"""Work shared by two processes."""

from __future__ import annotations

import functools
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import wait_for
from shared_work import meet, meet_and_die

from ablate import processes
from ablate.processes import map_in_two


def test_values_come_in_the_order_of_the_items():
    assert map_in_two(math.sqrt, list(range(2000))) == [math.sqrt(number) for number in range(2000)]
    assert map_in_two(math.sqrt, []) == []


def test_a_second_process_takes_items_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "num_cpus", lambda: 2)
    found = map_in_two(functools.partial(meet, os.getpid()), [tmp_path / "mark"] * 1000)
    assert found[-1] == os.getpid()
    assert len(set(found)) == 2
    assert found == sorted(found, key=lambda pid: pid == os.getpid())


def test_items_are_taken_while_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "num_cpus", lambda: 2)
    mark = tmp_path / "mark"

    def items():
        yield mark
        meet(os.getpid(), mark)  # Waits for the second process.
        yield mark

    assert map_in_two(functools.partial(meet, os.getpid()), items())[0] != os.getpid()


def test_one_cpu_works_alone(monkeypatch):
    monkeypatch.setattr(processes, "num_cpus", lambda: 1)
    monkeypatch.setattr(processes, "_second_process", None)
    assert map_in_two(math.sqrt, [1.0, 4.0]) == [1.0, 2.0]


def test_a_second_process_that_dies_gives_its_item_back(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "num_cpus", lambda: 2)
    mark = tmp_path / "mark"
    assert map_in_two(functools.partial(meet_and_die, os.getpid()), [mark] * 20) == [os.getpid()] * 20
    assert mark.exists()


def test_what_cannot_be_sent_is_done_here(monkeypatch):
    monkeypatch.setattr(processes, "num_cpus", lambda: 2)
    assert map_in_two(lambda number: -number, [1, 2, 3]) == [-1, -2, -3]


def test_an_error_is_that_of_this_process_and_leaves_no_process_behind():
    before = children_of(os.getpid())
    with pytest.raises(ValueError, match="math domain error"):
        map_in_two(math.sqrt, [1.0, 4.0, -1.0])
    assert children_of(os.getpid()) == before


SCRIPT = """
import functools, os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from ablate import processes
from shared_work import meet_and_sleep
processes.num_cpus = lambda: 2
processes.map_in_two(functools.partial(meet_and_sleep, os.getpid()), [pathlib.Path(sys.argv[2])] * 1000)
"""


def children_of(pid: int) -> list[int]:
    """Return the processes that the main thread of this one has started and that have not ended."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Say whether a process is there and has not ended, also where nobody has asked how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_the_second_process_ends_with_the_first(tmp_path, sent):
    mark = tmp_path / "mark"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, Path(__file__).parent, mark],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(mark.exists, process)
    seconds = children_of(process.pid)
    assert len(seconds) == 1
    # To the group, as a terminal sends Ctrl-C.
    os.killpg(process.pid, sent)
    _, errors = process.communicate(timeout=900)
    assert errors.count("Traceback") == (sent == signal.SIGINT)
    deadline = time.monotonic() + 30
    while is_running(*seconds):
        assert time.monotonic() < deadline, "the second process goes on"
        time.sleep(0.05)
