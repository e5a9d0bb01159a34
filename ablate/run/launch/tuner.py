"""Runs a schedule to its end, or as far as it gets."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.cpus import num_cpus
from ablate.places import Place, local_view
from ablate.provenance import code_version, library_versions
from ablate.run.capacity import Node
from ablate.run.launch.cluster import attached_cluster, private_cluster
from ablate.run.launch.ray_private import nothing_propagated, nothing_reported
from ablate.run.launch.shipping import shipped_name
from ablate.run.schedule import PackAssignment, Schedule
from ablate.signals import was_interrupted
from ablate.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial occupies and where it runs. None of this is scientific: it enters no fingerprint.

    `jobs` is the number of packs at a time, None for as many as fit. `task` is what trials do. `data` maps a data
    digest to the prepared file, or to its copy in an object store; None where there is none. `keep_weights` says
    whether the weights of confirm trials stay, below `out`/weights.
    At `deadline`, a value of `time.monotonic()`, the run stops as SIGINT stops it.
    """

    jobs: int | None
    cpus: float
    gpus: float
    device: str
    address: str
    out: Place
    sweep: str
    data: dict[str, Place | None]
    task: Task
    imports: list[Path]
    keep_weights: bool = False
    deadline: float = math.inf


def run_schedule(
    schedule: Schedule,
    resources: Resources,
    trainable: Callable[[dict[str, Any]], None] | None = None,
    started: Callable[[int, int], None] = lambda num_nodes, jobs: None,
) -> None:
    """Run all that is missing as Ray Tune trials; return when it is done, at the deadline, or after SIGINT.

    `trainable` stands in for the training of a pack, to measure everything around it. `started` is told the numbers of
    nodes and of packs at a time when Ray runs.

    Raises:
        UsageError: There is no such cluster, or it cannot run the trials.
        Exception: The first error in our own code while Ray Tune was running, after it has stopped.
    """
    if schedule.is_finished() or time.monotonic() >= resources.deadline:
        return
    with _cluster(resources):
        from ablate.run.launch.nodes import check_nodes_share, present_nodes, trials_at_a_time

        trial = Node(resources.cpus, resources.gpus)
        is_local = resources.address == "local"
        fitting = trials_at_a_time(trial, "this machine" if is_local else f"the Ray cluster at {resources.address}")
        if not is_local:
            check_nodes_share(resources.out / resources.sweep / "declaration.json", trial)
        jobs = resources.jobs or fitting
        started(len(present_nodes()), jobs)
        if was_interrupted():
            raise KeyboardInterrupt
        _fit(schedule, resources, jobs, trainable)


def _cluster(resources: Resources) -> AbstractContextManager[None]:
    if resources.address != "local":
        return attached_cluster(resources.address, resources.imports, resources.task.code())
    asked = resources.jobs * resources.cpus if resources.jobs else max(num_cpus(), resources.cpus)
    return private_cluster(math.ceil(asked))


def _fit(
    schedule: Schedule, resources: Resources, jobs: int, trainable: Callable[[dict[str, Any]], None] | None
) -> None:
    import ray
    from ray import tune
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ablate.run.launch.adapters import MAX_RETRIES, CellPruning, Deadline, Packs, ScheduleSearcher
    from ablate.run.launch.trainable import MAILBOX, Mailbox, run_pack

    # Beside the driver: a node that is lost must not take it along.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(Mailbox).options(name=MAILBOX, num_cpus=0, scheduling_strategy=here).remote()
    provenance = {**code_version(), **library_versions(), **resources.task.provenance()}
    task = resources.task.reference()
    imports = [str(path) for path in resources.imports]
    is_shipped = resources.address != "local" and bool(resources.task.code())
    if resources.address != "local":
        imports = [shipped_name(index, path) for index, path in enumerate(resources.imports)]

    def describe(pack: PackAssignment) -> dict[str, Any]:
        return {
            "task": task,
            "stamp": resources.task.stamp,
            "is_shipped": is_shipped,
            "folder": str(resources.out / "trials") if isinstance(resources.out, Path) else "",
            "cwd": os.getcwd(),
            "requests": [dataclasses.asdict(request) for request in pack.requests],
            "data": str(data) if (data := resources.data[pack.requests[0].data_digest]) is not None else "",
            "checkpoints": str(resources.out / "checkpoints"),
            "weights": str(resources.out / "weights") if resources.keep_weights else "",
            "device": resources.device,
            "imports": imports,
            "provenance": provenance,
        }

    packs = Packs(schedule, describe)
    tuner = tune.Tuner(
        tune.with_resources(trainable or run_pack, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=ScheduleSearcher(packs, mailbox),
            scheduler=CellPruning(packs, mailbox),
            num_samples=10**9,
            max_concurrent_trials=jobs,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((local_view(resources.out) / resources.sweep / "ray").resolve()),
            failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
            stop=Deadline(resources.deadline, packs),
            verbose=0,
        ),
    )
    # Ray's own state, which nobody reads: on a full disk it cannot be written either, and would say so at length.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    try:
        with nothing_propagated(), nothing_reported():
            tuner.fit()
    finally:
        if packs.error is not None:
            raise packs.error
    ray.kill(mailbox)
