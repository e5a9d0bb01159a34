"""What a running sweep shows: a live table in a terminal that knows UTF-8, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ablate.errors import printable
from ablate.metrics import Metric
from ablate.run.schedule import Schedule, StudyRun
from ablate.signals import drop_dead_outputs
from ablate.store.declaration import Declaration, DeclaredCell, Proposal
from ablate.store.record import TrialRecord


class Progress:
    """Listens to a sweep and shows it. Use it as a context around the run."""

    def __init__(self, console: Console, jobs: int) -> None:
        self.console = console
        self.jobs = jobs
        self.schedule: Schedule | None = None
        self.started = time.monotonic()
        self.work_done = 0.0
        self.busy_s = 0.0
        self.live: Live | None = None

    def __enter__(self) -> Self:
        # Elsewhere escapes such as \u2026 would change the width of the lines that are drawn anew.
        if self.console.is_terminal and not self.console.options.ascii_only:
            self.live = Live(console=self.console, get_renderable=self._render, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.live is not None:
            with _on_whatever_is_left():
                self.live.stop()

    def finished(self, cell: DeclaredCell, proposal: Proposal, record: TrialRecord, is_new: bool) -> None:
        """Note a trial that ended in this run, or (not `is_new`) in another sweep."""
        if is_new and record.state != "failed" and self.schedule is not None:
            task = self.schedule.task
            self.busy_s += record.duration_s
            share = record.num_epochs / (task.num_epochs(proposal.settings) or max(1, record.num_epochs))
            self.work_done += task.work(cell.settings) * share
        if self.live is None and self.schedule is not None:
            done, planned = self.schedule.num_finished(), self.schedule.declaration.num_trials
            outcome = _outcome(self.schedule.declaration, record)
            outcome = outcome if is_new else f"{outcome} in the ledger already"
            line = f"[{done}/{planned}] {cell.name} {proposal.name}: {outcome}"
            with _on_whatever_is_left():
                self.console.print(
                    f"{printable(line)}{self._left_text()}", markup=False, highlight=False, soft_wrap=True
                )

    def time_left_s(self) -> float | None:
        """Return the estimated rest of the run in seconds, from the trials that ended in this run."""
        if self.schedule is None or self.work_done <= 0:
            return None
        return max(0.0, self.schedule.work_left) * self.busy_s / self.work_done / self.jobs

    def _left_text(self) -> str:
        left = self.time_left_s()
        return "" if not left else f" · about {duration_text(left)} left"

    def _render(self) -> Group | Text:
        if self.schedule is None:
            return Text("starting Ray …")
        declaration = self.schedule.declaration
        table = Table(box=None, header_style="bold", pad_edge=False)
        for axis in declaration.axes:
            table.add_column(axis)
        for name in ("tune", "confirm", "pruned", "diverged", "failed", "best val"):
            table.add_column(name, justify="right")
        num = declaration.num_studies
        for first in range(0, len(self.schedule.studies), num):
            studies = self.schedule.studies[first : first + num]
            table.add_row(*_cell_row(studies, num * declaration.num_tune, num * declaration.num_seeds))
        done = self.schedule.num_finished()
        elapsed = duration_text(time.monotonic() - self.started)
        text = Text(
            f"{done} of {declaration.num_trials} trials · {elapsed}{self._left_text()} · Ctrl-C stops, resumable"
        )
        return Group(table, ProgressBar(total=declaration.num_trials, completed=done, width=60), text)


@contextlib.contextmanager
def _on_whatever_is_left() -> Iterator[None]:
    """Let a sweep go on that outlives its terminal, as after `disown`: what it shows is no result."""
    try:
        yield
    except OSError:
        drop_dead_outputs()


def _cell_row(studies: Sequence[StudyRun], num_tune: int, num_confirm: int) -> list[str]:
    records = [run.records[p.key] for run in studies for p in run.tune.values() if p.key in run.records]
    confirmed = [run.records[p.key] for run in studies for p in run.confirm.values() if p.key in run.records]
    counts = [sum(r.state == state for r in [*records, *confirmed]) for state in ("pruned", "diverged", "failed")]
    objective = studies[0].search.objective
    values = [r.metrics[objective.name] for r in records if r.state == "complete"]
    mark = "*" if any(run.running for run in studies) else ""
    return [
        *studies[0].declared.levels.values(),
        f"{len(records)}/{num_tune}{mark if len(records) < num_tune else ''}",
        f"{len(confirmed)}/{num_confirm}{mark if len(records) == num_tune else ''}",
        *(str(count) if count else "·" for count in counts),
        _short(objective, objective.top(values)) if values else "–",
    ]


def _short(metric: Metric, value: float) -> str:
    """Return a number for a narrow column."""
    return f"{value:.3f}" if metric.unit == "percent" else metric.text(value)


def _outcome(declaration: Declaration, record: TrialRecord) -> str:
    took = f"{record.duration_s:.1f} s"
    if record.state == "complete":
        shown = declaration.metric if declaration.metric.name in record.metrics else declaration.tuned_metric
        split = shown.name.partition("_")[0]
        return f"{split} {_short(shown, record.metrics[shown.name])} ({took})"
    if record.state == "pruned":
        return f"pruned after epoch {record.num_epochs} ({took})"
    if record.state == "diverged":
        return f"diverged in epoch {record.diverged_epoch} at {record.diverged_layer} ({took})"
    return f"failed: {record.reason}: {record.message.strip().splitlines()[-1]}" if record.message else "failed"


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
