"""2,000 short trials over 4 simulated nodes: what a trial costs at the end of a long sweep, and the driver's memory.

Everything that a sweep does around its training (TPE and the median pruner in cells of 50 trials, proposals and ledger
on the disk, MLflow, progress lines) on a Ray cluster of a head and 4 nodes with one CPU each, all on this machine. The
trials of sweep_overhead.py stand in for training: import torch, three reports. The cost of the first quarter of the
trials counts from the 20th on, when all workers run; the last quarter is compared with it.

    python benchmarks/load.py [--trials 20000] [--without-mlflow]

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ray_nodes import RayNodes
from sweep_overhead import NUM_REPORTS, Rig, trivial_trial

NUM_NODES = 4
TRIALS_PER_CELL = 50
SKIPPED = 20
FILE = f"""
name: load
fixed: {{epochs: {NUM_REPORTS}}}
axes:
  depth: [8, 14, 20, 26, 32, 38, 44, 50, 56, 62]
  shortcut: [none, identity]
  lr_schedule: [cosine, one_cycle]
  width: WIDTHS
tune:
  lr: {{low: 1e-4, high: 1, log: true}}
  optimizer: [sgd, adam]
confirm: {{seeds: 0}}
budget: {{trials_per_cell: {TRIALS_PER_CELL}, pruner: median}}
"""


def run(folder: Path, address: str, num_trials: int, with_mlflow: bool) -> dict[str, Any]:
    """Run the sweep and return its figures."""
    ended: list[float] = []

    def count() -> None:
        ended.append(time.perf_counter())
        if len(ended) % 250 == 0:
            print(f"{len(ended)} trials, {ended[-1] - ended[0]:.0f} s, {_resident_mib():.0f} MiB", flush=True)

    text = FILE.replace("WIDTHS", str([1 + index for index in range(num_trials // TRIALS_PER_CELL // 40)]))
    rig = Rig(folder, text, NUM_NODES, with_mlflow=with_mlflow, ended=count)
    rig.run(None, address, trivial_trial)
    trials_took = ended[-1] - ended[0]
    num_left = rig.close(timeout_s=600)
    records = [record for cell in rig.schedule.studies for record in cell.records.values()]
    span = num_trials // 4
    first = (ended[SKIPPED + span - 1] - ended[SKIPPED - 1]) / span
    last = (ended[-1] - ended[-1 - span]) / span
    print(f"s per trial: first {span} {first:.4f}, last {span} {last:.4f}; {num_left} not in MLflow")
    return {
        "trials": num_trials,
        "trials_per_s": round((len(ended) - 1) / trials_took, 2),
        "driver_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "failures": num_trials - sum(record.state in ("complete", "pruned") for record in records) + num_left,
        "last_over_first": round(last / first, 2),
    }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Start the nodes, run, and print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--without-mlflow", action="store_true", help="without the mirror")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ablate-load-") as name:
        nodes: list[dict[str, Any]] = [{"num_cpus": 0}, *[{"num_cpus": 1}] * NUM_NODES]
        with RayNodes(nodes) as cluster:
            os.environ.update(cluster.environment())
            found = run(Path(name), cluster.address, arguments.trials, not arguments.without_mlflow)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
