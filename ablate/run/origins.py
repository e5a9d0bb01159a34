"""Trials in the ledger that were computed with something else than this run has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ablate.provenance import commit_text
from ablate.store.record import TrialRecord

WORDS = {"git_sha": "commit", "torch": "torch", "device": "class of device"}


def _value(name: str, provenance: Mapping[str, str]) -> str:
    return commit_text(provenance) if name == "git_sha" else provenance.get(name, "unknown")


def foreign_lines(records: Iterable[TrialRecord], present: Mapping[str, str]) -> list[str]:
    """Return one line for each of commit, torch and device in which reused trials differ from the present run."""
    lines = []
    known = list(records)
    for name, word in WORDS.items():
        here = _value(name, present) if name in present else None
        others = Counter(value for r in known if (value := _value(name, r.provenance)) != here)
        if here is not None and others:
            text = ", ".join(f"{value} ({count})" for value, count in others.most_common())
            num, verb = sum(others.values()), "is" if sum(others.values()) == 1 else "are"
            lines.append(f"{num} of the trials in the ledger {verb} of another {word} than {here}: {text}")
    return lines
