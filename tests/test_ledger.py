"""The ledger, the proposals and the files below them."""

import contextlib
import dataclasses
import json
import os
import random
import resource
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from synthetic import Synthetic

from ablate.bundle.conflicts import other_numbers
from ablate.commands import main
from ablate.errors import LedgerError, UsageError
from ablate.storage import append_line, is_locked, locked, read_lines, write_atomically
from ablate.store.declaration import Proposal, SweepFolder, collect, sweeps
from ablate.store.ledger import Ledger, differing_numbers
from ablate.store.record import SCHEMA, SCHEMA_VERSION, TrialRecord
from ablate.tasks.image_classification.config import PARAMETERS
from ablate.tasks.parameters import trial_key

RECORD = TrialRecord(
    key="ab12-01",
    fingerprint="ab12",
    seed=2**53 - 1,
    phase="confirm",
    state="complete",
    settings={
        "depth": 20,
        "epochs": 2,
        "lr": 0.1,
        "modulation_window": [0.0, 1.0],
        "image_size": None,
        "statistics": "estimated",
        "loss": "cross_entropy",
    },
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


def newer(table):
    return table.set_column(0, "schema_version", pa.array([SCHEMA_VERSION + 1] * table.num_rows, pa.int32()))


@pytest.mark.parametrize(
    "change",
    [
        newer,
        lambda table: newer(table).append_column("unknown", pa.array([[1.5]])),
        lambda table: newer(pa.concat_tables([table, table])),
        lambda table: newer(table).drop_columns(["settings", "key"]),
    ],
)
def test_a_newer_schema_ends_the_command_and_nothing_moves(tmp_path, change):
    declaration = Synthetic(tmp_path, num_tune=2, num_seeds=2, axes={"depth": ["20"], "arm": ["plain"]}).write()
    proposal = SweepFolder(tmp_path, declaration.sweep).read_proposals()[0]
    path = Ledger(tmp_path).path(proposal.key)
    pq.write_table(change(pq.read_table(path)), path)
    before = path.read_bytes()
    reason = f"cannot read {path}: its schema version {SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}, which"
    ledger = Ledger(tmp_path)
    for read in (
        lambda: ledger.read(proposal.key, "s"),
        lambda: ledger.read_all([(proposal.key, "c")], "s"),
        lambda: ledger.find(proposal.key),
    ):
        with pytest.raises(LedgerError, match=reason):
            read()
    for arguments in (["status"], ["report", "--to", str(tmp_path / "report")]):
        done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path)])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(reason)
        assert len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == before
    assert not (tmp_path / "ledger" / "aside").exists()


@contextlib.contextmanager
def no_more_files():
    """Let this process open no further file."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_throw_out_no_record(tmp_path):
    declaration = Synthetic(tmp_path, num_tune=2, num_seeds=2, axes={"depth": ["20"], "arm": ["plain"]}).write()
    folder = SweepFolder(tmp_path, declaration.sweep)
    key = folder.read_proposals()[0].key
    ledger = Ledger(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    path = ledger.path(key)
    record = dataclasses.replace(ledger.read(key, "s"), layers={"epoch": [1], "position": [0], "layer": ["a"]})
    with no_more_files():
        for read, file in (
            (lambda: ledger.read(key, "s"), path),
            (lambda: ledger.read_all([(key, "c")], "s"), ledger.root / "trials"),
            (lambda: ledger.find(key), ledger.root / "trials"),
            (folder.read_declaration, folder.path / "declaration.json"),
            (folder.earlier_declaration, folder.path / "declaration.json"),
            (folder.set_aside_damaged, folder.path / "declaration.json"),
            (folder.read_proposals, folder.path / "proposals.jsonl"),
            (lambda: sweeps(tmp_path), tmp_path),
        ):
            with pytest.raises(OSError, match=f"Too many open files: '{file}'"):
                read()
        done = CliRunner().invoke(main, ["status", declaration.sweep, "--out", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"{folder.path / 'declaration.json'}: Too many open files\n"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    ledger.write(dataclasses.replace(record, key="ab12-07", fingerprint="ab12"))
    with no_more_files(), pytest.raises(OSError, match=r"Too many open files: .*layers/ab/ab12-07.parquet"):
        ledger.read_layers(dataclasses.replace(record, key="ab12-07"))


def test_a_lack_of_memory_throws_out_no_record(tmp_path):
    ledger = Ledger(tmp_path)
    path = ledger.write(dataclasses.replace(RECORD, message="x" * 2**29))
    child = os.fork()
    if child == 0:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + 2**28
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            ledger.read(RECORD.key, "s")
        except LedgerError as error:
            os._exit(0 if str(error).startswith(f"cannot read {path}: not enough memory") else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.exists()
    assert not (ledger.root / "aside").exists()


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
            settings={"lr": 0.1, "statistics": "estimated", "loss": "cross_entropy"},
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
    assert declaration.data_line == "9 training, 3 validation and 3 test images"


@pytest.mark.parametrize("is_large", [False, True])
def test_many_records_are_read_in_one_go_as_one_by_one(tmp_path, monkeypatch, is_large):
    if is_large:  # A second process reads as well.
        monkeypatch.setattr("ablate.store.ledger.MAX_ALONE", 0)
        monkeypatch.setattr("ablate.store.ledger.BATCH", 2)
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
        ("schema_version", None, "there is no schema version None"),
        ("state", "running", "there is no 'running' 'confirm' trial"),
        ("phase", "audit", "there is no 'complete' 'audit' trial"),
        ("state", "pruned", "a pruned trial has another name"),
        ("state", None, "it has no state"),
        ("sweep", "s", "it holds the trial ab12-01~s.parquet"),
        ("duration_s", float("nan"), "a trial cannot take nan s"),
        ("duration_s", 1e300, "a trial cannot take 1e+300 s"),
        ("num_parameters", -5, "a net cannot have -5 parameters"),
        ("num_epochs", 0, "a complete trial of 2 epochs cannot end after 0"),
        ("num_epochs", 1, "a complete trial of 2 epochs cannot end after 1"),
        ("num_epochs", 3, "a complete trial of 2 epochs cannot end after 3"),
        ("state", "diverged", "a trial cannot diverge in epoch None at step None"),
        (
            "metrics",
            [("test_accuracy", 0.5), ("test_accuracy", 0.6), ("val_accuracy", 0.5)],
            "metrics has an entry twice",
        ),
        ("metrics", [("val_accuracy", 0.5)], "a complete trial needs a test_accuracy, but it is None"),
        ("metrics", [("test_accuracy", float("nan")), ("val_accuracy", 0.5)], "needs a test_accuracy, but it is nan"),
        ("metrics", [("test_accuracy", 7.0), ("val_accuracy", 0.5)], "test_accuracy is 7.0, but it must be in"),
        ("metrics", [("test_accuracy", 0.5), ("val_accuracy", -0.1)], "val_accuracy is -0.1, but it must be in"),
        (
            "metrics",
            [("test_accuracy", 0.5), ("test_loss", float("nan")), ("val_accuracy", 0.5)],
            "test_loss is nan",
        ),
        ("curves", [("val_accuracy", [0.5, 7.0])], "val_accuracy is 7.0, but it must be in [0, 1]"),
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


def test_a_loss_that_ended_as_nan_is_no_damage(tmp_path):
    """Batch norm's running statistics can make the validation images overflow while training goes on."""
    nan = float("nan")
    metrics = {"test_accuracy": 0.1, "test_loss": nan, "val_accuracy": 0.1, "val_loss": nan}
    record = dataclasses.replace(RECORD, metrics=metrics, curves={"val_accuracy": [0.1], "val_loss": [nan]})
    ledger = Ledger(tmp_path)
    ledger.write(record)
    assert ledger.read(RECORD.key, "s") is not None
    assert ledger.read_all([(RECORD.key, "c")], "s", with_curves=False)


STOPPED = {"state": "pruned", "sweep": "s", "num_epochs": 1}
FAILED = {"state": "failed", "sweep": "s", "num_epochs": 0}
AT_THE_FIRST_STEP = {"state": "diverged", "diverged_epoch": 1, "diverged_step": 0, "num_epochs": 0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (STOPPED, ""),
        ({**STOPPED, "num_epochs": 2}, ""),  # The pruner judges the last epoch, too.
        ({**STOPPED, "num_epochs": 0}, "a pruned trial of 2 epochs cannot end after 0"),
        (FAILED, ""),
        ({**FAILED, "num_epochs": 2}, ""),  # The test images were too many.
        ({**FAILED, "num_epochs": 3}, "a failed trial of 2 epochs cannot end after 3"),
        (AT_THE_FIRST_STEP, ""),
        ({**AT_THE_FIRST_STEP, "num_epochs": 3}, "a diverged trial of 2 epochs cannot end after 3"),
        ({**AT_THE_FIRST_STEP, "diverged_step": None}, "a trial cannot diverge in epoch 1 at step None"),
        ({**AT_THE_FIRST_STEP, "diverged_step": -1}, "a trial cannot diverge in epoch 1 at step -1"),
        ({**AT_THE_FIRST_STEP, "diverged_epoch": None}, "a trial cannot diverge in epoch None at step 0"),
        ({**AT_THE_FIRST_STEP, "diverged_epoch": 0}, "a trial cannot diverge in epoch 0 at step 0"),
    ],
)
def test_a_trial_gets_as_far_as_its_state_says(tmp_path, caplog, changes, reason):
    Ledger(tmp_path).write(record := dataclasses.replace(RECORD, **changes))
    assert Ledger(tmp_path).read(RECORD.key, "s") == (None if reason else record)
    assert reason in caplog.text
    assert (tmp_path / "ledger" / "aside").exists() == bool(reason)


SWEEP = "depth_ablation@smoke"
AXES = {"depth": ["20"], "arm": ["plain", "residual"]}


def swap(out, first, second):
    """Exchange the contents of two records."""
    paths = [Ledger(out).path(proposal.key) for proposal in (first, second)]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    return paths


def change(out, proposal, edit):
    """Write a record anew with other values, or as another table."""
    path = Ledger(out).path(proposal.key)
    pq.write_table(edit(pq.read_table(path)), path)
    return [path]


def with_value(name, value):
    def edit(table):
        array = pa.array([value], SCHEMA.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, array)

    return edit


def flip(out, proposal):
    """Flip a bit in a curve, which not every command shows."""
    path = Ledger(out).path(proposal.key)
    curve = Ledger(out).read(proposal.key, SWEEP).curves["val_accuracy"]
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<d", curve[2])) + 3] ^= 1
    path.write_bytes(content)
    return [path]


def pipe(out, proposal):
    path = Ledger(out).path(proposal.key)
    path.unlink()
    os.mkfifo(path)
    return [path]


def folder_instead(out, proposal):
    path = Ledger(out).path(proposal.key)
    path.unlink()
    path.mkdir()
    return [path]


NAN = float("nan")
DAMAGES = {
    "contents swapped": lambda out, trials: swap(out, trials[0], trials[1]),
    "a foreign column": lambda out, trials: change(out, trials[0], lambda t: t.append_column("x", pa.array([1]))),
    "a column twice": lambda out, trials: change(out, trials[0], lambda t: t.append_column("message", pa.array([""]))),
    "the row doubled": lambda out, trials: change(out, trials[0], lambda t: pa.concat_tables([t, t])),
    "no row": lambda out, trials: change(out, trials[0], lambda t: t.slice(0, 0)),
    "NaN": lambda out, trials: change(
        out, trials[0], with_value("metrics", [("test_accuracy", NAN), ("val_accuracy", NAN)])
    ),
    "above one": lambda out, trials: change(
        out, trials[0], with_value("metrics", [("test_accuracy", 7.0), ("val_accuracy", 7.0)])
    ),
    "another's settings": lambda out, trials: change(out, trials[0], with_value("settings", '{"lr": 3.0}')),
    "another seed": lambda out, trials: change(out, trials[0], with_value("seed", 5)),
    "another fingerprint": lambda out, trials: change(out, trials[0], with_value("fingerprint", "00ab")),
    "a bit of a curve": lambda out, trials: flip(out, trials[0]),
    "a named pipe": lambda out, trials: pipe(out, trials[0]),
    "a folder": lambda out, trials: folder_instead(out, trials[0]),
}


@pytest.mark.parametrize("phase", ["tune", "confirm"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_refuses_the_same_records(tmp_path, monkeypatch, phase, damage):
    monkeypatch.setattr("ablate.report.build._documents", lambda *_: iter(()))
    Synthetic(tmp_path, num_tune=2, num_seeds=3, tune_states=("complete",), axes=AXES).write()
    folder = SweepFolder(tmp_path, SWEEP)
    trials = [proposal for proposal in folder.read_proposals() if proposal.phase == phase][:2]
    # The second tune trial is no winner: its curves are shown nowhere.
    damaged = DAMAGES[damage](tmp_path, trials[::-1] if phase == "tune" else trials)
    for arguments in (["status", "--json"], ["report", "--to", str(tmp_path / "report")]):
        done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
    read_only = Ledger(tmp_path, is_read_only=True)
    found = collect(folder.read_declaration(), folder.read_proposals(), read_only)
    seen = {proposal.key for cell in found for proposal, record in [*cell.tune, *cell.confirm] if record is None}
    assert all(path.exists() for path in damaged), "whoever only reads moves nothing"
    # As the schedule of a sweep reads them.
    ledger = Ledger(tmp_path)
    refused = {p.key for p in folder.read_proposals() if ledger.read(p.key, SWEEP, p.cell, p) is None}
    assert seen == refused == {path.stem for path in damaged}
    assert not any(path.exists() for path in damaged)
    assert {path.stem for path in (ledger.root / "aside").iterdir()} == refused


def test_a_damaged_record_is_told_in_one_line(tmp_path, caplog):
    Synthetic(tmp_path, axes={"depth": ["20"], "arm": ["plain"]}).write()
    folder = SweepFolder(tmp_path, SWEEP)
    first, second = [proposal for proposal in folder.read_proposals() if proposal.phase == "confirm"][:2]
    path, _ = swap(tmp_path, first, second)
    ledger = Ledger(tmp_path, is_read_only=True)
    for _ in range(2):
        collect(folder.read_declaration(), folder.read_proposals(), ledger)
    assert [record.message for record in caplog.records if str(path) in record.message] == [
        f"{path} is damaged and counts as missing: it is not the record that its name promises: it holds the trial "
        f"{second.key}.parquet (`sweep` sets it aside)"
    ]
    assert len(caplog.records) == 2


def test_a_damaged_proposal_moves_no_healthy_record(tmp_path):
    """Through the command line, so by the commands that only read."""
    Synthetic(tmp_path, axes={"depth": ["20"], "arm": ["plain"]}).write()
    folder = SweepFolder(tmp_path, SWEEP)
    first = folder.read_proposals()[0]
    folder.append_proposal(dataclasses.replace(first, settings={**first.settings, "lr": 9.0}))
    done = CliRunner().invoke(main, ["status", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert Ledger(tmp_path).path(first.key).exists()


def test_odd_files_are_one_line_each(tmp_path, caplog):
    Synthetic(tmp_path, axes={"depth": ["20"], "arm": ["plain"]}).write()
    latest = tmp_path / "ledger" / "latest_sweep"
    for make in (lambda: latest.write_bytes(b"\xff\xfe"), latest.mkdir, lambda: os.mkfifo(latest)):
        caplog.clear()
        latest.rmdir() if latest.is_dir() else latest.unlink()
        make()
        assert sweeps(tmp_path) == [SWEEP]
        assert [record.message.partition(" that")[0] for record in caplog.records] == [f"{latest} names no sweep"]
    folder = SweepFolder(tmp_path, SWEEP)
    for name, code in (("declaration.json", 2), ("proposals.jsonl", 1), ("lock", 0)):
        kept = (folder.path / name).read_bytes() if name != "lock" else b""
        (folder.path / name).unlink(missing_ok=True)
        os.mkfifo(folder.path / name)
        done = CliRunner().invoke(main, ["status", SWEEP, "--out", str(tmp_path)])
        assert done.exit_code == code, done.output
        lines = done.stderr.splitlines()
        assert len(lines) == (1 if code else 0)
        assert not code or f"{folder.path / name} is no regular file" in lines[0]
        (folder.path / name).unlink()
        (folder.path / name).write_bytes(kept)


def test_a_line_or_a_lock_does_not_wait_for_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        append_line(tmp_path / "pipe", {"a": 1})
    with pytest.raises(OSError, match="pipe"), locked(tmp_path / "pipe"):
        pass


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
        ("num_tune", 10**9, "num_tune: Input should be less than or equal to 1000000"),
        ("num_tune", "3", "num_tune: Input should be a valid integer"),
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


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"gone", b"\xff\xfe"])
def test_a_latest_sweep_that_names_none_is_told_and_others_are_still_there(tmp_path, caplog, content):
    for name in ("tiny", "zeta"):
        Synthetic(tmp_path, sweep=name).write()
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "declaration.json").write_text("{}")
    assert sweeps(tmp_path) == ["tiny", "zeta"]
    (tmp_path / "ledger" / "latest_sweep").write_bytes(b"tiny\n")
    assert sweeps(tmp_path) == ["zeta", "tiny"]
    assert not caplog.records
    (tmp_path / "ledger" / "latest_sweep").write_bytes(content)
    assert sweeps(tmp_path) == ["tiny", "zeta"]
    assert "latest_sweep names no sweep that is here: which was declared last is not known" in caplog.text


def with_real_keys(out) -> list:
    """Give every trial of a synthetic sweep the key of its settings and seed; return its proposals."""
    folder, ledger = SweepFolder(out, SWEEP), Ledger(out)
    proposals = []
    for proposal in folder.read_proposals():
        record = ledger.read(proposal.key, SWEEP, proposal.cell, proposal)
        own = PARAMETERS.fingerprint(record.settings, record.rows, record.data_digest)
        key = trial_key(own, record.seed)
        ledger.path(record.key, record.sweep, record.cell).unlink()
        ledger.write(dataclasses.replace(record, key=key, fingerprint=own))
        proposals.append(dataclasses.replace(proposal, key=key))
    (folder.path / "proposals.jsonl").unlink()
    folder.append_proposal(*proposals)
    return proposals


@pytest.mark.parametrize(
    "damaged",
    [
        lambda first, other: dataclasses.replace(first, settings={**first.settings, "lr": 9.0}),
        lambda first, other: dataclasses.replace(first, seed=first.seed + 1),
        lambda first, other: dataclasses.replace(first, key=other.key),
    ],
    ids=["other lr", "other seed", "another's key"],
)
def test_a_proposal_that_does_not_fit_its_key_is_passed_over(tmp_path, monkeypatch, caplog, damaged):
    monkeypatch.setattr("ablate.report.build._documents", lambda *_: iter(()))
    out = tmp_path / "runs"
    Synthetic(out, num_tune=2, num_seeds=3, tune_states=("complete",), axes=AXES).write()
    proposals = with_real_keys(out)
    commands = (
        ["status"],
        ["report", "--to", str(tmp_path / "report")],
        ["export", SWEEP, "--to", str(tmp_path / "b")],
    )

    def printed() -> list[str]:
        done = [CliRunner().invoke(main, [*command, "--out", str(out)]) for command in commands]
        assert [each.exit_code for each in done] == [0, 0, 0], done
        return [each.stdout for each in done]

    before = printed()
    folder = SweepFolder(out, SWEEP)
    file = folder.path / "proposals.jsonl"
    folder.append_proposal(damaged(proposals[0], proposals[-1]))
    file.write_bytes(file.read_bytes() + b'{"cell": "ab\n[]\n')
    assert printed() == before
    parts = "2 cut off or no proposal, 1 with a key that the settings and the seed do not have"
    line = f"{file}: 3 lines are passed over: {parts}"
    assert [record.message for record in caplog.records] == [line] * len(commands)
    # The bundle has what is whole.
    done = CliRunner().invoke(main, ["merge", str(tmp_path / "b"), "--out", str(tmp_path / "other")])
    assert done.exit_code == 0, done.output
    assert SweepFolder(tmp_path / "other", SWEEP).read_proposals() == proposals


BITS = [1.0, 0.0] * 180
ITEMS = {"test_accuracy": BITS, "test_accuracy_batch_statistics": BITS[::-1]}
WITH_ITEMS = dataclasses.replace(RECORD, items=ITEMS, items_digest="0123")


@pytest.mark.parametrize("values", [BITS, [0.25, -3.5, 2.0**100] * 300, [float(n) for n in range(1000)]])
def test_items_read_as_they_were_written_where_they_are_asked_for(tmp_path, values):
    record = dataclasses.replace(WITH_ITEMS, items={"b": values[::-1], "a": values})
    ledger = Ledger(tmp_path)
    ledger.write(record)
    bare, one = dataclasses.replace(record, items={}), dataclasses.replace(record, items={"a": values})
    assert ledger.read(record.key, "s") == bare
    assert ledger.read(record.key, "s", items=["a", "c"]) == one
    assert ledger.read(record.key, "s", items=None) == record
    assert ledger.find(record.key) == [record]
    wanted = [(record.key, "c")]
    assert ledger.read_all(wanted, "s") == {wanted[0]: bare}
    assert ledger.read_all(wanted, "s", items=["a"]) == {wanted[0]: one}


def test_records_with_items_are_read_in_one_go_with_records_of_before(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    ledger.write(WITH_ITEMS)
    older = dataclasses.replace(RECORD, key="ab12-02")
    path = ledger.write(older)
    pq.write_table(pq.read_table(path).drop_columns(["items_digest", "items"]), path)
    wanted = [(WITH_ITEMS.key, "c"), (older.key, "c")]
    expected = {wanted[0]: WITH_ITEMS, wanted[1]: older}
    assert ledger.read_all(wanted, "s", items=list(ITEMS)) == expected
    assert ledger.read_all(wanted, "s")[wanted[1]] == older
    # Where there are several files of one trial they are read one by one.
    ledger.write(dataclasses.replace(RECORD, state="failed", sweep="s", cell="c"))
    assert ledger.read_all(wanted, "s", items=list(ITEMS)) == expected


def test_ten_thousand_items_take_two_kilobytes(tmp_path):
    random.seed(0)
    bits = [float(random.random() < 0.5) for _ in range(10_000)]
    sizes = [
        Ledger(tmp_path / str(len(items))).write(dataclasses.replace(RECORD, items=items)).stat().st_size
        for items in ({}, {"test_accuracy": bits})
    ]
    assert sizes[1] - sizes[0] < 2_000


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([("a", [1.0, None])], "an item has no number"),
        ([("a", [1.0, float("nan")])], "an item has no number"),
        ([("a", [1.0]), ("b", [1.0, 0.0])], "items has entries of different lengths"),
        ([("a", [1.0]), ("a", [0.0])], "items has an entry twice"),
        ([("a", None)], "an item has no number"),
    ],
)
def test_items_that_are_none_are_damage_whether_they_are_asked_for_or_not(tmp_path, caplog, items, reason):
    path = Ledger(tmp_path).write(RECORD)
    table = pq.read_table(path)
    array = pa.array([items], SCHEMA.field("items").type)
    pq.write_table(table.set_column(table.schema.get_field_index("items"), "items", array), path)
    ledger = Ledger(tmp_path, is_read_only=True)
    assert ledger.read_all([(RECORD.key, "c")], "s") == {}
    assert ledger.read(RECORD.key, "s", items=None) is None
    assert reason in caplog.text


def test_only_confirm_trials_of_a_collected_sweep_have_items(tmp_path):
    synthetic = Synthetic(tmp_path, num_tune=2, num_seeds=2, axes={"depth": ["20"], "arm": ["plain"]})
    declaration = synthetic.write()
    folder, ledger = SweepFolder(tmp_path, declaration.sweep), Ledger(tmp_path)
    for proposal in folder.read_proposals():
        record = ledger.read(proposal.key, declaration.sweep, proposal.cell)
        ledger.path(proposal.key).unlink()
        ledger.write(dataclasses.replace(record, items=ITEMS, items_digest="0123"))
    for items in ((), ["test_accuracy"]):
        (trials,) = collect(declaration, folder.read_proposals(), ledger, items=items)
        kept = {"test_accuracy": BITS} if items else {}
        assert [record.items for _, record in trials.confirm] == [kept, kept]
        assert {record.items_digest for _, record in trials.confirm} == {"0123"}


def test_items_of_two_records_differ_by_their_metric():
    other = dataclasses.replace(WITH_ITEMS, items={**ITEMS, "test_accuracy": BITS[::-1]})
    assert differing_numbers(WITH_ITEMS, other) == ["items of test_accuracy"]
    assert differing_numbers(WITH_ITEMS, RECORD) == []
    text = other_numbers(WITH_ITEMS, other)
    assert text.startswith("items of test_accuracy is another list there")
