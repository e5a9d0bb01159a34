"""Sweeps of a user's own training: by a schedule without Ray, and whole ones on a real Ray cluster."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ray_nodes import RayNodes

import ablate
from ablate.errors import SweepStoppedError, UsageError
from ablate.report.build import build_report
from ablate.run.pack import Pack
from ablate.run.plan import make_plan
from ablate.run.reproduce import reproduce
from ablate.run.runner import Outcome, study_runs
from ablate.run.schedule import Schedule
from ablate.store.ledger import Ledger
from ablate.tasks import catalog

ROOT = Path(__file__).parent.parent
FILE = """
name: own
task: {function: mine.py:train, objective: {name: val_loss, direction: min}, metrics: [test_loss]}
fixed: {epochs: 3}
axes: {width: [1, 2, 4], arm: {plain: {}, heavy: {momentum: 0.5}}}
tune: {lr: {low: 0.01, high: 0.3, log: true}}
budget: {trials_per_cell: 3}
confirm: {seeds: 2}
report: {rows: width, columns: arm, baseline: plain}
"""
CODE = """
import random

def train(config, trial):
    w, velocity, momentum = random.gauss(0, 1), 0.0, config.get("momentum", 0.0)
    for step in trial.steps(config.epochs):
        for _ in range(5):
            velocity = momentum * velocity - config.lr * (w - 3) + random.gauss(0, 0.01)
            w += velocity
        trial.report(val_loss=abs(w - 3) / config.width)
    return {"test_loss": abs(w - 3) / config.width} if trial.is_confirm else {}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a sweep file and its code."""
    (tmp_path / "own.yaml").write_text(FILE)
    (tmp_path / "mine.py").write_text(CODE)
    sys.modules.pop("mine", None)
    return tmp_path


def scheduled(folder, *overrides, code=None):
    """Run a sweep in this process, one trial after the other; return its plan and how many trials ran."""
    if code is not None:
        (folder / "mine.py").write_text(textwrap.dedent(code))
        sys.modules.pop("mine", None)
    plan = make_plan(folder / "own.yaml", None, overrides, folder / "runs")
    plan.declare()
    schedule = Schedule(plan.declaration, study_runs(plan), plan.folder, Ledger(plan.out), plan.spec.budget.batch)
    num_ran = 0
    while (pack := schedule.next_pack()) is not None:
        task = catalog.from_reference(plan.spec.task.reference())
        decide = lambda epoch, values, pack=pack: set(schedule.on_values(pack, epoch, values))  # noqa: E731
        schedule.on_finished(pack, Pack(task, pack.requests, "cpu", provenance=task.provenance()).run(decide))
        num_ran += 1
    return plan, num_ran


def test_a_sweep_of_a_function_fills_its_table_and_runs_no_trial_twice(folder):
    plan, num_ran = scheduled(folder)
    assert num_ran == plan.declaration.num_trials == 6 * 5
    assert scheduled(folder)[1] == 0
    assert scheduled(folder, "confirm.seeds=3")[1] == 6
    made = build_report(folder / "runs", "own", folder / "report")
    assert "Test loss" in made.table
    assert [path.name for path in made.files if path.suffix == ".html"] == ["report.html"]


def test_a_trial_is_reproduced_bit_for_bit_while_its_code_is_what_it_was(folder, monkeypatch):
    monkeypatch.chdir(folder)
    scheduled(folder)
    key = ablate.load(folder / "runs").trials["key"][0]
    found = reproduce(folder / "runs", key, [], "cpu", 0.05, None, lambda line: None)
    assert found.is_exact
    (folder / "mine.py").write_text(CODE + "# changed\n")
    with pytest.raises(UsageError, match=r"the code of the sweep own has changed since: function@1\+\w+ is now"):
        reproduce(folder / "runs", key, [], "cpu", 0.05, None, lambda line: None)


def test_a_parameter_that_is_never_read_stops_the_sweep_now_and_the_next_time(folder):
    code = CODE.replace('config.get("momentum", 0.0)', "0.0")
    message = (
        "the sweep stopped: in width=.*, arm=heavy, the parameter 'momentum' was never read. Read: epochs, lr, width.\n"
        "A parameter that does nothing makes equal trials; `unread: allow` in `task` lets it be."
    )
    with pytest.raises(SweepStoppedError, match=message):
        scheduled(folder, code=code)
    with pytest.raises(SweepStoppedError, match=message):
        scheduled(folder)
    text = FILE.replace("metrics:", "unread: allow, metrics:")
    (folder / "own.yaml").write_text(text)
    num_before = len(list((folder / "runs" / "ledger" / "trials").rglob("*.parquet")))
    assert scheduled(folder)[1] == 30 - num_before


def test_an_error_of_all_first_trials_stops_the_sweep(folder):
    with pytest.raises(SweepStoppedError) as caught:
        scheduled(folder, code="def train(config, trial):\n    raise ValueError(f'no {config.width}')\n")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the sweep stopped: the first trials of 3 cells failed alike"
    assert lines[-1].endswith("mine.py:2: ValueError: no 2")
    assert str(caught.value).count("raise ValueError") == 1


def test_an_error_of_one_arm_leaves_the_others_to_run(folder):
    code = CODE.replace("trial):\n", "trial):\n    if 'momentum' in config:\n        raise ValueError\n", 1)
    _, num_ran = scheduled(folder, code=code)
    records = list(ablate.load(folder / "runs").trials["state"])
    assert (records.count("failed"), num_ran) == (3 * 3, 3 * 3 + 3 * 5)


def test_a_diverged_trial_wins_only_where_all_diverge(folder):
    code = CODE.replace("val_loss=abs(w - 3)", "val_loss=(float('nan') if config.lr > 0.03 else 1) * abs(w - 3)")
    scheduled(folder, code=code)
    frame = ablate.load(folder / "runs").trials
    assert {"complete", "diverged"} <= set(frame["state"])


def test_arms_that_do_the_same_are_named_before_and_after_they_ran(folder):
    text = FILE.replace("heavy: {momentum: 0.5}", "heavy: {momentum: 0.0}, idle: {momentum: 0}")
    (folder / "own.yaml").write_text(text)
    plan, _ = scheduled(folder)
    twins = "the cells width=1, arm=heavy and width=1, arm=idle do the same: their settings differ in nothing that"
    assert plan.warnings()[0].startswith(twins)
    assert len(plan.warnings()) == 3


def test_cells_that_gave_the_same_numbers_are_named_in_status_and_report(folder):
    from ablate.report.summary import status

    text = FILE.replace("tune: {lr: {low: 0.01, high: 0.3, log: true}}\n", "").replace(
        "epochs: 3", "epochs: 3, lr: 0.1"
    )
    (folder / "own.yaml").write_text(text.replace("metrics:", "unread: allow, metrics:"))
    scheduled(folder, code=CODE.replace('config.get("momentum", 0.0)', "0.0"))
    result = ablate.load(folder / "runs")
    said = "the cells width=1, arm=plain and width=1, arm=heavy gave the same numbers with the same seed and values: "
    assert any(line.startswith(said) for line in status(result.declaration, result.cells)["notices"])
    made = build_report(folder / "runs", "own", folder / "report")
    assert any(said[1:] in notice for notice in made.notices)


def test_optimizers_that_differ_in_weight_decay_alone_are_named_where_none_decays(tmp_path):
    (tmp_path / "two.yaml").write_text(
        "name: two\nfixed: {dataset: digits, depth: 8, epochs: 1, regularizer: none}\n"
        "axes: {optimizer: [adam, adamw]}\n"
        "tune: {lr: {low: 0.001, high: 0.1}}\nbudget: {trials_per_cell: 1}\n"
        "report: {baseline: adam}\n"
    )
    twins = "the cells optimizer=adam and optimizer=adamw do the same: their settings differ in nothing"
    for overrides, is_told in (([], True), (["fixed.regularizer=l2"], False)):
        warnings = make_plan(tmp_path / "two.yaml", None, overrides, tmp_path / "runs").warnings()
        assert any(line.startswith(twins) for line in warnings) == is_told


def test_what_changed_under_one_version_is_said(folder):
    (folder / "own.yaml").write_text(FILE.replace("metrics:", "version: 1, metrics:"))
    scheduled(folder)
    scheduled(folder, "confirm.seeds=3", code=CODE + "# changed\n")
    made = build_report(folder / "runs", "own", folder / "report")
    assert any("files changed under one version: 30 trials of" in notice for notice in made.notices)


class TestResult:
    def test_its_frames_have_numbers_where_the_axes_have(self, folder):
        scheduled(folder)
        result = ablate.load(folder / "runs", "own")
        assert result.table["width"].dtype.kind == result.trials["width"].dtype.kind == "i"
        assert list(result.table["width"]) == [1, 1, 2, 2, 4, 4]
        assert list(result.table.columns[:2]) == ["width", "arm"]
        assert len(result.trials) == 30
        assert set(result.curves.columns) >= {"width", "arm", "phase", "seed", "key", "epoch", "val_loss"}
        assert list(result.verdicts.columns[-4:]) == ["g", "verdict", "verdict_size", "verdict_doubts"]
        assert len(result.verdicts) == 3
        assert "<table" in result._repr_html_()
        assert result.report(folder / "page") == folder / "page" / "report.html"

    def test_an_unknown_sweep_and_an_empty_folder_are_told(self, folder):
        with pytest.raises(UsageError, match=r"no sweep in .*runs yet"):
            ablate.load(folder / "runs")
        scheduled(folder)
        with pytest.raises(UsageError, match="other"):
            ablate.load(folder / "runs", "other")


def test_import_ablate_imports_nothing_heavy():
    code = "import ablate, sys; print(dir(ablate)); print([n for n in ('torch', 'pandas', 'ray') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    names, heavy = done.stdout.splitlines()
    assert {"sweep", "load", "log"} <= set(json.loads(names.replace("'", '"')))
    assert heavy == "[]"


def test_what_is_wrong_in_a_call_is_told(folder):
    with pytest.raises(UsageError, match="name must be letters"):
        ablate.sweep(len, axes={"a": [1]}, objective="loss", direction="min", name="a b", out=folder / "runs")
    with pytest.raises(UsageError, match=r"is more or less better in loss\?"):
        ablate.sweep(["true", "{a}"], axes={"a": [1, 2]}, objective="loss", out=folder / "runs")
    with pytest.raises(AttributeError, match="module 'ablate' has no attribute 'swep'"):
        ablate.swep  # noqa: B018


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("studies", 0, "studies must be a whole number >= 1, but got 0"),
        ("studies", 2.5, "studies must be a whole number >= 1, but got 2.5"),
        ("studies", True, "studies must be a whole number >= 1, but got true"),
        ("trials", 0, "trials must be a whole number >= 1, but got 0"),
        ("seeds", -1, "seeds must be a whole number >= 0, but got -1"),
        (
            "studys",
            5,
            r"unknown argument 'studys' of ablate\.sweep\. Did you mean 'studies'\? Available: address, .*, version",
        ),
        ("task", "image_classification", r"unknown argument 'task' of ablate\.sweep\. "),
    ],
)
def test_a_wrong_argument_is_told_by_its_name_and_writes_nothing(folder, argument, value, message):
    given = {"axes": {"a": [1, 2]}, "objective": "loss", "direction": "min", "out": folder / "runs", argument: value}
    with pytest.raises(UsageError, match=message):
        ablate.sweep(["true", "{a}"], **given)
    assert not (folder / "runs").exists()


def test_a_call_warns_of_what_the_plan_warns_of(folder, caplog, monkeypatch):
    monkeypatch.setattr("ablate.run.runner.run_plan", lambda *_, **__: Outcome(0, 1, 0, ""))
    given = {"axes": {"a": [1, 2]}, "objective": "loss", "direction": "min", "tune": {"lr": ablate.log(0.1, 1)}}
    with pytest.raises(SweepStoppedError, match="0 of 50 trials have ended"):
        ablate.sweep(["true", "{a}", "{lr}"], **given, trials=4, out=folder / "runs")
    assert any("trials is 4: a study of fewer than 5" in record.message for record in caplog.records)


def run(folder, *arguments, script=None):
    command = [sys.executable, str(script)] if script else [sys.executable, str(ROOT / "cli.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


PYTHON = """
import sys
import ablate
from mine import train

if __name__ == "__main__":
    result = ablate.sweep(
        train, axes={"width": [1, 2]}, tune={"lr": ablate.log(0.01, 0.3)}, fixed={"epochs": 3}, studies=1, trials=3,
        seeds=2, objective="val_loss", direction="min", metric="test_loss", baseline=1, jobs=2,
    )
    print(result.table[["width", "n"]].to_json(orient="records"))
"""


@pytest.mark.slow
def test_a_sweep_that_began_in_python_goes_on_in_the_command_line_and_a_function_of_a_session_runs_too(folder):
    (folder / "call.py").write_text(PYTHON)
    done = run(folder, script="call.py")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [{"width": 1, "n": 2}, {"width": 2, "n": 2}]
    again = run(folder, "sweep", "runs/train.yaml", "--set", "confirm.seeds=3")
    assert again.returncode == 0, again.stderr
    assert "10 of 12 trials are in the ledger already" in again.stdout
    (folder / "session.py").write_text(
        "source = open('call.py').read().replace('from mine import train', open('mine.py').read())\n"
        "exec(compile(source.replace('jobs=2', 'jobs=1'), '<session>', 'exec'))\n"
    )
    session = run(folder, script="session.py")
    assert session.returncode == 0, session.stderr
    assert "train was defined in this session: code that it calls can change unseen" in session.stderr
    refused = run(folder, "sweep", "runs/train.yaml")
    assert refused.returncode == 2
    assert "this function was defined in a session of Python and lies in no file" in refused.stderr


@pytest.mark.slow
def test_a_sweep_of_a_function_stops_at_ctrl_c_and_goes_on_and_one_that_fails_says_so_once(folder):
    slow = CODE.replace("        trial.report", "        import time\n        time.sleep(0.2)\n        trial.report")
    (folder / "mine.py").write_text(slow)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "cli.py"), "sweep", "own.yaml", "--jobs", "2"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith(b"[4/30]"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    again = run(folder, "sweep", "own.yaml", "--jobs", "2")
    assert again.returncode == 0, again.stderr
    assert "trials are in the ledger already" in again.stdout
    (folder / "mine.py").write_text("def train(config, trial):\n    return config.widht\n")
    failed = run(folder, "sweep", "own.yaml", "--jobs", "2")
    assert failed.returncode == 1
    assert failed.stderr.count("Traceback") == 0
    assert failed.stderr.count("AttributeError: this trial has no parameter 'widht'. Did you mean 'width'?") == 1


@pytest.mark.slow
def test_workers_of_a_cluster_run_the_code_that_ray_brought_them(folder):
    (folder / "lab").mkdir()
    (folder / "lab" / "__init__.py").write_text("")
    (folder / "lab" / "parts.py").write_text("SCALE = 1.0\n")
    code = CODE.replace("import random", "import random\nfrom lab.parts import SCALE\nplace = __file__")
    (folder / "mine.py").write_text(
        code.replace("    w, velo", "    assert '/ablate_imports/code/' in place, place\n    w, velo")
    )
    with RayNodes([{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}]) as cluster:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **cluster.environment()}
        command = [sys.executable, str(ROOT / "cli.py"), "sweep", "own.yaml", "--address", cluster.address]
        options = ["--set", "axes.width=[1]", "--set", "budget.trials_per_cell=2"]
        done = subprocess.run(
            [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[8/8]" in done.stdout
