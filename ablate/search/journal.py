"""The Optuna journal of a sweep: a view of the ledger that optuna-dashboard can open."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

log = logging.getLogger(__name__)


class Journal(BaseJournalBackend):
    """Appends the log to a file in Optuna's format, and keeps in memory what its only reader has not read yet.

    Optuna's own file backend locks the file, flushes it to the disk and reads it back for every report of every
    trial. None of that is needed here: only this process writes, and the ledger is what survives a crash.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        self._logs: list[dict[str, Any]] = []
        self._num_forgotten = 0
        self._file = file
        self._is_broken = False
        file.touch()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the logs from this number on, and forget those before it."""
        num_read = max(0, log_number_from - self._num_forgotten)
        del self._logs[:num_read]
        self._num_forgotten += num_read
        return list(self._logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append logs, in memory and to the file; a file that cannot be written is left as it is."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        # Read back from the text, as another process would see them.
        self._logs.extend(json.loads(line) for line in lines)
        if self._is_broken:
            return
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            self._is_broken = True
            log.warning("the Optuna journal, a view of the ledger, is incomplete until the next run: %s", error)
