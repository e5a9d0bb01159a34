"""Ends what a private Ray leaves behind when its driver is killed: agents that live for a minute, and its files.

Run as a script it is the process that waits for the driver's end. It imports only what Python brings.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TIMEOUT_S = 5.0


@contextlib.contextmanager
def cleared_at_the_end(folder: Path) -> Iterator[None]:
    """Let a process of its own clear the folder of a private Ray when the block ends, also by SIGKILL."""
    waiting = subprocess.Popen(
        [sys.executable, "-I", __file__, folder],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # What is sent to the driver's whole process group is not for it.
    )  # fmt: skip
    try:
        yield
    finally:
        waiting.communicate()


def clear(folder: Path) -> int:
    """Kill the processes of the private Ray in this folder and remove its files; return how many were killed."""
    killed: set[int] = set()
    deadline = time.monotonic() + TIMEOUT_S
    while (found := _processes(folder)) and time.monotonic() < deadline:  # One that ends may have started another.
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
    return len(killed)


def _processes(folder: Path) -> list[int]:
    """Return the processes whose output goes to the logs of this folder's Ray: no others are of it.

    Command line and environment do not tell: Ray's agents and workers write their titles over them.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It has ended, or is another user's.
            if any(_is_log(file, folder) for file in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def _is_log(file: Path, folder: Path) -> bool:
    """Whether a file descriptor is an output file of Ray, open for writing: who reads it is somebody else."""
    try:
        target = os.readlink(file)
        if not target.startswith(f"{folder}/ray/") or not target.endswith((".out", ".err")):
            return False
        flags = (
            (file.parent.parent / "fdinfo" / file.name).read_text(encoding="utf-8").partition("flags:")[2].split()[0]
        )
    except FileNotFoundError:
        return False
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


if __name__ == "__main__":
    sys.stdin.buffer.read()  # Ends with the driver.
    clear(Path(sys.argv[1]))
