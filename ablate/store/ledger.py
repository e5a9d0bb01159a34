"""The ledger: one immutable Parquet file for every finished trial, shared by all sweeps under one folder.

Layout under the output folder:

    ledger/trials/ab/<key>.parquet                  complete and diverged trials: whoever needs them uses them
    ledger/trials/ab/<key>~<sweep>~<cell>.parquet   pruned and failed trials: they depend on the history of one cell
    ledger/layers/ab/<same name>.parquet            diagnostics of a trial, a row for each epoch and layer, if asked for
    ledger/aside/                                   damaged files, moved here by `sweep` or `merge`, never deleted

Whether a file is a trial's record is judged here and nowhere else, so that all commands use the same records.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ablate.errors import DamagedError, LedgerError, printable
from ablate.places import Place
from ablate.processes import map_in_two
from ablate.storage import OddFileError, listed, move, read_file, write_atomically
from ablate.store.record import MAPS, PHASES, SCHEMA, SCHEMA_VERSION, STATES, TrialRecord
from ablate.tasks.parameters import trial_key

LAYERS_SCHEMA_VERSION = 1
log = logging.getLogger(__name__)


class Trial(Protocol):
    """What a record is asked for: a proposal."""

    @property
    def key(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def recorded_phase(self) -> str: ...


NUMBERS = ("state", "weights_digest", "curves", "metrics", "items", "diverged_step", "diverged_layer", "num_epochs")
"""What training a trial comes to. Two records of one trial agree where these are equal bit for bit."""


class Stored(NamedTuple):
    """The records of one trial that a cell of a sweep may use: the cell's own, pruned or failed, and the shared one."""

    own: TrialRecord | None = None
    shared: TrialRecord | None = None

    @property
    def used(self) -> TrialRecord | None:
        """The record that the cell uses: see `Ledger.read`."""
        return self.own if self.own is not None and self.own.state == "pruned" else self.shared or self.own


MAX_DURATION_S = 1e9
"""No trial takes 30 years."""
BATCH = 500
"""Files that are decoded in one go: bounds the memory."""
MAX_ALONE = 2_000
"""More files than these take longer than the start of a second process."""
ITEMS = "items.key_value.value.list.element"
"""The column of a record's file that has the numbers of its test items."""
FEW_VALUES = 256
"""Items of no more different values are stored as a dictionary and indices of at most a byte."""
READERS = 4
"""Threads that read files; pyarrow's own threads and its dataset take half as long again for files of one row."""
REQUIRED = (
    "schema_version",
    *(
        each.name
        for each in dataclasses.fields(TrialRecord)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ),
)
UNREADABLE = (
    pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError,
)  # fmt: skip
"""What decoding a damaged or foreign file may raise. The bytes are there by then: an OSError is pyarrow's own."""


class _DamagedError(ValueError):
    """A file is not the record, or the table of layers, that its name promises."""


def _read(path: Place) -> bytes | None:
    """Return a file's content, None where there is none.

    Raises:
        OSError: It cannot be read, which says nothing about what is in it.
    """
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
    except OddFileError as error:
        raise _DamagedError(str(error)) from None
    except MemoryError:
        raise LedgerError(f"cannot read {path}: not enough memory") from None


def _open(content: bytes) -> pq.ParquetFile:
    # A file of one row is read faster in one piece.
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, pre_buffer=False)


@contextlib.contextmanager
def _decoding(path: Place) -> Iterator[None]:
    """Turn whatever decoding raises into a _DamagedError, but for what this machine lacks."""
    try:
        yield
    except MemoryError as error:
        raise LedgerError(f"cannot read {path}: not enough memory ({_line(error)})") from None
    except UNREADABLE as error:
        raise _DamagedError(_line(error)) from None


def _line(error: BaseException) -> str:
    """Return an error in one line without control characters, which a damaged file may have brought into it."""
    text = str(error).partition("\n")[0] or type(error).__name__
    return printable(text)


def check_version(path: Place, version: int, newest: int) -> None:
    """Raise a LedgerError where a newer program wrote a file: it is as it should be, but not for this one."""
    if version > newest:
        raise LedgerError(
            f"cannot read {path}: its schema version {version} is newer than {newest}, which this program reads; "
            "update the program"
        )


def _version(content: bytes) -> int:
    """Return the schema version of a file that cannot be read otherwise, 0 where it has none."""
    try:
        (batch, *_) = _open(content).iter_batches(batch_size=1, columns=["schema_version"], use_threads=False)
        return int(batch.column(0)[0].as_py())
    except (*UNREADABLE, MemoryError):
        return 0


def _read_row(path: Place, *, with_items: bool = True) -> pa.Table | None:
    """Return the row of a record's file, without the column of items if not asked for; None where there is no file.

    Raises:
        _DamagedError: It is no row of the ledger's.
        LedgerError: A newer program wrote it, or there is not enough memory.
        OSError: It cannot be read.
    """
    content = _read(path)
    if content is None:
        return None
    try:
        with _decoding(path):
            file = _open(content)
            if file.metadata.num_rows != 1:
                raise ValueError(f"it has {file.metadata.num_rows} rows instead of one")
            table = file.read(use_threads=False)
            version = table.column("schema_version")[0].as_py()
            if not isinstance(version, int) or version < 1:
                raise ValueError(f"there is no schema version {version}")
            if version <= SCHEMA_VERSION:
                _check_columns(table.schema)
                _check_items(table)
    except _DamagedError:
        # What a newer program writes need not even be a table that this one can read.
        check_version(path, _version(content), SCHEMA_VERSION)
        raise
    check_version(path, version, SCHEMA_VERSION)
    return table if with_items or "items" not in table.column_names else table.drop_columns(["items"])


def _write_table(path: Place, table: pa.Table, repeating: Collection[str] = ()) -> None:
    """Write a table; `repeating` are the columns of a single row that have few different values."""
    sink = pa.BufferOutputStream()
    # Dictionaries and statistics make files of one row larger, and slower to read.
    has_rows = table.num_rows > 1
    pq.write_table(
        table, sink, write_page_checksum=True, use_dictionary=has_rows or list(repeating), write_statistics=has_rows
    )
    write_atomically(path, sink.getvalue().to_pybytes())


def _repeating(record: TrialRecord) -> list[str]:
    """Return the columns that are stored as dictionaries: ten thousand items of 0 and 1 take a bit each then."""
    values = set().union(*record.items.values())
    return [ITEMS] if 0 < len(values) <= FEW_VALUES else []


def _to_table(record: TrialRecord) -> pa.Table:
    row = dataclasses.asdict(dataclasses.replace(record, items={}, layers={}))  # Of copies of these nothing is needed.
    row["items"] = record.items
    del row["layers"]
    row["schema_version"] = SCHEMA_VERSION
    row["settings"] = json.dumps(record.settings, sort_keys=True)
    for name in (*MAPS, "curves", "items"):
        row[name] = sorted(row[name].items())
    return pa.Table.from_pylist([row], schema=SCHEMA)


LAYER_KEYS = {"epoch": pa.int32(), "position": pa.int32(), "layer": pa.string()}


def layers_table(columns: dict[str, list[Any]]) -> pa.Table:
    """Return a trial's table of layers as it is stored, in single precision."""
    fields = [(name, LAYER_KEYS.get(name, pa.float32())) for name in columns]
    schema = pa.schema(fields, metadata={"schema_version": str(LAYERS_SCHEMA_VERSION)})
    return pa.Table.from_pydict(columns, schema=schema)


def _from_rows(table: pa.Table, items: Collection[str] | None) -> list[TrialRecord]:
    """Return one record a row; a column that an older file lacks has its default.

    `items` names the metrics whose items are read; None means all.
    """
    lists = {name: _read_lists(table.column(name).combine_chunks(), items if name == "items" else None)
             for name in ("curves", "items") if name in table.column_names}  # fmt: skip
    records = []
    for index, row in enumerate(table.drop_columns(list(lists)).to_pylist()):
        present = {name: value for name, value in row.items() if value is not None}
        missing = [name for name in REQUIRED if name not in present]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        del present["schema_version"]
        present["settings"] = json.loads(present["settings"])
        for name in MAPS:
            if name in present:
                entries = present[name]
                present[name] = dict(entries)
                if len(present[name]) < len(entries):
                    raise ValueError(f"{name} has an entry twice")
        present |= {name: found[index] for name, found in lists.items()}
        record = TrialRecord(**present)
        _check_values(record)
        task = record.known_task
        if task is not None:
            record = dataclasses.replace(record, settings=task.parameters.as_read(record.settings))
        records.append(record)
    return records


def _check_columns(schema: pa.Schema) -> None:
    if schema.equals(SCHEMA):  # As nearly all are: much faster than column by column.
        return
    for column in schema:
        if column.name not in SCHEMA.names or column.type != SCHEMA.field(column.name).type:
            raise ValueError(f"the column {column.name[:50]!r} of type {str(column.type)[:50]} is none of the ledger's")
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("a column is there twice")


def _check_items(table: pa.Table) -> None:
    """Check the items of one row, whether they are asked for or not: which file is damaged depends on no command."""
    if "items" not in table.column_names:
        return
    column = table.column("items").chunk(0)
    if not len(column.keys):
        return
    names, lists = column.keys.to_pylist(), column.items
    if len(set(names)) < len(names):
        raise ValueError("items has an entry twice")
    if lists.null_count or lists.values.null_count or not np.isfinite(lists.values.to_numpy()).all():
        raise ValueError("an item has no number")
    if len(set(lists.value_lengths().to_pylist())) > 1:
        raise ValueError("items has entries of different lengths")


def _check_values(record: TrialRecord) -> None:
    """Check what the types of the columns leave open."""
    if record.state not in STATES or record.phase not in PHASES:
        raise ValueError(f"there is no {record.state[:50]!r} {record.phase[:50]!r} trial")
    if not isinstance(record.settings, dict):
        raise ValueError("the settings are no mapping")
    if any(value is None for name in MAPS for value in getattr(record, name).values()):
        raise ValueError("a value is missing")
    if not 0 <= record.duration_s <= MAX_DURATION_S or record.num_epochs < 0:
        raise ValueError(f"a trial cannot take {record.duration_s} s and {record.num_epochs} epochs")
    if record.num_parameters < 0:
        raise ValueError(f"a net cannot have {record.num_parameters} parameters")
    task = record.known_task
    if task is None:  # Of a user's task whose file was not imported.
        return
    _check_end(record, record.settings.get(task.length))
    needed = {"tune": (task.objective,), "confirm": (task.objective, task.shown)}[record.phase]
    for name in needed if record.state == "complete" else ():
        value = record.metrics.get(name)
        if value is None or not math.isfinite(value):
            raise ValueError(f"a complete trial needs a {name}, but it is {value}")
    task.check_record(record.metrics, record.curves)


def _check_end(record: TrialRecord, asked: Any) -> None:
    """Check that a trial got as far as its state says."""
    if isinstance(asked, int):
        least = asked if record.state == "complete" else int(record.state == "pruned")
        if not least <= record.num_epochs <= asked:
            raise ValueError(f"a {record.state} trial of {asked} epochs cannot end after {record.num_epochs}")
    # Both count from the first step on: one that diverges there has the epoch 1 and the step 0.
    epoch, step = record.diverged_epoch, record.diverged_step
    if record.state == "diverged" and (epoch is None or step is None or epoch < 1 or step < 0):
        raise ValueError(f"a trial cannot diverge in epoch {epoch} at step {step}")


def _check_layers(table: pa.Table, num_epochs: int) -> None:
    for column in table.schema:
        if column.type != LAYER_KEYS.get(column.name, pa.float32()):
            raise ValueError(f"the column {column.name[:50]!r} has the type {str(column.type)[:50]}")
    for name, low, high in (("epoch", 1, num_epochs), ("position", 0, table.num_rows - 1)):
        numbers = table.column(name).to_pylist()
        if any(number is None or not low <= number <= high for number in numbers):
            raise ValueError(f"the column '{name}' must hold numbers from {low} to {high}")
    if table.column("layer").null_count:
        raise ValueError("a layer has no name")


def _read_lists(column: Any, kept: Collection[str] | None) -> list[dict[str, list[float]]]:
    """Return a column of named lists, all or those `kept`, by way of numpy: pyarrow's conversion to lists is slow."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    names, entries = column.keys.to_pylist(), column.items
    starts = entries.offsets.to_numpy()
    values = entries.values.to_numpy(zero_copy_only=False)
    spans = list(zip(names, pairwise(starts), strict=True))
    return [
        {name: values[first:last].tolist() for name, (first, last) in spans[start:end] if kept is None or name in kept}
        for start, end in pairwise(column.offsets.to_numpy())
    ]


def _read_files(paths: list[Place], with_curves: bool, items: Collection[str]) -> dict[str, TrialRecord]:
    """Return the records that are what their names promise, by the name of their file."""

    def read_rows(share: list[Place]) -> list[tuple[str, pa.Table]]:
        rows = []
        for path in share:
            with contextlib.suppress(_DamagedError):
                row = _read_row(path, with_items=bool(items))
                if row is not None:
                    rows.append((path.name, row))
        return rows

    # A share for each thread: to hand the files out one by one takes half as long again.
    with ThreadPoolExecutor(READERS) as pool:
        shares = pool.map(read_rows, [paths[start::READERS] for start in range(READERS)])
        rows = [row for share in shares for row in share]
    records = {}
    for name, record in _from_named_rows(rows, items):
        if not _misnamed(record, name):
            records[name] = record if with_curves else dataclasses.replace(record, curves={})
    return records


def _from_named_rows(
    rows: list[tuple[str, pa.Table]], items: Collection[str]
) -> list[tuple[str, TrialRecord]]:  # fmt: skip
    """Return the records of the rows that are ones, with their names: all in one go, or else each half by itself."""
    if not rows:
        return []
    try:
        table = pa.concat_tables([row for _, row in rows], promote_options="default")
        return list(zip([name for name, _ in rows], _from_rows(table, items), strict=True))
    except UNREADABLE:
        half = len(rows) // 2
        return [*_from_named_rows(rows[:half], items), *_from_named_rows(rows[half:], items)] if half else []


def _misnamed(record: TrialRecord, name: str) -> str:
    """Return why a record is not the one that its file's name promises; "" where it is."""
    if _file_name(record.key, record.sweep, record.cell) != name:
        return f"it holds the trial {_file_name(record.key, record.sweep, record.cell)[:200]}"
    if record.is_shared == ("~" in name):
        return f"a {record.state} trial has another name"
    return ""


def _unasked(record: TrialRecord, trial: Trial | None) -> str:
    """Return why a record is not of the trial that was proposed; "" where it is."""
    if trial is None:
        return ""
    if record.fingerprint != trial.key.partition("-")[0]:
        return f"its fingerprint is {record.fingerprint[:50]}"
    if record.seed != trial.seed:
        return f"its seed is {record.seed}, but {trial.seed} was proposed"
    if record.phase != trial.recorded_phase:
        return f"it is a {record.phase} trial, but a {trial.recorded_phase} trial was proposed"
    if record.settings != trial.settings:
        names = record.settings.keys() | trial.settings.keys()
        differing = sorted(n for n in names if record.settings.get(n, ...) != trial.settings.get(n, ...))
        return f"it has other settings than were proposed: {', '.join(differing)[:200]}"
    return ""


def _is_whole(record: TrialRecord) -> bool:
    """Whether a record has the key of its own settings, rows, data and seed."""
    task = record.known_task
    if task is None:
        return False
    own = task.parameters.fingerprint(record.settings, record.rows, record.data_digest, record.task)
    return record.fingerprint == own and record.key == trial_key(own, record.seed)


def differing_numbers(first: TrialRecord, second: TrialRecord) -> list[str]:
    """Return the names of the numbers in which two records of one trial differ: each metric, curve, "items of" metric.

    A number that only one of them has does not count: an earlier version recorded fewer.
    """
    found: list[str] = []
    for name in NUMBERS:
        one, other = getattr(first, name), getattr(second, name)
        if isinstance(one, dict):
            # As text, in which a NaN is equal to itself.
            differing = [each for each in sorted(one.keys() & other.keys()) if repr(one[each]) != repr(other[each])]
            found += [f"items of {each}" for each in differing] if name == "items" else differing
        elif one != other and not (name == "weights_digest" and "" in (one, other)):
            found.append(name)
    return list(dict.fromkeys(found))


def same_layers(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables of layers are equal; a NaN is equal to itself."""
    return bool(first.column_names == second.column_names and str(first.to_pydict()) == str(second.to_pydict()))


def _file_name(key: str, sweep: str = "", cell: str = "") -> str:
    return "~".join(part for part in (key, sweep, cell) if part) + ".parquet"


class Ledger:
    """The finished trials under one output folder.

    A damaged file counts as none, with a warning. It is moved to the folder `aside`, unless the ledger `is_read_only`:
    commands that only look move nothing. If it `is_strict`, a damaged file raises DamagedError instead.

    `misfits` are the proposals that a record was asked for and that are damaged themselves: the record has the key of
    its own settings and seed, which the proposal has not. Such a record is no proposal's fault: it stays as it is.
    """

    def __init__(self, out: Place, *, is_read_only: bool = False, is_strict: bool = False) -> None:
        self.root = out / "ledger"
        self.is_read_only = is_read_only
        self.is_strict = is_strict
        self.misfits: list[Trial] = []
        self._told: set[Place] = set()

    def path(self, key: str, sweep: str = "", cell: str = "") -> Place:
        """Return where a trial's record lies, or would lie."""
        return self.root / "trials" / key[:2] / _file_name(key, sweep, cell)

    def layers_path(self, key: str, sweep: str = "", cell: str = "") -> Place:
        """Return where a trial's table of layers lies, or would lie."""
        return self.root / "layers" / key[:2] / self.path(key, sweep, cell).name

    def write(self, record: TrialRecord) -> Place:
        """Write a record; a shared one that is there already stays as it is. Returns its path."""
        path = self.path(record.key, record.sweep, record.cell)
        if record.is_shared and path.exists() and self._read_file(path) is not None:
            return path
        if record.layers:  # Before the record, which says that the trial is finished.
            _write_table(self.layers_path(record.key, record.sweep, record.cell), layers_table(record.layers))
        _write_table(path, _to_table(record), _repeating(record))
        return path

    def read(
        self, key: str, sweep: str, cell: str = "", trial: Trial | None = None, *, items: Collection[str] | None = ()
    ) -> TrialRecord | None:
        """Return what a cell of a sweep may use of a trial; a record that is not of the `trial` proposed is damaged.

        Of its items those of the metrics named are read; None means all.

        A trial that was pruned in this cell stays pruned there, also when another sweep or an audit has run it to its
        end: what the sampler and the pruner learnt from it must not change. Else it is the shared record, else the
        cell's own failed one.

        Raises:
            LedgerError: A newer program wrote it, or there is not enough memory.
            OSError: It cannot be read.
        """
        own = self._first(trial, [self.path(key, sweep, cell), self.path(key, sweep)], items) if sweep else None
        if own is not None and own.state == "pruned":
            return own
        return self._first(trial, [self.path(key)], items) or own

    def _first(
        self, trial: Trial | None, paths: Iterable[Place], items: Collection[str] | None
    ) -> TrialRecord | None:  # fmt: skip
        for path in dict.fromkeys(paths):
            record = self._read_file(path, trial, items)
            if record is not None:
                return record
        return None

    def ran_to_its_end(self, key: str) -> bool:
        """Whether a damaged record of a trial that nobody stopped was set aside: its name tells that."""
        return (self.root / "aside" / _file_name(key)).exists()

    def read_layers(self, record: TrialRecord) -> pa.Table | None:
        """Return the table of layers of a trial; None where it has none, or a damaged one.

        Raises:
            LedgerError: A newer program wrote it, or there is not enough memory.
            OSError: It cannot be read.
        """
        path = self.layers_path(record.key, record.sweep, record.cell)
        try:
            content = _read(path)
            if content is None:
                return None
            with _decoding(path):
                file = _open(content)
                version = int((file.schema_arrow.metadata or {})[b"schema_version"])
            check_version(path, version, LAYERS_SCHEMA_VERSION)
            with _decoding(path):
                table = file.read(use_threads=False)
                _check_layers(table, record.num_epochs)
                return table
        except _DamagedError as error:
            self._refuse(path, str(error))
            return None

    def read_all(
        self,
        wanted: Iterable[tuple[str, str]],
        sweep: str,
        *,
        trials: Mapping[tuple[str, str], Trial] = MappingProxyType({}),
        with_curves: bool = True,
        items: Collection[str] = (),
    ) -> dict[tuple[str, str], TrialRecord]:
        """Return the records of all (trial, cell) keys that have one: as `read` does it, but many files in one go.

        Without curves a record's `curves` are empty, which saves memory. `items` names the metrics whose items are
        read; those of others are not in the records.
        """
        folder = self.root / "trials"
        present = {path.name for path in listed(folder, "*/*.parquet")}
        places: dict[tuple[str, str], list[Place]] = {}
        for key, cell in wanted:
            candidates = dict.fromkeys((_file_name(key, sweep, cell), _file_name(key, sweep), _file_name(key)))
            if found := [folder / key[:2] / name for name in candidates if name in present]:
                places[key, cell] = found
        # Where there are several files of one trial, which of them counts depends on what is in them.
        single = {pair: paths[0] for pair, paths in places.items() if len(paths) == 1}
        paths = list(dict.fromkeys(single.values()))
        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        read = functools.partial(_read_files, with_curves=with_curves, items=items)
        # Those of an object store are waited for, which threads do as well.
        in_two = len(paths) > MAX_ALONE and isinstance(folder, Path)
        by_name = dict(collections.ChainMap(*(map_in_two(read, batches) if in_two else map(read, batches))))
        records: dict[tuple[str, str], TrialRecord] = {}
        for pair in places:
            record = by_name.get(single[pair].name) if pair in single else None
            if record is None or _unasked(record, trials.get(pair)):
                # Read by itself, which tells what is wrong with it.
                record = self.read(pair[0], sweep, pair[1], trials.get(pair), items=items)
                if record is not None and not with_curves:
                    record = dataclasses.replace(record, curves={})
            if record is not None:
                records[pair] = record
        return records

    def stored(
        self, trials: Mapping[tuple[str, str], Trial], sweep: str, *, items: Collection[str] | None = ()
    ) -> Iterator[tuple[tuple[str, str], Stored]]:
        """Yield every (trial, cell) key with all of its records, also where it has none: `read_all` has what is used.

        Of a record's items those of the metrics named are read; None means all.

        Raises:
            DamagedError, LedgerError, OSError: As `read` and the class say.
        """
        present = {path.name for path in listed(self.root / "trials", "*/*.parquet")}
        for (key, cell), trial in trials.items():
            own = [self.path(key, sweep, cell), self.path(key, sweep)]
            shared = [self.path(key)]
            found = (self._first(trial, [p for p in paths if p.name in present], items) for paths in (own, shared))
            yield (key, cell), Stored(*found)

    def files(self, record: TrialRecord) -> list[Place]:
        """Return the files of a record that was read: its table of layers, if it has one that is whole, and itself."""
        names = (record.key, record.sweep, record.cell)
        has_layers = self.read_layers(record) is not None
        return [*([self.layers_path(*names)] if has_layers else []), self.path(*names)]

    def find(self, prefix: str) -> list[TrialRecord]:
        """Return all records of the trials whose key begins like this, with all their items, shared ones first."""
        files = listed(self.root / "trials", f"{prefix[:2]}*/{prefix}*.parquet")
        files.sort(key=lambda file: ("~" in file.name, file.name))
        return [record for file in files if (record := self._read_file(file, items=None)) is not None]

    def _read_file(
        self, path: Place, trial: Trial | None = None, items: Collection[str] | None = ()
    ) -> TrialRecord | None:  # fmt: skip
        try:
            row = _read_row(path, with_items=items is None or bool(items))
            if row is None:
                return None
            with _decoding(path):
                (record,) = _from_rows(row, items)
            why = _misnamed(record, path.name)
            if trial is not None and not why and (why := _unasked(record, trial)) and not self.is_strict:
                is_same = record.settings == trial.settings and record.seed == trial.seed
                if not is_same and _is_whole(record):
                    if trial not in self.misfits:
                        self.misfits.append(trial)
                    return None
            if why:
                raise _DamagedError(f"it is not the record that its name promises: {why}")
        except _DamagedError as error:
            self._refuse(path, str(error))
            return None
        return record

    def _refuse(self, path: Place, why: str) -> None:
        """Say that a file is damaged, once, and set it aside if that is this ledger's business."""
        if self.is_strict:
            raise DamagedError(f"{path} is damaged: {why}")
        if not self.is_read_only:
            self.set_aside(path, why)
        elif path not in self._told:
            self._told.add(path)
            log.warning("%s is damaged and counts as missing: %s (`sweep` sets it aside)", path, why)

    def set_aside(self, path: Place, why: str) -> None:
        """Move a damaged file to the folder `aside`, with a warning."""
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
