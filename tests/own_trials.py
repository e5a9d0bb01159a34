"""Trials of users' own training in this process: sweep files, functions and scripts."""

import sys
import textwrap
import time
from pathlib import Path

import pytest

from ablate.errors import SpecError
from ablate.run.pack import Pack, Request
from ablate.sweepfile.spec import load_spec
from ablate.tasks import catalog

FILE = """
name: own
task: {TASK}
fixed: {epochs: 4}
axes: {scale: [1, 0.5]}
tune: {lr: {low: 0.01, high: 0.3, log: true}}
budget: {trials_per_cell: 3}
confirm: {seeds: 2}
report: {baseline: 1}
"""
OBJECTIVE = "objective: {name: val_rmse, direction: min}"
TASK = f"{{function: code.py:train, {OBJECTIVE}, metrics: [test_rmse]}}"
CODE = """
import random
import other

def train(config, trial):
    w = random.gauss(0, 1)
    state = trial.load()
    if state is not None:
        w = state["w"]
    for step in trial.steps(config.epochs):
        w -= config.lr * other.slope(w - 3 * config.scale) + random.gauss(0, 0.1)
        trial.report(val_rmse=abs(w - 3))
        trial.save({"w": w})
    return {"test_rmse": abs(w - 3) + 0.01}
"""
OTHER = "def slope(x):\n    return 2 * x\n"


def write(folder, code=CODE, task=TASK, file=FILE):
    """Write a sweep file with its code; return its path."""
    (folder / "code.py").write_text(textwrap.dedent(code))
    (folder / "other.py").write_text(OTHER)
    path = folder / "own.yaml"
    path.write_text(file.replace("{TASK}", task))
    return path


def task_of(path):
    """Return the task of a sweep file as a worker makes it."""
    sys.modules.pop("code", None)
    sys.modules.pop("other", None)
    return catalog.from_reference(load_spec(path).task.reference())


def request(settings, phase="confirm", seed=5):
    """Return a request for a trial."""
    return Request(key="k", fingerprint="f", seed=seed, phase=phase, settings=settings, data_digest="")


def ran(path, phase="confirm", *, settings=None, report=lambda *_: set(), checkpoints=None, seed=5):
    """Run one trial in this process and return its record."""
    settings = {"epochs": 4, "scale": 1.0, "lr": 0.1} if settings is None else settings
    (record,) = Pack(task_of(path), [request(settings, phase, seed)], "cpu", None, checkpoints).run(report)
    return record


def body(*lines):
    """Return the code of a function with this body."""
    return "import math, os, sys, time\n\ndef train(config, trial):\n" + textwrap.indent("\n".join(lines), "    ")


def refused(tmp_path, **parts):
    """Return the mistakes of a sweep file."""
    with pytest.raises(SpecError) as caught:
        load_spec(write(tmp_path, **parts))
    return str(caught.value)


SCRIPT = """
import argparse, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--scale", type=float)
parser.add_argument("--seed", type=int)
given = parser.parse_args()
print("starting")
for step in range(4):
    print(json.dumps({"step": step, "val_rmse": abs(given.lr * given.scale - 1) / (step + 1)}))
print(json.dumps({"test_rmse": given.seed % 7 + 0.5}))
"""
COMMAND = (
    f'{{command: [python, script.py, --lr, "{{lr}}", --scale, "{{scale}}", --seed, "{{seed}}"], {OBJECTIVE}, '
    "metrics: [test_rmse]}"
)
COMMAND_FILE = FILE.replace("fixed: {epochs: 4}\n", "")
SETTINGS = {"scale": 1.0, "lr": 0.1}


def write_script(folder, script=SCRIPT, task=COMMAND):
    """Write a sweep file with a script."""
    (folder / "script.py").write_text(textwrap.dedent(script))
    return write(folder, task=task, file=COMMAND_FILE)


def wait_until_gone(pid):
    """Wait until a process is no more than a zombie."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is there still")
