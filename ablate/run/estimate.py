"""What a plan will cost on this hardware, and what its numbers will be able to tell."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import platform
from collections.abc import Sequence
from typing import Any

from ablate.errors import AblateError, UsageError, is_out_of_memory
from ablate.places import Place
from ablate.provenance import library_versions
from ablate.run.detectable import detectable_sd, paired_sd, seeds_for_sign_flips
from ablate.run.plan import Plan
from ablate.run.progress import duration_text
from ablate.storage import read_json, write_atomically
from ablate.store.declaration import CellTrials, collect, num_shared, sweeps, tie_notices
from ablate.store.ledger import Ledger
from ablate.tasks.base import Cost, Settings, Task
from ablate.tasks.parameters import FIRST_TASK
from ablate.tasks.registry import error_text

log = logging.getLogger(__name__)
RECORD_KIB = 20
"""Size of a ledger file with five curves of 200 epochs; 11 KiB at 15 epochs, 57 KiB at 1,000."""


class _First:
    """Stands in for a trial: the middle of a range, the first choice."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return math.sqrt(low * high) if log else low if step else (low + high) / 2

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return low + (high - low) // 2 // step * step

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[0]


def estimate(plan: Plan, *, jobs: int, device: str, with_probe: bool) -> dict[str, Any]:
    """Return the estimate for scripts; `time` and `memory_mib` are None without a probe."""
    declaration = plan.declaration
    proposals = plan.folder.read_proposals()
    cells = collect(declaration, proposals, Ledger(plan.out, is_read_only=True)) if proposals else []
    finished = {trials.cell.key: _num_finished(trials) for trials in cells}
    content: dict[str, Any] = {
        "in_ledger": sum(finished.values()),
        "startup_trials": _startup(plan),
        "power": _power(plan, cells),
        "ties": tie_notices(cells),
        "disk_mib": _disk_mib(plan),
        "time": None,
    }
    if with_probe:
        found = [_probe(plan, index, device) for index in range(len(plan.cells))]
    probes = [probe for probe in found if probe is not None] if with_probe else []
    if probes and len(probes) == len(plan.cells):
        trial_s = [cell.max_epochs * probe["epoch_s"] for cell, probe in zip(plan.cells, probes, strict=True)]
        extra = declaration.audit + declaration.num_seeds * declaration.runner_up
        each = declaration.num_studies * (declaration.num_tune + declaration.num_seeds + extra)
        left = [each - finished.get(cell.key, 0) for cell in plan.cells]
        content["time"] = {
            "device_s": each * sum(trial_s),
            "elapsed_s": _elapsed_s(plan, trial_s, [each] * len(trial_s), jobs),
            "left_s": _elapsed_s(plan, trial_s, left, jobs),
            "jobs": jobs,
            "slowest_trial_s": max(trial_s),
        }
        content["memory_mib"] = max(probe["memory_mib"] for probe in probes)
        state_mib = [probe["state_mib"] for probe in probes]
        content["disk_mib"] += jobs * max(state_mib)
        if plan.spec.confirm.keep_weights:
            content["disk_mib"] += declaration.num_studies * declaration.num_seeds * sum(state_mib)
    return content


def _num_finished(trials: CellTrials) -> int:
    return sum(r is not None and r.state != "failed" for _, r in [*trials.tune, *trials.confirm])


def _elapsed_s(plan: Plan, trial_s: list[float], num_trials: list[int], jobs: int) -> float:
    """Return how long so many trials of each cell take: a study tunes at most a batch at a time, then confirms."""
    rounds = math.ceil(plan.declaration.num_tune / plan.spec.budget.batch) + 1
    longest = max(s * min(num, rounds) for s, num in zip(trial_s, num_trials, strict=True))
    return max(longest, sum(s * num for s, num in zip(trial_s, num_trials, strict=True)) / jobs)


def lines(content: dict[str, Any], plan: Plan) -> list[str]:
    """Return the estimate for people."""
    budget, startup, power = plan.spec.budget, content["startup_trials"], content["power"]
    found = [f"sampler {budget.sampler}: {startup['sampler']}; pruner {budget.pruner}: {startup['pruner']}"]
    if budget.start_from:
        found.append(f"known points: {len(budget.start_from)}, tried first in every cell")
    time = content["time"]
    if time is None:
        found.append("time and memory: not probed")
    else:
        found.append(
            f"time: about {duration_text(time['elapsed_s'])} with {time['jobs']} at a time on this hardware, without "
            f"pruning, estimated from timed steps (the longest trial {duration_text(time['slowest_trial_s'])})"
        )
        found.append(f"memory: about {content['memory_mib']:.0f} MiB a trial")
    found.append(f"disk: about {math.ceil(content['disk_mib'])} MiB")
    found += [*power["lines"], *(f"warning: {text}" for text in content["ties"])]
    num, asked = content["in_ledger"], plan.declaration.num_trials
    others = [sweep for sweep in sweeps(plan.out) if sweep != plan.declaration.sweep]
    more = "; those that another sweep has run are found when they are proposed" if others and num < asked else ""
    found.append(f"in the ledger already: {num} of {asked} trials{more}")
    return found


def _guided(num: int) -> str:
    return f"{num} {'is' if num == 1 else 'are'} guided"


def _startup(plan: Plan) -> dict[str, str]:
    from ablate.search.pruning import first_rung, startup_trials

    budget = plan.spec.budget
    asked, where = plan.declaration.num_tune, plan.declaration.searched
    num = min(startup_trials(asked), asked)
    shared = num_shared(budget.sampler, asked)
    epochs = max(cell.max_epochs for cell in plan.cells)
    sampler = {
        "auto": f"the first {shared} trials of a {where} take points that all cells share, {_guided(asked - shared)}"
        if shared < asked
        else f"all trials of a {where} take points that all cells share",
        "tpe": f"the first {num} trials of a {where} are drawn at random, {_guided(asked - num)}",
        "random": "all trials are drawn at random",
        "qmc": "a scrambled Sobol' sequence that all cells share",
        "grid": "every point once",
    }
    pruner = {
        "median": f"from trial {num + 1} of a {where} on, after epoch {max(1, epochs // 3)} of {epochs}",
        "successive_halving": f"rungs from epoch {first_rung(epochs)} of {epochs} on, one trial in three passes",
        "hyperband": f"rungs from epoch {first_rung(epochs)} of {epochs} on, later ones in later brackets",
        "none": "no trial is stopped",
    }
    return {"sampler": sampler[budget.sampler], "pruner": pruner[budget.pruner]}


def _power(plan: Plan, cells: list[CellTrials]) -> dict[str, Any]:
    report, n, replicate = plan.spec.report, plan.declaration.num_replicates, plan.declaration.replicate
    name = {"study": "studies", "seed": "confirm seeds"}[replicate]
    columns, baseline = report.columns, report.baseline
    others = len([cell for cell in plan.cells if columns and cell.levels[columns] != baseline]) if baseline else 0
    once, all_ = detectable_sd(n), detectable_sd(n, others)
    found: dict[str, Any] = {"num_replicates": n, "replicate": replicate, "num_comparisons": others,
                             "detectable_sd": once, "detectable_sd_corrected": all_, "paired_sd": None}  # fmt: skip
    if not others:
        found["lines"] = ["verdicts: none, as the report has no baseline to compare with"]
        return found
    metric = plan.declaration.metric
    flips = seeds_for_sign_flips(others)
    if once is None or all_ is None:
        found["lines"] = [f"verdicts: not possible with {n} confirm seed{'s' * (n != 1)}; a paired t test needs 2"]
        return found
    text = (
        f"verdicts: possible from 2 {name} on by the paired t test, from {flips} by sign flips alone "
        f"({others} comparison{'s' * (others > 1)} with the baseline)"
    )
    sd = found["paired_sd"] = _known_sd(plan, cells)
    is_one = others == 1
    corrected = "" if is_one else f" ({all_:.1f} if all {others} are corrected for)"
    size = f"{once:.1f} standard deviations of the paired differences{corrected}"
    if sd is not None:
        corrected = "" if is_one else f" ({metric.text(sd * all_)})"
        size += (
            f", that is {metric.text(sd * once)}{corrected}{metric.points} at the "
            f"{metric.text(sd)}{metric.points} found so far"
        )
    found["lines"] = [text, f"smallest difference that {n} {name.split()[-1]} detect with a power of 80%: {size}"]
    return found


def _known_sd(plan: Plan, cells: list[CellTrials]) -> float | None:
    """Return the median over cells of the sd of the differences to the baseline that are in the ledger."""
    columns, baseline = plan.spec.report.columns, plan.spec.report.baseline
    if columns is None:
        return None
    metric = plan.spec.report.metric
    values: dict[tuple[tuple[str, str], ...], dict[int, float]] = {}
    for trials in cells:
        rows: dict[int, list[float]] = {}
        for proposal, record in trials.confirm:
            if record is not None and record.state == "complete" and metric in record.metrics:
                rows.setdefault(plan.declaration.row(proposal), []).append(record.metrics[metric])
        values[tuple(trials.cell.levels.items())] = {row: math.fsum(found) / len(found) for row, found in rows.items()}
    found = []
    for levels, own in values.items():
        base = values.get(tuple((axis, str(baseline) if axis == columns else level) for axis, level in levels), {})
        sd = paired_sd([(own[row], base[row]) for row in own.keys() & base.keys()])
        if sd is not None and dict(levels)[columns] != baseline:
            found.append(sd)
    return sorted(found)[len(found) // 2] if found else None


def _disk_mib(plan: Plan) -> float:
    data = sum(
        file.stat().st_size for file in {data.path for data in plan.data if data.path is not None} if file.exists()
    )
    return data / 2**20 + plan.declaration.num_trials * RECORD_KIB / 1024


def _probe(plan: Plan, index: int, device: str) -> dict[str, float] | None:
    """Return the cost of a cell's trials, from the file of earlier ones or measured now and kept; None if unknown."""
    cell, data = plan.cells[index], plan.data[index]
    task, settings = cell.task, cell.config(cell.space.suggest(_First()))
    file = plan.out / "ledger" / "probes.json"
    known = _read(file)
    key = _key(task, settings, data.digest, device)
    if key not in known:
        found = _cost(task, settings, device, data.path, cell.name)
        if found is None:
            return None
        known[key] = dataclasses.asdict(found)
        with contextlib.suppress(OSError):  # Kept to save time only.
            write_atomically(file, json.dumps(known, indent=1).encode())
    return known[key]


def _cost(task: Task, settings: Settings, device: str, data: Place | None, name: str) -> Cost | None:
    try:
        return task.cost(settings, device, data)
    except AblateError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        where = f"{name}: " if name else ""
        raise UsageError(f"{where}a step of a trial fails: {error_text(error)}") from error


def _key(task: Task, settings: Settings, digest: str, device: str) -> str:
    """Return what tells one cost on one kind of hardware from another."""
    machine = [platform.machine(), platform.processor(), library_versions().get("torch", "")]
    rows = [row.stamp for row in task.parameters.rows(settings).values() if row.origin]
    own = [*([] if task.stamp == FIRST_TASK else [task.stamp]), *rows]
    text = json.dumps([task.cost_key(settings), digest, device, machine, *own], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(file: Place) -> dict[str, dict[str, float]]:
    try:
        content = read_json(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("what %s has of earlier probes is not used: %s", file, error)
        return {}
    names = {"epoch_s", "memory_mib", "state_mib"}
    known = content if isinstance(content, dict) else {}
    return {key: value for key, value in known.items() if isinstance(value, dict) and value.keys() == names}
