"""The ledger, the proposals and the files below them."""

import dataclasses
import json
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import Synthetic

from ablate.declaration import Proposal, SweepFolder
from ablate.errors import UsageError
from ablate.ledger import SCHEMA, SCHEMA_VERSION, Ledger, TrialRecord
from ablate.storage import append_line, is_locked, locked, read_lines, write_atomically

RECORD = TrialRecord(
    key="ab12-01",
    fingerprint="ab12",
    seed=2**53 - 1,
    phase="confirm",
    state="complete",
    settings={"depth": 20, "lr": 0.1, "modulation_window": [0.0, 1.0], "image_size": None, "statistics": "estimated"},
    rows={"optimizer": "adam@1"},
    data_digest="d",
    metrics={"test_accuracy": 0.5, "val_accuracy": 0.5},
    curves={"val_accuracy": [0.25, 0.5], "train_loss": []},
    num_epochs=2,
    num_parameters=7,
    duration_s=1.5,
    provenance={"git_sha": "abc"},
)


def test_a_record_reads_as_it_was_written(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(RECORD)
    diverged = dataclasses.replace(
        RECORD, key="ab12-02", state="diverged", diverged_epoch=1, diverged_step=0, diverged_layer="fc", metrics={}
    )  # fmt: skip
    ledger.write(diverged)
    assert Ledger(tmp_path).read("ab12-01", "any") == RECORD
    assert Ledger(tmp_path).read("ab12-02", "any") == diverged
    assert ledger.read("ab12-03", "any") is None


def test_a_shared_record_is_never_written_again(tmp_path):
    ledger = Ledger(tmp_path)
    path = ledger.write(RECORD)
    before = path.read_bytes()
    ledger.write(dataclasses.replace(RECORD, duration_s=99.0))
    assert path.read_bytes() == before


@pytest.mark.parametrize("state", ["pruned", "failed"])
def test_a_record_that_depends_on_a_sweeps_history_is_for_that_sweep_only(tmp_path, state):
    ledger = Ledger(tmp_path)
    own = dataclasses.replace(RECORD, state=state, sweep="mine")
    ledger.write(own)
    assert ledger.read("ab12-01", "mine") == own
    assert ledger.read("ab12-01", "other") is None
    ledger.write(RECORD)
    # A trial that was pruned stays so for its sweep: its sampler and its pruner learnt that. A failed one is replaced.
    assert ledger.read("ab12-01", "mine") == (own if state == "pruned" else RECORD)
    assert ledger.read("ab12-01", "other") == RECORD


@pytest.mark.parametrize("damage", [b"", b"no parquet", None])
def test_a_damaged_file_is_set_aside_and_kept(tmp_path, damage, caplog):
    ledger = Ledger(tmp_path)
    path = ledger.write(RECORD)
    content = path.read_bytes()[:-7] if damage is None else damage
    path.write_bytes(content)
    assert ledger.read("ab12-01", "s") is None
    assert "set aside the unreadable file ab12-01.parquet" in caplog.text
    assert (ledger.root / "aside" / "ab12-01.parquet").read_bytes() == content
    ledger.write(RECORD)
    assert ledger.read("ab12-01", "s") == RECORD


def test_a_foreign_file_under_a_trials_name_is_set_aside(tmp_path):
    ledger = Ledger(tmp_path)
    path = ledger.write(RECORD)
    path.rename(ledger.path("ab99-01").parent / "ab99-01.parquet")
    assert ledger.read("ab99-01", "s") is None
    assert list((ledger.root / "aside").iterdir())


def test_a_newer_schema_is_not_misread(tmp_path, caplog):
    ledger = Ledger(tmp_path)
    path = ledger.write(RECORD)
    table = pq.read_table(path)
    newer = table.set_column(0, "schema_version", [[SCHEMA_VERSION + 1]])
    pq.write_table(newer, path)
    assert ledger.read("ab12-01", "s") is None
    assert f"schema version {SCHEMA_VERSION + 1} is newer" in caplog.text


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_line_that_a_crash_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "lines"
    append_line(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"a": 2, "b"')
    append_line(path, {"a": 3})
    assert [line["a"] for line in read_lines(path)] == [1, 3]


def test_proposals_read_in_order(tmp_path):
    folder = SweepFolder(tmp_path, "s")
    proposals = [
        Proposal(
            cell="c",
            phase="tune",
            number=number,
            key=f"k{number}",
            seed=1,
            settings={"lr": 0.1, "statistics": "estimated"},
            params={"lr": 0.1},
        )
        for number in range(3)
    ]
    for proposal in proposals:
        folder.append_proposal(proposal)
    with (folder.path / "proposals.jsonl").open("a") as file:
        file.write('{"unknown": 1}\n')
    assert folder.read_proposals() == proposals


def test_a_lock_is_seen_by_others_and_freed(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path) as is_ours:
        assert is_ours
        assert is_locked(path)
    assert not is_locked(path)


def test_an_unknown_sweep_names_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"no sweep in .* yet\. Run: python cli\.py sweep FILE"):
        SweepFolder(tmp_path, "dept").read_declaration()
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "declaration.json").write_text("{")
    with pytest.raises(UsageError, match=r"no sweep 'dept' in .*\. Did you mean 'depth'\? Available: depth"):
        SweepFolder(tmp_path, "dept").read_declaration()
    with pytest.raises(UsageError, match=r"cannot read .*declaration\.json"):
        SweepFolder(tmp_path, "depth").read_declaration()


def test_a_pruned_trial_is_for_its_own_cell_only(tmp_path):
    ledger = Ledger(tmp_path)
    own = dataclasses.replace(RECORD, state="pruned", sweep="mine", cell="c1")
    ledger.write(own)
    assert ledger.read("ab12-01", "mine", "c1") == own
    assert ledger.read("ab12-01", "mine", "c2") is None
    ledger.write(dataclasses.replace(own, cell="c2", num_epochs=1))
    assert ledger.read("ab12-01", "mine", "c1") == own


@pytest.mark.parametrize("state", ["complete", "pruned"])
def test_a_file_of_the_first_schema_version_still_reads(tmp_path, state):
    """Made by hand: version 1 had no column `cell`, and its pruned trials named no cell."""
    record = dataclasses.replace(RECORD, state=state, sweep="mine" if state == "pruned" else "")
    row = dataclasses.asdict(record)
    del row["cell"]
    row["settings"] = json.dumps(row["settings"])
    for name in ("rows", "metrics", "curves", "provenance"):
        row[name] = list(row[name].items())
    columns = [field for field in SCHEMA if field.name != "cell"]
    table = pa.Table.from_pylist([{"schema_version": 1, **row}], schema=pa.schema(columns))
    path = tmp_path / "ledger" / "trials" / "ab" / f"ab12-01{'~mine' if state == 'pruned' else ''}.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    assert Ledger(tmp_path).read("ab12-01", "mine", "c1") == record
    assert not (tmp_path / "ledger" / "aside").exists()


def test_the_longest_names_fit_a_file_system(tmp_path):
    record = dataclasses.replace(
        RECORD, key="0" * 16 + "-" + "1" * 14, state="pruned", sweep="n" * 100 + "@" + "p" * 100, cell="c" * 12
    )  # fmt: skip
    ledger = Ledger(tmp_path)
    ledger.write(record)
    assert ledger.read(record.key, record.sweep, record.cell) == record


def test_a_declaration_of_the_first_schema_version_still_reads(tmp_path):
    cell = {"key": "c", "levels": {"depth": "8"}, "settings": {}, "tuned": ["lr"]}
    content = {
        "sweep": "s", "name": "s", "profile": "", "question": "", "axes": {"depth": ["8"]}, "cells": [cell],
        "trials_per_cell": 1, "num_seeds": 1, "sampler": "tpe", "pruner": "none", "seed": 0, "report": {}, "tune": {},
        "data": {"num_train": 9, "num_val": 3, "num_test": 3, "num_classes": 3}, "file": "s.yaml", "overrides": [],
        "history": ["a"], "schema_version": 1,
    }  # fmt: skip
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "declaration.json").write_text(json.dumps(content))
    declaration = SweepFolder(tmp_path, "s").read_declaration()
    assert (declaration.runner_up, declaration.audit, declaration.cells[0].space) == (False, 0, {})


@pytest.mark.parametrize("is_large", [False, True])
def test_many_records_are_read_in_one_go_as_one_by_one(tmp_path, monkeypatch, is_large):
    if is_large:  # A second process reads as well.
        monkeypatch.setattr("ablate.ledger.MAX_ALONE", 0)
        monkeypatch.setattr("ablate.ledger.BATCH", 2)
    declaration = Synthetic(tmp_path).write()
    wanted = [(proposal.key, proposal.cell) for proposal in SweepFolder(tmp_path, declaration.sweep).read_proposals()]
    ledger = Ledger(tmp_path)
    single = {(key, cell): ledger.read(key, declaration.sweep, cell) for key, cell in wanted}
    assert ledger.read_all(wanted, declaration.sweep) == single
    bare = ledger.read_all(wanted, declaration.sweep, with_curves=False)
    assert bare == {pair: dataclasses.replace(record, curves={}) for pair, record in single.items()}
    # A file that was cut off spoils nothing but itself.
    victim = ledger.path(wanted[0][0])
    victim.write_bytes(victim.read_bytes()[:50])
    assert ledger.read_all(wanted, declaration.sweep) == {pair: single[pair] for pair in wanted[1:]}
    assert ledger.read_all([], declaration.sweep) == {}


def test_a_trial_that_was_pruned_here_and_run_to_its_end_elsewhere_stays_pruned_here(tmp_path):
    ledger = Ledger(tmp_path)
    pruned = dataclasses.replace(RECORD, state="pruned", sweep="mine", cell="c1")
    ledger.write(pruned)
    ledger.write(RECORD)
    wanted = [(RECORD.key, "c1"), (RECORD.key, "c2")]
    assert ledger.read_all(wanted, "mine") == {wanted[0]: pruned, wanted[1]: RECORD}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("settings", "[" * 9999, "recursion"),
        ("settings", "[]", "the settings are no mapping"),
        ("metrics", [], "a complete trial needs a val_accuracy, but it is None"),
        ("metrics", [("val_accuracy", float("inf"))], "a complete trial needs a val_accuracy, but it is inf"),
        ("metrics", [("val_accuracy", 0.5), ("loss", None)], "a value is missing"),
        ("curves", pa.array([None], pa.null()), "the column 'curves' of type null is none of the ledger's"),
        ("seed", pa.array(["1"]), "the column 'seed' of type string is none of the ledger's"),
        ("secret", pa.array([1]), "the column 'secret' of type int64 is none of the ledger's"),
    ],
)
def test_a_record_that_is_none_is_set_aside(tmp_path, caplog, column, value, reason):
    path = Ledger(tmp_path).write(RECORD)
    table = pq.read_table(path)
    array = value if isinstance(value, pa.Array) else pa.array([value], SCHEMA.field(column).type)
    index = table.schema.get_field_index(column)
    changed = table.set_column(index, column, array) if index >= 0 else table.append_column(column, array)
    pq.write_table(changed, path)
    assert Ledger(tmp_path).read(RECORD.key, "s", "c") is None
    assert "set aside the unreadable file ab12-01.parquet" in caplog.text
    assert reason in caplog.text


def test_a_flipped_bit_in_a_number_is_found(tmp_path, caplog):
    record = dataclasses.replace(RECORD, curves={"val_accuracy": [0.123456789] * 3 + [0.5]})
    path = Ledger(tmp_path).write(record)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<d", 0.123456789)) + 3] ^= 1
    path.write_bytes(content)
    assert Ledger(tmp_path).read(RECORD.key, "s") is None
    assert "CRC checksum verification failed" in caplog.text


@pytest.mark.parametrize(
    "change", [{"cell": []}, {"number": "x"}, {"key": "../../x"}, {"settings": 3}, {"extra": 1}, {"number": 10**12}]
)
def test_a_proposal_that_is_none_is_passed_over(tmp_path, change):
    declaration = Synthetic(tmp_path).write()
    folder = SweepFolder(tmp_path, declaration.sweep)
    before = folder.read_proposals()
    append_line(folder.path / "proposals.jsonl", {**dataclasses.asdict(before[0]), **change})
    assert folder.read_proposals() == before


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("axes", {"depth": ["20"]}, "the levels of the cell cell0 are not those of the axes"),
        ("cells", [], "it must have cells, each with a key of its own"),
        ("data", {}, "data.num_train must be a number of images or classes"),
        ("report", {"rows": "width"}, "report.rows must be the name of an axis"),
        ("report", {"metric": []}, "report.metric must be the name of an axis, a level or a metric"),
        ("trials_per_cell", 10**9, "trials_per_cell: Input should be less than or equal to 1000000"),
        ("trials_per_cell", "3", "trials_per_cell: Input should be a valid integer"),
        ("more", 1, "more: Unexpected keyword argument"),
    ],
)
def test_a_declaration_that_does_not_hold_together_is_told(tmp_path, key, value, reason):
    declaration = Synthetic(tmp_path).write()
    folder = SweepFolder(tmp_path, declaration.sweep)
    file = folder.path / "declaration.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(UsageError, match=f"cannot read .*declaration.json: {reason}"):
        folder.read_declaration()


def test_an_error_holds_no_control_characters():
    assert str(UsageError("a\x1b[2J\x0fb\nc")) == "a [2J b\nc"
