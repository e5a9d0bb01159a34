"""How long a report takes on ledgers of 1,000, 10,000 and 50,000 trials of 100 epochs in 100 cells.

    python benchmarks/report_scale.py [--trials 1000 10000 50000] [--folder DIR]

The ledgers are synthetic: written through the project's own interfaces, with made-up numbers. The report has each of
its sections: claims, links, diverged and pruned trials, and diagnostics of 20 layers for one confirm seed a cell
(`--without-diagnostics`: none). Each report is the whole command, in a process of its own. The last line is JSON:
{"seconds": {trials: …}, "cpu_seconds": …, "peak_mib": …}; CPU and memory are the command's and its second process's
together, and seconds of CPU tell the cost where the machine has other work to do.
"""

import argparse
import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ablate.store.declaration import MLFLOW_RUNS, Declaration, DeclaredCell, DeclaredClaim, Proposal, SweepFolder
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.tasks.image_classification.config import OBJECTIVE, measured
from ablate.tasks.image_classification.methods.diagnostics import MEASURES

ROOT = Path(__file__).resolve().parent.parent
DEPTHS, ARMS, SEEDS, EPOCHS = range(8, 133, 5), ("plain", "ortho", "modulation", "residual"), 5, 100
LAYERS = 20
DATA = {"dataset": "digits", "digest": "d", "num_train": 1077, "num_val": 360, "num_test": 360, "num_classes": 10,
        "image_shape": [1, 8, 8]}  # fmt: skip
RUN = """
import resource, sys
sys.argv = ["ablate", *sys.argv[1:]]
from ablate.commands import main
try:
    main()
finally:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(sum(usage.ru_utime + usage.ru_stime for usage in usages), file=sys.stderr)
"""


def make_ledger(out, num_trials, with_diagnostics):
    num_tune = num_trials // 100 - SEEDS
    cells = [
        DeclaredCell(key=f"cell{depth}{arm}", levels={"depth": str(depth), "arm": arm},
                     settings={"dataset": "digits", "width": 8, "depth": depth}, tuned=["lr", "weight_decay"])
        for depth in DEPTHS for arm in ARMS
    ]  # fmt: skip
    declaration = Declaration(
        sweep="scale", name="scale", profile="", question="Does the report scale?",
        axes={"depth": [str(depth) for depth in DEPTHS], "arm": list(ARMS)}, cells=cells, num_tune=num_tune,
        num_seeds=SEEDS, sampler="tpe", pruner="median", seed=0,
        report={"rows": "depth", "columns": "arm", "metric": "test_accuracy", "baseline": "plain"},
        tune={"lr": {"low": 1e-3, "high": 1.0, "log": True}, "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True}},
        file="scale.yaml", history=["0123456789ab"], data=DATA, metrics=measured(DATA), objective=OBJECTIVE,
        claims=[DeclaredClaim(text="residual beats plain at depth 8", axis="arm", better="residual", worse="plain",
                              margin=0.0, levels={"depth": "8"}, design="d", hash="h", num_seeds=SEEDS, looks=[SEEDS])],
    )  # fmt: skip
    SweepFolder(out, "scale").write_declaration(declaration, "name: scale\n")
    runs = {"experiment": "1", "cells": {cell.key: f"{index:032x}" for index, cell in enumerate(cells)}}
    (out / "scale" / MLFLOW_RUNS).write_text(json.dumps(runs), encoding="utf-8")
    ledger, rng = Ledger(out), np.random.default_rng(0)
    with (out / "scale" / "proposals.jsonl").open("w", encoding="utf-8") as file:
        for index, cell in enumerate(cells):
            settings, best = {}, {}
            for number in range(num_tune + SEEDS):
                phase = "tune" if number < num_tune else "confirm"
                if phase == "tune":
                    lr, decay = (float(10**x) for x in rng.uniform((-3, -6), (0, -2)))
                    settings = {**cell.settings, "lr": lr, "weight_decay": decay}
                    best = settings if number == 0 else best
                record = make_record(rng, index, number, phase, best if phase == "confirm" else settings, num_tune)
                proposal = Proposal(cell=cell.key, phase=phase, number=number if phase == "tune" else number - num_tune,
                                    key=record.key, seed=record.seed, settings=record.settings)  # fmt: skip
                file.write(json.dumps(vars(proposal)) + "\n")
                if with_diagnostics and phase == "confirm" and proposal.number == 0:
                    record = dataclasses.replace(record, layers=make_layers(rng))
                if record.state == "pruned":
                    record = dataclasses.replace(record, sweep="scale", cell=cell.key)
                ledger.write(record)


def make_layers(rng):
    names = [f"blocks.{position}.conv" for position in range(LAYERS)]
    size = EPOCHS * LAYERS
    return {"epoch": np.repeat(np.arange(1, EPOCHS + 1), LAYERS).tolist(),
            "position": list(range(LAYERS)) * EPOCHS, "layer": names * EPOCHS,
            **{measure: rng.lognormal(size=size).tolist() for measure in MEASURES}}  # fmt: skip


def make_record(rng, index, number, phase, settings, num_tune):
    seed = number if phase == "tune" else 10**6 + number - num_tune
    fingerprint = f"{rng.integers(256):02x}{index:06x}{number:08x}"
    final = 0.9 - 0.001 * index + rng.normal(0, 0.01) - (0.1 if phase == "tune" and number else 0)
    curve = np.clip(final - 0.8 * np.exp(-np.arange(1, EPOCHS + 1) / 20) + rng.normal(0, 0.005, EPOCHS), 0, 1).tolist()
    metrics = {"val_accuracy": final, "train_accuracy": final, "val_loss": 1 - final, "train_loss": 1 - final}
    if phase == "confirm":
        metrics["test_accuracy"] = final
    # Of twenty tune trials four are stopped and one diverges.
    is_whole = phase == "confirm" or number == 0
    state = "complete" if is_whole else "diverged" if number % 20 == 7 else "pruned" if number % 5 == 3 else "complete"
    num_epochs = EPOCHS if state == "complete" else EPOCHS // 3
    duration_s = float(settings["depth"] * rng.uniform(0.8, 1.2))
    return TrialRecord(
        key=f"{fingerprint}-{seed:014x}", fingerprint=fingerprint, seed=seed, phase=phase, state=state,
        settings=settings, rows={"optimizer:sgd": "1", "model:cifar": "1", "regularizer:l2": "1"}, data_digest="d",
        metrics=metrics if state != "diverged" else {},
        curves=dict.fromkeys(("val_accuracy", "train_accuracy", "val_loss", "train_loss"), curve[:num_epochs]),
        diverged_epoch=num_epochs if state == "diverged" else None, diverged_step=16 if state == "diverged" else None,
        diverged_layer="stem.conv" if state == "diverged" else "", num_epochs=num_epochs,
        num_parameters=60_000, duration_s=duration_s, finished_at="2026-01-01T00:00:00Z",
        provenance={"git_sha": "0" * 40, "torch": "2.14.1", "python": "3.11.7", "device": "cpu"},
    )  # fmt: skip


def resident_mib(pid):
    """Return the memory of a process and of those it started; what they share counts twice. Linux only."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    total = 0
    with contextlib.suppress(OSError):  # One has ended meanwhile.
        for each in (str(pid), *children.read_text(encoding="utf-8").split()):
            total += int(Path(f"/proc/{each}/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    return total / 2**20


def measure(num_trials, folder, with_diagnostics):
    out = folder / f"ledger-{num_trials}"
    if not (out / "scale").exists():
        start = time.monotonic()
        make_ledger(out, num_trials, with_diagnostics)
        print(f"{num_trials} trials written in {time.monotonic() - start:.0f} s", flush=True)
    command = [sys.executable, "-c", RUN, "report", "--out", str(out), "--to", str(folder / f"report-{num_trials}")]
    start, peak_mib = time.monotonic(), 0.0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
    while process.poll() is None:
        peak_mib = max(peak_mib, resident_mib(process.pid))
        time.sleep(0.05)
    seconds = time.monotonic() - start
    errors = process.communicate()[1]
    if process.returncode != 0:
        sys.exit(errors)
    cpu_seconds = float(errors.split()[-1])
    page = (folder / f"report-{num_trials}" / "report.html").stat().st_size / 1e6
    print(
        f"{num_trials}: {seconds:.1f} s, {cpu_seconds:.1f} s of CPU, {peak_mib:.0f} MiB, page {page:.1f} MB", flush=True
    )
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), "peak_mib": round(peak_mib)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--folder", type=Path, help="Keeps the ledgers; left out, a temporary folder.")
    parser.add_argument("--without-diagnostics", action="store_true", help="No tables of layers.")
    options = parser.parse_args()
    is_whole = not options.without_diagnostics
    with tempfile.TemporaryDirectory() as temporary:
        found = {number: measure(number, options.folder or Path(temporary), is_whole) for number in options.trials}
    names = ("seconds", "cpu_seconds", "peak_mib")
    print(json.dumps({name: {number: each[name] for number, each in found.items()} for name in names}))


if __name__ == "__main__":
    main()
