"""Runs a plan: studies from the ledger, Ray, progress, the mirror."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ablate.command_lines import Commands
from ablate.errors import SweepStoppedError, UsageError
from ablate.places import ObjectPath, Place, local_view
from ablate.provenance import code_version, library_versions
from ablate.run.launch.tuner import Resources, run_schedule
from ablate.run.origins import foreign_lines
from ablate.run.plan import Plan
from ablate.run.progress import Progress
from ablate.run.schedule import Schedule, StudyRun
from ablate.search.cell_search import CellSearch, new_storage
from ablate.seeds import study_seed
from ablate.storage import cause, locked, write_atomically
from ablate.store.declaration import DeclaredCell, Proposal, named_study
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.tasks.base import Prepared, Task
from ablate.tracking.mirror import Mirror

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `num_missing` trials have not ended, `num_failed` ended as failed.

    `not_mirrored` says which trials MLflow was not told, empty if there is none.
    `is_out_of_time`: the deadline stopped it. `error` is what failed trials met and would meet again in the same run;
    empty where the same command can get further. `is_short_of_memory`: trials failed for want of it.
    """

    num_finished: int
    num_missing: int
    num_failed: int
    not_mirrored: str
    is_out_of_time: bool = False
    is_short_of_memory: bool = False
    error: str = ""


def run_plan(
    plan: Plan,
    *,
    jobs: int | None,
    device: str,
    address: str,
    console: Console,
    write_report: Callable[[], Path | None],
    deadline: float = math.inf,
) -> Outcome:
    """Run what is missing of a plan and mirror it to MLflow; return how it ended.

    `write_report` is called at the end; the folder that it returns goes to MLflow too. At `deadline`, a value of
    `time.monotonic()`, trials are stopped; the report and the mirror come after it.

    Raises:
        UsageError: The same sweep is running already under this output folder.
    """
    with _lock(plan):
        plan.declare()
        mirror = Mirror(plan.out, plan.declaration, (plan.folder.path / "resolved.yaml").read_text(encoding="utf-8"))
        progress = Progress(console, jobs or 1)
        _tell_views(plan.out, console)

        schedule = Schedule(plan.declaration, study_runs(plan), plan.folder, Ledger(plan.out), plan.spec.budget.batch)

        def listen(cell: DeclaredCell, proposal: Proposal, record: TrialRecord, is_new: bool) -> None:
            progress.finished(cell, proposal, record, is_new)
            if is_new and record.message and record.state in ("complete", "pruned"):
                log.warning("%s %s: %s", cell.name, proposal.name, record.message)
            if not is_new:
                reused.append(record)
            mirror.finished(cell, proposal, record)
            if proposal.phase == "confirm":
                mirror.summary(None, [schedule.cell(proposal.cell)])

        progress.schedule = schedule
        schedule.listener = listen
        mirror.replay(schedule.cells())
        if schedule.restored:
            console.print(f"{schedule.restored} of {plan.declaration.num_trials} trials are in the ledger already")
        if num := schedule.num_of_other_code:
            console.print(f"note: the code has changed: {num} trials of what it was do not count", highlight=False)
        reused: list[TrialRecord] = []
        known = [r for run in schedule.studies for r in [*run.records.values(), *run.extra_records.values()]]
        _announce(plan.spec.task, known, device if address == "local" else None, console)

        def started(num_nodes: int, jobs: int) -> None:
            progress.jobs = jobs
            if address != "local":
                console.print(f"Ray cluster of {num_nodes} nodes, {jobs} trials at a time", highlight=False)

        try:
            with progress:
                run_schedule(schedule, _resources(plan, jobs, device, address, deadline), started=started)
        except Exception as error:
            mirror.close(timeout_s=10)  # Python must not end while a thread is at work.
            if isinstance(error, OSError):
                raise _stopped(plan, error, where_options(device, address, jobs)) from error
            raise
        _announce(plan.spec.task, reused, device if address == "local" else None, console)
        is_out_of_time = not schedule.is_finished() and time.monotonic() >= deadline
        cells = schedule.cells()
        mirror.settle(timeout_s=30)  # The report's entries link to the runs of their cells.
        mirror.summary(write_report(), cells)
        not_mirrored = mirror.missed_line(mirror.close(timeout_s=60))
        records = [record for run in schedule.studies for record in run.records.values()]
        extra = [record for run in schedule.studies for record in run.extra_records.values()]
        failed = [record for record in [*records, *extra] if record.state == "failed"]
        return Outcome(
            num_finished=len(records),
            num_missing=plan.declaration.num_trials
            - len(records)
            + sum(len(run.extra) for run in schedule.studies)
            - len(extra),
            num_failed=len(failed),
            not_mirrored=not_mirrored,
            is_out_of_time=is_out_of_time,
            is_short_of_memory=any(record.reason == "out_of_memory" for record in failed),
            error=_lasting_error(failed) if schedule.is_finished() else "",
        )


def _lasting_error(failed: Sequence[TrialRecord]) -> str:
    """Return the first error of trials that failed; empty where one failed for want of a worker or of memory."""
    if not failed or any(record.reason != "error" for record in failed):
        return ""
    return next((line for line in reversed(failed[0].message.strip().splitlines()) if line), "an error without a text")


@contextlib.contextmanager
def _lock(plan: Plan) -> Iterator[None]:
    with locked(plan.folder.path / "lock") as is_ours:
        if not is_ours:
            name = plan.spec.sweep_id
            hint = Commands(plan.out).line("status", name)
            raise UsageError(f"the sweep '{name}' is running already in {plan.out}; how far it is says: {hint}")
        yield


def _tell_views(out: Place, console: Console) -> None:
    """Say what of a sweep in an object store lies on this machine only."""
    if isinstance(out, ObjectPath):
        store = "" if os.environ.get("MLFLOW_TRACKING_URI") else ", and, without MLFLOW_TRACKING_URI, MLflow's store"
        views = f"the report, the Optuna journal{store}"
        console.print(f"note: on this machine only, in {local_view(out)}: {views}", markup=False, soft_wrap=True)


def where_options(device: str, address: str, jobs: int | None = None) -> dict[str, str]:
    """Return the options that say where trials run, as far as they were given: a sweep that goes on needs them too."""
    given = {"jobs": (str(jobs or ""), ""), "device": (device, "auto"), "address": (address, "local")}
    return {name: value for name, (value, default) in given.items() if value != default}


def _stopped(plan: Plan, error: OSError, where: Mapping[str, str]) -> SweepStoppedError:
    """Return the error that says what could not be written or read, and how to go on."""
    return SweepStoppedError(
        f"the sweep stopped: {cause(error)}\nWhat had ended before is in the ledger. When this is mended, go on with:\n"
        f"  {plan.command('sweep', where)}"
    )


def _announce(task: Task, records: Sequence[TrialRecord], device: str | None, console: Console) -> None:
    """Say which of the reused trials are of another commit, torch or class of device; None is a cluster's, unknown."""
    present = {**code_version(), **library_versions()}
    if device is not None:
        present["device"] = task.device_name(device)
    for line in foreign_lines(records, present):
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)


def study_runs(plan: Plan) -> list[StudyRun]:
    """Return every study of a plan, empty, cell after cell; the schedule fills it from the ledger."""
    storage = new_storage(local_view(plan.out) / plan.spec.sweep_id / "optuna.journal")
    declaration = plan.declaration
    runs = []
    for cell, declared, data in zip(plan.cells, declaration.cells, plan.data, strict=True):
        for study in range(declaration.num_studies):
            search = CellSearch(
                storage,
                named_study(declared.name or "cell", study) if study else declared.name,
                cell,
                sampler=declaration.sampler,
                pruner=declaration.pruner,
                num_tune=declaration.num_tune,
                num_epochs=cell.max_epochs,
                seed=study_seed(declaration.seed, study),
                objective=declaration.tuned_metric,
            )
            runs.append(StudyRun(cell, declared, data.digest, search, study))
    return runs


def _resources(plan: Plan, jobs: int | None, device: str, address: str, deadline: float = math.inf) -> Resources:
    return Resources(
        jobs=jobs,
        cpus=plan.spec.resources.cpus,
        gpus=plan.spec.resources.gpus,
        device=device,
        address=address,
        out=plan.out.resolve(),
        sweep=plan.spec.sweep_id,
        data={data.digest: _for_workers(plan.out, data) for data in plan.data},
        task=plan.spec.task,
        imports=[Path(path) for path in plan.spec.import_paths],
        keep_weights=plan.spec.confirm.keep_weights,
        deadline=deadline,
    )


def _for_workers(out: Place, data: Prepared) -> Place | None:
    """Return where workers find prepared data: the file itself, or its copy in an object store; None without one.

    Its name has the digest and that of the file: data of one digest may lie in another folder than before.
    """
    if data.path is None:
        return None
    if isinstance(out, Path):
        return data.path.resolve()
    copy = out / "data" / f"{data.digest}-{data.path.name}"
    if not copy.exists():
        write_atomically(copy, data.path.read_bytes())
    with contextlib.suppress(OSError):  # Workers on this machine need not fetch it.
        os.link(data.path, local_view(copy))
    return copy
