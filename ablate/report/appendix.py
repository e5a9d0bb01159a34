"""What stands beside the table: effects of components, runner-ups, the audit of the pruner, where trials are from."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass

from ablate.provenance import commit_text
from ablate.report import studies
from ablate.report.effects import effects
from ablate.report.entries import Entry, finished
from ablate.report.entries import entry as measured
from ablate.report.text import entry_text, listed
from ablate.store.declaration import CellTrials, Declaration, StudyTrials, named_study
from ablate.store.record import TrialRecord


@dataclass(frozen=True)
class Section:
    """One table of the appendix: the header first; `note` says how to read it."""

    name: str
    title: str
    rows: list[list[str]]
    note: str


def sections(declaration: Declaration, entries: list[Entry]) -> list[Section]:
    """Return the tables that this sweep has."""
    cells = [entry.trials for entry in entries]
    found = [
        _winners(entries),
        _variance(declaration, entries),
        _effects(declaration, entries),
        _runner_ups(declaration, entries),
        _audit(cells),
    ]
    return [section for section in found if section is not None]


def origin_lines(cells: list[CellTrials]) -> list[str]:
    """Return one line for each of commit, torch and device of which the trials have several, with counts."""
    lines = []
    for name, title in (("git_sha", "commits"), ("torch", "versions of torch"), ("device", "classes of device")):
        counts = Counter(
            commit_text(record.provenance) if name == "git_sha" else record.provenance.get(name, "unknown")
            for record in finished(cells)
        )
        if len(counts) > 1:
            text = listed([f"{count} from {value}" for value, count in counts.most_common()])
            lines.append(f"The trials are from {len(counts)} {title}: {text}.")
    return lines


def regret_text(cells: list[CellTrials]) -> str:
    """Return in one sentence what the audit found, empty where none was run."""
    audited = [(trials, record) for cell in cells for trials in cell.studies for record in _audited(trials)]
    if not audited:
        return ""
    better = [record for trials, record in audited if _gain(trials, record) > 0]
    rest = ""
    if better:
        gains = [gain for gain in (_gain(trials, record) for trials, record in audited) if math.isfinite(gain)]
        metric = audited[0][0].objective
        rest = f", by at most {metric.amount(max(gains))} of {metric.label.lower()}" if gains else ""
    searched = "study" if any(len(cell.studies) > 1 for cell in cells) else "cell"
    return (
        f"Audit of the pruner: of {len(audited)} stopped trials that were run to their end after tuning, {len(better)} "
        f"would have beaten the winner of their {searched}{rest}. The rank regret of a {searched} is how many did: "
        "so many places lower its winner would stand."
    )


def _winners(entries: list[Entry]) -> Section | None:
    rows = studies.winners(entries)
    note = (
        "The winner of each study, in the studies' order. Where they lie far apart and the numbers are alike, the "
        "parameter matters little there; where the numbers differ too, tuning is a matter of luck and asks "
        "for more trials."
    )
    return Section("winners", "Winners of the studies", rows, note) if rows else None


def _variance(declaration: Declaration, entries: list[Entry]) -> Section | None:
    rows = studies.variance_shares(declaration, entries)
    name = declaration.replicates(2)
    note = (
        f"Shares of the variance of a difference to the baseline: between {name}, between test items, and what is "
        "neither (random effects of both, crossed); – where outcomes by item are not known. The interval over both "
        f"follows from the variance of the mean, in which each part is divided by the number of {name}, of items, or "
        f"of both. One outcome is that of one item in one {declaration.replicate}: its shares are not the interval's. "
        f"The correlation is that of both cells' {name}: the nearer to 1, the more the pairing gains."
    )
    if any(row[-1] == "–" for row in rows):
        note += f" It is – with fewer than three {name} in both, or where those of a cell are all equal."
    return Section("variance", "Where the uncertainty comes from", rows, note) if rows else None


def _effects(declaration: Declaration, entries: list[Entry]) -> Section | None:
    found = effects(declaration, entries)
    if not found:
        return None
    axes = list(found[0].others)
    metric = declaration.metric
    unit = f" ({metric.points.strip()})" if metric.points else ""
    rows = [[*axes, "component", f"effect{unit}", "95% interval", "contrasts", "n"]]
    for effect in found:
        low, high = effect.low, effect.high
        interval = "–" if low is None or high is None else f"[{metric.signed(low)}, {metric.signed(high)}]"
        mean = "seeds collapsed" if effect.mean is None else metric.signed(effect.mean)
        rows.append([*effect.others.values(), effect.name, mean, interval,
                     str(effect.num_contrasts), str(effect.n)])  # fmt: skip
    return Section(
        "effects",
        "Main effects and interactions of the components",
        rows,
        f"An effect is the mean difference in {metric.label.lower()} with and without the component, over the settings "
        "of the others that were run (contrasts); an interaction (×) is how much one component's effect changes when "
        f"the other is switched on. t intervals over shared {declaration.replicates(2)}, each read on its own. "
        f"{_covers(declaration)}",
    )


def _covers(declaration: Declaration) -> str:
    """Say what intervals over replicates alone do not cover."""
    if declaration.replicate == "study":
        return "They do not cover the choice of the test sample."
    return "They cover neither the choice of the test sample nor the luck of tuning."


def _runner_ups(declaration: Declaration, entries: list[Entry]) -> Section | None:
    rows = [[", ".join(declaration.axes), "winner", "runner-up"]]
    for entry in entries:
        confirmed = [(p, r) for p, r in entry.trials.extra if p.phase == "runner_up"]
        second = measured(declaration, dataclasses.replace(entry.trials, confirm=confirmed))
        if second.estimate.n and entry.estimate.n:
            rows.append([", ".join(entry.levels.values()), entry_text(entry), entry_text(second)])
    if len(rows) == 1:
        return None
    note = "The second best configuration on validation data, confirmed on the same seeds. It never makes the entry."
    note = f"{note} {_covers(declaration)}"
    return Section("runner-up", "The runner-up of each cell", rows, note)


def _audit(cells: list[CellTrials]) -> Section | None:
    rows = [["cell", "stopped", "run to the end", "rank regret", "winner", "best of them"]]
    for trials in (study for cell in cells for study in cell.studies):
        records = _audited(trials)
        if records:
            values = [value for value in (_value(trials, record) for record in records) if value is not None]
            best = trials.objective.top(values) if values else None
            better = sum(_gain(trials, record) > 0 for record in records)
            numbers = [_text(trials, number) for number in (_winning(trials), best)]
            row = [
                named_study(", ".join(trials.cell.levels.values()), trials.number),
                str(len(trials.stopped())),
                str(len(records)),
                str(better),
            ]
            rows.append([*row, *numbers])
    return Section("audit", "Audit of the pruner", rows, regret_text(cells)) if len(rows) > 1 else None


def _audited(trials: StudyTrials) -> list[TrialRecord]:
    return [r for p, r in trials.extra if p.phase == "audit" and r is not None and trials.winner() is not None]


def _value(trials: StudyTrials, record: TrialRecord) -> float | None:
    """The objective after the last step; a diverged trial has none and ranks last."""
    return trials.value(record) if record.state == "complete" else None


def _winning(trials: StudyTrials) -> float | None:
    winner = trials.winner()
    return next((_value(trials, record) for proposal, record in trials.tune if record and proposal is winner), None)


def _gain(trials: StudyTrials, record: TrialRecord) -> float:
    """Return how much better a trial is than the winner of its cell; infinite where only one of them has a number."""
    own, best = _value(trials, record), _winning(trials)
    if own is None:
        return -math.inf
    return math.inf if best is None else trials.objective.sign * (own - best)


def _text(trials: StudyTrials, value: float | None) -> str:
    return "–" if value is None else trials.objective.text(value)
