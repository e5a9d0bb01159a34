"""The state of a sweep in a few numbers, for scripts. Light: no pandas, no figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import Any

from ablate.metrics import Metric
from ablate.store.declaration import EXTRA_PHASES, CellTrials, Declaration, Proposal, twin_notices
from ablate.store.record import STATES, TrialRecord


def status(
    declaration: Declaration, cells: list[CellTrials], *, running: Container[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Return how far a sweep is and what its cells measured so far; what is not defined is None.

    Numbers in percent are fractions; a diverged confirm seed counts as the metric's floor. `best_configs` have the
    tuned parameters of the best tune trial so far of each study; they and the `values` of the confirmed replicates are
    in the order of the studies, or of the seeds of a single one. `trial_keys` are the finished trials, sorted, without
    failed ones. `beside_the_table` counts the trials of the runner-up and of the audit, which are in no other count; it
    is there only where some were proposed; `notices` name cells that gave the same numbers; `origins`, the trials by
    device and version of torch, only where there are several. `running` are the trials that are under way, as (cell,
    key); every other one without a record is waiting, whether it was proposed or not.
    """
    # Statistics load scipy, which a command line that only prints its help need not wait for.
    from ablate.report.entries import entries, finished

    metric = declaration.metric
    counts = Counter(
        _state(trials, proposal, record, running)
        for trials in cells
        for proposal, record in (*trials.tune, *trials.confirm)
    )
    num_running = counts["running"]
    num_ended = sum(counts[state] for state in STATES)
    beside = _beside_the_table(cells, running)
    origins = _origins(finished(cells))
    return {
        "sweep": declaration.sweep,
        "metric": {"name": metric.name, "direction": metric.direction, "unit": metric.unit},
        "trials": {
            "planned": declaration.num_trials,
            "waiting": declaration.num_trials - num_ended - num_running,
            "running": num_running,
            **{state: counts[state] for state in STATES},
        },
        "cells": [
            {
                "levels": entry.levels,
                "best_configs": best_settings(entry.trials),
                "confirm": {
                    "n": entry.estimate.n,
                    "mean": entry.estimate.mean,
                    "low": entry.estimate.low,
                    "high": entry.estimate.high,
                    "values": list(entry.estimate.values),
                    "diverged": entry.estimate.num_diverged,
                    "collapsed": entry.estimate.num_collapsed,
                },
            }
            for entry in entries(declaration, cells)
        ],
        "trial_keys": sorted({record.key for record in finished(cells) if record.state != "failed"}),
        **({"notices": twins} if (twins := twin_notices(cells)) else {}),
        **({"beside_the_table": beside} if beside else {}),
        **({"origins": origins} if len(origins) > 1 else {}),
    }


def _origins(records: list[TrialRecord]) -> list[dict[str, Any]]:
    """Return with which device and version of torch trials were computed, the most frequent first."""
    counts = Counter(
        tuple(record.provenance.get(name, "unknown") for name in ("device", "torch")) for record in records
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"device": device, "torch": torch, "trials": count} for (device, torch), count in ordered]


def _state(
    trials: CellTrials, proposal: Proposal, record: TrialRecord | None, running: Container[tuple[str, str]]
) -> str:
    if (trials.cell.key, proposal.key) in running and (record is None or record.state == "failed"):
        return "running"  # one that failed is tried again
    return "waiting" if record is None else record.state


def _beside_the_table(cells: list[CellTrials], running: Container[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Return {phase: {state: how many}} of the trials that make no entry, without states that none is in."""
    found = {
        phase: Counter(
            _state(cell, proposal, record, running)
            for cell in cells
            for proposal, record in cell.extra
            if proposal.phase == phase
        )
        for phase in EXTRA_PHASES
    }
    return {phase: dict(counts) for phase, counts in found.items() if counts}


def status_lines(content: dict[str, Any]) -> list[str]:
    """Return what `status` found as lines for a terminal, one for each cell below the counts."""
    shown = Metric(**content["metric"]).text
    counts = dict(content["trials"])
    planned = counts.pop("planned")
    lines = [f"{content['sweep']}: {planned} trials planned", f"  {_counts_text(counts)}"]
    lines += [
        f"  beside the table, {phase.replace('_', '-')}: {_counts_text(found)}"
        for phase, found in content.get("beside_the_table", {}).items()
    ]
    if origins := content.get("origins"):
        parts = [f"{each['device']}, torch {each['torch']} ({each['trials']})" for each in origins]
        lines.append(f"  trials come from: {'; '.join(parts)}")
    names = [", ".join(f"{axis}={level}" for axis, level in cell["levels"].items()) for cell in content["cells"]]
    width = max(map(len, names), default=0)
    for name, cell in zip(names, content["cells"], strict=True):
        found = cell["confirm"]
        text = "no confirmed seed yet"
        if found["n"]:
            text = ", ".join(map(shown, found["values"])) if found["mean"] is None else shown(found["mean"])
            text = text or "no number"
        if found["low"] is not None:
            text += f" [{shown(found['low'])}, {shown(found['high'])}]"
        if found["n"]:
            num = found["n"]
            lost = [f"{found[name]} {name}" for name in ("diverged", "collapsed") if found[name]]
            text += f" ({', '.join([f'n={num}', *lost])})"
        lines.append(f"  {name.ljust(width)}  {text}")
    return [*lines, *(f"  note: {notice}" for notice in content.get("notices", ()))]


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def best_settings(trials: CellTrials) -> list[dict[str, Any]]:
    """Return the tuned parameters of the best tune trial so far of each study that has a result."""
    return [
        {name: winner.settings[name] for name in trials.cell.tuned if name in winner.settings}
        for winner in trials.winners()
    ]
