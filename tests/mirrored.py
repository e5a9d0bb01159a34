"""Cells with trials of every state for the MLflow mirror, and what a store holds of them afterwards."""

from __future__ import annotations

from ablate.store.declaration import CellTrials, Declaration, DeclaredCell, Proposal
from ablate.store.record import TrialRecord
from ablate.tasks.image_classification.config import OBJECTIVE, measured
from ablate.tracking.mirror import Mirror
from ablate.tracking.store import open_client, tracking_uri

VAL = measured({"num_classes": 10})[1]
ACCURACIES = [0.2, 0.5, 0.6]


def make_cell(depth, arm):
    levels = {"depth": str(depth), "arm": arm}
    settings = {"depth": depth, "dataset": "digits", "ortho": arm == "ortho"}
    return DeclaredCell(key=f"cell-{depth}-{arm}", levels=levels, settings=settings, tuned=["lr"])


def make_trial(cell, phase, number, state="complete", **changes):
    settings = {**cell.settings, "lr": 0.01 * (number + 1)}
    key = f"{cell.key}-{phase}-{number}"
    proposal = Proposal(cell=cell.key, phase=phase, number=number, key=key, seed=number, settings=settings)
    metrics = {"val_accuracy": ACCURACIES[-1] + number / 100}
    if phase == "confirm":
        metrics["test_accuracy"] = 0.55
    values = {
        "key": key,
        "fingerprint": f"print-{number}",
        "seed": number,
        "phase": phase,
        "state": state,
        "settings": settings,
        "rows": {},
        "data_digest": "d",
        "metrics": metrics if state == "complete" else {},
        "curves": {"val_accuracy": ACCURACIES, "train_loss": [2.0, float("nan"), float("inf")]},
        "num_epochs": 3,
        "duration_s": 6.0,
        "provenance": {"git_sha": "abc123"},
        "started_at": f"2026-01-02T03:0{number}:05+00:00",
        "finished_at": f"2026-01-02T03:0{number}:11+00:00",
        **changes,
    }
    return proposal, TrialRecord(**values)


def make_cells():
    """Two cells of three tune and two confirm trials, among them every state."""
    plain, ortho = make_cell(20, "plain"), make_cell(20, "ortho")
    diverged = {"state": "diverged", "diverged_epoch": 2, "diverged_step": 40, "diverged_layer": "stem"}
    tune = [
        make_trial(plain, "tune", 0),
        make_trial(plain, "tune", 1, "pruned"),
        make_trial(plain, "tune", 2, "failed", reason="error", message="it broke"),
    ]
    confirm = [make_trial(plain, "confirm", 0), make_trial(plain, "confirm", 1, **diverged)]
    other_tune = [make_trial(ortho, "tune", 0), make_trial(ortho, "tune", 1), (make_trial(ortho, "tune", 2)[0], None)]
    return [CellTrials(plain, tune, confirm, objective=VAL), CellTrials(ortho, other_tune, [], objective=VAL)]


def make_declaration(sweep="depth@smoke"):
    return Declaration(
        sweep=sweep,
        name="depth",
        profile="smoke",
        question="Does it train?",
        axes={"depth": ["20"], "arm": ["plain", "ortho"]},
        cells=[trials.cell for trials in make_cells()],
        num_tune=3,
        num_seeds=2,
        sampler="tpe",
        pruner="none",
        seed=0,
        report={"baseline": "plain", "metric": "test_accuracy"},
        tune={},
        data={"num_classes": 10},
        metrics=measured({"num_classes": 10}),
        objective=OBJECTIVE,
        file="search_spaces/depth.yaml",
    )


def mirrored(out, cells=None, folder=None, declaration=None):
    mirror = Mirror(out, declaration or make_declaration(), "name: depth\n")
    mirror.replay(cells or make_cells())
    mirror.summary(folder, cells or make_cells())
    return mirror.close(60)


def read_runs(out, sweep="depth@smoke"):
    client = open_client(tracking_uri(out))
    experiment = client.get_experiment_by_name(sweep)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.info.run_id: run.info.run_name for run in runs}
    named = {}
    for run in runs:
        parent = parents.get(run.data.tags.get("mlflow.parentRunId"))
        name = (parent, run.info.run_name.removesuffix(f" {parent}")) if parent else run.info.run_name
        assert name not in named, f"{name} is there twice"
        named[name] = run
    return client, experiment, named


def read_points(client, runs):
    histories = {
        (name, metric): client.get_metric_history(run.info.run_id, metric)
        for name, run in runs.items()
        for metric in run.data.metrics
    }
    return {at: sorted((p.step, p.timestamp, p.value) for p in history) for at, history in histories.items()}
