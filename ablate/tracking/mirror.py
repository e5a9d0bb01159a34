"""The mirror: one background thread tells MLflow about finished trials, and no sweep ever waits for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ablate.places import Place
from ablate.store.declaration import CellTrials, Declaration, DeclaredCell, Proposal
from ablate.store.record import TrialRecord
from ablate.tracking.outages import passes
from ablate.tracking.runs import SweepRuns
from ablate.tracking.store import masked, plain_cause, tracking_uri

PAUSE_S = 30.0
MAX_FAILURES = 2
GRACE_S = 5.0
"""How long what is under way may take when the time for all of it is up."""
log = logging.getLogger(__name__)


@dataclass
class _Task:
    """One thing to write; `is_trial` says whether it counts as a trial if it cannot be written."""

    write: Callable[[SweepRuns], None]
    is_trial: bool = False
    num_failures: int = 0


class Mirror:
    """Mirrors a sweep to MLflow from one thread of its own.

    No method raises for a store's sake, and none but `settle` and `close` waits. While the store does not answer,
    trials are kept and tried again every `pause_s` seconds; what is left at the end lies in the ledger, and `replay`
    brings it next time.
    """

    def __init__(self, out: Place, declaration: Declaration, resolved: str, *, pause_s: float = PAUSE_S) -> None:
        self._uri = tracking_uri(out)
        self._open: Callable[[], SweepRuns] = lambda: SweepRuns(self._uri, out, declaration, resolved)
        self._pause_s = pause_s
        self._runs: SweepRuns | None = None
        self._inbox: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._waiting: deque[_Task] = deque()
        self._num_trials = 0
        self._num_written = 0
        self._retry_at = 0.0
        self._warned: set[bool] = set()
        self._is_refused = False
        self._is_closing = False
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def finished(self, cell: DeclaredCell, proposal: Proposal, record: TrialRecord) -> None:
        """Queue one finished trial."""
        self._num_trials += 1
        self._inbox.put(_Task(lambda runs: runs.trial(cell, proposal, record), is_trial=True))

    def replay(self, cells: list[CellTrials]) -> None:
        """Queue every trial that has a record; what MLflow holds already is passed over."""
        for trials in cells:
            for proposal, record in [*trials.tune, *trials.confirm, *trials.extra]:
                if record is not None:
                    self.finished(trials.cell, proposal, record)

    def summary(self, folder: Path | None, cells: list[CellTrials]) -> None:
        """Queue an update of the cells' numbers and, if there is a folder, the upload of the report in it.

        It may be called as often as there is news; only what changed is written.
        """
        self._inbox.put(_Task(lambda runs: runs.cells(cells)))
        if folder is not None:
            self._inbox.put(_Task(lambda runs: runs.upload_report(folder)))

    def settle(self, timeout_s: float) -> None:
        """Wait until what is queued is written, for at most so many seconds, and not for a store that is away."""
        is_written = threading.Event()
        self._inbox.put(_Task(lambda runs: is_written.set()))
        deadline = time.monotonic() + timeout_s
        while not is_written.wait(0.05) and not self._warned and time.monotonic() < deadline:
            pass

    def close(self, timeout_s: float) -> int:
        """Write what is queued, for at most so many seconds, and return how many trials MLflow was not told.

        Afterwards the thread has ended, or waits for a store that hangs: one at work would break when Python ends.
        """
        if not self._is_closing:
            self._is_closing = True
            self._inbox.put(_Task(lambda runs: runs.end()))
            self._inbox.put(None)
        self._thread.join(timeout_s)
        self._is_abandoned = True
        self._thread.join(GRACE_S)
        return self._num_trials - self._num_written

    def missed_line(self, num_missed: int) -> str:
        """Return what to say of so many trials that MLflow was not told, empty if there is none."""
        if not num_missed:
            return ""
        if self._is_refused:
            return (
                f"{num_missed} trials are in the ledger but not in MLflow, which refuses them. "
                "Mend what the warning above says; the next run then adds them."
            )
        return f"{num_missed} trials are in the ledger but not in MLflow yet; the next run adds them."

    def _work(self) -> None:
        is_open = True
        while is_open and not self._is_abandoned:
            timeout = max(self._retry_at - time.monotonic(), 0.01) if self._waiting else None
            try:
                task = self._inbox.get(timeout=timeout)
                is_open = task is not None
                if task is not None:
                    self._waiting.append(task)
            except queue.Empty:
                pass
            # At the end there is one more try, whenever the last one was.
            if not is_open or time.monotonic() >= self._retry_at:
                self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting and not self._is_abandoned:
            if self._runs is None:
                try:
                    self._runs = self._open()
                except Exception as error:
                    self._retry_at = time.monotonic() + self._pause_s
                    self._warn(error)
                    return
                continue
            task = self._waiting[0]
            try:
                task.write(self._runs)
                self._num_written += task.is_trial
            except Exception as error:
                # Opened again, because what the store holds is unknown now; that also tells an outage from a
                # single trial that the store refuses, which must not hold up the others.
                self._runs = None
                task.num_failures += 1
                self._warn(error)
                if task.num_failures < MAX_FAILURES:
                    continue
            self._waiting.popleft()

    def _warn(self, error: Exception) -> None:
        cause = plain_cause(error, self._uri)
        log.debug("MLflow: %s", cause)
        self._is_refused = not passes(error)
        if self._is_refused not in self._warned:
            self._warned.add(self._is_refused)
            lasts = ". It will not take them until this is mended" if self._is_refused else ""
            log.warning(
                "MLflow at %s does not take the trials; the sweep goes on and they are kept in the ledger%s: %s",
                masked(self._uri),
                lasts,
                cause,
            )
