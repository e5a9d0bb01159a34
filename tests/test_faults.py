"""A worker or a node is lost in the middle of a trial: it goes on from its checkpoint and the numbers are the same.

The processes are real and die by SIGKILL; the log of every step shows where each trial was.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import command, run, wait_for
from logged_rows import NUM_STEPS, NUM_TRIALS, read_log, stretches, write_logged_sweep
from ray_nodes import RayNodes

from ablate.store.declaration import SweepFolder
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord

pytestmark = pytest.mark.slow
KILL_AT = range(13, 19)  # in the fourth or fifth of six epochs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A sweep with a pause in every step, and what it gives undisturbed, below `whole`."""
    folder = tmp_path_factory.mktemp("faults")
    log = write_logged_sweep(folder, pause_s=0.15)
    done = run("sweep", "logged.yaml", "--out", "whole", "--jobs", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [len(stretch) for stretch in stretches(read_log(log))] == [NUM_STEPS] * NUM_TRIALS
    return folder


def records(out: Path) -> dict[str, TrialRecord]:
    proposals = SweepFolder(out, "logged").read_proposals()
    found = {p.key: Ledger(out).read(p.key, "logged", p.cell) for p in proposals}
    return {key: record for key, record in found.items() if record is not None}


def numbers(out: Path) -> dict[str, tuple]:
    return {key: (r.state, r.weights_digest, r.curves, r.metrics) for key, r in records(out).items()}


@contextmanager
def started(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    (folder / "log.jsonl").unlink()
    arguments = command("sweep", "logged.yaml", "--jobs", "2", *options)
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_victim(folder: Path, out: Path, process: subprocess.Popen) -> dict:
    """Wait until a trial is at the point of the fault, when others have ended, and return its step."""
    found: list[dict] = []

    def is_there() -> bool:
        latest = {step["pid"]: step for step in read_log(folder / "log.jsonl")}
        found[:] = [step for step in latest.values() if step["step"] in KILL_AT]
        return bool(found) and len(files(out)) >= 2

    wait_for(is_there, process, timeout=900)
    return found[0]


def check(folder: Path, out: Path, victim: dict, before: dict[str, float]) -> list[dict]:
    """Check that one trial and no other went on from its checkpoint; return that stretch of its steps."""
    found = stretches(read_log(folder / "log.jsonl"))
    whole = [stretch for stretch in found if stretch[0]["step"] == 0]
    assert len(whole) == NUM_TRIALS, "a trial started over"
    assert sum(len(stretch) == NUM_STEPS for stretch in whole) == NUM_TRIALS - 1
    (again,) = [stretch for stretch in found if stretch[0]["step"] > 0]
    assert again[0]["lr"] == victim["lr"]
    # From the end of an epoch, the third or, while the killing took its time, a later one.
    first = again[0]["step"]
    assert first >= 12
    assert first % 4 == 0
    assert [step["step"] for step in again] == list(range(first, NUM_STEPS))
    assert numbers(out) == numbers(folder / "whole")
    after = files(out)
    assert {name: after[name] for name in before} == before, "what had ended was written again"
    return again


def check_message(errors: str) -> None:
    pattern = r"warning: the worker of arm=(plain|residual) (tune|confirm) \d was lost; the trial goes on from its "
    assert re.fullmatch(pattern + r"checkpoint elsewhere \(retry 1 of 2\)\n", errors)


def files(out: Path) -> dict[str, float]:
    return {file.name: file.stat().st_mtime_ns for file in (out / "ledger" / "trials").rglob("*.parquet")}


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(folder):
    out = folder / "worker"
    with started(folder, "--out", "worker") as process:
        victim = wait_for_victim(folder, out, process)
        before = files(out)
        os.kill(victim["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    check_message(errors)
    again = check(folder, out, victim, before)
    assert again[0]["pid"] != victim["pid"]


def test_a_trial_whose_node_is_lost_goes_on_on_another(folder):
    out = folder / "node"
    with (
        RayNodes([{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}]) as nodes,
        started(folder, "--out", "node", "--address", nodes.address, env=nodes.environment()) as process,
    ):
        victim = wait_for_victim(folder, out, process)
        before = files(out)
        nodes.kill(nodes.ids.index(victim["node"]))
        output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert "Ray cluster of 3 nodes, 2 trials at a time" in output
    check_message(errors)
    check(folder, out, victim, before)
    later = {step["node"] for step in read_log(folder / "log.jsonl") if step["time"] > victim["time"] + 5}
    (left,) = later
    assert left != victim["node"]
