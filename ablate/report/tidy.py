"""The sweep as data frames with one row a trial and one row a cell."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ablate.redaction import redact
from ablate.report.entries import tune_counts
from ablate.report.layout import Grid
from ablate.report.summary import best_settings
from ablate.report.text import entry_text
from ablate.report.verdicts import Place
from ablate.store.declaration import CellTrials, Declaration, DeclaredCell, Proposal, public_file
from ablate.store.record import TrialRecord

NULLABLE_INTEGERS = ("diverged_epoch", "diverged_step")
NUMBERS = ("mean", "sd", "low", "high", "delta", "delta_low", "delta_high", "adjusted_p", "equivalence_p",
           "permutation_p", "g")  # fmt: skip
"""Columns of `cells` that are numbers also where none of them is defined."""


def trials(declaration: Declaration, cells: list[CellTrials]) -> pd.DataFrame:
    """Return one row a finished trial: axes, outcome, metrics, `config.<setting>` and `provenance.<name>`."""
    rows = [
        {"sweep": declaration.sweep, **_trial_row(cell.cell, proposal, record)}
        for cell in cells
        for proposal, record in (*cell.tune, *cell.confirm)
        if record is not None
    ]
    # A fixed order of columns, whichever trial comes first.
    groups = ("config.", "provenance.")
    plain = [name for row in rows for name in row if not name.startswith(groups)]
    grouped = sorted({name for row in rows for name in row if name.startswith(groups)})
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*plain, *grouped])))
    for name in frame.columns:
        if name in NULLABLE_INTEGERS:
            frame[name] = frame[name].astype("Int64")
        elif name.startswith("config."):
            frame[name] = pd.Series(_uniform([row.get(name) for row in rows]), index=frame.index)
    return frame


def cells(declaration: Declaration, grid: Grid) -> pd.DataFrame:
    """Return one row a cell. Metrics in percent are fractions; what is not defined is empty.

    `n` counts the replicates, which `replicate` names, `num_seeds` their confirm seeds. `entry` is what the table
    prints without bold and marks, always with n. `mark` is † where the tuning may not have sufficed, and `doubts` says
    why. Where some seeds trained and some collapsed there is no mean; `num_collapsed` counts those at the floor.
    `is_best`: whether the entry beats every other one of its row. `verdict` (better, worse, equivalent, not shown,
    seeds collapsed) is against the baseline, `verdict_size` says how large the difference can be, and `verdict_doubts`
    why a rerun may change it. It comes with the p that decides it, `adjusted_p` (t test, Holm over the table), beside
    `permutation_p` (not adjusted) and the effect size `g` of the differences.
    """
    frame = pd.DataFrame([_cell_row(declaration, grid, place) for place in grid.at])
    return frame.astype({name: float for name in NUMBERS if name in frame.columns})


def to_parquet(frame: pd.DataFrame, declaration: Declaration) -> bytes:
    """Return the trials as a Parquet file whose metadata name the sweep and hold its declaration."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    content = dataclasses.asdict(dataclasses.replace(declaration, file=file_name(declaration), path=""))
    metadata = {
        "ablate.sweep": declaration.sweep,
        "ablate.declaration_hash": declaration.history[-1] if declaration.history else "",
        "ablate.store.declaration": redact(json.dumps(content, sort_keys=True)),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata}), sink)
    return bytes(sink.getvalue().to_pybytes())


def file_name(declaration: Declaration) -> str:
    """Return the sweep file's name as `public_file` gives it."""
    return public_file(declaration.file) or f"{declaration.name}.yaml"


def provenance(record: TrialRecord) -> dict[str, str]:
    """Return with what a trial was computed, without names of users and hosts."""
    private = ("host", "user", "path", "remote", "folder", "cwd", "address", "argv", "email", "author")
    return {
        redact(name): redact(str(value))
        for name, value in sorted(record.provenance.items())
        if not any(word in name.lower() for word in private)
    }


def _trial_row(cell: DeclaredCell, proposal: Proposal, record: TrialRecord) -> dict[str, Any]:
    return {
        **cell.levels,
        "study": proposal.study + 1,
        "phase": proposal.phase,
        "number": proposal.number,
        "seed": record.seed,
        "key": record.key,
        "state": record.state,
        "reason": record.reason,
        "message": redact(record.message),
        "num_epochs": record.num_epochs,
        "num_parameters": record.num_parameters,
        "duration_s": record.duration_s,
        "diverged_epoch": record.diverged_epoch,
        "diverged_step": record.diverged_step,
        "diverged_layer": record.diverged_layer,
        "data_digest": record.data_digest,
        "finished_at": record.finished_at,
        **dict(sorted(record.metrics.items())),
        **{f"config.{name}": value for name, value in sorted(record.settings.items())},
        **{f"provenance.{name}": value for name, value in provenance(record).items()},
    }


def _cell_row(declaration: Declaration, grid: Grid, place: Place) -> dict[str, Any]:
    entry = grid.at[place]
    found, counts = entry.estimate, tune_counts(entry.trials)
    records = [record for _, record in (*entry.trials.tune, *entry.trials.confirm) if record is not None]
    row: dict[str, Any] = {**entry.levels, "entry": entry_text(entry, show_n=True)}
    row |= {"mark": entry.mark.strip(), "doubts": redact("; ".join(entry.doubts))}
    row["is_best"] = place in grid.best if entry.is_settled and len(grid.columns) > 1 else None
    declared = declaration.of(entry.levels)
    row |= {"n": found.n, "replicate": declared.replicate, "num_seeds": found.num_seeds}
    row |= {name: _measured(getattr(found, name)) for name in ("mean", "sd", "low", "high")}
    row |= {"num_diverged": found.num_diverged, "num_collapsed": found.num_collapsed, "num_failed": entry.num_failed}
    for name in ("mean", "low", "high"):
        row["delta" if name == "mean" else f"delta_{name}"] = _measured(getattr(entry.difference, name, None))
    verdict = grid.verdicts.get(place)
    is_collapsed = entry.difference is not None and entry.difference.is_mixed
    row["verdict"] = verdict.word if verdict else "seeds collapsed" if is_collapsed else None
    row["verdict_size"] = verdict.qualifier or None if verdict else None
    row["verdict_doubts"] = "; ".join(verdict.doubts) or None if verdict else None
    row["equivalence_p"] = verdict.equivalence_p if verdict else None
    row["adjusted_p"] = verdict.adjusted_p if verdict else None
    row["permutation_p"] = verdict.test.permutation_p if verdict else None
    row["g"] = _measured(verdict.test.effect) if verdict else None
    best = best_settings(entry.trials)
    one = len(best) == 1 and declared.num_studies == 1
    row["best_settings"] = redact(json.dumps(best[0] if one else best, sort_keys=True)) if best else None
    row |= {f"num_tune_{state}": counts[state] for state in ("complete", "pruned", "diverged", "failed")}
    row["num_epochs"] = sum(record.num_epochs for record in records)
    row["device_hours"] = sum(record.duration_s for record in records) / 3600
    row["num_parameters"] = max((record.num_parameters for record in records), default=None)
    return row


def _measured(value: float | None) -> float | None:
    """Return a number without what rounding left of it: no -5.6e-18 and no -0.0."""
    return None if value is None else round(value, 12) + 0.0


def _uniform(values: list[Any]) -> list[Any]:
    """Return values of one type, as Parquet needs: numbers stay numbers, a mixed column becomes JSON text."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):
        return [None if value is None else redact(value) for value in values]
    if all(isinstance(value, bool) for value in present):
        return values
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return values
    return [None if value is None else redact(json.dumps(value)) for value in values]
