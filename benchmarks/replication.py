"""Measures whether tables that a rerun makes agree: whole sweeps on a task whose truth is known, then on real data.

    python benchmarks/replication.py [--replications 2000] [--designs auto,qmc,tpe,one,…] [--jobs 2]
    python benchmarks/replication.py --file search_spaces/depth_ablation.yaml --seeds 5 --out FOLDER

The first form runs every sweep through plan, schedule, Optuna, ledger and report; Ray's processes are left out, and
records stay in memory, but for the first sweep of each design: it is run with the files of the ledger too, and must
give the same.
Of each sweep with 10 studies the first 5 make a table of their own. Cells: a baseline, two arms that are equal to it,
and one that is 4 points better. The truth of a difference is its mean over all studies of all sweeps of a design. The
second form runs a sweep file once for each sweep seed and compares the tables in pairs.

The last line is JSON; with the first form {"coverage": …, "false_tables": …, "power_5": …, "power_10": …, …}.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
ARMS = {"base": "{stream: 0}", "same": "{stream: 1}", "same2": "{stream: 2}", "plus4": "{stream: 3, peak: 94}"}
NULL = ("base", "same", "same2")
FILE = """
name: replication
task: response
imports: [IMPORT]
fixed: {epochs: EPOCHS}
axes: {arm: {ARMS}}
tune:
  lr: {low: 1e-3, high: 0.1, log: true}
  decay: {low: 1e-6, high: 1e-2, log: true}
  late: [false, true]
budget: {BUDGET}
confirm: {seeds: SEEDS}
report: {columns: arm, baseline: base}
"""
STUDIES = 10
FIRST_SEED = 1000
DESIGNS = {
    **{name: (f"studies: {STUDIES}, trials: 6, sampler: {name}, pruner: none", 1) for name in ("auto", "qmc", "tpe")},
    "two_thirds": (f"studies: {STUDIES}, trials: 6, sampler: auto, pruner: none", 1),
    "auto+median": (f"studies: {STUDIES}, trials: 6, sampler: auto, pruner: median", 1),
    "one": ("trials_per_cell: 6, pruner: none", 5),
}
"""Budget, and confirm seeds of a study. "one" is a single study with five seeds; with "two_thirds" auto shares no more
than two thirds of a search however short, so that TPE proposes two of its six trials."""


def sweep(design: str, seed: int, folder: Path, *, on_disk: bool = False) -> dict[str, Any]:
    """Run one sweep and return what its tables say, with 10 studies and with the first 5."""
    from ablate.run.pack import Pack
    from ablate.run.plan import make_plan
    from ablate.run.runner import study_runs
    from ablate.run.schedule import Schedule
    from ablate.store.declaration import cell_trials, collect
    from ablate.store.ledger import Ledger

    budget, seeds = DESIGNS[design]
    text = FILE.replace("IMPORT", os.path.relpath(HERE / "response_task.py", folder)).replace("BUDGET", budget)
    arms = ", ".join(f"{name}: {settings}" for name, settings in ARMS.items())
    (folder / "sweep.yaml").write_text(
        text.replace("ARMS", arms).replace("SEEDS", str(seeds)).replace("EPOCHS", "6" if "median" in budget else "1"),
        encoding="utf-8",
    )
    plan = make_plan(folder / "sweep.yaml", None, [f"seed={seed}"], folder / "runs")
    plan.declare()
    ledger = Ledger(plan.out) if on_disk else in_memory(Ledger)(plan.out)
    schedule = Schedule(plan.declaration, study_runs(plan), plan.folder, ledger, 1)
    while (pack := schedule.next_pack()) is not None:
        report = _report(schedule, pack)
        schedule.on_finished(pack, Pack(schedule.task, pack.requests, "cpu").run(report))
    proposals = plan.folder.read_proposals()
    found = {}
    cells = collect(plan.declaration, proposals, ledger)
    for num in (5, 10) if plan.declaration.num_studies > 1 else (1,):
        declaration = dataclasses.replace(plan.declaration, num_studies=num)
        found[str(num)] = _tables(declaration, [cell_trials(cell.studies[:num]) for cell in cells])
    return found


def in_memory(kind: Any) -> Any:
    """Return the class of a ledger whose records are in no files."""

    class Memory(kind):  # type: ignore[misc]
        def __init__(self, out: Path) -> None:
            super().__init__(out)
            self.records: dict[tuple[str, str], Any] = {}

        def write(self, record: Any) -> Path:
            self.records.setdefault((record.key, record.cell), record)
            return self.path(record.key)

        def read(self, key: str, sweep: str, cell: str = "", trial: Any = None) -> Any:
            return self.records.get((key, "")) or self.records.get((key, cell))

        def read_all(self, wanted: Any, sweep: str, **options: Any) -> Any:
            found = {pair: self.read(pair[0], sweep, pair[1]) for pair in wanted}
            return {pair: record for pair, record in found.items() if record is not None}

    return Memory


def _report(schedule: Any, pack: Any) -> Any:
    return lambda epoch, values: set(schedule.on_values(pack, epoch, values))


def _tables(declaration: Any, cells: list[Any]) -> dict[str, Any]:
    """Return differences by replicate, intervals and verdicts of the whole table, and of its equal arms alone."""
    from ablate.report.entries import entries
    from ablate.report.layout import grid
    from ablate.report.sufficiency import marked
    from ablate.report.verdicts import judged

    def table(asked: Any, chosen: list[Any]) -> dict[str, Any]:
        laid_out = judged(asked, grid(asked, marked(asked, entries(asked, chosen))))
        return {column: verdict for (_, column), verdict in laid_out.verdicts.items()}

    found: dict[str, Any] = {"arms": {}}
    for entry in entries(declaration, cells):
        difference = entry.difference
        if difference is not None:
            found["arms"][entry.levels["arm"]] = {
                "values": difference.values, "low": difference.low, "high": difference.high,
            }  # fmt: skip
    whole = table(declaration, cells)
    for arm, verdict in whole.items():
        found["arms"][arm] |= {"word": verdict.word, "p": verdict.test.p, "hollow": bool(verdict.doubts)}
    nulls = [trials for trials in cells if trials.cell.levels["arm"] in NULL]
    alone = dataclasses.replace(declaration, cells=[trials.cell for trials in nulls], axes={"arm": list(NULL)})
    verdicts = table(alone, nulls).values()
    found["any_mark"] = any(verdict.word in ("better", "worse") for verdict in verdicts)
    found["filled_mark"] = any(verdict.word in ("better", "worse") and not verdict.doubts for verdict in verdicts)
    return found


def chunk(asked: tuple[str, list[int]]) -> list[dict[str, Any]]:
    """Run the sweeps of some seeds, each in a folder of its own that is gone afterwards."""
    from ablate.store import declaration

    design, seeds = asked
    declaration.MIN_SHARED = 0 if design == "two_thirds" else 6
    # statsmodels collects garbage in every call, which takes 60 ms in a process of this size.
    gc.collect = lambda *_: 0  # type: ignore[assignment]
    logging.disable(logging.WARNING)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=memory) as name:
            found.append(sweep(design, seed, Path(name)))
        if seed == FIRST_SEED:
            with tempfile.TemporaryDirectory(dir=memory) as name:
                if sweep(design, seed, Path(name), on_disk=True) != found[-1]:
                    raise SystemExit("the ledger's files give another table than records in memory")
    return found


def share(hits: list[bool]) -> list[float]:
    """Return a share and its Monte-Carlo standard error."""
    p = sum(hits) / len(hits)
    return [round(p, 4), round(math.sqrt(p * (1 - p) / len(hits)), 4)]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return shares with their standard errors for each number of studies."""
    from ablate.report.inference import ALPHA

    content: dict[str, Any] = {}
    for num in found[0]:
        tables = [each[num] for each in found]
        arms = {arm: [table["arms"][arm] for table in tables] for arm in tables[0]["arms"]}
        truth = {arm: float(np.mean([np.mean(each["values"]) for each in of])) for arm, of in arms.items()}
        covered = {arm: [each["low"] <= truth[arm] <= each["high"] for each in of if each["low"] is not None]
                   for arm, of in arms.items()}  # fmt: skip
        pairs = list(zip(tables[::2], tables[1::2], strict=False))
        content[num] = {
            "truth_points": {arm: round(100 * value, 2) for arm, value in truth.items()},
            "coverage": share([hit for hits in covered.values() for hit in hits]),
            "coverage_by_arm": {arm: share(hits) for arm, hits in covered.items()},
            "false_tables": share([table["filled_mark"] for table in tables]),
            "false_tables_hollow_too": share([table["any_mark"] for table in tables]),
            "power": share([each["p"] <= ALPHA and np.mean(each["values"]) > 0 for each in arms["plus4"]]),
            "power_holm": share([each["word"] == "better" for each in arms["plus4"]]),
            "half_width_points": round(50 * float(np.median([e["high"] - e["low"] for e in arms["plus4"]])), 2),
            **replicated(pairs),
        }
        if len(arms["plus4"][0]["values"]) >= 5:
            ps = [_equivalence_p(each["values"], abs(truth["plus4"])) for each in arms["plus4"]]
            content[num]["false_equivalence"] = share([p is not None and p <= ALPHA for p in ps])
    return content


def _equivalence_p(differences: list[float], margin: float) -> float | None:
    from ablate.metrics import Metric
    from ablate.report.inference import equivalence_p, paired_difference

    metric = Metric(name="test_accuracy", unit="percent", low=0.0, high=1.0)
    rows = dict(enumerate(differences))
    return equivalence_p(paired_difference(rows, dict.fromkeys(rows, 0.0), metric), margin)


def replicated(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Return how many filled marks of one table of a pair the other has too, with the same sign, and reversed ones."""
    again, reversed_ = [], 0
    for first, second in [*pairs, *((b, a) for a, b in pairs)]:
        for arm, each in first["arms"].items():
            other = second["arms"][arm]
            if each["word"] in ("better", "worse") and not each["hollow"]:
                again.append(each["word"] == other["word"])
                reversed_ += {each["word"], other["word"]} == {"better", "worse"}
    return {"replicated_marks": share(again) if again else None, "reversed_marks": reversed_, "num_marks": len(again)}


def simulate(designs: list[str], replications: int, others: int, jobs: int) -> dict[str, Any]:
    """Run the sweeps of all designs; the first design has `replications`, the others `others`."""
    content = {}
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for index, design in enumerate(designs):
            number = others if index else replications
            seeds = list(range(FIRST_SEED, FIRST_SEED + number))
            chunks = [(design, seeds[first : first + 10]) for first in range(0, number, 10)]
            found: list[dict[str, Any]] = []
            for done in pool.imap(chunk, chunks):
                found += done
                print(f"\r{design}: {len(found)} of {number} sweeps", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            content[design] = {"replications": number, **summary(found)}
            print(design, json.dumps(content[design]), flush=True)
    return content


def rerun(file: Path, seeds: int, out: Path, options: list[str]) -> dict[str, Any]:
    """Run a sweep file once for each sweep seed and compare the tables in pairs."""
    import pandas as pd

    from ablate.store.declaration import SweepFolder, sweeps

    tables = []
    for seed in range(seeds):
        folder = out / f"seed{seed}"
        command = [sys.executable, str(HERE.parent / "cli.py"), "sweep", str(file), "--out", str(folder), *options]
        subprocess.run([*command, "--set", f"seed={seed}"], check=True)
        report = folder / "report"
        (name,) = sweeps(folder)
        declaration = SweepFolder(folder, name).read_declaration()
        subprocess.run(
            [sys.executable, str(HERE.parent / "cli.py"), "report", name, "--out", str(folder), "--to", str(report)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        tables.append(pd.read_csv(report / "table.csv").set_index(list(declaration.axes)))
    print(pd.concat({f"seed {seed}": table["entry"] for seed, table in enumerate(tables)}, axis=1).to_string())
    marks = pd.concat({f"seed {seed}": _marks(table) for seed, table in enumerate(tables)}, axis=1)
    print(marks.to_string())
    for cell, numbers in together([out / f"seed{seed}" for seed in range(seeds)], name).items():
        print(f"{cell}: {numbers[0]:+.1f} [{numbers[1]:+.1f}, {numbers[2]:+.1f}] over the studies of all sweeps")
    outside, differ, compared, again, reversed_ = 0, 0, 0, [], 0
    for first, second in itertools.permutations(range(seeds), 2):
        one, two = tables[first], tables[second]
        inside = (one["low"] <= two["mean"]) & (two["mean"] <= one["high"])
        outside += int((one["low"].notna() & two["mean"].notna() & ~inside).sum())
        compared += int((one["low"].notna() & two["mean"].notna()).sum())
        words = pd.concat([one["verdict"], two["verdict"]], axis=1, keys=["one", "two"]).dropna()
        differ += int((words["one"] != words["two"]).sum())
        filled = one.index[one["verdict"].isin(["better", "worse"]) & one["verdict_doubts"].isna()]
        again += [one.loc[place, "verdict"] == two.loc[place, "verdict"] for place in filled]
        reversed_ += sum({one.loc[p, "verdict"], two.loc[p, "verdict"]} == {"better", "worse"} for p in filled)
    return {
        "file": file.name, "seeds": seeds, "means_outside": [outside, compared], "verdicts_that_differ": differ,
        "replicated_marks": share(again) if again else None, "num_marks": len(again), "reversed_marks": reversed_,
    }  # fmt: skip


def together(folders: list[Path], sweep: str) -> dict[str, list[float]]:
    """Return each cell's difference to the baseline over the studies of all sweeps, in points: mean, low and high."""
    from ablate.report.entries import entries
    from ablate.report.inference import paired_difference
    from ablate.store.declaration import SweepFolder, collect
    from ablate.store.ledger import Ledger

    values: dict[str, list[float]] = {}
    for folder in folders:
        kept = SweepFolder(folder, sweep)
        declaration = kept.read_declaration()
        cells = collect(declaration, kept.read_proposals(), Ledger(folder, is_read_only=True))
        for entry in entries(declaration, cells):
            if entry.difference is not None:
                values.setdefault(entry.trials.cell.name, []).extend(entry.difference.values)
    found = {}
    for name, differences in values.items():
        rows = dict(enumerate(differences))
        whole = paired_difference(rows, dict.fromkeys(rows, 0.0), declaration.metric)
        found[name] = [round(100 * (number or 0.0), 1) for number in (whole.mean, whole.low, whole.high)]
    return found


def _marks(table: Any) -> Any:
    import pandas as pd

    filled = {"better": "▲", "worse": "▼", "equivalent": "≈", "not shown": "·", "seeds collapsed": "mixed"}
    hollow = {"better": "△", "worse": "▽"}
    marks = [
        (hollow if isinstance(doubts, str) else filled).get(word, filled.get(word, ""))
        for word, doubts in zip(table["verdict"], table["verdict_doubts"], strict=True)
    ]
    return pd.Series(marks, index=table.index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=2000, help="sweeps of the first design")
    parser.add_argument("--others", type=int, default=400, help="sweeps of each other design")
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--file", type=Path, help="run this sweep file instead, once for each sweep seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "replication")
    parser.add_argument("options", nargs="*", help="further options of `sweep`, after --")
    asked = parser.parse_args()
    if asked.file:
        print(json.dumps(rerun(asked.file, asked.seeds, asked.out, asked.options)))
        return
    designs = asked.designs.split(",")
    found = simulate(designs, asked.replications, asked.others, asked.jobs)
    first = found[designs[0]]
    few, many = first.get("5", first.get("1")), first.get("10", first.get("1"))
    print(
        json.dumps(
            {
                "coverage": few["coverage"][0],
                "false_tables": few["false_tables"][0],
                "power_5": few["power"][0],
                "power_10": many["power"][0],
                "replicated_marks": few["replicated_marks"][0] if few["replicated_marks"] else None,
                "designs": found,
            }
        )
    )


if __name__ == "__main__":
    main()
