"""The ledger: one immutable Parquet file for every finished trial, shared by all sweeps under one folder.

Layout under the output folder:

    ledger/trials/ab/<key>.parquet                  complete and diverged trials: whoever needs them uses them
    ledger/trials/ab/<key>~<sweep>~<cell>.parquet   pruned and failed trials: they depend on the history of one cell
    ledger/layers/ab/<same name>.parquet            diagnostics of a trial, a row for each epoch and layer, if asked for
    ledger/aside/                                   files that could not be read, moved here and never deleted
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import logging
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ablate.config import as_read
from ablate.places import ObjectPath, Place
from ablate.processes import map_in_two
from ablate.storage import move, write_atomically

SCHEMA_VERSION = 2
"""1: without `cell`; the files of pruned and failed trials are named <key>~<sweep>.parquet."""
LAYERS_SCHEMA_VERSION = 1
STATES = ("complete", "pruned", "diverged", "failed")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished trial.

    `state` is complete, pruned, diverged (a result) or failed with a `reason` (infrastructure, out_of_memory,
    error) and a `message`. `settings` is the flat configuration, `rows` the version of each row it uses.
    `metrics` are numbers after the last epoch: val_accuracy in [0, 1], and test_accuracy where `phase` is
    "confirm". `curves` hold one number an epoch. `diverged_*` say where a diverged trial went wrong: epoch
    counts from 1, step from 0 within the whole training, layer is the first offending one.
    `weights_digest` is a hash of all weights and buffers at the end, equal only where they are equal bit for bit.
    `provenance` says with what it was computed (git_sha, git_dirty, ablate, torch, python, device, …); never
    a user's or a host's name. `sweep` and `cell` are the sweep's id and the cell's key for pruned and failed
    trials, else empty.
    `layers` are the columns of the trial's table of layers: epoch (from 1), position (from 0, the input's side), layer
    (its name), then a number column for each diagnostic. They are empty in a record that was read: `read_layers`.
    """

    key: str
    fingerprint: str
    seed: int
    phase: str
    state: str
    settings: dict[str, Any]
    rows: dict[str, str]
    data_digest: str
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    num_epochs: int = 0
    num_parameters: int = 0
    duration_s: float = 0.0
    reason: str = ""
    message: str = ""
    diverged_epoch: int | None = None
    diverged_step: int | None = None
    diverged_layer: str = ""
    weights_digest: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    sweep: str = ""
    cell: str = ""
    layers: dict[str, list[Any]] = field(default_factory=dict, compare=False)

    @property
    def is_shared(self) -> bool:
        """Whether any sweep may use this trial: its outcome depends on its configuration and seed only."""
        return self.state in ("complete", "diverged")


MAPS = ("rows", "metrics", "provenance")
BATCH = 500
"""Files that are decoded in one go: bounds the memory."""
MAX_ALONE = 2_000
"""More files than these take longer than the start of a second process."""
READERS = 4
"""Threads that read files; pyarrow's own threads and its dataset take half as long again for files of one row."""
SCHEMA = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("key", pa.string()),
        ("fingerprint", pa.string()),
        ("seed", pa.int64()),
        ("phase", pa.string()),
        ("state", pa.string()),
        ("settings", pa.string()),
        ("rows", pa.map_(pa.string(), pa.string())),
        ("data_digest", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("curves", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("num_epochs", pa.int32()),
        ("num_parameters", pa.int64()),
        ("duration_s", pa.float64()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("diverged_epoch", pa.int32()),
        ("diverged_step", pa.int64()),
        ("diverged_layer", pa.string()),
        ("weights_digest", pa.string()),
        ("provenance", pa.map_(pa.string(), pa.string())),
        ("started_at", pa.string()),
        ("finished_at", pa.string()),
        ("sweep", pa.string()),
        ("cell", pa.string()),
    ]
)


UNREADABLE = (
    pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError,
    MemoryError,
)  # fmt: skip
"""What reading a damaged or foreign file may raise."""


def _source(path: Place) -> Any:
    """Return what `_open` opens; an object is fetched here, because a store that fails says nothing about the file."""
    return pa.BufferReader(path.read_bytes()) if isinstance(path, ObjectPath) else path


def _open(source: Any) -> pq.ParquetFile:
    # A file of one row is read faster in one piece.
    content = pa.BufferReader(source.read_bytes()) if isinstance(source, Path) else source
    return pq.ParquetFile(content, page_checksum_verification=True, pre_buffer=False)


def _write_table(path: Place, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    # Dictionaries and statistics make files of one row larger, and slower to read.
    has_rows = table.num_rows > 1
    pq.write_table(table, sink, write_page_checksum=True, use_dictionary=has_rows, write_statistics=has_rows)
    write_atomically(path, sink.getvalue().to_pybytes())


def _to_table(record: TrialRecord) -> pa.Table:
    row = dataclasses.asdict(record)
    del row["layers"]
    row["schema_version"] = SCHEMA_VERSION
    row["settings"] = json.dumps(record.settings, sort_keys=True)
    for name in ("rows", "metrics", "curves", "provenance"):
        row[name] = sorted(row[name].items())
    return pa.Table.from_pylist([row], schema=SCHEMA)


def _from_table(table: pa.Table) -> TrialRecord:
    return _from_rows(table)[0]


LAYER_KEYS = {"epoch": pa.int32(), "position": pa.int32(), "layer": pa.string()}


def layers_table(columns: dict[str, list[Any]]) -> pa.Table:
    """Return a trial's table of layers as it is stored, in single precision."""
    fields = [(name, LAYER_KEYS.get(name, pa.float32())) for name in columns]
    schema = pa.schema(fields, metadata={"schema_version": str(LAYERS_SCHEMA_VERSION)})
    return pa.Table.from_pydict(columns, schema=schema)


def _from_tables(tables: list[pa.Table]) -> list[TrialRecord]:
    """Return one record a row; none if there is a row that this program cannot read."""
    if not tables:
        return []
    try:
        return _from_rows(pa.concat_tables(tables, promote_options="default"))
    except UNREADABLE:
        return []


def _from_rows(table: pa.Table) -> list[TrialRecord]:
    """Return one record a row; a column that an older file lacks has its default."""
    newest = max(table.column("schema_version").to_pylist(), default=0)
    if newest > SCHEMA_VERSION:
        raise ValueError(f"schema version {newest} is newer than {SCHEMA_VERSION}")
    _check_columns(table.schema)
    curves = _read_curves(table.column("curves").combine_chunks()) if "curves" in table.column_names else None
    rows = table.drop_columns(["curves"]).to_pylist() if curves is not None else table.to_pylist()
    records = []
    for index, row in enumerate(rows):
        del row["schema_version"]
        present = {name: value for name, value in row.items() if value is not None}
        present["settings"] = json.loads(present["settings"])
        for name in MAPS:
            if name in present:
                present[name] = dict(present[name])
        if curves is not None:
            present["curves"] = curves[index]
        _check_values(present)
        present["settings"] = as_read(present["settings"])
        records.append(TrialRecord(**present))
    return records


def _check_columns(schema: pa.Schema) -> None:
    for column in schema:
        if column.name not in SCHEMA.names or column.type != SCHEMA.field(column.name).type:
            raise ValueError(f"the column {column.name[:50]!r} of type {str(column.type)[:50]} is none of the ledger's")


def _check_values(row: dict[str, Any]) -> None:
    """Check what the types of the columns leave open."""
    if not isinstance(row["settings"], dict):
        raise ValueError("the settings are no mapping")
    if any(value is None for name in MAPS for value in row.get(name, {}).values()):
        raise ValueError("a value is missing")
    accuracy = row.get("metrics", {}).get("val_accuracy")
    if row.get("state") == "complete" and (accuracy is None or not math.isfinite(accuracy)):
        raise ValueError(f"a complete trial needs a val_accuracy, but it is {accuracy}")


def _read_curves(column: Any) -> list[dict[str, list[float]]]:
    """Return a column of curves by way of numpy, because pyarrow's own conversion to lists is slow."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    names, curves = column.keys.to_pylist(), column.items
    starts = curves.offsets.to_numpy()
    values = curves.values.to_numpy(zero_copy_only=False)
    lists = [values[start:end].tolist() for start, end in pairwise(starts)]
    ends = column.offsets.to_numpy()
    return [dict(zip(names[start:end], lists[start:end], strict=True)) for start, end in pairwise(ends)]


def _read_files(paths: list[Place], columns: list[str]) -> dict[str, TrialRecord]:
    """Return the records that can be read, by the name of their file."""

    def read_tables(share: list[Place]) -> list[pa.Table]:
        found = []
        for path in share:
            source = _source(path)
            try:
                found.append(_open(source).read(columns=columns, use_threads=False))
            except UNREADABLE:
                continue
        return found

    # A share for each thread: to hand the files out one by one takes half as long again.
    with ThreadPoolExecutor(READERS) as pool:
        shares = pool.map(read_tables, [paths[start::READERS] for start in range(READERS)])
        tables = [table for share in shares for table in share]
    records = [record for record in _from_tables(tables) if record.state in STATES]
    return {_file_name(record.key, record.sweep, record.cell): record for record in records}


def _file_name(key: str, sweep: str = "", cell: str = "") -> str:
    return "~".join(part for part in (key, sweep, cell) if part) + ".parquet"


class Ledger:
    """The finished trials under one output folder."""

    def __init__(self, out: Place) -> None:
        self.root = out / "ledger"

    def path(self, key: str, sweep: str = "", cell: str = "") -> Place:
        """Return where a trial's record lies, or would lie."""
        return self.root / "trials" / key[:2] / _file_name(key, sweep, cell)

    def layers_path(self, key: str, sweep: str = "", cell: str = "") -> Place:
        """Return where a trial's table of layers lies, or would lie."""
        return self.root / "layers" / key[:2] / self.path(key, sweep, cell).name

    def write(self, record: TrialRecord) -> Place:
        """Write a record; a shared one that is there already stays as it is. Returns its path."""
        path = self.path(record.key, record.sweep, record.cell)
        if record.is_shared and path.exists():
            return path
        if record.layers:  # Before the record, which says that the trial is finished.
            _write_table(self.layers_path(record.key, record.sweep, record.cell), layers_table(record.layers))
        _write_table(path, _to_table(record))
        return path

    def read(self, key: str, sweep: str, cell: str = "") -> TrialRecord | None:
        """Return what a cell of a sweep may use of a trial.

        A trial that was pruned in this cell stays pruned there, also when another sweep or an audit has run it to its
        end: what the sampler and the pruner learnt from it must not change. Else it is the shared record, else the
        cell's own failed one.
        """
        own = self._first(self.path(key, sweep, cell), self.path(key, sweep)) if sweep else None
        if own is not None and own.state == "pruned":
            return own
        return self._first(self.path(key)) or own

    def _first(self, *paths: Place) -> TrialRecord | None:
        for path in dict.fromkeys(paths):
            record = self._read_file(path) if path.exists() else None
            if record is not None:
                return record
        return None

    def read_layers(self, record: TrialRecord) -> pa.Table | None:
        """Return the table of layers of a trial; None where it has none, or one that cannot be read."""
        path = self.layers_path(record.key, record.sweep, record.cell)
        if not path.exists():
            return None
        source = _source(path)
        try:
            table = _open(source).read()
            version = int((table.schema.metadata or {})[b"schema_version"])
            if version > LAYERS_SCHEMA_VERSION:
                raise ValueError(f"schema version {version} is newer than {LAYERS_SCHEMA_VERSION}")
        except UNREADABLE as error:
            self.set_aside(path, str(error))
            return None
        return table

    def read_all(
        self, wanted: Iterable[tuple[str, str]], sweep: str, *, with_curves: bool = True
    ) -> dict[tuple[str, str], TrialRecord]:
        """Return the records of all (trial, cell) keys that have one: as `read` does it, but many files in one go.

        Without curves a record's `curves` are empty, which saves most of the time and the memory.
        """
        columns = [name for name in SCHEMA.names if with_curves or name != "curves"]
        folder = self.root / "trials"
        present = {path.name for path in folder.glob("*/*.parquet")}
        places: dict[tuple[str, str], list[Place]] = {}
        for key, cell in wanted:
            candidates = dict.fromkeys((_file_name(key, sweep, cell), _file_name(key, sweep), _file_name(key)))
            if found := [folder / key[:2] / name for name in candidates if name in present]:
                places[key, cell] = found
        # Where there are several files of one trial, which of them counts depends on what is in them.
        single = {paths[0]: pair for pair, paths in places.items() if len(paths) == 1}
        paths = list(single)
        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        read = functools.partial(_read_files, columns=columns)
        # Those of an object store are waited for, which threads do as well.
        in_two = len(paths) > MAX_ALONE and isinstance(folder, Path)
        by_name = dict(collections.ChainMap(*(map_in_two(read, batches) if in_two else map(read, batches))))
        records = {pair: by_name[path.name] for path, pair in single.items() if path.name in by_name}
        for key, cell in places:
            # One that cannot be read spoils its batch: then each by itself, and the bad one is set aside.
            if (key, cell) not in records and (record := self.read(key, sweep, cell)) is not None:
                records[key, cell] = record
        return records

    def find(self, prefix: str) -> list[TrialRecord]:
        """Return all records of the trials whose key begins like this, shared ones first."""
        folders = self.root / "trials"
        files: list[Place] = [*folders.glob(f"{prefix[:2]}*/{prefix}*.parquet")]
        files.sort(key=lambda file: ("~" in file.name, file.name))
        return [record for file in files if (record := self._read_file(file)) is not None]

    def _read_file(self, path: Place) -> TrialRecord | None:
        source = _source(path)
        try:
            record = _from_table(_open(source).read())
            if record.key != path.stem.partition("~")[0] or record.state not in STATES:
                raise ValueError("it is not the record that its name promises")
        except UNREADABLE as error:
            self.set_aside(path, str(error))
            return None
        return record

    def set_aside(self, path: Place, why: str) -> None:
        """Move an unreadable file to the folder `aside`, with a warning."""
        aside = self.root / "aside" / path.name
        for number in range(1, 1000):
            if not aside.exists():
                break
            aside = aside.with_name(f"{path.name}.{number}")
        reason = why.partition("\n")[0]
        try:
            move(path, aside)
        except OSError as problem:
            log.warning("the unreadable file %s cannot be set aside: %s; %s", path.name, reason, problem)
            return
        log.warning("set aside the unreadable file %s as %s: %s", path.name, aside.name, reason)
