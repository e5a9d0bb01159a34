"""What two sides of one sweep contradict each other in, in words: the first is "there", the second "in the file"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

from ablate.errors import shown
from ablate.provenance import LIBRARIES
from ablate.store.declaration import Declaration, Proposal
from ablate.store.ledger import differing_numbers
from ablate.store.record import TrialRecord

UNLIKE = (
    "file",
    "path",
    "overrides",
    "history",
    "schema_version",
    "data_line",
    "notices",
    "is_late_margin",
    "tune_key",
)
"""Fields of a declaration that tell how it came about, not what it asks for, or say it in prose."""
MOST = 5


def declared_otherwise(first: Declaration, second: Declaration) -> str:
    """Return in what two declarations ask for something else; "" where they ask for the same.

    What an earlier version did not record, the space of the cells and parts of `data`, is compared where both have it.
    """
    has_spaces = all(cell.space or not cell.tuned for cell in [*first.cells, *second.cells])
    known_data = first.data.keys() & second.data.keys()
    return _differences(*(_asked(side, known_data, has_spaces) for side in (first, second)))


def _asked(declaration: Declaration, known_data: Set[str], has_spaces: bool) -> dict[str, Any]:
    """Return what a declaration asks for, as far as the other one has it too."""
    content = {name: value for name, value in dataclasses.asdict(declaration).items() if name not in UNLIKE}
    content["report"] = {name: value for name, value in declaration.report.items() if value is not None}
    content["data"] = {name: value for name, value in declaration.data.items() if name in known_data}
    for cell in content["cells"]:
        del cell["num_points"]  # It follows from the rest.
    if not has_spaces:
        content["cells"] = [{**cell, "space": {}} for cell in content["cells"]]
    return content


def other_settings(first: Proposal, second: Proposal) -> str:
    """Return in what two proposals of one number differ."""
    settings = [{"seed": each.seed, **each.settings} for each in (first, second)]
    return _differences(*settings) or f"its key is {first.key} there and {second.key} in the file"


def other_numbers(first: TrialRecord, second: TrialRecord) -> str:
    """Return one number that two records of a trial differ in, and what each was computed with."""
    names = differing_numbers(first, second)
    task = first.known_task
    told = ("state", *((task.shown, task.objective) if task is not None else ()), "weights_digest")
    name = next((name for name in told if name in names), names[0] if names else "state")
    return (
        f"{name} is {_number(first, name)} there ({_origin(first, second)}) "
        f"and {_number(second, name)} in the file ({_origin(second, first)})"
    )


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    parts = []
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        if one == other:
            continue
        is_short = not any(isinstance(value, dict | list) for value in (one, other))
        values = f" is {shown(one)} there and {shown(other)} in the file" if is_short else " differs"
        parts.append(f"{name}{values}")
    rest = f"; and {len(parts) - MOST} more" if len(parts) > MOST else ""
    return "; ".join(parts[:MOST]) + rest


def _number(record: TrialRecord, name: str) -> str:
    if name in record.metrics:
        return repr(record.metrics[name])
    if name in record.curves:
        return "another curve"
    if name.startswith("items of "):
        return "another list"
    return str(getattr(record, name)) or "none"


def _origin(record: TrialRecord, other: TrialRecord) -> str:
    """Return the device and torch of a record, and the versions of what else differs: "cpu, torch 2.14.1"."""
    found, others = record.provenance, other.provenance
    parts = [found.get("device", "unknown device"), f"torch {found.get('torch', 'unknown')}"]
    for name in ("python", "system", "ablate", *LIBRARIES):
        if name != "torch" and found.get(name) != others.get(name):
            parts.append(f"{name} {found.get(name, 'unknown')}")
    return ", ".join(parts)
