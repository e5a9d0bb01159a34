"""MLflow's tracking server with PostgreSQL and an S3 store behind it: a sweep is mirrored to it through its faults.

All of them are real processes. That a fault was where it should be is seen in the ledger, in what the sweep says and in
the log of PostgreSQL.
"""

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from command_line import FILE, command, ledger_files, wait_for
from gated_rows import NUM_TRIALS as GATED_TRIALS
from gated_rows import GatedSweep
from mlflow.tracking import MlflowClient
from services import POSTGRES_SECRET, S3_SECRET, MlflowServer, Postgres, s3_objects, s3_server

pytestmark = pytest.mark.slow
OPTIONS = ("--set", "budget.trials_per_cell=4", "--set", "confirm.seeds=1", "--set", "fixed.epochs=20", "--jobs", "1")
NUM_TRIALS = 10
WARNING = "does not take the trials; the sweep goes on and they are kept in the ledger"


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """PostgreSQL, an S3 store and the MLflow server on top of both."""
    postgres = Postgres()
    with s3_server("artifacts") as s3:
        server = MlflowServer(postgres.uri, "s3://artifacts/mlflow", s3, tmp_path_factory.mktemp("server") / "log")
        try:
            postgres.start()
            server.start()
            yield postgres, server, s3
        finally:
            server.stop()
            postgres.remove()


class RunningSweep:
    """A sweep that runs; it has a name of its own, because the server is shared. What it says is in files."""

    def __init__(self, folder: Path, name: str, server: MlflowServer) -> None:
        self.folder, self.name, self.server = folder, name, server
        (folder / "tiny.yaml").write_text(FILE.replace("name: tiny", f"name: {name}"))
        with (folder / "output").open("w") as output, (folder / "errors").open("w") as errors:
            self.process = subprocess.Popen(
                command("sweep", "tiny.yaml", *OPTIONS), cwd=folder, stdout=output, stderr=errors,
                env={**os.environ, "MLFLOW_TRACKING_URI": server.uri},
            )  # fmt: skip

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def errors(self) -> str:
        return (self.folder / "errors").read_text()

    def has_mirrored_a_trial(self) -> bool:
        client = MlflowClient(self.server.uri)
        experiment = client.get_experiment_by_name(self.name)
        return experiment is not None and bool(
            client.search_runs([experiment.experiment_id], "tags.`ablate.mirrored` != '' and tags.state != ''")
        )

    def end(self) -> None:
        assert self.process.wait(400) == 0, self.output + self.errors
        assert "Traceback" not in self.output + self.errors


def check_gap(sweep: RunningSweep, stop, start) -> None:
    """Break something when trials are mirrored, mend it when the sweep has noticed; it must end as if nothing was."""
    wait_for(sweep.has_mirrored_a_trial, sweep.process, timeout=900)
    stop()
    wait_for(lambda: WARNING in sweep.errors, sweep.process, timeout=900)
    assert sweep.process.poll() is None
    assert len(ledger_files(sweep.folder)) < NUM_TRIALS
    start()
    sweep.end()
    assert "not in MLflow yet" not in sweep.errors
    check_runs(sweep.name, sweep.server, sweep.folder)


def check_runs(
    name: str, server: MlflowServer, folder: Path, num_trials: int = NUM_TRIALS, num_epochs: int = 20
) -> None:
    """Check that MLflow holds every trial of the ledger once, finished, with its whole curve."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert Counter(run.data.tags["ablate.kind"] for run in runs) == {"summary": 1, "cell": 2, "trial": num_trials}
    trials = [run for run in runs if run.data.tags["ablate.kind"] == "trial"]
    keys = {file.partition("~")[0].removesuffix(".parquet") for file in ledger_files(folder)}
    assert {run.data.tags["ablate.trial"] for run in trials} == keys
    assert len({run.data.tags["ablate.trial"] for run in trials}) == num_trials
    for run in trials:
        assert run.info.status in ("FINISHED", "KILLED")
        history = client.get_metric_history(run.info.run_id, "val_accuracy")
        steps = [point.step for point in history]
        assert steps == sorted(set(steps))
        if run.data.tags["state"] == "complete":
            assert steps == list(range(1, num_epochs + 1))
    (summary,) = [run for run in runs if run.data.tags["ablate.kind"] == "summary"]
    assert {"resolved.yaml", "report"} <= {entry.path for entry in client.list_artifacts(summary.info.run_id)}
    page = Path(client.download_artifacts(summary.info.run_id, "report/report.html", str(folder)))
    assert page.read_bytes() == (folder / "runs" / name / "report" / "report.html").read_bytes()


def test_postgres_restarted_in_the_middle_costs_no_run_and_makes_none_twice(services, tmp_path):
    postgres, server, s3 = services
    sweep = RunningSweep(tmp_path, "restarted", server)
    check_gap(sweep, postgres.stop, postgres.start)
    assert "received immediate shutdown request" in postgres.log()
    artifacts = s3_objects(s3, "artifacts")
    assert any(key.startswith("mlflow/") and key.endswith("report/report.html") for key in artifacts)
    # Neither password is in what the sweep wrote or said.
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        assert POSTGRES_SECRET.encode() not in content, file
        assert S3_SECRET.encode() not in content, file


def test_a_server_that_is_down_for_a_minute_is_told_what_it_missed_while_the_sweep_goes_on(services, tmp_path):
    server = services[1]
    sweep = GatedSweep(tmp_path, name="minute", jobs=1, MLFLOW_TRACKING_URI=server.uri)
    process = sweep.start_until(1)
    sweep.wait(lambda: num_mirrored("minute", server) == len(sweep.ledger()) > 0, process)
    server.stop()
    stopped_at, num_before = time.monotonic(), len(sweep.ledger())
    sweep.open()
    sweep.wait_for_trials(num_before + 2, process)
    sweep.close()
    time.sleep(max(0.0, 60 - (time.monotonic() - stopped_at)))
    server.start()
    # No trial ends now: what comes is what was kept.
    sweep.wait(lambda: num_mirrored("minute", server) == len(sweep.ledger()), process)
    assert num_before + 2 <= len(sweep.ledger()) < GATED_TRIALS
    sweep.open()
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, output + errors
    (line,) = errors.splitlines()
    assert WARNING in line
    assert sweep.num_started() == GATED_TRIALS
    check_runs("minute", server, tmp_path, GATED_TRIALS, 3)


def num_mirrored(name: str, server: MlflowServer) -> int:
    """Return how many trials of a sweep MLflow holds whole."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    whole = "tags.`ablate.kind` = 'trial' and tags.`ablate.mirrored` != ''"
    return len(client.search_runs([experiment.experiment_id], whole)) if experiment is not None else 0


def test_a_server_that_is_down_for_the_whole_sweep_is_told_by_the_next_run(services, tmp_path):
    server = services[1]
    server.stop()
    try:
        first = RunningSweep(tmp_path, "absent", server)
        first.end()
    finally:
        server.start()
    assert f"{NUM_TRIALS} trials are in the ledger but not in MLflow yet; the next run adds them." in first.errors
    before = ledger_files(tmp_path)
    second = RunningSweep(tmp_path, "absent", server)
    second.end()
    assert f"{NUM_TRIALS} of {NUM_TRIALS} trials are in the ledger already" in second.output
    assert second.errors == ""
    assert ledger_files(tmp_path) == before
    check_runs("absent", server, tmp_path)
    links = json.loads((tmp_path / "runs" / "absent" / "mlflow_runs.json").read_text())
    assert len(links["cells"]) == 2
