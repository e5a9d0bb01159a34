"""The task whose trials are calls of a user's Python function."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import queue
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Thread, get_ident
from typing import Any

from ablate.errors import UsageError
from ablate.seeds import derive_seed
from ablate.signals import was_interrupted
from ablate.tasks import base
from ablate.tasks.own.config import Config, unread
from ablate.tasks.own.items import split_items
from ablate.tasks.own.loading import import_function
from ablate.tasks.own.session import function_digest
from ablate.tasks.own.sources import check_function, read_sources
from ablate.tasks.own.task import OwnTask, chosen_device, user_seed
from ablate.tasks.own.trial import Trial, TrialStopped, import_first, seed_all

GRACE_S = 10.0
"""How long a function that is told to end may clean up."""
NOTEBOOK = "<notebook>"
"""Stands for the file of a function that was defined in a session and lies in none."""
log = logging.getLogger(__name__)


class FunctionTask(OwnTask):
    """Calls `function(config, trial)`; see `ablate.tasks.own.trial`.

    `function` is given where it lies in no file; Ray brings it to the workers then.
    """

    name = "function"

    def __init__(
        self,
        entry: Mapping[str, Any],
        values: Mapping[str, Iterable[Any]],
        folder: Path,
        function: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(entry, values, folder)
        file, _, self.function_name = str(entry["function"]).rpartition(":")
        if not file or not self.function_name:
            raise UsageError(f"a function is FILE.py:NAME, but got '{entry['function']}'", "function")
        self._check_names()
        self.file = folder / file
        self.function = function
        self._digest = ""
        version = entry.get("version")
        if function is None and file == NOTEBOOK:
            raise UsageError(
                "this function was defined in a session of Python and lies in no file: go on there, or write it to one",
                "function",
            )
        if function is None:
            if self.file.suffix != ".py":
                raise UsageError(
                    f"a function lies in a Python file, FILE.py:NAME, but got '{entry['function']}'", "function"
                )
            self.sources = read_sources(self.file)
            check_function(self.file, self.function_name)
            self._digest = self.sources.digest
        else:
            self._digest = function_digest(function)
        hashed = hashlib.sha256(f"{self.function_name}\0{self._digest}".encode()).hexdigest()[:12]
        # The folder's name tells equal names apart; the whole path would make other keys on every machine.
        pinned = f"{self.file.resolve().parent.name}/{self.file.stem}.{self.function_name}={version}"
        in_session = f"{hashed}={version}"
        self.origin = hashed if version is None else pinned if function is None else in_session

    @property
    def code_digest(self) -> str:
        """The digest of the function's file and of what it imports below the file's folder."""
        return self._digest

    def reference(self) -> Any:
        """Return what makes this task in a worker; a function without a file goes along."""
        if self.function is not None:
            return {"entry": self.entry, "folder": str(self.folder), "function": self.function}
        # As a worker finds it, also one that the files are brought to.
        name = f"{self.sources.first.as_posix()}:{self.function_name}"
        entry = {**self.entry, "digest": self.code_digest, "function": name}
        return {"entry": entry, "folder": str(self.sources.folder), "function": None}

    def code(self) -> Mapping[str, Path]:
        """Return the files that the function needs, by their place below one folder."""
        if self.function is not None:
            return {}
        return {place: self.sources.folder / place for place in self.sources.files}

    def _check_names(self) -> None:
        for name in self.parameters.core:
            if name.startswith("_") or hasattr(Mapping, name):
                raise UsageError(f"the parameter '{name}' needs another name: config.{name} is something else")

    def start(self, trial: base.Trial) -> base.Training:
        """Return a call that has not begun.

        Raises:
            TrialError: The user's file cannot be imported.
            RuntimeError: A function that was stopped before goes on in this process, and would share its generators.
        """
        if any(thread.is_alive() for thread in base.lingering):
            raise RuntimeError("a function that was stopped before does not end: no other one can run beside it")
        function = self.function
        if function is None:
            self.check_unchanged(str(self.file))
            import_first(self.sources.others)
            try:
                function = import_function(self.sources, self.function_name)
            except UsageError:
                raise
            except BaseException as error:
                if was_interrupted():
                    raise
                raise base.TrialError(told(error)) from error
        return FunctionTraining(function, trial, self)


class FunctionTraining(base.Training):
    """A call of a user's function in a thread of its own, which waits in `report` until it is told to go on."""

    def __init__(self, function: Callable[..., Any], trial: base.Trial, task: FunctionTask) -> None:
        self.progress = base.Progress()
        self.task = task
        self.objective = task.metric(task.objective)
        self.seed = user_seed(trial.seed)
        self.config = Config(trial.settings)
        self.trial = Trial(
            self.seed, chosen_device(trial.device), trial.is_confirm, trial.folder, self._check, self._go_on
        )
        self.function = function
        self.returned: dict[str, float] | None = None
        self._items = base.Items()
        self._events: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_stopped = False
        self._pid = os.getpid()
        self._thread: Thread | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the function has returned."""
        return self.returned is not None

    def run_epoch(self) -> base.Divergence | None:
        """Let the function go on until it reports or returns."""
        started = time.perf_counter()
        if self._thread is None:
            self._thread = Thread(target=self._call, name="ablate-function", daemon=True)
            self._thread.start()
        else:
            self._orders.put(True)
        event = self._wait()
        self.progress.duration_s += time.perf_counter() - started
        if event is not None:
            given = ", ".join(f"{name}={value}" for name, value in self.config._values.items())
            raise base.TrialError(told(event, f"parameters: {given}\n")) from event
        curve = self.trial._curves.get(self.objective.name, [])
        self.progress.curves = self.trial._curves  # The function waits while they are looked at.
        if self.is_complete:
            self.progress.epoch = len(curve)
            if not curve:
                raise base.TrialError(
                    f"{self.task.function_name} returned without reporting: it must call "
                    f"trial.report({self.objective.name}=…) at least once"
                )
            return None
        value = curve[-1]
        if not math.isfinite(value):
            for each in self.trial._curves.values():
                each.pop()
            epoch = self.progress.epoch
            return base.Divergence(epoch + 1, epoch, self.objective.name, f"{self.objective.name} is {value}")
        self.progress.epoch = len(curve)
        return None

    def measure(self, is_confirmed: bool) -> dict[str, float]:
        """Return the last numbers reported and what the function returned."""
        metrics = {name: curve[-1] for name, curve in self.progress.curves.items() if curve}
        metrics |= self.returned or {}
        if is_confirmed and (missing := [m.name for m in self.task.metrics if m.name not in metrics]):
            raise base.TrialError(
                f"{self.task.function_name} must report or return {', '.join(missing)} in a confirm trial "
                f"(trial.is_confirm), but there is only {', '.join(metrics)}"
            )
        base.check_measured(self.task, metrics)
        return metrics

    def items(self) -> base.Items:
        """Return the items that the function returned beside its metrics."""
        return self._items

    def save(self) -> bytes:
        """Return what the function saved last with the numbers before it; nothing if it saved nothing."""
        saved = self.trial._saved
        if saved is None:
            return b""
        content, step, curves = saved
        duration_s = self.progress.duration_s
        return base.to_json({"state": content.hex(), "step": step, "curves": curves, "duration_s": duration_s})

    def load(self, content: bytes) -> None:
        """Have `trial.load` return what was saved. The trial starts over where the function does not ask for it."""
        found = base.from_json(content)
        self.progress.duration_s = float(found["duration_s"])
        self.trial._found = (bytes.fromhex(found["state"]), int(found["step"]), found["curves"])

    def unread(self) -> list[str]:
        """Return a line for each parameter that the function never read."""
        return unread(self.config)

    def close(self) -> None:
        """End the function where it waits or, after its time is over, wherever it is."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        self._is_stopped = True
        self._orders.put(False)
        thread.join(GRACE_S if self.returned is None else None)
        if thread.is_alive():
            ident = ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(TrialStopped))
            thread.join(GRACE_S)
        if thread.is_alive():
            base.lingering.append(thread)
            log.warning("%s does not end; it goes on in the background: %s", self.task.function_name, self._place())

    def _wait(self) -> BaseException | None:
        left = None
        if self.task.timeout_s is not None:
            left = max(0.0, self.task.timeout_s - self.progress.duration_s)
        try:
            return self._events.get(timeout=left)
        except queue.Empty:
            limit = f"trial_timeout, {self.task.timeout_s:g} s"
            raise base.TrialError(f"the trial took longer than {limit}; it was at {self._place()}") from None

    def _place(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread else None
        places = traceback.extract_stack(frame) if frame else []
        own = [place for place in places if place.filename.startswith(str(self.task.folder))] or places
        return f"{own[-1].filename}:{own[-1].lineno}" if own else "an unknown place"

    def _check(self, numbers: dict[str, float]) -> None:
        """Refuse what is no report, in the thread of the function."""
        if os.getpid() != self._pid:
            raise RuntimeError("trial.report was called in a forked process: only the process of the trial may report")
        if self._thread is None or get_ident() != self._thread.ident:
            raise RuntimeError("trial.report was called in another thread: only the one of the function may report")
        if self._is_stopped:
            raise TrialStopped
        name = self.objective.name
        if name not in numbers:
            raise ValueError(f"trial.report needs the objective {name}, but got {', '.join(numbers) or 'nothing'}")
        for metric in self.task.metrics:
            value = numbers.get(metric.name, math.nan)
            if math.isfinite(value) and (wrong := base.refusal(metric, value)):
                raise ValueError(wrong)

    def _go_on(self) -> None:
        """Wait in the thread of the function until it is told to go on."""
        self._events.put(None)
        self._orders.get()
        if self._is_stopped:
            raise TrialStopped

    def _call(self) -> None:
        """Call the function, in its thread."""
        event: BaseException | None = None
        try:
            seed_all(derive_seed(self.seed, "function"))
            returned = self.function(self.config, self.trial)
            self.returned, self._items = _taken_apart(returned, self.task.function_name)
        except TrialStopped:
            pass
        except SystemExit as error:
            event = RuntimeError(f"{self.task.function_name} called sys.exit({error.code!r})")
            event.__traceback__ = error.__traceback__
        except BaseException as error:
            event = error
        if os.getpid() != self._pid:  # A fork of the user's that came back here.
            os._exit(0)
        self._events.put(event)


def _taken_apart(returned: Any, name: str) -> tuple[dict[str, float], base.Items]:
    """Return the metrics and the items that a function returned."""
    if returned is None:
        return {}, base.Items()
    if not isinstance(returned, Mapping):
        raise TypeError(f"{name} must return a mapping of metrics or nothing, but returned {type(returned).__name__}")
    numbers, items = split_items(returned)
    found = {}
    for key, value in numbers.items():
        try:
            found[str(key)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must return numbers, but {key} is {type(value).__name__}") from None
    return found, items


def told(error: BaseException, before_last: str = "") -> str:
    """Return an error of the user's code as its traceback without frames of ours, and a last line with the place."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    theirs = [f for f in frames if not f.filename.startswith((ours, "<frozen importlib"))] or frames
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: " if theirs else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}: "
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # Its own __str__ fails.
        text = type(error).__name__
    summary = " ".join(text.split()).removesuffix(":")
    return "".join([*traceback.format_list(theirs), before_last, f"{place}{summary}"])
