"""Claims of a sweep file: read from their sentences, and frozen before the first trial."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ablate.errors import choices_text, shown
from ablate.metrics import Metric
from ablate.store.declaration import DeclaredClaim, SweepFolder, sweeps
from ablate.sweepfile.cells import Cell
from ablate.sweepfile.model import Claim, ReportLayout, SweepSpec
from ablate.sweepfile.positions import Findings, Keys

SIZE = r"(?P<size>\d+(?:\.\d+)?)(?: (?P<points>points?)| in (?P<metric>\S+))?"
BEATS = re.compile(rf"(?P<better>\S+) beats (?P<worse>\S+)(?: by at least {SIZE})?(?: at (?P<row>.+))?")
EQUALS = re.compile(rf"(?P<better>\S+) equals (?P<worse>\S+) within {SIZE}(?: at (?P<row>.+))?")


def read_claims(
    texts: Sequence[str],
    axes: Mapping[str, Mapping[str, Any]],
    layout: ReportLayout,
    metric: Metric,
    findings: Findings,
) -> tuple[Claim, ...]:
    """Return the claims that hold no mistake. A and B are levels of the column axis, and the rest names one row.

    Args:
        texts: Sentences such as "plain+ortho beats plain by at least 5 points at width 64", "A equals B within 2 points
            at width 64", or, where the metric is not in percent, "A beats B by at least 0.02 in val_rmse".
        axes: Each axis with its levels.
        layout: The table's layout.
        metric: The table's.
        findings: Takes the mistakes.
    """
    found = []
    size = "5 points" if metric.unit == "percent" else f"0.02 in {metric.name}"
    row = _row(axes, layout)
    form = f"A beats B [by at least {size}]{row}' or 'A equals B within {size}{row}"
    for index, text in enumerate(texts):
        keys: Keys = ("claims", index)
        words = " ".join(text.split())
        beats = BEATS.fullmatch(words)
        match = beats or EQUALS.fullmatch(words)
        if match is None:
            findings.at_value(keys, f"a claim must read '{form}', but got {shown(text)}")
        elif match["size"] and (metric.unit == "percent") != bool(match["points"]):
            findings.at_value(keys, f"a claim about {metric.name} must read '{form}', but got {shown(text)}")
        elif match["metric"] not in (None, metric.name):
            problem = f"a claim is about the table's metric {metric.name}, but got {shown(match['metric'])}"
            findings.at_value(keys, problem)
        elif layout.columns is None:
            findings.at_value(keys, "a claim needs a column axis, whose levels it compares")
        elif [text for text in texts[:index] if text == texts[index]]:
            findings.at_value(keys, f"the claim {shown(text)} stands here twice")
        else:
            problem, levels = _levels(match, axes, layout.columns)
            if problem:
                findings.at_value(keys, problem)
            else:
                margin = float(match["size"] or 0) / metric.scale
                found.append(
                    Claim(
                        text=text, better=match["better"], worse=match["worse"], margin=margin, levels=levels,
                        kind="beats" if beats else "equals",
                    )
                )  # fmt: skip
    return tuple(found)


def _row(axes: Mapping[str, Any], layout: ReportLayout) -> str:
    """Return how a claim names its row, for example " [at width 64]"; empty where there is one row only."""
    others = [axis for axis in axes if axis != layout.columns]
    return f" at {', '.join(f'{axis} {next(iter(axes[axis]), 1)}' for axis in others)}" if others else ""


def frozen_claims(spec: SweepSpec, cells: Sequence[Cell], folder: SweepFolder) -> list[DeclaredClaim]:
    """Return all claims ever declared for this sweep; those that stand in the file as they were frozen, or now.

    A claim is exploratory if a trial of the sweep, or of one of its cells in another sweep, was proposed before.
    """
    earlier = folder.earlier_declaration()
    before = earlier.claims if earlier else []
    fresh = [_freeze(claim, spec, cells) for claim in spec.claims]
    known = {(claim.text, claim.design): claim for claim in before}
    is_late = None
    found = []
    for claim in fresh:
        old = known.get((claim.text, claim.design))
        if old is None:
            is_late = _has_trials(folder, cells) if is_late is None else is_late
            found.append(dataclasses.replace(claim, is_exploratory=is_late))
        else:
            # It is known what it was frozen at; each other number of replicates is one more look.
            looks = old.looks if claim.num_replicates in old.looks else [*old.looks, claim.num_replicates]
            found.append(dataclasses.replace(old, looks=looks, is_withdrawn=False))
    present = {(claim.text, claim.design) for claim in found}
    gone = [claim for claim in before if (claim.text, claim.design) not in present]
    return [*found, *(dataclasses.replace(claim, is_withdrawn=True) for claim in gone)]


def _levels(match: re.Match[str], axes: Mapping[str, Any], columns: str) -> tuple[str, dict[str, str]]:
    """Return (what is wrong, else empty; the level of each axis that is not the column axis)."""
    for side in ("better", "worse"):
        if match[side] not in axes[columns]:
            return f"no level '{match[side]}' of {columns}. {choices_text(match[side], axes[columns])}", {}
    if match["better"] == match["worse"]:
        return f"a claim must compare two levels of {columns}, but got '{match['better']}' twice", {}
    others = [axis for axis in axes if axis != columns]
    levels: dict[str, str] = {}
    for part in re.split(r", | and ", match["row"] or ""):
        axis, _, level = part.partition(" ")
        if not axis:
            continue
        if axis not in others:
            return f"no axis '{axis}' that a row fixes. {choices_text(axis, others)}", {}
        if level not in axes[axis]:
            return f"no level '{level}' of {axis}. {choices_text(level, axes[axis])}", {}
        levels[axis] = level
    missing = [axis for axis in others if axis not in levels]
    if missing:
        return f"a claim must name one row: the level of {', '.join(missing)} is missing ('… at {missing[0]} …')", {}
    return "", levels


def _freeze(claim: Claim, spec: SweepSpec, cells: Sequence[Cell]) -> DeclaredClaim:
    axis = spec.report.columns or ""
    sides = [{**claim.levels, axis: side} for side in (claim.better, claim.worse)]
    keys = [next((cell.key for cell in cells if dict(cell.levels) == side), "") for side in sides]
    num_studies, num_seeds = spec.budget.num_studies, spec.confirm.seeds
    # With several studies the seeds of each are a part of the design, and further studies are looks.
    seeds = [num_seeds] if num_studies > 1 else []
    design = _digest([keys, spec.budget.num_tune, spec.report.metric, *seeds])
    found = DeclaredClaim(
        text=claim.text, axis=axis, better=claim.better, worse=claim.worse, margin=claim.margin, kind=claim.kind,
        levels=dict(claim.levels), design=design, hash="", num_seeds=num_seeds, num_studies=num_studies,
    )  # fmt: skip
    return dataclasses.replace(
        found, hash=_digest([claim.text, design, found.num_replicates]), looks=[found.num_replicates]
    )


def is_late_margin(spec: SweepSpec, cells: Sequence[Cell], folder: SweepFolder) -> bool:
    """Whether the report's margin was written or changed when trials had been proposed."""
    margin, earlier = spec.report.margin, folder.earlier_declaration()
    if margin is None:
        return False
    if earlier is not None and earlier.report.get("margin") == margin:
        return earlier.is_late_margin
    return _has_trials(folder, cells)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _has_trials(folder: SweepFolder, cells: Sequence[Cell]) -> bool:
    keys = {cell.key for cell in cells}
    if folder.read_proposals():
        return True
    others = (SweepFolder(folder.out, sweep) for sweep in sweeps(folder.out))
    return any(proposal.cell in keys for other in others for proposal in other.read_proposals())
