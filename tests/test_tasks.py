"""The seam: a task that is no image runs through everything, where torch cannot be imported."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toy_task import FILE, Line, LineTask

from ablate.errors import SpecError, UsageError
from ablate.run.pack import Pack, Request
from ablate.sweepfile.spec import load_spec
from ablate.tasks import catalog
from ablate.tasks.base import Task
from ablate.tasks.image_classification.task import TASK
from ablate.tasks.parameters import FIRST_TASK

ROOT = Path(__file__).parent.parent
REFUSED = ("torch", "torchvision")


@pytest.fixture
def folder(tmp_path):
    """A folder with the sweep file, the task's file, and modules that stand in for torch and cannot be imported."""
    (tmp_path / "line.yaml").write_text(FILE)
    shutil.copy(Path(__file__).parent / "toy_task.py", tmp_path)
    for name in REFUSED:
        (tmp_path / "refused" / name).mkdir(parents=True)
        (tmp_path / "refused" / name / "__init__.py").write_text("raise AssertionError('torch must not be imported')")
    return tmp_path


def run(folder, *arguments, code=0):
    paths = [str(folder / "refused"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
    command = [sys.executable, str(ROOT / "cli.py"), *arguments, "--out", "runs"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_task_without_torch_runs_from_its_file_to_the_report(folder):
    planned = run(folder, "plan", "line.yaml")
    assert "data: a line with noise, 50 test points" in planned
    assert "time and memory: not probed" in planned
    first = run(folder, "sweep", "line.yaml", "--jobs", "2", "--set", "confirm.seeds=1")
    assert "15 of 15 trials" in first or "[15/15]" in first
    again = run(folder, "sweep", "line.yaml", "--jobs", "2")
    assert "15 of 21 trials are in the ledger already" in again
    records = [pq.read_table(file).to_pylist()[0] for file in folder.glob("runs/ledger/trials/*/*.parquet")]
    assert len(records) == 21
    assert {record["task"].partition("+")[0] for record in records} == {"line@1"}
    assert all(re.fullmatch(r"line@1\+[0-9a-f]{12}", record["task"]) for record in records)
    declaration = json.loads((folder / "runs" / "line" / "declaration.json").read_text())
    assert {record["data_digest"] for record in records} == {declaration["data"]["digest"]}
    status = json.loads(run(folder, "status", "--json"))
    assert status["sweep"] == "line"
    report = run(folder, "report")
    page = (folder / "reports" / "line" / "report.html").read_text()
    table = (folder / "reports" / "line" / "table.md").read_text()
    for text in (page, table):
        assert "Test rmse" in text
        assert not re.search("chance|accuracy|images", text, re.IGNORECASE)
    assert "a line with noise, 50 test points" in page
    assert "heavy beats plain by at least 0.0001 in test_rmse" in page
    assert "report.html" in report
    key = next(record["key"] for record in records if record["phase"] == "confirm")
    assert "the numbers agree bit for bit" in run(folder, "reproduce", key, "--import", "toy_task.py")
    assert "Rows and tasks of your own need --import FILE" in run(folder, "reproduce", key, code=2)


def test_what_a_tune_trial_measures_on_test_data_is_dropped(tmp_path):
    class Leaky(Line):
        def measure(self, is_confirmed):
            return super().measure(True)

    task = LineTask()
    settings = task.parameters.resolve({"epochs": 2})
    data = task.prepare(settings, tmp_path)
    points = json.loads(data.path.read_bytes())
    found = {}
    for phase in ("tune", "confirm"):
        asked = Request(key=phase, fingerprint="f", seed=1, phase=phase, settings=settings, data_digest=data.digest)
        pack = Pack(task, [asked], "cpu", start=lambda request: Leaky(request.settings, request.seed, points))
        (found[phase],) = pack.run()
    assert [record.state for record in found.values()] == ["complete", "complete"]
    assert set(found["tune"].metrics) == {"train_rmse", "val_rmse"}
    assert set(found["confirm"].metrics) == {"train_rmse", "val_rmse", "test_rmse"}
    assert found["tune"].task == "line@1"


def test_an_unknown_task_is_told_at_its_place(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\ntask: image_clasification\nbudget: {trials_per_cell: 1}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "a.yaml")
    assert str(caught.value).endswith(
        "a.yaml:2:7: unknown task 'image_clasification'. Did you mean 'image_classification'? "
        f"Available: {', '.join(sorted(catalog.names()))}"
    )


def test_a_name_is_taken_once():
    with pytest.raises(UsageError, match="task 'line' is registered already"):
        catalog.register_task(LineTask())

    class Other(LineTask):
        name = "image_classification"

    with pytest.raises(UsageError, match="task 'image_classification' is registered already"):
        catalog.register_task(Other())


def test_another_version_of_a_task_has_other_keys_and_the_first_one_those_of_before():
    class Mended(type(TASK)):
        version = 2

    settings = TASK.parameters.resolve({})
    assert TASK.stamp == FIRST_TASK
    assert Mended().fingerprint(settings, "d") != TASK.fingerprint(settings, "d")
    stamps = TASK.parameters.stamps(settings)
    assert TASK.fingerprint(settings, "d") == TASK.parameters.fingerprint(settings, stamps, "d")


def test_a_task_says_little_that_it_need_not():
    """What a task must write itself is what nothing else can know."""
    assert Task.__abstractmethods__ == {"start"}
