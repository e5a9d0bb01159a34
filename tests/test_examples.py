"""The examples run as a user runs them, and go on in Python as on the command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import ablate
from ablate import starters

ROOT = Path(__file__).parent.parent
REDUCED = ["--set", "budget.studies=1", "--set", "budget.trials=2", "--set", "confirm.seeds=2"]
LESS = {"transformer": ["--set", "fixed.updates_per_round=3"], "function": ["--set", "fixed.epochs=6"]}
CELLS = {
    "function": {("full",), ("full-standardise",), ("full-skip",), ("full-dropout",)},
    "transformer": {(positions, norm) for positions in ("learned", "none") for norm in ("pre", "post")},
    "command": {(momentum, averaging) for momentum in (0.0, 0.9) for averaging in ("none", "polyak")},
}
pytestmark = pytest.mark.slow


def command(*arguments, cwd):
    """Run the command line in a folder."""
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=900,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def records(folder):
    """Return the names of the records in the ledger with the times at which they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "runs/ledger/trials").rglob("*.parquet")}


@pytest.mark.parametrize("kind", CELLS)
def test_an_example_makes_its_table_and_a_rerun_starts_no_trial(tmp_path, kind):
    (file,) = (path.name for path in starters.write(kind, tmp_path) if path.suffix == ".yaml")
    arguments = ["sweep", file, *REDUCED, *LESS.get(kind, [])]
    first = command(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    result = ablate.load(tmp_path / "runs")
    table = result.table
    assert {tuple(row) for row in table[list(result.declaration.axes)].itertuples(index=False)} == CELLS[kind]
    assert table["n"].tolist() == [2] * len(CELLS[kind])
    assert table["mean"].notna().all()
    trials = result.trials
    assert len(trials) == 4 * len(CELLS[kind])
    shown = result.declaration.report["metric"]
    assert trials.groupby("phase")[shown].apply(lambda values: values.notna().all()).to_dict() == {
        "confirm": True, "tune": False,
    }  # fmt: skip
    before = records(tmp_path)
    again = command(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(trials)} of {len(trials)} trials are in the ledger already" in again.stdout
    assert records(tmp_path) == before


def test_the_notebook_runs_from_top_to_bottom_and_again_without_a_trial(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (path,) = starters.write("notebook", tmp_path)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace("studies=5", "studies=1, seeds=2").replace("trials=6", "trials=2")
    run_notebook(notebook, tmp_path)
    shown = "".join(
        str(output.get("data", {}).get("text/html", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "<b>Test accuracy</b>: momentum" in shown
    assert len(re.findall(r"\(n=2\)", shown)) == 3
    assert ablate.load(tmp_path / "runs").table["momentum"].tolist() == [0.0, 0.5, 0.9]
    before = records(tmp_path)
    assert len(before) == 12
    run_notebook(notebook, tmp_path)
    assert records(tmp_path) == before


def run_notebook(notebook, folder):
    """Execute a notebook in a folder."""
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


LINE = """
def train(config, trial):
    trial.report(val_rmse=abs(config.lr - 0.1) + config.scale)
    return {"test_rmse": config.lr + trial.seed % 7} if trial.is_confirm else {}
"""
CALL = """
import ablate
from line import train

result = ablate.sweep(
    train, axes={"scale": [1, 2]}, tune={"lr": ablate.log(0.01, 0.3)}, objective="val_rmse", direction="min",
    metric="test_rmse", baseline=1, studies=1, trials=2, seeds=2,
)
print(len(result.trials), "trials")
"""
FILE = """
name: line
task: {function: line.py:train, objective: {name: val_rmse, direction: min}, metrics: [test_rmse]}
axes: {scale: [1, 2]}
tune: {lr: {low: 0.01, high: 0.3, log: true}}
budget: {studies: 1, trials: 2}
confirm: {seeds: 2}
report: {baseline: 1}
"""


@pytest.mark.parametrize("is_python_first", [True, False], ids=["python first", "command line first"])
def test_a_sweep_goes_on_in_the_command_line_as_in_python(tmp_path, is_python_first):
    (tmp_path / "line.py").write_text(LINE)
    (tmp_path / "call.py").write_text(CALL)
    (tmp_path / "line.yaml").write_text(FILE)

    def in_python():
        return subprocess.run(
            [sys.executable, "call.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600,
            env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def on_the_command_line():
        # The file that ablate.sweep wrote, or one written by hand, under another name.
        file = "runs/train.yaml" if is_python_first else "line.yaml"
        return command("sweep", file, cwd=tmp_path)

    first, second = (in_python, on_the_command_line) if is_python_first else (on_the_command_line, in_python)
    done = first()
    assert done.returncode == 0, done.stdout + done.stderr
    before = records(tmp_path)
    assert len(before) == 8
    again = second()
    assert again.returncode == 0, again.stdout + again.stderr
    assert records(tmp_path) == before
    if is_python_first:
        assert "8 of 8 trials are in the ledger already" in again.stdout
    else:
        assert "8 trials" in again.stdout


@pytest.mark.parametrize(
    "call", ["ablate.sweep(train, **asked)", "def main():\n    ablate.sweep(train, **asked)\nmain()"]
)
def test_a_call_that_every_worker_would_make_too_is_refused_with_its_line(tmp_path, call):
    asked = "asked = dict(axes={'scale': [1, 2]}, objective='val_rmse', direction='min')"
    (tmp_path / "line.py").write_text(f"import ablate\n{LINE}\n{asked}\n{call}\n")
    done = subprocess.run(
        [sys.executable, "line.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    line = (tmp_path / "line.py").read_text().count("\n")
    message = (
        f"{tmp_path}/line.py:{line}: every worker imports this file for the function, and would make this call too"
    )
    assert f'{message}: put it below `if __name__ == "__main__":`' in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_file_that_breaks_while_a_sweep_runs_is_told_as_it_is(tmp_path):
    breaks = "def train(config, trial):\n    open(__file__, 'w').write('def train(:')\n    trial.report(val_rmse=1)\n"
    (tmp_path / "line.py").write_text(breaks)
    (tmp_path / "line.yaml").write_text(FILE.replace(", metrics: [test_rmse]", ", unread: allow"))
    done = command("sweep", "line.yaml", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"failed: error: .*line\.py:1: invalid syntax", done.stdout), done.stdout + done.stderr
    assert "infrastructure" not in done.stdout
    status = command("status", cwd=tmp_path)
    assert "damaged" not in status.stdout + status.stderr
