"""The entries of the table: what each cell measured, and its difference to the baseline."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from ablate.declaration import CellTrials, Declaration
from ablate.errors import UsageError, choices_text
from ablate.ledger import TrialRecord
from ablate.report.statistics import Estimate, estimate, near_chance, paired_difference

LONG = {"val": "validation", "train": "training"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one cell measured.

    `by_seed` has the accuracy of each finished confirm seed, at chance if it diverged. `num_waiting` counts the
    confirm trials that are neither finished nor failed. `difference` is to the baseline with the same other
    levels, over shared seeds; None for the baseline itself and while either is not settled. `mark` stands
    behind the entry in the table, for the `doubts` about its tuning.
    """

    trials: CellTrials
    by_seed: dict[int, float]
    estimate: Estimate
    num_seeds: int
    num_failed: int
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

    def is_near_chance(self, chance: float) -> bool:
        """Whether the mean is at chance or hardly above."""
        return self.is_settled and self.estimate.mean is not None and self.estimate.mean <= near_chance(chance)

    def includes_chance(self, chance: float) -> bool:
        """Whether chance lies in the interval."""
        low, high = self.estimate.low, self.estimate.high
        return self.is_settled and low is not None and high is not None and low <= chance <= high


def metric_label(declaration: Declaration) -> str:
    """For example "Test accuracy"."""
    return label(declaration.metric)


def label(metric: str) -> str:
    """Return a metric's or a curve's name in words, for example "Validation accuracy"."""
    first, _, rest = metric.partition("_")
    return f"{LONG.get(first, first)} {rest}".replace("_", " ").strip().capitalize()


def check_metric(declaration: Declaration, cells: list[CellTrials]) -> None:
    """Check that the table's metric is an accuracy that the confirm trials recorded.

    Raises:
        UsageError: It is not, although confirm trials are complete.
    """
    records = [record for cell in cells for _, record in cell.confirm if record and record.state == "complete"]
    recorded = {name for record in records for name in record.metrics if "accuracy" in name}
    metric = declaration.metric
    if records and metric not in recorded:
        raise UsageError(f"no confirm trial recorded an accuracy '{metric}'. {choices_text(metric, recorded)}")


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
    chance, metric = declaration.chance_of(cell.cell.levels), declaration.metric
    records = [record for _, record in cell.confirm if record is not None]
    by_seed = {}
    for record in records:
        if record.state == "diverged":
            by_seed[record.seed] = chance
        elif record.state == "complete" and metric in record.metrics:
            by_seed[record.seed] = record.metrics[metric]
    diverged = {record.seed for record in records if record.state == "diverged"}
    survivors = [value for seed, value in by_seed.items() if seed not in diverged]
    return Entry(
        trials=cell,
        by_seed=by_seed,
        estimate=estimate(survivors, len(diverged), chance),
        num_seeds=declaration.seeds_of(cell.cell.levels),
        num_failed=sum(record.state == "failed" for record in records),
    )


def _others(entry: Entry, columns: str) -> tuple[tuple[str, str], ...]:
    return tuple((axis, level) for axis, level in entry.levels.items() if axis != columns)


def _with_difference(entry: Entry, baseline: Entry | None) -> Entry:
    if baseline is None or baseline.trials is entry.trials or not entry.is_settled:
        return entry
    is_mixed = entry.estimate.is_mixed or baseline.estimate.is_mixed
    return dataclasses.replace(entry, difference=paired_difference(entry.by_seed, baseline.by_seed, is_mixed=is_mixed))
