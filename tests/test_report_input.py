"""What cannot be reported is one clear line and exit code 2, through the command line; nothing is written then."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from synthetic import ARMS, DEPTHS, Synthetic

from ablate.commands import main
from ablate.store.declaration import SweepFolder

SWEEP = "depth_ablation@smoke"
EVERY = [(arm, depth, seed) for arm in ARMS for depth in DEPTHS for seed in range(3)]


def invoke(out, to, *arguments):
    return CliRunner().invoke(main, ["report", *arguments, "--out", str(out), "--to", str(to)])


def run(folder, *arguments):
    return invoke(folder / "runs", folder / "report", *arguments)


def refused(folder, *arguments):
    """Run a report that must be refused and return its message."""
    done = run(folder, *arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "report").exists()
    return done.stderr.rstrip()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished sweep of which MLflow knows one cell."""
    folder = tmp_path_factory.mktemp("whole")
    Synthetic(folder / "runs").write()
    (folder / "runs" / SWEEP / "mlflow_runs.json").write_text('{"experiment": "7", "cells": {"cell0": "ab12"}}')
    return folder


def test_an_output_folder_without_sweeps(tmp_path):
    assert refused(tmp_path).startswith(f"no sweep in {tmp_path / 'runs'} yet. Run: python cli.py sweep FILE --out ")
    assert refused(tmp_path, SWEEP).startswith(f"no sweep in {tmp_path / 'runs'} yet. Run: ")


def test_a_sweep_that_was_only_declared(tmp_path):
    SweepFolder(tmp_path / "runs", SWEEP).write_declaration(Synthetic(tmp_path).declaration(), "")
    assert refused(tmp_path).startswith(
        f"sweep '{SWEEP}' has no finished confirm trial yet: 0 of 81 trials are finished. To go on, run: python cli.py"
    )


@pytest.mark.parametrize("state", ["waiting", "running", "failed"])
def test_a_sweep_of_which_no_confirm_trial_has_a_result(tmp_path, state):
    Synthetic(tmp_path / "runs", confirm=dict.fromkeys(EVERY, state)).write()
    assert f"sweep '{SWEEP}' has no finished confirm trial yet" in refused(tmp_path)


def test_a_ledger_of_which_nothing_can_be_read(tmp_path):
    Synthetic(tmp_path / "runs").write()
    files = list((tmp_path / "runs" / "ledger").rglob("*.parquet"))
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
    done = run(tmp_path)
    assert done.exit_code == 2
    assert "has no finished confirm trial yet: 0 of 81 trials are finished" in done.stderr
    # A report moves nothing: the next sweep does.
    assert all(file.exists() for file in files)
    assert not (tmp_path / "runs" / "ledger" / "aside").exists()


@pytest.mark.parametrize(
    "content", ["", '{"schema_version": 2', "[]", '{"schema_version": 2}', '{"schema_version": "99"}']
)
def test_a_damaged_declaration(tmp_path, content):
    Synthetic(tmp_path / "runs").write()
    (tmp_path / "runs" / SWEEP / "declaration.json").write_text(content)
    assert refused(tmp_path, SWEEP).startswith(f"cannot read {tmp_path / 'runs' / SWEEP / 'declaration.json'}: ")


def test_a_declaration_of_a_newer_program_is_told_as_its_records_are(tmp_path):
    Synthetic(tmp_path / "runs").write()
    file = tmp_path / "runs" / SWEEP / "declaration.json"
    file.write_text('{"schema_version": 99}')
    for command in (["report", SWEEP, "--to", str(tmp_path / "report")], ["status", SWEEP]):
        done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "runs")])
        assert (done.exit_code, done.stdout) == (1, "")
        told = "its schema version 99 is newer than 5, which this program reads; update the program"
        assert done.stderr == f"cannot read {file}: {told}\n"


def test_half_written_proposals_leave_out_what_they_cut_off(tmp_path):
    Synthetic(tmp_path / "runs").write()
    file = tmp_path / "runs" / SWEEP / "proposals.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    done = run(tmp_path)
    assert done.exit_code == 0, done.output
    assert "1 of 9 cells is unfinished: plain+ortho at depth 110." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dept_ablation"], f"no sweep 'dept_ablation' in {{out}}. Did you mean '{SWEEP}'? Available: {SWEEP}"),
        (["--rows", "dept"], "--rows must be an axis, but got 'dept'. Did you mean 'depth'? Available: arm, depth"),
        (["--columns", "am"], "--columns must be an axis, but got 'am'. Did you mean 'arm'? Available: arm, depth"),
        (["--rows", "arm", "--columns", "arm"], "--rows and --columns must be two axes, but got 'arm' for both"),
        (["--metric", "tst_accuracy"], "no confirm trial recorded a metric 'tst_accuracy'. Did you mean 'test_acc"),
        (["--metric", "val_loss"], "no confirm trial recorded a metric 'val_loss'. "),
        (["missing.yaml"], "missing.yaml: cannot read the sweep file: No such file"),
        (["--check"], "there is nothing to check: the sweep file has no 'claims'"),
    ],
)
def test_what_was_asked_for_is_not_there(whole, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = invoke(whole / "runs", "report", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(message.format(out=whole / "runs"))
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_written(whole, tmp_path):
    (tmp_path / "file").write_text("")
    done = invoke(whole / "runs", tmp_path / "file" / "report")
    assert done.exit_code == 2
    assert done.stderr == f"cannot write the report to {tmp_path / 'file' / 'report'}: Not a directory\n"


def hrefs(folder):
    text = (folder / "report.html").read_text()
    return [part.partition('"')[0] for part in text.split('<a href="')[1:]]


@pytest.mark.parametrize(
    ("uri", "asked", "server"),
    [
        ("", None, "http://127.0.0.1:5000"),
        ("sqlite:////home/alice/mlflow.db", None, "http://127.0.0.1:5000"),
        ("http://localhost:5001/", None, "http://localhost:5001"),
        ("http://me:secret@127.0.0.1:5001", None, "http://127.0.0.1:5001"),
        ("http://[::1]:5001", None, "http://[::1]:5001"),
        ("", "http://127.0.0.1:5001/", "http://127.0.0.1:5001"),
        ("http://127.0.0.1:5001", "https://mlflow.example.org/a", "https://mlflow.example.org/a"),
    ],
)
def test_the_links_of_the_page_follow_the_server(whole, tmp_path, monkeypatch, uri, asked, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = invoke(whole / "runs", tmp_path, *(["--mlflow-url", asked] if asked else []))
    assert done.exit_code == 0, done.output
    assert hrefs(tmp_path) == [f"{server}/#/experiments/7/runs/ab12?workflowType=machine_learning"]
    page = (tmp_path / "report.html").read_text()
    assert f"Each entry leads to its run in MLflow at <code>{server}</code>" in page
    assert "secret" not in page
    assert "note: the entries" not in done.stdout


def test_a_server_elsewhere_is_told_in_the_page_only_if_asked(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    done = invoke(whole / "runs", tmp_path)
    assert "note: the entries of the page have no links: MLFLOW_TRACKING_URI names another machine" in done.stdout
    assert hrefs(tmp_path) == []
    assert b"example.org" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:5000", "ftp://host", "https://me:secret@host", "https://host/?token=secret", "http://[::1", ""]
)
def test_an_address_that_cannot_be_shown(whole, tmp_path, url):
    done = invoke(whole / "runs", tmp_path, "--mlflow-url", url)
    assert done.exit_code == 2
    assert done.stderr.startswith("--mlflow-url must be an address such as https://mlflow.example.org:5000, without a ")
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.output
    assert not list(tmp_path.iterdir())


def test_links_that_mlflow_left_half_written_are_none(whole, tmp_path):
    Synthetic(tmp_path / "runs").write()
    file = tmp_path / "runs" / SWEEP / "mlflow_runs.json"
    for content in ('{"experiment": "7", "cel', json.dumps({"experiment": "7", "cells": {"cell0": '"><script>'}})):
        file.write_text(content)
        assert run(tmp_path).exit_code == 0
        assert hrefs(tmp_path / "report") == []
