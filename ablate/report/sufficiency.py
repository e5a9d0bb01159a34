"""Whether the tuning of a cell may have been too short or too narrow, and which command would settle it.

A doubt is a sign, not a proof. The thresholds are conventions of this project:

    edge        the winner lies in the outer EDGE of a range (of its logarithm where it is searched so), or on the
                first or last value of a stepped one, and the parameter could go further
    epochs      its objective improved by more than RISE between the last two fifths of training
    divergence  more than half of the tune trials diverged, or the winner did
    trials      the last third of the tune trials improved the best objective by more than RISE

RISE is a part of the distance between the objective's bounds, or of the objective itself where it has none.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from ablate.command_lines import Commands
from ablate.metrics import Metric
from ablate.report.entries import Entry
from ablate.report.text import listed, value_text
from ablate.store.declaration import CellTrials, Declaration, Proposal, StudyTrials

EDGE = 0.05
RISE = 0.02
MARK = "†"
RERUNS = "it reruns every cell, and a new winner is confirmed anew"
CONTINUES = "it runs only what is missing, and a new winner is confirmed anew"


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """One sign that tuning did not suffice. `key` and `value` are what `--set` would change; no key: no one command."""

    kind: str
    text: str
    key: str = ""
    value: Any = None
    effect: str = ""


def doubts(declaration: Declaration, trials: StudyTrials) -> list[Doubt]:
    """Return the signs in a study whose tuning is complete, most serious first."""
    winner = trials.winner()
    if winner is None or len(trials.tune) < declaration.of(trials.cell.levels).num_tune:
        return []
    found = [*_divergence(declaration, trials), *_edges(declaration, winner), *_epochs(declaration, trials, winner)]
    return found + _trials(declaration, trials)


def marked(declaration: Declaration, entries: list[Entry]) -> list[Entry]:
    """Return the entries, those of doubtful cells with a mark and its reasons."""
    return [_marked(declaration, entry) for entry in entries]


def _marked(declaration: Declaration, entry: Entry) -> Entry:
    found = [(study, each) for study in entry.trials.studies if (each := doubts(declaration, study))]
    if not found:
        return entry
    num = declaration.of(entry.levels).num_studies
    texts = [_reason(declaration, study, doubt) for study, each in found for doubt in each]
    share = f" {len(found)}/{num}" if num > 1 else ""
    return dataclasses.replace(entry, mark=f" {MARK}{share}", doubts=tuple(texts), num_doubted=len(found))


def _reason(declaration: Declaration, study: StudyTrials, doubt: Doubt) -> str:
    is_one = declaration.of(study.cell.levels).num_studies == 1
    return doubt.text if is_one else f"study {study.number + 1}: {doubt.text}"


def legend(declaration: Declaration, cells: list[CellTrials], commands: Commands) -> list[str]:
    """Return one line for each way to settle doubts: the cells, the reasons, the command."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for study in (study for trials in cells for study in trials.studies):
        for doubt in doubts(declaration, study):
            places = groups.setdefault((command(declaration, doubt, commands), doubt.effect), {})
            places.setdefault(study.cell.name, []).append(_reason(declaration, study, doubt))
    lines = []
    for (line, effect), found in groups.items():
        settle = f" To settle it, run: {line} ({effect})" if line else ""
        named = [f"{name} ({'; '.join(reasons)})" for name, reasons in found.items()]
        lines.append(f"{MARK} Tuning may not have sufficed for {listed(named)}.{settle}")
    return lines


def command(declaration: Declaration, doubt: Doubt, commands: Commands) -> str:
    """Return the command line that would settle a doubt."""
    if not doubt.key:
        return ""
    value = doubt.value if isinstance(doubt.value, int) else json.dumps(doubt.value)
    return declaration.overridden(doubt.key, value).command("sweep", commands)


def _is_rise(objective: Metric, before: float, after: float) -> bool:
    """Whether the objective improved by more than RISE."""
    return objective.sign * (after - before) > RISE * objective.whole(before)


def _divergence(declaration: Declaration, trials: StudyTrials) -> list[Doubt]:
    diverged = sum(record is not None and record.state == "diverged" for _, record in trials.tune)
    num, has_winner = len(trials.tune), any(record and record.state == "complete" for _, record in trials.tune)
    if has_winner and diverged <= num / 2:
        return []
    text = f"{diverged} of {num} tune trials diverged"
    if not has_winner:
        all_of_them = "every tune trial diverged" if diverged == num else f"{text} and none came to its end"
        text = f"{all_of_them}, so the one that lasted longest was confirmed"
    if declaration.sampler == "grid" or _is_exhausted(trials):  # More trials have nothing to try.
        return [Doubt(kind="divergence", text=text)]
    return [Doubt(kind="divergence", text=text, key=declaration.tune_key, value=2 * num, effect=CONTINUES)]


def _is_exhausted(trials: StudyTrials) -> bool:
    """Whether the study tried every point of its space."""
    num_points = trials.cell.num_points
    tried = {json.dumps(proposal.params, sort_keys=True) for proposal, _ in trials.tune}
    return num_points is not None and len(tried) >= num_points


def _edges(declaration: Declaration, winner: Proposal) -> list[Doubt]:
    cell = next(cell for cell in declaration.cells if cell.key == winner.cell)
    found = []
    for name, definitions in cell.space.items():
        for definition in definitions:
            value = winner.params.get(definition["name"])
            if definition["kind"] == "categorical" or value is None:
                continue
            side = _side(definition, value)
            moved = _moved(declaration, name, definition, side) if side else None
            if side and moved is not None:
                ends = f"{value_text(definition['low'])} to {value_text(definition['high'])}"
                end = "lower" if side == "low" else "upper"
                text = f"the best {name} {value_text(value)} is at the {end} end of {ends}"
                if declaration.sampler == "grid":  # A wider range has more points than the budget.
                    found.append(Doubt(kind="edge", text=text))
                    continue
                wider = _widened(declaration.tune.get(name), definition, side, moved)
                found.append(Doubt(kind="edge", text=text, key=f"tune.{name}", value=wider, effect=RERUNS))
    return found


def _side(definition: dict[str, Any], value: float) -> str:
    low, high = definition["low"], definition["high"]
    if definition["kind"] == "int" or definition["step"]:
        return "low" if value <= low else "high" if value >= high else ""
    if definition["log"]:
        low, high, value = math.log(low), math.log(high), math.log(value)
    share = (value - low) / (high - low)
    return "low" if share <= EDGE else "high" if share >= 1 - EDGE else ""


def _moved(declaration: Declaration, name: str, definition: dict[str, Any], side: str) -> float | None:
    """Return where a range would end if it went on by a decade, or by its own width; None where it cannot."""
    low, high, step = definition["low"], definition["high"], definition["step"]
    task = declaration.known_task
    known = task.parameters.all().get(name) if task is not None else None
    least, most = getattr(known, "low", None), getattr(known, "high", None)
    if task is not None:
        most = task.largest(declaration.data).get(name, (most, ""))[0]
    if side == "low":
        moved = low / 10 if definition["log"] else low - (high - low)
        if least is not None and known is not None:
            moved = max(moved, low / 10 if known.low_open and moved <= least else least)
    else:
        moved = high * 10 if definition["log"] else high + (high - low)
        moved = moved if most is None else min(moved, most)
    if step:
        moved = low - (low - moved) // step * step if side == "low" else high + (moved - high) // step * step
    if definition["kind"] == "int":
        moved = math.ceil(moved) if side == "low" else math.floor(moved)
    else:
        moved = float(f"{moved:.6g}")
    return moved if (moved < low if side == "low" else moved > high) else None


def _widened(raw: Any, definition: dict[str, Any], side: str, moved: float) -> Any:
    """Return the entry of `tune` with the definition's range continued."""
    entry = copy.deepcopy(raw)
    for part in entry if isinstance(entry, list) else [entry]:
        if isinstance(part, dict) and (part.get("low"), part.get("high")) == (definition["low"], definition["high"]):
            part[side] = moved
    return entry


def _epochs(declaration: Declaration, trials: StudyTrials, winner: Proposal) -> list[Doubt]:
    record = next(record for proposal, record in trials.tune if proposal is winner)
    objective = trials.objective
    curve = record.curves.get(objective.name, []) if record and record.state == "complete" else []
    fifth = len(curve) // 5
    if fifth < 1:
        return []
    last, before = (math.fsum(part) / fifth for part in (curve[-fifth:], curve[-2 * fifth : -fifth]))
    if not _is_rise(objective, before, last):
        return []
    verb = "rose" if objective.sign > 0 else "fell"
    amount = objective.amount(last - before)
    text = f"its {objective.label.lower()} still {verb} by {amount} in the last fifth of training"
    length = declaration.length
    lengths = {str(cell.settings.get(length)) for cell in declaration.cells}
    if not length or len(lengths) > 1 or length in declaration.tune:
        return [Doubt(kind="epochs", text=text)]
    return [Doubt(kind="epochs", text=text, key=f"fixed.{length}", value=2 * len(curve), effect=RERUNS)]


def _trials(declaration: Declaration, trials: StudyTrials) -> list[Doubt]:
    objective, num = trials.objective, len(trials.tune)
    third = num // 3
    early = [trials.value(r) for _, r in trials.tune[: num - third] if r and r.state == "complete"]
    late = [trials.value(r) for _, r in trials.tune[num - third :] if r and r.state == "complete"]
    if not third or not late or declaration.sampler == "grid" or _is_exhausted(trials):
        return []
    best, verb = objective.top([*early, *late]), "raised" if objective.sign > 0 else "lowered"
    if early and not _is_rise(objective, objective.top(early), best):
        return []
    text = f"the last {third} of {num} tune trials {verb} the best {objective.label.lower()}"
    text += f" by {objective.amount(best - objective.top(early))}" if early else f" to {objective.with_unit(best)}"
    more = math.ceil(1.5 * declaration.num_tune)
    return [Doubt(kind="trials", text=text, key=declaration.tune_key, value=more, effect=CONTINUES)]
