"""The task whose trials are runs of a user's script."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import queue
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import IO, Any

from ablate.command_lines import quoted
from ablate.errors import UsageError, choices_text
from ablate.files import read_regular
from ablate.metrics import Metric
from ablate.tasks import base
from ablate.tasks.own.sources import MAX_BYTES, read_sources
from ablate.tasks.own.task import OwnTask, chosen_device, user_seed

PLACES = ("seed", "device", "folder", "phase", "config")
"""What a command can have places for beside parameters; `config` is a JSON file with all of them."""
GRACE_S = 5.0
"""How long a script that got SIGTERM may clean up."""
LAST_LINES = 20
LONGEST_LINE = 1_000_000
PYTHONS = ("python", "python3")
# Ends the script with the worker, however that ends, and becomes it.
LAUNCHER = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class CommandTask(OwnTask):
    """Runs a list of arguments in which `{parameter}` stands for a value, without a shell, in the file's folder.

    The script prints its metrics as lines of JSON: {"step": 3, "val_loss": 0.41}. Beside the places, the environment
    has ABLATE_SEED, ABLATE_DEVICE, ABLATE_FOLDER, ABLATE_PHASE ("tune" or "confirm") and ABLATE_CONFIG.
    """

    name = "command"

    def __init__(self, entry: Mapping[str, Any], values: Mapping[str, Iterable[Any]], folder: Path) -> None:
        super().__init__(entry, values, folder)
        self.command = [str(word) for word in entry["command"]]
        used = self._places()
        if values:
            self._check_places(used)
            self.own_parameters.required = tuple(name for name in used if name in self.parameters.core)
        program = self.command[0]
        if (
            program not in PYTHONS
            and shutil.which(program, path=os.pathsep.join([*_search_path(), str(folder)])) is None
        ):
            raise UsageError(f"there is no program '{program}'", "command")
        self._digest = self._read_files()
        version = entry.get("version")
        what = self._digest if version is None else str(version)
        self.origin = hashlib.sha256(json.dumps([self.command, what]).encode()).hexdigest()[:12]

    @property
    def code_digest(self) -> str:
        """The digest of the files that the command names, and of what Python files among them import."""
        return self._digest

    def notices(self, facts: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[str]:
        """Say where a change of the code goes unnoticed."""
        if self.entry.get("version") is not None or self._digest:
            return []
        return [
            "the command names no file, so a change of its code makes no new trials: give `version` in `task`, and "
            "raise it with every change"
        ]

    def start(self, trial: base.Trial) -> base.Training:
        """Return a run that has not begun."""
        expected = str(self.entry.get("digest", ""))
        if expected not in ("", self._digest):
            raise UsageError("the script, or what it imports, changed while it was in use; run the command again")
        return CommandTraining(trial, self)

    def reference(self) -> Any:
        """Return what makes this task in a worker."""
        return {"entry": {**self.entry, "digest": self._digest}, "folder": str(self.folder)}

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Return the arguments with values in their places."""
        words = [word.format(**values) for word in self.command]
        return [sys.executable if words[0] in PYTHONS else words[0], *words[1:]]

    def _places(self) -> list[str]:
        found: list[str] = []
        for word in self.command:
            try:
                fields = [field for _, field, _, _ in string.Formatter().parse(word) if field is not None]
            except ValueError as error:
                raise UsageError(f"'{word}': {error}; a brace that is none of a place is doubled", "command") from None
            found += [field for field in fields if field not in found]
        return found

    def _check_places(self, used: Sequence[str]) -> None:
        known = self.parameters.core
        for name in used:
            if name not in known and name not in PLACES:
                raise UsageError(f"there is no parameter '{name}'. {choices_text(name, [*known, *PLACES])}", "command")
        idle = [name for name in known if name not in used]
        if idle and "config" not in used and self.entry.get("unread") != "allow":
            raise UsageError(
                f"the command has no place {{{idle[0]}}}, so the parameter '{idle[0]}' would do nothing: add it, or "
                "{config}, the name of a JSON file with all parameters; or set unread: allow",
                "command",
            )

    def _read_files(self) -> str:
        """Return a digest of the files that the command names; "" if it names none."""
        content = hashlib.sha256()
        num_files = 0
        for word in self.command[1:]:
            path = self.folder / word
            if word.endswith(".py") and not path.is_file():
                raise UsageError(f"there is no script {path}", "command")
            if "{" in word or word.startswith("-") or not path.is_file():
                continue
            num_files += 1
            if word.endswith(".py"):
                content.update(read_sources(path).digest.encode())
            else:
                with contextlib.suppress(OSError):  # Data may be large: only code is looked into.
                    content.update(read_regular(path, MAX_BYTES, "a script"))
        return content.hexdigest()[:12] if num_files else ""


class CommandTraining(base.Training):
    """A run of a user's script; an epoch is what lies between two lines with the objective."""

    def __init__(self, trial: base.Trial, task: CommandTask) -> None:
        self.progress = base.Progress()
        self.task = task
        self.asked = trial
        self.objective = task.metric(task.objective)
        self.last: dict[str, float] = {}
        self.errors: deque[str] = deque(maxlen=LAST_LINES)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[Thread] = []
        self._is_over = False

    @property
    def is_complete(self) -> bool:
        """Whether the script has ended."""
        return self._is_over

    def run_epoch(self) -> base.Divergence | None:
        """Wait for the next line with the objective, or for the end."""
        started = time.perf_counter()
        if self._process is None:
            self._start()
        try:
            numbers = self._next_report()
        finally:
            self.progress.duration_s += time.perf_counter() - started
        if numbers is None:
            self._end()
            return None
        epoch, value = self.progress.epoch, numbers[self.objective.name]
        if not math.isfinite(value):
            return base.Divergence(epoch + 1, epoch, self.objective.name, f"{self.objective.name} is {value}")
        for metric in self.task.metrics:
            if metric.name in numbers:
                self._check(metric, numbers[metric.name])
        curves = self.progress.curves
        # A curve has a number for every epoch.
        kept = {name: curves.get(name, []) for name in numbers if epoch == 0 or name in curves}
        self.progress.curves = {name: [*curve, numbers[name]] for name, curve in kept.items()}
        self.progress.epoch += 1
        return None

    def measure(self, is_confirmed: bool) -> dict[str, float]:
        """Return the last number of every metric that was printed."""
        names = {metric.name for metric in self.task.metrics}
        metrics = {name: value for name, value in self.last.items() if name in names or name in self.progress.curves}
        if is_confirmed and (missing := [metric.name for metric in self.task.metrics if metric.name not in metrics]):
            raise base.TrialError(
                f"a confirm trial must print {', '.join(missing)} too (ABLATE_PHASE is confirm), as a line such as "
                f"{_example(missing[0])}"
            )
        return metrics

    def save(self) -> bytes:
        """Return nothing: a script starts over."""
        return b""

    def load(self, content: bytes) -> None:
        """Refuse: nothing was saved."""
        raise ValueError("a script cannot go on")

    def close(self) -> None:
        """End the script with all that it started."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in self._threads:
            thread.join(GRACE_S)

    def _start(self) -> None:
        trial = self.asked
        folder = trial.folder or Path(tempfile.mkdtemp(prefix="ablate-trial-"))
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.json"
        config.write_text(json.dumps(trial.settings, indent=1), encoding="utf-8")
        beside = {
            "seed": user_seed(trial.seed), "device": chosen_device(trial.device), "folder": str(folder.resolve()),
            "phase": "confirm" if trial.is_confirm else "tune", "config": str(config.resolve()),
        }  # fmt: skip
        arguments = self.task.arguments({**beside, **trial.settings})
        self.shown = quoted([self.task.command[0], *arguments[1:]])
        environment = {f"ABLATE_{name.upper()}": str(value) for name, value in beside.items()}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, *arguments],
            cwd=self.task.folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for stream, take in ((self._process.stdout, self._lines.put), (self._process.stderr, self.errors.append)):
            thread = Thread(target=_read, args=(stream, take), daemon=True)
            thread.start()
            self._threads.append(thread)
        Thread(target=self._tell_end, daemon=True).start()

    def _tell_end(self) -> None:
        """Put None behind the last line once the script has ended, also where what it started holds its output."""
        if self._process is not None:
            self._process.wait()
        for thread in self._threads:
            thread.join(GRACE_S)
        self._lines.put(None)

    def _next_report(self) -> dict[str, float] | None:
        limit = self.task.timeout_s
        deadline = math.inf if limit is None else time.monotonic() + max(0.0, limit - self.progress.duration_s)
        while True:
            try:
                left = None if limit is None else max(0.0, deadline - time.monotonic())
                line = self._lines.get(timeout=left)
            except queue.Empty:
                raise base.TrialError(
                    "\n".join([*self.errors, f"{self.shown} took longer than trial_timeout, {limit:g} s"])
                ) from None
            if line is None:
                return None
            numbers = _numbers(line)
            if numbers is None:
                continue
            self.last |= numbers
            if self.objective.name in numbers:
                return numbers

    def _check(self, metric: Metric, value: float) -> None:
        if math.isfinite(value) and not metric.allows(value):
            hint = ": a metric in percent is a fraction" if metric.unit == "percent" else ""
            raise base.TrialError(f"{metric.name} must be {metric.range_text()}, but it printed {value:g}{hint}")

    def _end(self) -> None:
        """Check how the script ended."""
        code = self._process.wait() if self._process else 0
        for thread in self._threads:
            thread.join(GRACE_S)
        if code:
            how = f"exit status {code}" if code > 0 else f"the signal {signal.Signals(-code).name}"
            last = next((line.strip() for line in reversed(self.errors) if line.strip()), "it printed no error")
            raise base.TrialError("\n".join([*self.errors, f"{self.shown} ended with {how}: {last}"]))
        if not self.progress.epoch:
            seen = f"; it printed {', '.join(self.last)}" if self.last else ""
            raise base.TrialError(
                f"{self.shown} printed no {self.objective.name}: expected lines such as "
                f"{_example(self.objective.name)}{seen}"
            )
        self._is_over = True


def _example(name: str) -> str:
    return json.dumps({"step": 1, name: 0.41})


def _numbers(line: str) -> dict[str, float] | None:
    """Return the numbers of a line of JSON, without its step; None for any other line."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    return {
        name: float(value)
        for name, value in content.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _read(stream: IO[bytes], take: Any) -> None:
    with stream:
        while line := stream.readline(LONGEST_LINE):
            take(line.decode("utf-8", errors="replace").rstrip("\n"))


def _search_path() -> list[str]:
    return os.environ.get("PATH", os.defpath).split(os.pathsep)
