"""Damaged and foreign files below the output folder: what cannot be read is told or set aside, nothing else happens.

Long runs: see test_fuzz.py.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import fuzz, mutated_bytes, mutated_trees, one_input, to_yaml, values
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Synthetic

from ablate.report import build
from ablate.report.summary import status, status_lines
from ablate.store.declaration import MLFLOW_RUNS, SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.store.record import SCHEMA, TrialRecord

SWEEP = "depth_ablation@smoke"


@pytest.fixture(scope="module")
def base(folder):
    """A sweep of four cells, as its files by their path."""
    made = Synthetic(
        folder / "base", num_tune=4, num_seeds=2, axes={"depth": ["20", "56"], "arm": ["plain", "residual"]}
    )
    made.write()
    path = folder / "base" / SWEEP / MLFLOW_RUNS
    path.write_text(json.dumps({"experiment": "1", "cells": {f"cell{index}": "ab" * 16 for index in range(4)}}))
    files = {
        file.relative_to(folder / "base"): file.read_bytes() for file in (folder / "base").rglob("*") if file.is_file()
    }
    shutil.rmtree(folder / "base")
    return files


@pytest.fixture(scope="module")
def no_figures():
    """Pictures take seconds, and show the same numbers as the tables."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(build, "_documents", lambda *_: iter(()))
        yield


def read_out(folder, files):
    """Write an output folder, then read all of it: status and report."""
    out, to = folder / "out", folder / "report"
    for old in (out, to):
        shutil.rmtree(old, ignore_errors=True)
    for path, content in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)
    sweep = SweepFolder(out, SWEEP)
    declaration = sweep.read_declaration()
    found = collect(declaration, sweep.read_proposals(), Ledger(out))
    content = status(declaration, found)
    json.dumps(content)
    assert status_lines(content)
    build.build_report(out, SWEEP, to)
    assert {path.name for path in folder.iterdir()} <= {"out", "report"}


def as_lines(entries):
    return "".join(to_yaml(entry) + "\n" for entry in entries).encode("utf-8", "surrogatepass")


@fuzz(8, 0.3)
@given(data=st.data())
def test_declarations_with_other_parts(folder, base, no_figures, data):
    path = next(path for path in base if path.name == "declaration.json")
    tree = data.draw(mutated_trees([json.loads(base[path])], values(), most=2))
    with one_input("declaration, parts changed"):
        read_out(folder, {**base, path: to_yaml(tree).encode("utf-8", "surrogatepass")})


@fuzz(4, 0.15)
@given(data=st.data())
def test_json_files_with_other_bytes(folder, base, no_figures, data):
    path = data.draw(st.sampled_from(sorted(path for path in base if path.suffix in (".json", ".jsonl"))))
    content = data.draw(mutated_bytes([base[path]]))
    with one_input("JSON files, bytes changed"):
        read_out(folder, {**base, path: content})


@fuzz(8, 0.3)
@given(data=st.data())
def test_proposals_with_other_parts(folder, base, no_figures, data):
    path = next(path for path in base if path.name == "proposals.jsonl")
    entries = [json.loads(line) for line in base[path].splitlines()]
    index = data.draw(st.integers(0, len(entries) - 1))
    changed = data.draw(mutated_trees([entries[index]], values(), most=2))
    with one_input("proposals, parts changed"):
        read_out(folder, {**base, path: as_lines([*entries[:index], changed, *entries[index + 1 :]])})


@fuzz(4, 0.15)
@given(data=st.data())
def test_run_ids_with_other_parts(folder, base, no_figures, data):
    path = next(path for path in base if path.name == MLFLOW_RUNS)
    tree = data.draw(mutated_trees([json.loads(base[path])], values(), most=2))
    with one_input("mlflow_runs.json, parts changed"):
        read_out(folder, {**base, path: to_yaml(tree).encode("utf-8", "surrogatepass")})


RECORD = TrialRecord(
    key="ab12-01", fingerprint="ab12", seed=2**53 - 1, phase="confirm", state="complete",
    settings={"depth": 20, "lr": 0.1}, rows={"optimizer": "adam@1"}, data_digest="d",
    metrics={"test_accuracy": 0.5, "val_accuracy": 0.5}, curves={"val_accuracy": [0.25, 0.5], "train_loss": []},
    num_epochs=2, provenance={"git_sha": "abc"}, items={"test_accuracy": [1.0, 0.0] * 9},
    items_digest="e", layers={"epoch": [1], "position": [0], "layer": ["a"], "gain": [0.5]},
)  # fmt: skip


def read_ledger(out):
    ledger = Ledger(out)
    for found in (ledger.read(RECORD.key, "s", "c"), *ledger.find("ab"),
                  *ledger.read_all([(RECORD.key, "c")], "s", items=["test_accuracy"]).values()):  # fmt: skip
        if found is not None:
            assert found.key == RECORD.key
            dataclasses.asdict(found)
            ledger.read_layers(found)
    return ledger


@fuzz(40, 2)
@given(data=st.data())
def test_ledger_files_with_other_bytes(folder, data):
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    path = Ledger(out).write(RECORD)
    layers = Ledger(out).layers_path(RECORD.key)
    for file in data.draw(st.sampled_from([(path,), (layers,), (path, layers)])):
        file.write_bytes(data.draw(mutated_bytes([file.read_bytes()])))
    with one_input("ledger files, bytes changed"):
        read_ledger(out)


TYPES = st.sampled_from(
    [pa.int8(), pa.int64(), pa.float16(), pa.float64(), pa.string(), pa.binary(), pa.bool_(), pa.null(), pa.date32(),
     pa.timestamp("us"), pa.list_(pa.string()), pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.null()),
     pa.map_(pa.int64(), pa.string()), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.decimal128(9, 2)]
)  # fmt: skip
CELLS = {
    "schema_version": st.sampled_from([None, 0, -1, 2, 2**31 - 1]),
    "state": st.sampled_from([None, "", "complete", "pruned", "diverged", "failed", "running", "x" * 9999]),
    "settings": st.sampled_from([None, "", "{}", "[]", "null", "{", '{"epochs": "x"}', '{"a": NaN}', "[" * 9999,
    "1e999"]),
    "metrics": st.sampled_from([None, [], [("val_accuracy", None)], [("a", 1.0), ("a", 2.0)], [("val_accuracy",
    1e308)]]),
    "curves": st.sampled_from([None, [], [("val_accuracy", None)], [("val_accuracy", [None, 1.0])], [("", [])]]),
    "items": st.sampled_from([None, [], [("a", None)], [("a", [None, 1.0])], [("a", [1.0]), ("b", [])]]),
}  # fmt: skip
TEXT = st.text(max_size=9).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


def write_foreign_table(draw, path):
    """Put another table in a ledger file's place: values, types, columns or rows are drawn; False if nobody can."""
    try:
        pq.write_table(foreign_table(draw, pq.read_table(path).to_pylist()[0]), path)
    except (pa.ArrowException, ValueError, TypeError):
        return False
    return True


def foreign_table(draw, row):
    """Draw a table that is like the ledger's: other values, nulls, types, columns, numbers of rows."""
    schema = SCHEMA
    for _ in range(draw(st.integers(1, 3))):
        names = schema.names
        name = draw(st.sampled_from(names)) if names else "x"
        change = draw(st.sampled_from(["value", "value", "null", "drop", "type", "rename", "rows", "more"]))
        index = schema.get_field_index(name)
        if change == "value" and index >= 0:
            type_ = schema.field(name).type
            number = st.integers(-(2**31), 2**31 - 1)
            usual = {"string": TEXT, "int32": number, "int64": number, "double": st.floats()}.get(str(type_), st.none())
            row[name] = draw(CELLS.get(name, usual))
        elif change == "null":
            row[name] = None
        elif change == "drop" and index >= 0 and len(names) > 1:
            schema = schema.remove(index)
        elif change == "type" and index >= 0:
            schema, row[name] = schema.set(index, pa.field(name, draw(TYPES))), None
        elif change == "rename" and index >= 0:
            schema = schema.set(
                index, pa.field(draw(st.sampled_from(["x", "", "key", "layers"])), schema.field(name).type)
            )
        elif change == "more":
            schema = schema.append(pa.field(draw(st.sampled_from(["x", "key", "state"])), draw(TYPES)))
    num_rows = draw(st.sampled_from([1, 1, 1, 1, 0, 2]))
    arrays = []
    for field in schema:
        try:
            arrays.append(pa.array([row.get(field.name)] * num_rows, field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            arrays.append(pa.nulls(num_rows, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


@fuzz(40, 2)
@given(data=st.data())
def test_ledger_files_of_another_schema(folder, data):
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    path = Ledger(out).write(RECORD)
    if not write_foreign_table(data.draw, path):
        return
    with one_input("ledger files, another schema"):
        read_ledger(out)


@fuzz(8, 0.3)
@given(data=st.data())
def test_reports_of_a_ledger_with_changed_records(folder, base, no_figures, data):
    path = data.draw(st.sampled_from(sorted(path for path in base if path.suffix == ".parquet")))
    table = folder / "one.parquet"
    table.write_bytes(base[path])
    if not write_foreign_table(data.draw, table):
        return
    content = table.read_bytes()
    table.unlink()
    with one_input("reports of changed records"):
        read_out(folder, {**base, path: content})
