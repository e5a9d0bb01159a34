"""A small sweep whose trials wait while a gate is closed, so that a fault comes when a test wants it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from command_line import ROOT, command, wait_for

SOURCE = """
import contextlib, datetime, glob, os, time
import ablate.run.pack
from ablate.registry import Row, register

FOLDER, PAUSE_S = os.environ["GATE_FOLDER"], float(os.environ["GATE_PAUSE_S"])
LOG, CLOSED, CLOSE_AT = (os.path.join(FOLDER, name) for name in ("log", "closed", "close_at"))
RECORDS = os.path.join(os.environ["GATE_OUT"], "ledger", "trials", "**", "[!.]*.parquet")
ablate.run.pack.CHECKPOINT_EVERY_S = 0  # after every epoch
# By the clock that a test may set: Python's datetime does not ask time.time.
ablate.run.pack._now = lambda: datetime.datetime.fromtimestamp(time.time(), datetime.UTC).isoformat()

class Gated:
    weight_decay = 0.0
    def __init__(self, weights, config):
        self.name = f"{config.shortcut} {config.lr!r}"
    def add_gradient(self, moment):
        if 4 <= moment.step < 8 and os.path.exists(CLOSE_AT):
            self.close()
        if os.path.exists(CLOSED):
            waiting = f"{CLOSED}-{os.getpid()}-{id(self)}"
            open(waiting, "w").close()
            while os.path.exists(CLOSED):
                time.sleep(0.05)
            os.remove(waiting)
        with open(LOG, "a") as file:
            file.write(f"{moment.step} {self.name}\\n")
        time.sleep(PAUSE_S)
    def after_step(self, moment):
        pass
    def close(self):
        # In the trial itself: a test that looks from outside may come too late.
        with contextlib.suppress(FileNotFoundError):  # another trial was faster
            if len(glob.glob(RECORDS, recursive=True)) >= int(open(CLOSE_AT).read()):
                open(CLOSED, "w").close()
                os.remove(CLOSE_AT)

register(Row(kind="regularizer", name="gated", target=Gated, summary="waits while the gate is closed"))
"""
# Four steps an epoch.
FILE = """
name: {name}
imports: [gate.py]
fixed: {dataset: digits, width: 4, epochs: 3, batch_size: 256, depth: 8, regularizer: gated}
axes: {arm: {plain: {shortcut: none}, residual: {shortcut: identity}}}
tune: {lr: {low: 1e-3, high: 1, log: true}}
budget: {trials_per_cell: 3, pruner: none}
confirm: {seeds: 1}
report: {baseline: plain}
"""
NUM_TRIALS = 8


class GatedSweep:
    """A sweep of eight trials in a folder: `<name>.yaml`, started by the command line with `environment` on top."""

    def __init__(
        self, folder: Path, out: str = "runs", pause_s: float = 0.03, name: str = "gated", jobs: int = 2,
        **environment: str,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.name = name
        self.jobs = jobs
        self.out = folder / out
        self.log = folder / "log"
        self._closed = folder / "closed"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        # Not in the file, whose hash is in the keys of the trials.
        self.environment |= {"GATE_FOLDER": str(folder), "GATE_PAUSE_S": str(pause_s), "GATE_OUT": str(self.out)}
        self.arguments = command("sweep", f"{name}.yaml", "--out", out, "--jobs", str(jobs))
        (folder / "gate.py").write_text(SOURCE)
        (folder / f"{name}.yaml").write_text(FILE.replace("{name}", name))

    def run(self, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run it to its end with the gate open."""
        self.open()
        return subprocess.run(
            self.arguments, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout
        )

    def start(self) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            self.arguments,
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start_until(self, num_trials: int) -> subprocess.Popen[str]:
        """Start it; with so many trials in the ledger, the first in its second epoch of three closes the gate.

        Return when every worker has a trial that waits at the gate: leave a trial for each.
        """
        for file in self.folder.glob("closed*"):
            file.unlink()
        (self.folder / "close_at").write_text(str(num_trials))
        process = self.start()
        self.wait(lambda: self._closed.exists() and self.num_waiting() == self.jobs, process)
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill the driver by SIGKILL, and wait until the workers have noticed."""
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=900)
        mark = f"GATE_FOLDER={self.folder}\0".encode()
        deadline = time.monotonic() + 900
        while any(mark in content for content in _environments()):
            assert time.monotonic() < deadline, "the workers do not end"
            time.sleep(0.2)

    def wait_for_trials(self, num_trials: int, process: subprocess.Popen[str]) -> None:
        """Wait until so many trials are in the ledger."""
        self.wait(lambda: len(self.ledger()) >= num_trials, process)

    def wait(self, condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        """Wait for a condition while the sweep runs."""
        wait_for(condition, process, timeout=900)

    def close(self) -> None:
        """Let no trial do another step."""
        self._closed.touch()

    def open(self) -> None:
        """Let the trials go on."""
        self._closed.unlink(missing_ok=True)

    def ledger(self) -> dict[str, tuple[bytes, int]]:
        """Return the content and the time of every file of the ledger's trials."""
        files = sorted((self.out / "ledger" / "trials").rglob("[!.]*.parquet"))
        return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}

    def num_waiting(self) -> int:
        """Return how many trials wait at the gate."""
        return len(list(self.folder.glob("closed-*")))

    def num_proposed(self) -> int:
        """Return how many trials are proposed."""
        file = self.out / self.name / "proposals.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def num_started(self) -> int:
        """Return how often a trial did its first step."""
        return self.num_at(0)

    def num_at(self, step: int) -> int:
        """Return how often a trial did this step."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(line.startswith(f"{step} ") for line in lines)


def _environments() -> Iterator[bytes]:
    """Yield the environment of every process that may be looked at."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield file.read_bytes()


def ended(output: str) -> set[str]:
    """Return the trials that a run reported as ended, such as "arm=plain tune 0"."""
    return set(re.findall(r"^\[\d+/\d+\] (.+? \w+ \d+):", output, flags=re.MULTILINE))
