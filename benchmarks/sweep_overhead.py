"""Orchestration seconds per trial, ours against plain Ray Tune with its defaults.

60 trivial trials (import torch, three reports) at 2 at a time. Ours is everything that a sweep does around its
training: TPE and the median pruner in every cell, proposals and ledger on the disk, MLflow, progress lines. The
configurations that it proposed are then the fixed list that plain Ray Tune runs. Seconds per trial count from the first
report of the first trial to the end; what comes before it is start-up and is given separately. `function` is a sweep of
a user's own function that reports as often, in the same cells.

    python benchmarks/sweep_overhead.py [--trials 60] [--jobs 2] [--profile]

The last line is JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUM_REPORTS = 3
NUM_CELLS = 4
FILE = f"""
name: overhead
fixed: {{epochs: {NUM_REPORTS}}}
axes: {{depth: [8, 14], shortcut: [none, identity]}}
tune:
  lr: {{low: 1e-4, high: 1, log: true}}
  optimizer: [sgd, adam]
confirm: {{seeds: 0}}
budget: {{trials_per_cell: TRIALS, pruner: median}}
"""
FUNCTION_FILE = FILE.replace(
    "name: overhead", "name: function\ntask: {function: own.py:train, objective: OBJECTIVE}"
).replace("OBJECTIVE", "{name: val_accuracy, direction: max, unit: percent}")
FUNCTION = f"""
import torch

def train(config, trial):
    value = float(torch.tensor(config.lr))
    (config.depth, config.shortcut, config.optimizer)
    for epoch in trial.steps(config.epochs):
        trial.report(val_accuracy=value * (epoch + 1) / {NUM_REPORTS})
"""


def trivial_trial(config: dict[str, Any]) -> None:
    """Ours: what the trainable of a sweep reports, without training."""
    import ray
    import torch
    from ray import tune

    from ablate.run.launch.trainable import MAILBOX

    task = dict(config["requests"][0])
    value = float(torch.tensor(task["settings"]["lr"]))
    mailbox, name = ray.get_actor(MAILBOX), tune.get_context().get_trial_id()
    num_epochs = 0
    for epoch in range(1, NUM_REPORTS + 1):
        tune.report({"epoch": epoch, "values": [value * epoch]})
        num_epochs = epoch
        if ray.get(mailbox.read.remote(name, epoch)):
            break
    is_complete = num_epochs == NUM_REPORTS
    record = {
        **task, "state": "complete" if is_complete else "pruned", "rows": {},
        "metrics": {"val_accuracy": value} if is_complete else {}, "num_epochs": num_epochs,
        "curves": {"val_accuracy": [value * epoch for epoch in range(1, num_epochs + 1)]},
    }  # fmt: skip
    tune.report({"epoch": 0, "records": [record], "done": True})


def plain_trial(config: dict[str, Any]) -> None:
    """Plain Ray Tune: the same work."""
    import torch
    from ray import tune

    value = float(torch.tensor(config["settings"]["lr"]))
    for epoch in range(1, NUM_REPORTS + 1):
        tune.report({"epoch": epoch, "val_accuracy": value * epoch})


class Rig:
    """A sweep with all that surrounds training but Ray: plan, studies, ledger, progress and, if asked for, MLflow."""

    def __init__(self, folder: Path, text: str, jobs: int, *, with_mlflow: bool, ended: Callable[[], None]) -> None:
        from rich.console import Console

        from ablate.run.plan import make_plan
        from ablate.run.progress import Progress
        from ablate.run.runner import study_runs
        from ablate.run.schedule import Schedule
        from ablate.store.ledger import Ledger
        from ablate.tracking.mirror import Mirror

        file = folder / "sweep.yaml"
        file.write_text(text, encoding="utf-8")
        self.plan = plan = make_plan(file, None, [], folder / "runs")
        plan.declare()
        self.mirror = Mirror(plan.out, plan.declaration, text) if with_mlflow else None
        progress = Progress(Console(file=open(os.devnull, "w", encoding="utf-8")), jobs)  # noqa: SIM115

        def listen(cell: Any, proposal: Any, record: Any, is_new: bool) -> None:
            progress.finished(cell, proposal, record, is_new)
            if self.mirror:
                self.mirror.finished(cell, proposal, record)
            ended()

        self.schedule = Schedule(plan.declaration, study_runs(plan), plan.folder, Ledger(plan.out), 1)
        self.schedule.listener = listen
        progress.schedule = self.schedule

    def run(self, jobs: int | None, address: str, trainable: Callable[[dict[str, Any]], None] | None) -> None:
        """Run the trials on Ray; `trainable` stands in for their training."""
        from ablate.run.launch.tuner import run_schedule
        from ablate.run.runner import _resources

        run_schedule(self.schedule, _resources(self.plan, jobs, "cpu", address), trainable)

    def close(self, timeout_s: float) -> int:
        """Let MLflow catch up; return how many trials it does not have."""
        return self.mirror.close(timeout_s) if self.mirror else 0


def ours(
    folder: Path,
    num_trials: int,
    jobs: int,
    profile: bool,
    with_mlflow: bool,
    text: str = FILE,
    trainable: Callable[[dict[str, Any]], None] | None = trivial_trial,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Run the sweep; return its times and the configurations that it proposed."""
    from ablate.run.launch.cluster import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # Ray reads it when it is imported
    from ablate.run.launch import adapters

    started = time.perf_counter()
    text = text.replace("TRIALS", str(num_trials // NUM_CELLS))
    rig = Rig(folder, text, jobs, with_mlflow=with_mlflow, ended=lambda: None)
    first: list[float] = []

    class Timed(adapters.CellPruning):
        def on_trial_result(self, *arguments: Any) -> str:
            first.append(time.perf_counter())
            return super().on_trial_result(*arguments)

    adapters.CellPruning = Timed  # type: ignore[misc]
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    rig.run(jobs, "local", trainable)
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(60)
    ended = time.perf_counter()
    num_left = rig.close(timeout_s=120)
    closed = time.perf_counter()
    count = rig.schedule.num_finished()
    if (count, num_left) != (num_trials, 0):
        raise SystemExit(f"{count} of {num_trials} trials ended, {num_left} are not in MLflow")
    settings = [proposal.settings for run in rig.schedule.studies for proposal in run.tune.values()]
    # MLflow is written by a thread; what it still has to write after the last trial belongs to the sweep.
    return _times(started, first[0], closed, num_trials) | {"mlflow_rest_s": closed - ended}, settings


def plain(folder: Path, settings: list[dict[str, Any]], jobs: int) -> dict[str, float]:
    """Run the same configurations with Ray Tune as it comes."""
    import ray
    from ray import tune

    started = time.perf_counter()
    ray.init(address="local", num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    first: list[float] = []

    class Clock(tune.Callback):
        def on_trial_result(self, *arguments: Any, **named: Any) -> None:
            first.append(time.perf_counter())

    tuner = tune.Tuner(
        plain_trial,
        param_space={"settings": tune.grid_search(settings)},
        tune_config=tune.TuneConfig(max_concurrent_trials=jobs),
        run_config=tune.RunConfig(name="plain", storage_path=str(folder / "plain"), callbacks=[Clock()]),
    )
    results = tuner.fit()
    ended = time.perf_counter()
    ray.shutdown()
    if len(results) != len(settings) or results.errors:
        raise SystemExit(f"{len(results)} of {len(settings)} trials ended, {len(results.errors)} with an error")
    return _times(started, first[0], ended, len(settings))


def in_fresh_process(folder: Path, settings: list[dict[str, Any]], jobs: int) -> dict[str, float]:
    """Run plain Ray Tune where nothing of ours has set an environment variable."""
    file = folder / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    command = [sys.executable, __file__, "--plain", str(file), "--jobs", str(jobs)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _times(started: float, first: float, ended: float, num_trials: int) -> dict[str, float]:
    return {"startup_s": first - started, "s_per_trial": (ended - first) / num_trials}


def main() -> None:
    """Measure both and print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="print where the driver spends its time; ours only")
    parser.add_argument("--without-mlflow", action="store_true", help="measure ours without the mirror, nothing else")
    parser.add_argument("--plain", type=Path, help="run the configurations of this JSON file with plain Ray Tune only")
    arguments = parser.parse_args()
    if arguments.plain:
        print(
            json.dumps(
                plain(arguments.plain.parent, json.loads(arguments.plain.read_text(encoding="utf-8")), arguments.jobs)
            )
        )
        return
    with tempfile.TemporaryDirectory(prefix="ablate-overhead-") as name:
        folder = Path(name)
        mine, settings = ours(folder, arguments.trials, arguments.jobs, arguments.profile, not arguments.without_mlflow)
        print("ours: " + ", ".join(f"{key} {value:.3f}" for key, value in mine.items()))
        if arguments.profile or arguments.without_mlflow:
            return
        own = Path(name) / "function"
        own.mkdir()
        (own / "own.py").write_text(FUNCTION, encoding="utf-8")
        called, _ = ours(own, arguments.trials, arguments.jobs, False, True, FUNCTION_FILE, None)
        print("function: " + ", ".join(f"{key} {value:.3f}" for key, value in called.items()))
        theirs = in_fresh_process(folder, settings, arguments.jobs)
        print("plain Ray Tune: " + ", ".join(f"{key} {value:.3f}" for key, value in theirs.items()))
    print(
        json.dumps(
            {
                "ours_s_per_trial": round(mine["s_per_trial"], 4),
                "function_s_per_trial": round(called["s_per_trial"], 4),
                "ray_default_s_per_trial": round(theirs["s_per_trial"], 4),
                "ratio": round(theirs["s_per_trial"] / mine["s_per_trial"], 1),
                "ours_startup_s": round(mine["startup_s"], 1),
                "ray_default_startup_s": round(theirs["startup_s"], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
