"""The record of a finished trial, and its schema in Parquet, which is derived from it."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any

import pyarrow as pa

from ablate.tasks import catalog
from ablate.tasks.base import Task
from ablate.tasks.parameters import FIRST_TASK

SCHEMA_VERSION = 4
"""3: without `items_digest`. 2: also without `task`, `study` and `items`. 1: also without `cell`; the files of pruned
and failed trials are named <key>~<sweep>.parquet."""
STATES = ("complete", "pruned", "diverged", "failed")
PHASES = ("tune", "confirm")


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished trial.

    `state` is complete, pruned, diverged (a result) or failed with a `reason` (infrastructure, out_of_memory,
    error) and a `message`. `settings` is the flat configuration, `rows` the version of each row it uses.
    `task` is the stamp of the task, name@version. `metrics` are numbers after the last epoch, those on test data where
    `phase` is "confirm". `curves` hold one number an epoch. `diverged_*` say where a diverged trial went wrong: epoch
    counts from 1, step from 0 within the whole training, layer is the first offending part.
    `weights_digest` is a hash of what was trained, equal only where that is equal bit for bit.
    `study` is the number of the study that proposed the trial in its cell, from 0. `items` have for metrics
    of a complete confirm trial one number a test item, in single precision, whose mean is the metric; `items_digest`
    is equal for two trials only if these are the same items in the same order, "" without items. Where a record is
    read without its items they are empty, and the digest is there.
    `unread` are parameters that a complete trial was given and never looked at.
    `provenance` says with what it was computed (git_sha, git_dirty, ablate, torch, python, device, …); never
    a user's or a host's name. `sweep` and `cell` are the sweep's id and the cell's key for pruned and failed
    trials, else empty.
    `layers` are the columns of the trial's table of layers: epoch (from 1), position (from 0, the input's side), layer
    (its name), then a number column for each diagnostic. They are empty in a record that was read: `read_layers`.
    """

    key: str
    fingerprint: str
    seed: Annotated[int, pa.int64()]
    phase: str
    state: str
    settings: Annotated[dict[str, Any], pa.string()]
    rows: dict[str, str]
    data_digest: str
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    num_epochs: int = 0
    num_parameters: Annotated[int, pa.int64()] = 0
    duration_s: float = 0.0
    reason: str = ""
    message: str = ""
    diverged_epoch: int | None = None
    diverged_step: Annotated[int | None, pa.int64()] = None
    diverged_layer: str = ""
    weights_digest: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    sweep: str = ""
    cell: str = ""
    task: str = FIRST_TASK
    study: int = 0
    unread: Annotated[list[str], pa.list_(pa.string())] = field(default_factory=list)
    items: Annotated[dict[str, list[float]], pa.map_(pa.string(), pa.list_(pa.float32()))] = field(default_factory=dict)
    items_digest: str = ""
    layers: Annotated[dict[str, list[Any]], None] = field(default_factory=dict, compare=False)

    @property
    def is_shared(self) -> bool:
        """Whether any sweep may use this trial: its outcome depends on its configuration and seed only."""
        return self.state in ("complete", "diverged")

    @property
    def known_task(self) -> Task | None:
        """The task, if it is known here: a user's is where its file was imported."""
        return catalog.find(self.task.partition("@")[0])


ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int32(),
    float: pa.float64(),
    dict[str, str]: pa.map_(pa.string(), pa.string()),
    dict[str, float]: pa.map_(pa.string(), pa.float64()),
    dict[str, list[float]]: pa.map_(pa.string(), pa.list_(pa.float64())),
}
"""What the ledger stores a type as, unless the field is annotated with another; None leaves the field out."""


def _arrow_type(hint: Any) -> pa.DataType | None:
    if typing.get_origin(hint) is Annotated:
        given: pa.DataType | None = hint.__metadata__[0]
        return given
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    return ARROW[hint]


def _schema() -> pa.Schema:
    hints = typing.get_type_hints(TrialRecord, include_extras=True)
    kinds = {each.name: _arrow_type(hints[each.name]) for each in dataclasses.fields(TrialRecord)}
    columns = [(name, kind) for name, kind in kinds.items() if kind is not None]
    return pa.schema([("schema_version", pa.int32()), *columns])


SCHEMA = _schema()
MAPS = ("rows", "metrics", "provenance")
"""Columns that map names to single values."""
