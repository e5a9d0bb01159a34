"""The entries of the table: what each cell measured, and its difference to the baseline."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from ablate.errors import UsageError, choices_text
from ablate.metrics import Metric
from ablate.report.inference import Estimate, estimate, paired_difference
from ablate.store.declaration import CellTrials, Declaration
from ablate.store.record import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one cell measured.

    `by_seed` has the number of each finished confirm seed in `metric`, at its floor if it diverged; without a floor a
    diverged seed has none. `num_waiting` counts the confirm trials that are neither finished nor failed. `difference`
    is to the baseline with the same other levels, over shared seeds; None for the baseline itself and while either is
    not settled. `mark` stands behind the entry in the table, for the `doubts` about its tuning.
    """

    trials: CellTrials
    by_seed: dict[int, float]
    estimate: Estimate
    num_seeds: int
    num_failed: int
    metric: Metric
    difference: Estimate | None = None
    mark: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def levels(self) -> dict[str, str]:
        return self.trials.cell.levels

    @property
    def records(self) -> list[TrialRecord]:
        """All finished trials of the cell, tune before confirm."""
        return [record for _, record in (*self.trials.tune, *self.trials.confirm) if record is not None]

    @property
    def device_hours(self) -> float:
        """What all trials of the cell took together."""
        return sum(record.duration_s for record in self.records) / 3600

    @property
    def num_parameters(self) -> int:
        """Of the cell's largest net; 0 while no trial has ended."""
        return max((record.num_parameters for record in self.records), default=0)

    @property
    def num_waiting(self) -> int:
        return self.num_seeds - self.estimate.n - self.num_failed

    @property
    def is_settled(self) -> bool:
        """Whether the entry has a number that will not change by running the sweep on."""
        return self.num_waiting <= 0 and self.estimate.n > 0

    @property
    def is_near_floor(self) -> bool:
        """Whether the mean is at the metric's floor or hardly better."""
        return self.is_settled and self.estimate.mean is not None and self.metric.has_collapsed(self.estimate.mean)

    @property
    def includes_floor(self) -> bool:
        """Whether the metric's floor lies in the interval."""
        low, high, floor = self.estimate.low, self.estimate.high, self.metric.floor
        return self.is_settled and None not in (low, high, floor) and low <= floor <= high  # type: ignore[operator]


def check_metric(declaration: Declaration, cells: list[CellTrials]) -> None:
    """Check that the confirm trials recorded the table's metric.

    Raises:
        UsageError: It is not, although confirm trials are complete.
    """
    records = [record for cell in cells for _, record in cell.confirm if record and record.state == "complete"]
    recorded = {name for record in records for name in record.metrics}
    known = {metric.name for metric in declaration.metrics} & recorded
    metric = declaration.report["metric"]
    if records and metric not in known:
        raise UsageError(f"no confirm trial recorded a metric '{metric}'. {choices_text(metric, known)}")


def entries(declaration: Declaration, cells: list[CellTrials]) -> list[Entry]:
    """Return one entry a cell, in the declaration's order."""
    plain = [entry(declaration, cell) for cell in cells]
    columns, baseline = declaration.report.get("columns"), declaration.report.get("baseline")
    if not columns or baseline is None:
        return plain
    baselines = {
        _others(entry, columns): entry for entry in plain if entry.levels[columns] == baseline and entry.is_settled
    }
    return [_with_difference(entry, baselines.get(_others(entry, columns))) for entry in plain]


def tune_counts(trials: CellTrials) -> Counter[str]:
    """Count a cell's tune trials by state; "running" are those that have no record yet."""
    return Counter(record.state if record else "running" for _, record in trials.tune)


def finished(cells: list[CellTrials]) -> list[TrialRecord]:
    """Return the records of all finished trials, tune before confirm in each cell."""
    return [record for cell in cells for _, record in (*cell.tune, *cell.confirm) if record is not None]


def entry(declaration: Declaration, cell: CellTrials) -> Entry:
    """Return what one cell measured, without its difference to the baseline."""
    metric = declaration.metric_of(cell.cell.levels)
    records = [record for _, record in cell.confirm if record is not None]
    by_seed = {}
    for record in records:
        if record.state == "diverged" and metric.floor is not None:
            by_seed[record.seed] = metric.floor
        elif record.state == "complete" and metric.name in record.metrics:
            by_seed[record.seed] = record.metrics[metric.name]
    diverged = {record.seed for record in records if record.state == "diverged"}
    survivors = [value for seed, value in by_seed.items() if seed not in diverged]
    return Entry(
        trials=cell,
        by_seed=by_seed,
        estimate=estimate(survivors, len(diverged), metric),
        num_seeds=declaration.seeds_of(cell.cell.levels),
        num_failed=sum(record.seed not in by_seed and record.seed not in diverged for record in records),
        metric=metric,
    )


def _others(entry: Entry, columns: str) -> tuple[tuple[str, str], ...]:
    return tuple((axis, level) for axis, level in entry.levels.items() if axis != columns)


def _with_difference(entry: Entry, baseline: Entry | None) -> Entry:
    if baseline is None or baseline.trials is entry.trials or not entry.is_settled:
        return entry
    if not (entry.estimate.has_all_values and baseline.estimate.has_all_values):  # A diverged seed has no number.
        return entry
    is_mixed = entry.estimate.is_mixed or baseline.estimate.is_mixed
    difference = paired_difference(entry.by_seed, baseline.by_seed, entry.metric, is_mixed=is_mixed)
    return dataclasses.replace(entry, difference=difference)
