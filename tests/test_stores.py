"""PostgreSQL as MLflow's store without a server before it: the driver itself knows the password then."""

from __future__ import annotations

import logging

import pytest
from gated_rows import NUM_TRIALS, GatedSweep
from mirrored import mirrored, read_points, read_runs
from services import POSTGRES_SECRET, Postgres


@pytest.fixture(scope="module")
def postgres():
    database = Postgres()
    try:
        database.start()
        yield database
    finally:
        database.remove()


def check_no_secret(folder, printed):
    assert POSTGRES_SECRET not in printed
    for file in (file for file in folder.rglob("*") if file.is_file()):
        assert POSTGRES_SECRET.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_a_database_that_was_away_is_filled_later_and_its_password_is_nowhere(postgres, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri)
    postgres.stop()
    try:
        with caplog.at_level(logging.DEBUG, "ablate"):
            assert mirrored(tmp_path) == 7
    finally:
        postgres.start()
    assert "MLflow at postgresql+psycopg2://ablate:***@127.0.0.1" in caplog.text
    check_no_secret(tmp_path, caplog.text)
    assert mirrored(tmp_path) == 0
    client, _, runs = read_runs(tmp_path)
    assert len(runs) == 10
    points = read_points(client, runs)
    assert mirrored(tmp_path) == 0
    after = read_runs(tmp_path)[2]
    assert {name: run.info.run_id for name, run in after.items()} == {n: r.info.run_id for n, r in runs.items()}
    assert read_points(client, after) == points


@pytest.mark.slow
def test_a_sweep_whose_store_refuses_ends_well_and_says_what_to_mend(tmp_path):
    sweep = GatedSweep(tmp_path, MLFLOW_TRACKING_URI="./mlruns")
    sweep.arguments += ["--set", "budget.trials_per_cell=1"]
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    warning, last = done.stderr.splitlines()
    assert "It will not take them until this is mended: The filesystem tracking backend" in warning
    assert warning.endswith("to opt out of this exception.")
    assert last == (
        "4 trials are in the ledger but not in MLflow, which refuses them. "
        "Mend what the warning above says; the next run then adds them."
    )


@pytest.mark.slow
def test_a_sweep_says_no_password_also_when_the_database_is_away(postgres, tmp_path):
    sweep = GatedSweep(tmp_path, MLFLOW_TRACKING_URI=postgres.uri)
    postgres.stop()
    try:
        missed = sweep.run()
    finally:
        postgres.start()
    assert missed.returncode == 0, missed.stderr
    assert "MLflow at postgresql+psycopg2://ablate:***@127.0.0.1" in missed.stderr
    assert f"{NUM_TRIALS} trials are in the ledger but not in MLflow yet; the next run adds them." in missed.stderr
    assert "Traceback" not in missed.stderr
    assert len(missed.stderr.splitlines()) == 2
    again = sweep.run()
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert sweep.num_started() == NUM_TRIALS
    check_no_secret(tmp_path, missed.stdout + missed.stderr + again.stdout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", postgres.uri)
        runs = read_runs(sweep.out, "gated")[2]
    kinds = [run.data.tags["ablate.kind"] for run in runs.values()]
    assert (kinds.count("summary"), kinds.count("cell"), kinds.count("trial")) == (1, 2, NUM_TRIALS)
