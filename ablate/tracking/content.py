"""What MLflow is told about a trial and a cell, as plain values."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from ablate.store.declaration import CellTrials, Declaration, DeclaredCell, Proposal
from ablate.store.record import TrialRecord
from ablate.store.replicates import replicates

STATUS = {"complete": "FINISHED", "diverged": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
MAX_VALUE_LENGTH = 6000
MAX_NAME_LENGTH = 250
MAX_QUESTION = 7000
"""Characters of the question in the summary's note; MLflow takes 8,000 in all."""

Identity = tuple[str, str, str, str, str]
"""Kind, cell key, trial key, phase and number of a run, empty where its kind has none."""
SUMMARY: Identity = ("summary", "", "", "", "")
IDENTITY_TAGS = ("ablate.kind", "ablate.cell", "ablate.trial", "phase", "number")
OWN_TAGS = ("phase", "number", "study", "seed", "fingerprint", "state", "reason", "diverged_at", "git_sha", "winner")
OWN_PREFIXES = ("ablate.", "mlflow.", "winner.")
Point = tuple[str, float, int, int]
"""A metric's name, value, time (ms since 1970) and epoch counted from 1."""


def cell_identity(cell: DeclaredCell) -> Identity:
    """Return what tells the run of a cell from all others in the experiment."""
    return ("cell", cell.key, "", "", "")


def trial_identity(cell: DeclaredCell, proposal: Proposal) -> Identity:
    """Return what tells the run of a trial from all others in the experiment."""
    return ("trial", cell.key, proposal.key, proposal.phase, str(proposal.number))


def cell_name(cell: DeclaredCell) -> str:
    """For example "width=16 arm=plain"."""
    return cell.name.replace(", ", " ")[:MAX_NAME_LENGTH]


def trial_name(cell: DeclaredCell, proposal: Proposal) -> str:
    """For example "tune 3 width=16 arm=plain": the UI's charts show it without the cell above it."""
    return f"{proposal.name} {cell_name(cell)}"[:MAX_NAME_LENGTH]


def text(value: Any) -> str:
    """Return a parameter's value as MLflow stores it: YAML's words for true, false and null, cut at its limit."""
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:MAX_VALUE_LENGTH]


def shortened(text: str, most: int) -> str:
    """Return a text for a note; of a longer one the rest is in the artifact resolved.yaml, which has all of it."""
    text, rest = text.replace("\0", " ").strip(), " … (the rest is in resolved.yaml)"
    return text if len(text) <= most else text[: most - len(rest)] + rest


def level_params(cell: DeclaredCell) -> dict[str, str]:
    """Return the cell's levels by names that MLflow takes."""
    return {metric_name(axis): level for axis, level in cell.levels.items()}


def level_tags(cell: DeclaredCell) -> dict[str, str]:
    """Return the cell's levels, but for axes whose tags would mean something else to us or to MLflow."""
    tags = level_params(cell)
    return {name: level for name, level in tags.items() if name not in OWN_TAGS and not name.startswith(OWN_PREFIXES)}


def metric_name(name: str) -> str:
    """Return the name with characters that MLflow refuses replaced by an underscore."""
    return re.sub(r"[^\w.\- :/]", "_", name)[:MAX_NAME_LENGTH]


def milliseconds(moment: str) -> int | None:
    """Return an ISO 8601 moment, UTC where it names no zone, as ms since 1970; None if it is none."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def version(record: TrialRecord) -> str:
    """Return what differs between two records of one trial, such as a failed one and its repetition."""
    return f"{record.state} {record.finished_at}".strip()


def trial_tags(cell: DeclaredCell, record: TrialRecord) -> dict[str, str]:
    """Return the tags of a trial's run, without those of its identity."""
    commit = record.provenance.get("git_sha", "")
    tags = {
        **level_tags(cell),
        "study": str(record.study + 1),
        "seed": str(record.seed),
        "fingerprint": record.fingerprint,
        "state": record.state,
        "reason": record.reason,
        "diverged_at": _diverged_at(record),
        "git_sha": commit,
        "mlflow.source.git.commit": commit,
        "mlflow.note.content": record.message,
    }
    return {name: text(value) for name, value in tags.items() if value}


def trial_params(cell: DeclaredCell, record: TrialRecord) -> dict[str, str]:
    """Return the configuration of a trial, and the axes that are not settings themselves, such as the arm."""
    return {name: text(value) for name, value in {**level_params(cell), **record.settings}.items()}


def cell_params(cell: DeclaredCell) -> dict[str, str]:
    """Return the axes of a cell and what is not tuned in it."""
    return {name: text(value) for name, value in {**cell.settings, **level_params(cell)}.items()}


def summary_tags(declaration: Declaration) -> dict[str, str]:
    """Return the budget: tags, because it can grow and a parameter of a run can never change."""
    tags = {
        "studies": declaration.num_studies,
        "tune_trials": declaration.num_tune,
        "confirm_seeds": declaration.num_seeds,
        "sampler": declaration.sampler,
        "pruner": declaration.pruner,
        "baseline": declaration.report.get("baseline", ""),
        "seed": declaration.seed,
    }
    question = shortened(declaration.question, MAX_QUESTION)
    note = f"{question} The report is among the artifacts: report/report.html.".strip()
    return {"mlflow.note.content": note, **{name: text(value) for name, value in tags.items()}}


def trial_points(record: TrialRecord) -> list[Point]:
    """Return every finite number of a trial: curves by epoch, then metrics that no curve ends with.

    The times follow from the record alone, so that MLflow knows a point it is told twice.
    """
    start = milliseconds(record.started_at) or 0
    length = max([record.num_epochs, 1, *map(len, record.curves.values())])

    def moment(epoch: int) -> int:
        return start + int(1000 * record.duration_s * epoch / length)

    points = [
        (metric_name(name), value, moment(epoch), epoch)
        for name, curve in sorted(record.curves.items())
        for epoch, value in enumerate(curve, start=1)
    ]
    for name, value in sorted(record.metrics.items()):
        if record.curves.get(name, [])[-1:] != [value]:
            points.append((metric_name(name), value, moment(length) + 1, length))
    return [point for point in points if math.isfinite(point[1])]


def cell_metrics(trials: CellTrials, declaration: Declaration) -> dict[str, float]:
    """Return the numbers of a cell as the table has them: over replicates, in the metric of the table."""
    metric, found = declaration.metric, replicates(declaration, trials)
    tuned = [record for _, record in trials.tune if record is not None]
    confirmed = [record for _, record in trials.confirm if record is not None]
    numbers = list(found.by_row.values())
    survivors = [record.metrics[metric.name] for record in found.survivors]
    metrics: dict[str, float] = {
        "num_trials": len(tuned) + len(confirmed),
        "num_diverged": sum(record.state == "diverged" for record in [*tuned, *confirmed]),
        "confirmed_n": len(found.whole),
        "num_collapsed": sum(map(metric.has_collapsed, survivors)),
    }
    if numbers and len(numbers) == len(found.whole):  # A diverged trial without a number leaves no mean.
        if not metric.is_mixed(survivors, found.num_diverged):
            metrics[f"confirmed_{metric.quantity}"] = math.fsum(numbers) / len(numbers)
        metrics["confirmed_min"], metrics["confirmed_max"] = min(numbers), max(numbers)
    objective = declaration.tuned_metric
    best = [r.metrics[objective.name] for r in tuned if r.state == "complete" and objective.name in r.metrics]
    if best:
        metrics[f"best_{objective.name}"] = objective.top(best)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def cell_note(trials: CellTrials, declaration: Declaration) -> str:
    """Return a cell's description: what it came to so far, and with which configuration."""
    numbers, winners = cell_metrics(trials, declaration), trials.winners()
    lines = [f"{numbers['num_trials']:.0f} trials have ended, {numbers['num_diverged']:.0f} of them diverged."]
    metric, n = declaration.metric, int(numbers["confirmed_n"])
    if f"confirmed_{metric.quantity}" in numbers:
        mean, low, high = (metric.with_unit(numbers[f"confirmed_{name}"]) for name in (metric.quantity, "min", "max"))
        lines.append(
            f"Confirmed {metric.name.replace('_', ' ')}: {mean} over {n} {declaration.replicates(n)} ({low} to {high})."
        )
    elif "confirmed_min" in numbers:
        low, high = (metric.with_unit(numbers[f"confirmed_{name}"]) for name in ("min", "max"))
        found = replicates(declaration, trials)
        num_lost = int(numbers["num_collapsed"]) + found.num_diverged
        lines.append(
            f"Some confirm seeds trained and {num_lost} of {len(found.records)} collapsed "
            f"({low} to {high}), so there is no mean."
        )
    for winner in winners:
        tuned = [f"{name} {text(winner.settings[name])}" for name in trials.cell.tuned if name in winner.settings]
        lines.append(f"Winner on validation data: {winner.name}" + (f" ({', '.join(tuned)})." if tuned else "."))
    return text(" ".join(lines))


def winner_tags(trials: CellTrials) -> dict[str, str]:
    """Return the winners' numbers and tuned parameters: tags, because a parameter of a run can never change."""
    winners = trials.winners()
    tuned = {
        name: [text(winner.settings[name]) for winner in winners if name in winner.settings]
        for name in trials.cell.tuned
    }
    found = {
        "winner": [winner.name for winner in winners],
        **{f"winner.{name}": values for name, values in tuned.items()},
    }
    return {name: text(", ".join(values)) for name, values in found.items() if values}


def _diverged_at(record: TrialRecord) -> str:
    if record.state != "diverged":
        return ""
    place = {"epoch": record.diverged_epoch, "step": record.diverged_step, "layer": record.diverged_layer or None}
    return " ".join(f"{name} {value}" for name, value in place.items() if value is not None)
