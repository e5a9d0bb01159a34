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
from threading import Event, Thread
from typing import IO, Any

from ablate.command_lines import quoted
from ablate.errors import UsageError, choices_text
from ablate.files import read_regular
from ablate.tasks import base
from ablate.tasks.own.items import ITEMS, split_items
from ablate.tasks.own.sources import MAX_BYTES, read_sources
from ablate.tasks.own.task import OwnTask, chosen_device, user_seed

PLACES = ("seed", "device", "folder", "phase", "config")
"""What a command can have places for beside parameters; `config` is a JSON file with all of them."""
GRACE_S = 5.0
"""How long a script that got SIGTERM may clean up."""
LAST_LINES = 20
LONGEST_LINE = 1_000_000
LONGEST_OUTPUT = 16_000_000
"""Characters of a line of the output, which may hold an item of every test image."""
PYTHONS = ("python", "python3")
SUPERVISOR = Path(__file__).with_name("supervise.py")
WORDS_FOR_NAN = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}
"""What JSON has no number for and people print as text."""


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
        self.folder = folder / str(entry.get("folder", ""))
        program = self.command[0]
        is_file = "/" in program and os.access(self.folder / program, os.X_OK)
        if program not in PYTHONS and not is_file and ("/" in program or shutil.which(program) is None):
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
        self.check_unchanged("the script")
        return CommandTraining(trial, self)

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Return the arguments with values in their places."""
        words = [word.format(**values) for word in self.command]
        # A place that is a whole argument and has an empty text is left out, as a flag that is off.
        words = [word for word, written in zip(words, self.command, strict=True) if word or not written]
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
        for name in PLACES:
            if name in known:
                raise UsageError(f"the parameter '{name}' needs another name: {{{name}}} stands for the trial's own")
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
        for word in [*self.command[:1], *(each.partition("=")[2] or each for each in self.command[1:])]:
            path = self.folder / word
            is_option = "{" in word or word.startswith("-")
            if word.endswith(".py") and not is_option and not path.is_file():
                raise UsageError(f"there is no script {path}", "command")
            if is_option or not word or len(word) > 4096 or not path.is_file():
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
        self.last_items = base.Items()
        self.errors: deque[str] = deque(maxlen=LAST_LINES)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lifeline: IO[bytes] | None = None
        self._status = ""
        self._ended = Event()
        self._is_over = False

    @property
    def is_complete(self) -> bool:
        """Whether the script has ended."""
        return self._is_over

    def run_epoch(self) -> base.Divergence | None:
        """Wait for the next line with the objective, or for the end."""
        started = time.perf_counter()
        if self._lifeline is None:
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
        base.check_measured(self.task, numbers)
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
        base.check_measured(self.task, metrics)
        if is_confirmed and (missing := [metric.name for metric in self.task.metrics if metric.name not in metrics]):
            raise base.TrialError(
                f"a confirm trial must print {', '.join(missing)} too (ABLATE_PHASE is confirm), as a line such as "
                f"{_example(missing[0])}"
            )
        return metrics

    def items(self) -> base.Items:
        """Return the items that were printed last."""
        return self.last_items

    def save(self) -> bytes:
        """Return nothing: a script starts over."""
        return b""

    def load(self, content: bytes) -> None:
        """Refuse: nothing was saved."""
        raise ValueError("a script cannot go on")

    def close(self) -> None:
        """End the script with all that it started."""
        if self._lifeline is None:
            return
        self._lifeline.close()
        self._ended.wait(2 * GRACE_S)

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
        told, tells = os.pipe()
        with contextlib.suppress(OSError, ValueError):
            starter = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SUPERVISOR), str(tells), str(GRACE_S), *arguments],
                cwd=self.task.folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[tells],
            )
            starter.wait()
            self._lifeline = starter.stdin
        os.close(tells)
        if self._lifeline is None:
            os.close(told)
            raise base.TrialError(f"cannot run {self.shown}")
        readers = []
        for stream, take, longest in (
            (starter.stdout, self._lines.put, LONGEST_OUTPUT),
            (starter.stderr, self.errors.append, LONGEST_LINE),
        ):
            readers.append(Thread(target=_read, args=(stream, take, longest), daemon=True))
            readers[-1].start()
        Thread(target=self._tell_end, args=(told, readers), daemon=True).start()

    def _tell_end(self, told: int, readers: Sequence[Thread]) -> None:
        """Wait for the end of the script and of all that it started; put None behind the last line."""
        with open(told, "rb") as file:
            self._status = file.read().decode() or str(-signal.SIGKILL)
        for reader in readers:
            reader.join(GRACE_S)
        self._ended.set()
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
            content = _object(line)
            if content is None:
                continue
            if isinstance(content.get(ITEMS), dict):
                try:
                    content, self.last_items = split_items(content)
                except TypeError as error:
                    raise base.TrialError(str(error)) from None
            numbers = _numbers(content, [metric.name for metric in self.task.metrics])
            self.last |= numbers
            if self.objective.name in numbers:
                return numbers

    def _end(self) -> None:
        """Check how the script ended."""
        code = int(self._status)
        if code:
            how = f"exit status {code}" if code > 0 else f"the signal {_signal_name(-code)}"
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _object(line: str) -> dict[str, Any] | None:
    """Return the object that a line is in JSON; None for any other line."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _numbers(content: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, float]:
    """Return the numbers of an object, without its step or epoch.

    A metric that is null or a text such as "nan" is no number: many libraries write NaN so.

    Raises:
        TrialError: A metric is something else.
    """
    found = {}
    for name, value in content.items():
        try:
            number = _number(value)
        except (ValueError, OverflowError):
            if name in metrics:
                raise base.TrialError(f"{name} must be a number, but it printed {str(value)[:80]}") from None
            continue
        if name not in ("step", "epoch"):
            found[name] = number
    return found


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        return WORDS_FOR_NAN[value.lower()] if value.lower() in WORDS_FOR_NAN else float("no number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return float(value)


def _read(stream: IO[bytes], take: Any, longest: int) -> None:
    with stream:
        while line := stream.readline(longest):
            take(line.decode("utf-8", errors="replace").rstrip("\n"))
