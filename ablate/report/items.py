"""The outcomes of confirm trials by test item, where a metric is their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablate.metrics import Metric
from ablate.report.inference import Matrix
from ablate.store.record import TrialRecord

TOLERANCE = 1e-5
"""How far the mean of the items may lie from the metric, of the metric or of 1: items are kept with 24 bits."""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes by replicate and item: `digest` tells which items these are, in their order."""

    digest: str
    by_row: Mapping[int, Matrix]

    @property
    def matrix(self) -> Matrix:
        """(replicates, items)."""
        return np.stack(list(self.by_row.values()))


def outcomes(rows: Mapping[int, Sequence[TrialRecord]], metric: Metric) -> Outcomes | None:
    """Return the outcomes of each replicate, of several seeds their mean.

    None where a trial has none, where they are of other items than another's, or where the metric is not their mean.
    """
    records = [record for found in rows.values() for record in found]
    digests = {record.items_digest for record in records}
    if len(digests) != 1 or not all(_is_mean(record, metric) for record in records):
        return None
    by_row = {
        row: np.mean([np.asarray(record.items[metric.name], float) for record in found], axis=0)
        for row, found in rows.items()
    }
    return Outcomes(digests.pop(), by_row)


def paired_outcomes(first: Outcomes | None, second: Outcomes | None) -> Matrix | None:
    """Return the differences by shared replicate and item; None where the items are not the same."""
    if first is None or second is None or first.digest != second.digest:
        return None
    shared = [row for row in first.by_row if row in second.by_row]
    return np.stack([first.by_row[row] - second.by_row[row] for row in shared]) if shared else None


def _is_mean(record: TrialRecord, metric: Metric) -> bool:
    items, value = record.items.get(metric.name), record.metrics.get(metric.name)
    if not items or value is None or record.state != "complete":
        return False
    return abs(math.fsum(items) / len(items) - value) <= TOLERANCE * max(1.0, abs(value))
