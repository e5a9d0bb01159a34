"""The MLflow mirror, against a real SQLite store and against one that is not there."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from mirrored import (
    make_cells,
    make_declaration,
    make_trial,
    mirrored,
    read_points,
    read_runs,
)
from mlflow.exceptions import MlflowException, RestException

from ablate.tracking import content
from ablate.tracking.mirror import Mirror
from ablate.tracking.outages import passes
from ablate.tracking.store import masked, open_client, open_experiment, plain_cause, tracking_uri
from ablate.tracking.view import VIEW_TAG


@pytest.fixture(autouse=True)
def _default_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store of the output folder that holds nothing yet: to make one takes longer than all that a test writes."""
    folder = tmp_path_factory.mktemp("empty")
    open_client(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def out(tmp_path, empty_store):
    """An output folder with an empty store."""
    shutil.copy(empty_store, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two cells that were mirrored once, and what close() said."""
    out = tmp_path_factory.mktemp("out with space")
    folder = out / "report"
    folder.mkdir()
    (folder / "report.html").write_text("<h1>A table</h1>")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        num_missed = mirrored(out, folder=folder)
    return out, num_missed


def test_a_sweep_becomes_a_tree_of_runs(store):
    out, num_missed = store
    _, experiment, runs = read_runs(out)
    assert num_missed == 0
    assert "Does it train?" in experiment.tags["mlflow.note.content"]
    assert "python cli.py sweep search_spaces/depth.yaml --profile smoke" in experiment.tags["mlflow.note.content"]
    assert set(runs) == {
        "summary",
        "depth=20 arm=plain",
        "depth=20 arm=ortho",
        *(("depth=20 arm=plain", name) for name in ("tune 0", "tune 1", "tune 2", "confirm 0", "confirm 1")),
        *(("depth=20 arm=ortho", name) for name in ("tune 0", "tune 1")),
    }
    assert runs["summary"].info.status == "KILLED"
    assert runs["depth=20 arm=plain"].info.status == "FINISHED"
    assert runs["depth=20 arm=ortho"].info.status == "KILLED"


def test_the_ui_is_told_which_columns_to_show(store):
    _, experiment, runs = read_runs(store[0])
    view = json.loads(experiment.tags["mlflow.sharedViewState.ablate"])
    expected = {"metrics.`confirmed_accuracy`", "params.`depth`", "params.`arm`", "params.`lr`", "tags.`state`"}
    assert expected <= set(view["selectedColumns"])
    assert view["orderByKey"] == "metrics.`confirmed_accuracy`"
    name = runs["depth=20 arm=plain", "tune 1"].info.run_name
    assert name == "tune 1 depth=20 arm=plain"


def test_a_trial_keeps_its_configuration_curves_and_cause(store):
    client, _, runs = read_runs(store[0])
    run = runs["depth=20 arm=plain", "confirm 0"]
    assert run.data.params == {"depth": "20", "arm": "plain", "dataset": "digits", "ortho": "false", "lr": "0.01"}
    expected = {"phase": "confirm", "number": "0", "seed": "0", "depth": "20", "arm": "plain", "state": "complete"}
    expected |= {"fingerprint": "print-0", "ablate.trial": "cell-20-plain-confirm-0", "git_sha": "abc123"}
    assert run.data.tags.items() >= expected.items()
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 6000)
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.2), (2, 0.5), (3, 0.6)]
    assert [point.timestamp - run.info.start_time for point in history] == [2000, 4000, 6000]
    assert run.data.metrics["test_accuracy"] == 0.55
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 1


def test_a_cell_has_the_metric_of_the_table_and_its_chance():
    name = "test_accuracy_batch_statistics"
    declaration = dataclasses.replace(make_declaration(), report={"metric": name})
    cell = make_cells()[0]
    confirmed = "confirmed_accuracy_batch_statistics"
    alone = content.cell_metrics(cell, declaration)
    assert (alone["confirmed_n"], alone[confirmed]) == (1, 0.1), "a seed without the metric is in no mean of the table"
    proposal, record = cell.confirm[0]
    metrics = {**record.metrics, name: 0.75}
    cell.confirm[0] = (proposal, dataclasses.replace(record, metrics=metrics))
    numbers = content.cell_metrics(cell, declaration)
    assert confirmed not in numbers
    assert (numbers["confirmed_min"], numbers["confirmed_max"]) == (0.1, 0.75), "the diverged seed is at chance"
    note = content.cell_note(cell, declaration)
    assert "Some confirm seeds trained and 1 of 2 collapsed (10.0% to 75.0%), so there is no mean." in note
    cell.confirm[1] = (cell.confirm[1][0], dataclasses.replace(record, metrics={**metrics, name: 0.65}))
    assert content.cell_metrics(cell, declaration)[confirmed] == pytest.approx(0.7)
    note = content.cell_note(cell, declaration)
    assert "Confirmed test accuracy batch statistics: 70.0% over 2 seeds (65.0% to 75.0%)." in note


def test_a_state_is_seen_in_the_status_and_the_tags(store):
    _, _, runs = read_runs(store[0])
    found = {name: runs["depth=20 arm=plain", name] for name in ("tune 1", "tune 2", "confirm 1")}
    assert [run.info.status for run in found.values()] == ["KILLED", "FAILED", "FINISHED"]
    assert found["tune 2"].data.tags["reason"] == "error"
    assert found["tune 2"].data.tags["mlflow.note.content"] == "it broke"
    assert found["confirm 1"].data.tags["diverged_at"] == "epoch 2 step 40 layer stem"


def test_a_cell_with_a_seed_that_diverged_and_one_that_trained_has_no_mean(store):
    _, _, runs = read_runs(store[0])
    run = runs["depth=20 arm=plain"]
    assert "confirmed_accuracy" not in run.data.metrics
    assert (run.data.metrics["confirmed_min"], run.data.metrics["confirmed_max"]) == (0.1, 0.55)
    assert run.data.metrics["num_collapsed"] == 0
    assert run.data.metrics["confirmed_n"] == 2
    assert run.data.metrics["num_diverged"] == 1
    assert run.data.metrics["best_val_accuracy"] == pytest.approx(0.6)
    assert run.data.tags["winner.lr"] == "0.01"
    note = run.data.tags["mlflow.note.content"]
    assert "Some confirm seeds trained and 1 of 2 collapsed (10.0% to 55.0%), so there is no mean." in note
    assert "Winner on validation data: tune 0 (lr 0.01)." in note
    assert run.data.params == {"depth": "20", "arm": "plain", "dataset": "digits", "ortho": "false"}


def test_the_summary_holds_the_resolved_file_and_the_report(store):
    client, experiment, runs = read_runs(store[0])
    run_id = runs["summary"].info.run_id
    assert {file.path for file in client.list_artifacts(run_id)} == {"resolved.yaml", "report"}
    assert [file.path for file in client.list_artifacts(run_id, "report")] == ["report/report.html"]
    assert experiment.artifact_location == str(store[0] / "mlartifacts" / "depth@smoke")


def test_a_replay_changes_nothing(out):
    mirrored(out)
    client, _, before = read_runs(out)
    points = read_points(client, before)
    assert mirrored(out) == 0
    _, _, after = read_runs(out)
    assert {name: run.info.run_id for name, run in after.items()} == {n: r.info.run_id for n, r in before.items()}
    assert read_points(client, after) == points
    for name, run in after.items():
        assert run.data.params == before[name].data.params
        assert run.data.tags == before[name].data.tags


@pytest.mark.parametrize("is_written", [False, True])
def test_a_run_that_a_crash_cut_off_is_completed(out, is_written):
    mirrored(out)
    client, _, runs = read_runs(out)
    points = read_points(client, runs)
    cut = runs["depth=20 arm=plain", "confirm 0"].info.run_id
    if not is_written:
        client.delete_tag(cut, "ablate.mirrored")
    client.update_run(cut, status="RUNNING")
    mirrored(out)
    after = read_runs(out)[2]
    run = after["depth=20 arm=plain", "confirm 0"]
    assert (run.info.run_id, run.info.status) == (cut, "FINISHED")
    assert read_points(client, after) == points


def test_a_failed_trial_that_ran_again_gets_a_new_run(out):
    mirrored(out)
    cells = make_cells()
    cells[0].tune[2] = make_trial(cells[0].cell, "tune", 2, finished_at="2026-01-03T00:00:00")
    mirrored(out, cells)
    run = read_runs(out)[2]["depth=20 arm=plain", "tune 2"]
    assert (run.data.tags["state"], run.info.status) == ("complete", "FINISHED")


def test_runs_of_a_sweep_that_got_an_axis_are_found_by_it_too(out):
    mirrored(out)
    before = {run.info.run_id for run in read_runs(out)[2].values()}
    cells = make_cells()
    for trials in cells:
        trials.cell.levels["norm"] = "batch"
    mirrored(out, cells)
    _, _, runs = read_runs(out)
    assert {run.info.run_id for run in runs.values()} == before
    name = "depth=20 arm=plain norm=batch"
    for run in (runs[name], runs[name, "tune 0"]):
        assert (run.data.tags["norm"], run.data.params["norm"]) == ("batch", "batch")
        assert run.data.params["depth"] == "20"


def test_an_earlier_winners_numbers_do_not_stay(out):
    cells = make_cells()
    cells[0].confirm[1] = make_trial(cells[0].cell, "confirm", 1)
    mirrored(out, cells)
    assert read_runs(out)[2]["depth=20 arm=plain"].data.metrics["confirmed_accuracy"] == pytest.approx(0.55)
    better = dataclasses.replace(cells[0].tune[0][1], state="complete", metrics={"val_accuracy": 0.9})
    cells[0].tune[0] = (cells[0].tune[0][0], better)
    cells[0].confirm.clear()
    mirrored(out, cells)
    metrics = read_runs(out)[2]["depth=20 arm=plain"].data.metrics
    assert metrics["best_val_accuracy"] == 0.9
    assert metrics["confirmed_accuracy"] != metrics["confirmed_accuracy"]
    assert metrics["confirmed_n"] == 0


def test_a_deleted_experiment_comes_back(out):
    mirrored(out)
    client, experiment, before = read_runs(out)
    client.delete_experiment(experiment.experiment_id)
    assert mirrored(out) == 0
    assert set(read_runs(out)[2]) == set(before)


def test_a_trial_takes_three_calls_and_its_last_one_ends_it(out, monkeypatch):
    calls = []

    class Counted:
        def __init__(self, uri):
            self.client = open_client(uri)

        def __getattr__(self, name):
            calls.append(name)
            return getattr(self.client, name)

    monkeypatch.setattr("ablate.tracking.client.open_client", Counted)
    cell = make_cells()[0].cell
    mirror = Mirror(out, make_declaration(), "")
    for number in range(3):
        mirror.finished(cell, *make_trial(cell, "tune", number))
    assert mirror.close(60) == 0
    last = len(calls) - 1 - calls[::-1].index("log_batch")
    assert calls[last - 4 : last + 2] == ["create_run", "log_batch", "set_terminated"] * 2


def test_what_is_too_much_for_one_call_is_written_whole(out):
    cells = make_cells()
    proposal, record = cells[0].tune[0]
    settings = {f"setting_{number}": number for number in range(150)}
    curves = {name: [value / 1000 for value in range(1, 801)] for name in ("val_accuracy", "train_accuracy")}
    cells[0].tune[0] = (proposal, dataclasses.replace(record, settings=settings, curves=curves, metrics={}))
    assert mirrored(out, cells) == 0
    client, _, runs = read_runs(out)
    run = runs["depth=20 arm=plain", "tune 0"]
    assert (run.info.status, run.data.tags["ablate.mirrored"][:8]) == ("FINISHED", "complete")
    assert run.data.params.items() >= {name: str(value) for name, value in settings.items()}.items()
    for name, curve in curves.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [point.value for point in sorted(history, key=lambda point: point.step)] == curve


def test_runs_are_found_beyond_the_first_page(out, monkeypatch):
    monkeypatch.setattr("ablate.tracking.client.PAGE", 2)
    mirrored(out)
    assert mirrored(out) == 0
    assert len(read_runs(out)[2]) == 10


def test_a_dead_store_stops_nothing_and_is_filled_later(out, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:1")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "ablate"):
        mirror = Mirror(out, make_declaration(), "")
        mirror.replay(make_cells())
        mirror.summary(None, make_cells())
        assert time.monotonic() - began < 5
        assert mirror.close(30) == 7
    assert time.monotonic() - began < 60
    assert len([record for record in caplog.records if record.name.startswith("ablate")]) == 1
    assert "secret" not in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert mirrored(out) == 0
    assert len(read_runs(out)[2]) == 10


def test_a_store_that_comes_back_gets_what_it_missed(out, monkeypatch):
    is_up = False
    refused = threading.Semaphore(0)

    def opened(*args):
        if not is_up:
            refused.release()
            raise ConnectionError("down")
        return open_client(*args)

    monkeypatch.setattr("ablate.tracking.client.open_client", opened)
    mirror = Mirror(out, make_declaration(), "", pause_s=0.1)
    mirror.replay(make_cells())
    assert all(refused.acquire(timeout=60) for _ in range(2))
    is_up = True
    assert mirror.close(60) == 0
    assert len(read_runs(out)[2]) == 10


def test_a_trial_that_the_store_refuses_holds_up_no_other(out, caplog):
    cells = make_cells()
    proposal, record = cells[0].tune[0]
    cells[0].tune[0] = (proposal, dataclasses.replace(record, settings={"bad\nname!": 1}))
    assert mirrored(out, cells) == 1
    assert "does not take" in caplog.text


REMEDIES = {
    "./mlruns": "set `MLFLOW_ALLOW_FILE_STORE=true` to opt out of this exception.",
    "old": "please consult your database's documentation for more detail.",
    "folder": "unable to open database file",
    "sqlite:////dev/null/x.db": "Not a directory: '/dev/null/x.new'",
    "text": "file is not a database",
    "foo://bar": "for how to run an MLflow server against one of the supported backend storage locations.",
    "postgresql+nodriver://me:secret@host/db": "Can't load plugin: sqlalchemy.dialects:postgresql.nodriver",
    "401": "failed with error code 401 != 200. Response body: 'who are you?'",
    "403": "failed with error code 403 != 200. Response body: 'who are you?'",
    "404": "failed with error code 404 != 200. Response body: 'who are you?'",
    "200": "the response body was not in a valid JSON format. Response body: 'who are you?'",
}


@pytest.fixture(scope="module")
def answering():
    """A web server that answers every request with the status that its address begins with."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path.split("/")[1]))
            self.end_headers()
            self.wfile.write(b"who are\nyou?")

        do_POST = do_GET  # noqa: N815 - http.server looks for this name

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://me:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def make_store(kind, folder, answering):
    """Return the URI of a store that is not as it should be."""
    file = folder / f"{kind}.db"
    if kind == "old":
        open_client(f"sqlite:///{folder}/new.db")
        shutil.copy(folder / "new.db", file)
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute("UPDATE alembic_version SET version_num = 'of_an_older_mlflow'")
            database.commit()
    elif kind == "folder":
        file.mkdir()
    elif kind == "text":
        file.write_text("no database at all " * 100)
    elif kind.isdecimal():
        return f"{answering}/{kind}"
    else:
        return kind
    return f"sqlite:///{file}"


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_store_that_refuses_for_good_is_told_with_its_whole_remedy(tmp_path, monkeypatch, caplog, answering, kind):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", make_store(kind, tmp_path, answering))
    mirror = Mirror(tmp_path, make_declaration(), "", pause_s=0.05)
    mirror.replay(make_cells())
    missed = mirror.close(60)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("ablate")]
    assert "they are kept in the ledger. It will not take them until this is mended: " in said
    assert said.endswith(REMEDIES[kind])
    assert "\n" not in said
    assert "secret" not in said
    assert mirror.missed_line(missed) == (
        "7 trials are in the ledger but not in MLflow, which refuses them. "
        "Mend what the warning above says; the next run then adds them."
    )


@pytest.mark.parametrize("kind", ["500", "502", "503", "429", "gone", "unknown", "database"])
def test_an_outage_is_told_as_one(tmp_path, monkeypatch, caplog, answering, kind):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = {
        "gone": "http://127.0.0.1:1", "unknown": "http://no.such.host.invalid",
        "database": "postgresql+psycopg2://me:secret@127.0.0.1:1/db",
    }.get(kind, f"{answering}/{kind}")  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mirror = Mirror(tmp_path, make_declaration(), "")
    mirror.replay(make_cells())
    missed = mirror.close(60)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("ablate")]
    assert "does not take the trials; the sweep goes on and they are kept in the ledger: " in said
    assert mirror.missed_line(missed) == "7 trials are in the ledger but not in MLflow yet; the next run adds them."
    assert mirror.missed_line(0) == ""


def of_server(code):
    return RestException({"error_code": code, "message": "what the server says"})


@pytest.mark.parametrize(
    ("error", "is_outage"),
    [
        (of_server("INTERNAL_ERROR"), True),
        (of_server("TEMPORARILY_UNAVAILABLE"), True),
        (of_server("REQUEST_LIMIT_EXCEEDED"), True),
        (of_server("INVALID_PARAMETER_VALUE"), False),
        (of_server("PERMISSION_DENIED"), False),
        (of_server("UNAUTHENTICATED"), False),
        (of_server("RESOURCE_DOES_NOT_EXIST"), False),
        (MlflowException("(psycopg2.InterfaceError) connection already closed", 1), True),
        (MlflowException("(psycopg2.errors.StringDataRightTruncation) value too long", 1), False),
        (sqlite3.OperationalError("database is locked"), True),
        (sqlite3.OperationalError("attempt to write a readonly database"), False),
        (sqlite3.OperationalError("database or disk is full"), False),
        (sqlite3.OperationalError("no such table: runs"), False),
        (ConnectionResetError("reset"), True),
        (TimeoutError("slow"), True),
        (PermissionError(13, "Permission denied"), False),
        (ModuleNotFoundError("No module named 'psycopg'"), False),
        (ValueError("Invalid IPv6 URL"), False),
    ],
)
def test_outages_and_refusals_are_told_apart(error, is_outage):
    assert passes(error) == is_outage


def test_a_refusal_after_an_outage_is_told_too(tmp_path, monkeypatch, caplog):
    errors = [ConnectionError("down"), ValueError("wrong")]
    monkeypatch.setattr("ablate.tracking.client.open_client", Mock(side_effect=[*errors, *[errors[1]] * 100]))
    mirror = Mirror(tmp_path, make_declaration(), "", pause_s=0.01)
    mirror.replay(make_cells())
    mirror.settle(20)
    mirror.close(60)
    causes = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert causes == ["down", "wrong"]


def test_what_mlflow_takes_only_so_long_is_shortened_and_whole_in_the_artifact(out):
    question = "why? " * 10_000 + "\0" * 3
    cells = make_cells()
    for trials in cells:
        trials.cell.levels.update({f"an_axis_of_a_long_name_{number}": "x" * 90 for number in range(20)})
    declaration = dataclasses.replace(make_declaration(), question=question, cells=[trials.cell for trials in cells],
                                      axes={f"{'a' * 90}{number}": ["1"] for number in range(300)})  # fmt: skip
    assert mirrored(out, cells, declaration=declaration) == 0
    client = open_client(tracking_uri(out))
    experiment = client.get_experiment_by_name("depth@smoke")
    runs = client.search_runs([experiment.experiment_id])
    (summary,) = [run for run in runs if run.data.tags["ablate.kind"] == "summary"]
    assert len(experiment.tags["mlflow.note.content"]) <= 20_000
    assert "… (the rest is in resolved.yaml)" in experiment.tags["mlflow.note.content"]
    assert "python cli.py sweep" in experiment.tags["mlflow.note.content"]
    assert summary.data.tags["mlflow.note.content"].endswith("The report is among the artifacts: report/report.html.")
    assert len(experiment.tags[VIEW_TAG]) <= 20_000
    assert json.loads(experiment.tags[VIEW_TAG])["selectedColumns"][0] == "metrics.`confirmed_accuracy`"
    # Columns of PostgreSQL; SQLite takes any length.
    assert max(len(run.info.run_name) for run in runs) == content.MAX_NAME_LENGTH


@pytest.mark.parametrize("axis", ["sgd+momentum", "phase", "number", "state", "ablate.kind", "mlflow.parentRunId"])
def test_an_axis_of_any_name_costs_no_run_and_makes_none_twice(out, axis):
    cells = make_cells()
    for trials in cells:
        trials.cell.levels[axis] = "level"
    for _ in range(3):
        assert mirrored(out, cells) == 0
    runs = read_runs(out)[2]
    assert len(runs) == 10
    trial = runs[f"depth=20 arm=ortho {axis}=level", "tune 0"]
    assert trial.data.params[content.metric_name(axis)] == "level"
    assert trial.data.tags["phase"] == "tune"


def test_closing_waits_no_longer_than_it_is_told(out, monkeypatch):
    is_up = threading.Event()

    def opened(*args):
        is_up.wait(60)
        return open_client(*args)

    monkeypatch.setattr("ablate.tracking.client.open_client", opened)
    monkeypatch.setattr("ablate.tracking.mirror.GRACE_S", 0.1)
    began = time.monotonic()
    mirror = Mirror(out, make_declaration(), "")
    mirror.replay(make_cells())
    assert mirror.close(0.2) == 7
    assert time.monotonic() - began < 30
    is_up.set()
    mirror._thread.join(60)
    assert mirror.close(0) == 7


def test_after_closing_nothing_new_begins(tmp_path, monkeypatch):
    """Python may end then, and a thread in the midst of SQLAlchemy's work would break."""
    num_opened = 0

    def opened(*args):
        nonlocal num_opened
        num_opened += 1
        time.sleep(0.5)
        raise ConnectionError("down")

    monkeypatch.setattr("ablate.tracking.client.open_client", opened)
    mirror = Mirror(tmp_path, make_declaration(), "", pause_s=0.0)
    mirror.replay(make_cells())
    assert mirror.close(0.2) == 7
    assert not mirror._thread.is_alive()
    assert num_opened == 1


def test_a_trial_that_was_being_written_is_the_last(tmp_path, monkeypatch):
    written = []

    def write(runs, *_):
        time.sleep(0.5)
        written.append(runs)

    monkeypatch.setattr(
        "ablate.tracking.mirror.SweepRuns", lambda *_: SimpleNamespace(trial=functools.partial(write, 1))
    )
    mirror = Mirror(tmp_path, make_declaration(), "")
    mirror.replay(make_cells())
    assert mirror.close(0.2) == 6
    assert not mirror._thread.is_alive()
    assert written == [1]


def test_the_first_opening_prints_nothing(tmp_path):
    code = "import sys; from ablate.tracking.store import open_client; open_client(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/mlflow.db"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_importing_the_mirror_loads_no_mlflow():
    code = "import sys, ablate.tracking.mirror, ablate.tracking.ui; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_experiment_on_a_server_gets_no_local_artifact_folder():
    class Recorder:
        def __getattr__(self, name):
            return lambda *args, **kwargs: made.append((name, kwargs)) if name == "create_experiment" else None

    made = []
    open_experiment(Recorder(), "http://host:5000", Path("out"), make_declaration())
    assert made == [("create_experiment", {"artifact_location": None})]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("sqlite:////out/mlflow.db", "sqlite:////out/mlflow.db"),
    ],
)
def test_a_password_is_not_printed(uri, shown):
    assert masked(uri) == shown
    assert plain_cause(OSError(f"cannot open {uri}\nbecause"), uri) == f"cannot open {shown}"


def test_a_long_value_and_an_odd_name_are_made_to_fit():
    assert len(content.text("x" * 7000)) == content.MAX_VALUE_LENGTH
    assert content.text([0, 0.1]) == "[0, 0.1]"
    assert content.metric_name("rank[stem]") == "rank_stem_"
    assert content.milliseconds("") is None


def test_a_store_whose_making_was_cut_off_is_made_anew(tmp_path):
    (tmp_path / "mlflow.new").write_bytes(b"half a store")
    assert mirrored(tmp_path) == 0
    assert len(read_runs(tmp_path)[2]) == 10
    assert not (tmp_path / "mlflow.new").exists()
