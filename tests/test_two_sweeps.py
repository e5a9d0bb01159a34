"""Sweeps that share trials, two at the same time and one after them, on one ledger and one MLflow store."""

import pytest
from gated_rows import NUM_TRIALS, GatedSweep
from mlflow.tracking import MlflowClient

from ablate.store.declaration import SweepFolder, collect
from ablate.store.ledger import Ledger


@pytest.mark.slow
def test_sweeps_share_trials_and_each_is_whole(tmp_path):
    sweeps = [GatedSweep(tmp_path, name=name, jobs=1) for name in ("first", "second", "third")]
    first, second, third = sweeps
    first.close()
    processes = [first.start(), second.start()]
    for sweep, process in zip((first, second), processes, strict=True):
        sweep.wait(lambda sweep=sweep: sweep.num_proposed() > 0, process)
    assert first.num_started() == 0, "both are under way, and neither has trained"
    first.open()
    for process in processes:
        _, errors = process.communicate(timeout=900)
        assert (process.returncode, errors) == (0, "")
    num_started = first.num_started()
    assert NUM_TRIALS <= num_started <= 2 * NUM_TRIALS
    done = third.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("in the ledger already") == NUM_TRIALS
    assert third.num_started() == num_started, "the third trains nothing"

    out = tmp_path / "runs"
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    tables = []
    for sweep in sweeps:
        folder = SweepFolder(out, sweep.name)
        cells = collect(folder.read_declaration(), folder.read_proposals(), Ledger(out))
        trials = [record for cell in cells for _, record in [*cell.tune, *cell.confirm]]
        assert all(record is not None and record.is_shared for record in trials)
        tables.append([(record.key, record.state, record.weights_digest, record.metrics) for record in trials])
        experiment = client.get_experiment_by_name(sweep.name)
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        tracked = [run.data.tags["ablate.trial"] for run in runs if run.data.tags["ablate.kind"] == "trial"]
        assert sorted(tracked) == sorted(record.key for record in trials), "each trial once in MLflow"
    assert tables[0] == tables[1] == tables[2]
    assert first.ledger().keys() == {f"{key}.parquet" for key, *_ in tables[0]}
    assert len(tables[0]) == NUM_TRIALS
    assert not (out / "ledger" / "aside").exists()
    assert not list((out / "ledger").rglob(".*.tmp"))
