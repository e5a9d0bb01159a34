"""What the confirm trials of a cell came to by replicate: a study, or a seed where each cell has one study."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ablate.metrics import Metric
from ablate.store.declaration import CellTrials, Declaration
from ablate.store.record import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """The replicates of a cell, by their number.

    `whole` has the records of those whose seeds have all come to a result, `by_row` the number of each in the table's
    metric, the mean of its seeds: a diverged seed is at the floor, and without a floor its replicate has no number.
    `records` are all confirm trials that came to a result, also of replicates that are not whole. `num_failed` counts
    the replicates with a failed seed.
    """

    whole: dict[int, list[TrialRecord]]
    by_row: dict[int, float]
    records: list[TrialRecord]
    num_failed: int

    @property
    def survivors(self) -> list[TrialRecord]:
        """The trials that did not diverge."""
        return [record for record in self.records if record.state != "diverged"]

    @property
    def num_diverged(self) -> int:
        """How many trials diverged."""
        return len(self.records) - len(self.survivors)


def replicates(declaration: Declaration, cell: CellTrials) -> Replicates:
    """Return what the confirm trials of a cell came to."""
    declared, metric = declaration.of(cell.cell.levels), declaration.metric_of(cell.cell.levels)
    rows: dict[int, list[TrialRecord]] = {}
    for proposal, record in cell.confirm:
        if record is not None:
            rows.setdefault(declared.row(proposal), []).append(record)
    size = declared.num_seeds if declared.num_studies > 1 else 1
    ended = {row: [record for record in records if _has_ended(record, metric)] for row, records in rows.items()}
    whole = {row: records for row, records in ended.items() if len(records) == size}
    values = {row: [_value(record, metric) for record in records] for row, records in whole.items()}
    return Replicates(
        whole=whole,
        by_row={row: math.fsum(found) / size for row, found in values.items() if None not in found},  # type: ignore[arg-type]
        records=[record for records in ended.values() for record in records],
        num_failed=sum(len(ended[row]) < len(records) for row, records in rows.items()),
    )


def _value(record: TrialRecord, metric: Metric) -> float | None:
    return metric.floor if record.state == "diverged" else record.metrics.get(metric.name)


def _has_ended(record: TrialRecord, metric: Metric) -> bool:
    """Whether a confirm trial came to a result: a number, or divergence."""
    return record.state == "diverged" or (record.state == "complete" and metric.name in record.metrics)
