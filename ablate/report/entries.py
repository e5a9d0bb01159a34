"""The entries of the table: what each cell measured, and its difference to the baseline."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from ablate.errors import UsageError, choices_text
from ablate.metrics import Metric
from ablate.report.inference import Estimate, estimate, paired_difference
from ablate.report.items import Outcomes, outcomes, paired_outcomes
from ablate.store.declaration import CellTrials, Declaration
from ablate.store.record import TrialRecord
from ablate.store.replicates import replicates


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one cell measured.

    `by_row` has the number of each finished replicate in `metric`: of a study the mean over its confirm seeds, or of
    each seed where there is one study. A diverged seed is at the floor; without a floor its replicate has no number.
    `ended` are the replicates whose seeds have all come to a result, also without a number. `num_rows` are those that
    were declared, `num_failed` those with a failed seed, `num_waiting` the others that are not finished. `items`
    are the outcomes of each replicate by test item, one line a replicate, where all have them. `num_doubted` counts the
    studies whose tuning is in doubt. `difference` is to the baseline with the same other levels, over shared
    replicates; None for the baseline itself and while either is not settled. `mark` stands behind the entry in the
    table, for the `doubts` about its tuning.
    """

    trials: CellTrials
    by_row: dict[int, float]
    estimate: Estimate
    num_rows: int
    num_failed: int
    metric: Metric
    difference: Estimate | None = None
    mark: str = ""
    doubts: tuple[str, ...] = ()
    num_doubted: int = 0
    ended: frozenset[int] = frozenset()
    items: Outcomes | None = None
    by_study: bool = False

    @property
    def replicates(self) -> str:
        """What the entry has several of: "studies" or "seeds"."""
        return "studies" if self.by_study else "seeds"

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
        return self.num_rows - self.estimate.n - self.num_failed

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
    declared, metric = declaration.of(cell.cell.levels), declaration.metric_of(cell.cell.levels)
    found = replicates(declaration, cell)
    items = outcomes({row: found.whole[row] for row in found.by_row}, metric)
    return Entry(
        trials=cell,
        by_row=found.by_row,
        # Of a study with a failed seed the others still tell whether some trained and some collapsed.
        estimate=estimate(
            [record.metrics[metric.name] for record in found.survivors],
            found.num_diverged,
            metric,
            list(found.by_row.values()),
            len(found.whole),
            items.matrix if items else None,
        ),
        num_rows=declared.num_replicates,
        num_failed=found.num_failed,
        metric=metric,
        ended=frozenset(found.whole),
        items=items,
        by_study=declared.num_studies > 1,
    )


def _others(entry: Entry, columns: str) -> tuple[tuple[str, str], ...]:
    return tuple((axis, level) for axis, level in entry.levels.items() if axis != columns)


def _with_difference(entry: Entry, baseline: Entry | None) -> Entry:
    if baseline is None or baseline.trials is entry.trials or not entry.is_settled:
        return entry
    if not (entry.estimate.has_all_values and baseline.estimate.has_all_values):  # A diverged seed has no number.
        return entry
    return dataclasses.replace(entry, difference=compared(entry, baseline))


def compared(first: Entry, second: Entry) -> Estimate:
    """Return the mean paired difference of two entries over the replicates that both have."""
    is_mixed = first.estimate.is_mixed or second.estimate.is_mixed
    return paired_difference(
        first.by_row, second.by_row, first.metric, is_mixed=is_mixed, items=paired_outcomes(first.items, second.items)
    )
