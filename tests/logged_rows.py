"""A user's row that writes down every step of training: where it ran and when. `source` is a file for `imports:`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SOURCE = """
import json, os, time
import ray
import ablate, ablate.run.pack
from ablate.registry import Row, register

LOG, PAUSE_S = {log!r}, {pause_s!r}
ablate.run.pack.CHECKPOINT_EVERY_S = 0  # after every epoch

class Logged:
    weight_decay = 0.0
    def __init__(self, weights, config):
        self.lr = config.lr
    def add_gradient(self, moment):
        context = ray.get_runtime_context()
        with open(LOG, "a") as file:
            file.write(json.dumps({{
                "lr": self.lr, "step": moment.step, "pid": os.getpid(), "node": context.get_node_id(),
                "gpus": context.get_accelerator_ids().get("GPU", []), "time": time.time(),
                "ablate": ablate.__file__, "imported": __file__,
            }}) + "\\n")
        time.sleep(PAUSE_S)
    def after_step(self, moment):
        pass

register(Row(kind="regularizer", name="logged", target=Logged, summary="writes down every step"))
"""
# Four steps an epoch.
FILE = """
name: logged
imports: [mine.py]
fixed: {dataset: digits, width: 4, epochs: 6, batch_size: 256, depth: 8, regularizer: logged}
axes: {arm: {plain: {shortcut: none}, residual: {shortcut: identity}}}
tune: {lr: {low: 1e-3, high: 1, log: true}}
budget: {trials_per_cell: 2, pruner: none}
confirm: {seeds: 1}
"""
NUM_TRIALS, NUM_STEPS = 6, 24


def write_logged_sweep(folder: Path, pause_s: float) -> Path:
    """Write the sweep file and its import; return the file of the log."""
    log = folder / "log.jsonl"
    (folder / "mine.py").write_text(SOURCE.format(log=str(log), pause_s=pause_s))
    (folder / "logged.yaml").write_text(FILE)
    return log


def read_log(log: Path) -> list[dict[str, Any]]:
    """Return the steps so far, in the order of their time; a line that is being written is left out."""
    if not log.exists():
        return []
    lines = log.read_text().split("\n")[:-1]
    return sorted((json.loads(line) for line in lines), key=lambda step: step["time"])


def stretches(steps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the steps in stretches of one trial in one process without a gap."""
    found: list[list[dict[str, Any]]] = []
    for step in steps:
        for stretch in reversed(found):
            last = stretch[-1]
            if (last["pid"], last["lr"], last["step"] + 1) == (step["pid"], step["lr"], step["step"]):
                stretch.append(step)
                break
        else:
            found.append([step])
    return found
