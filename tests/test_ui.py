"""The UI command: a real server on loopback over a store that the mirror wrote."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from ablate.errors import UsageError
from ablate.store.declaration import CellTrials, Declaration, DeclaredCell, Proposal
from ablate.store.record import TrialRecord
from ablate.tasks.image_classification.config import OBJECTIVE, measured
from ablate.tracking.mirror import Mirror
from ablate.tracking.ui import open_ui, ui_command

OPEN = """
import sys
from pathlib import Path
from ablate.tracking.ui import open_ui
open_ui(Path(sys.argv[1]), "depth@smoke", int(sys.argv[2]), lambda line: print(line, flush=True))
"""


@pytest.fixture(autouse=True)
def _default_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    cell = DeclaredCell(key="c", levels={"arm": "plain"}, settings={"depth": 20}, tuned=["lr"])
    proposal = Proposal(cell="c", phase="tune", number=0, key="k", seed=0, settings={"depth": 20, "lr": 0.1})
    record = TrialRecord(
        key="k",
        fingerprint="f",
        seed=0,
        phase="tune",
        state="complete",
        settings=proposal.settings,
        rows={},
        data_digest="d",
        metrics={"val_accuracy": 0.5},
    )
    declaration = Declaration(
        sweep="depth@smoke",
        name="depth",
        profile="smoke",
        question="?",
        axes={"arm": ["plain"]},
        cells=[cell],
        num_tune=1,
        num_seeds=1,
        sampler="random",
        pruner="none",
        seed=0,
        report={"metric": "test_accuracy"},
        tune={},
        data={"num_classes": 10},
        metrics=measured({"num_classes": 10}),
        objective=OBJECTIVE,
    )
    folder = out / "report"
    folder.mkdir()
    (folder / "report.html").write_text("<h1>A table</h1>")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        mirror = Mirror(out, declaration, "name: depth\n")
        mirror.finished(cell, proposal, record)
        mirror.summary(folder, [CellTrials(cell, [(proposal, record)], [], objective=declaration.tuned_metric)])
        assert mirror.close(60) == 0
    return out


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetch(port, path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_the_ui_serves_the_sweep_until_it_is_interrupted(store, port):
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(store), str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        link = process.stdout.readline()
        experiment = re.fullmatch(rf"depth@smoke: http://127\.0\.0\.1:{port}/#/experiments/(\d+)/runs\?\S+\n", link)[1]
        assert f"mlflow ui --backend-store-uri sqlite:///{store}/mlflow.db" in process.stdout.readline()
        assert "<html" in fetch(port, "/")
        shown = json.loads(fetch(port, f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}"))
        assert shown["experiment"]["name"] == "depth@smoke"
        query = {"experiment_ids": [experiment], "filter": "tags.\"ablate.kind\" = 'summary'"}
        (run,) = json.loads(fetch(port, "/api/2.0/mlflow/runs/search", query))["runs"]
        artifact = f"/get-artifact?path=report/report.html&run_uuid={run['info']['run_id']}"
        assert fetch(port, artifact) == "<h1>A table</h1>"
        with pytest.raises(UsageError, match=rf"port {port} on 127\.0\.0\.1 is taken\. Try: --port \d+"):
            open_ui(store, "depth@smoke", port, print)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_no_store_is_a_usage_error(tmp_path, port):
    with pytest.raises(UsageError, match=r"no MLflow store in .* yet"):
        open_ui(tmp_path, "depth", port, print)


def test_an_unknown_sweep_names_the_known_ones(store, port):
    with pytest.raises(UsageError, match=r"no sweep 'depth' in MLflow at sqlite.*Did you mean 'depth@smoke'"):
        open_ui(store, "depth", port, print)


def test_a_server_that_does_not_answer_is_a_usage_error(tmp_path, monkeypatch, port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    with pytest.raises(UsageError, match=r"cannot read MLflow at http://me:\*\*\*@127\.0\.0\.1:1"):
        open_ui(tmp_path, "depth", port, print)


def test_a_store_that_refuses_is_told_with_its_whole_remedy(tmp_path, monkeypatch, port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(UsageError, match=r"^cannot read MLflow at \./mlruns: .* to opt out of this exception\.$"):
        open_ui(tmp_path, "depth", port, print)


def test_a_running_server_is_linked_to_and_none_is_started(tmp_path, monkeypatch, port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org/")
    monkeypatch.setattr("ablate.tracking.ui._experiment_id", lambda uri, sweep: "7")
    lines = []
    open_ui(tmp_path, "depth", port, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("https://mlflow.example.org/#/experiments/7/runs?")


def test_a_password_is_kept_out_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    assert "secret" not in " ".join(ui_command(tmp_path, 5000))
