"""The sweep file, one of its profiles and `--set`, merged into one tree that still knows where each part is from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ablate.errors import SpecError, choices_text, shown
from ablate.sweepfile.document import Document
from ablate.sweepfile.positions import Findings, Keys, Place

SECTIONS = ("fixed", "axes", "components", "tune", "budget", "confirm", "report", "resources")
"""Keys whose entries are replaced one by one."""
WHOLE = ("question", "task", "seed", "imports", "design", "combinations", "claims")
"""Keys that are replaced as a whole."""


class Merged:
    """The tree of a sweep file while profiles and overrides are laid over it."""

    def __init__(self, document: Document) -> None:
        self.tree: dict[str, Any] = copy.deepcopy(document.tree)
        self.positions = document.positions.copy()
        self.findings = Findings(self.positions)
        self.findings.take(document.findings)
        self.findings.spoiled.update(document.findings.spoiled)
        self.profiles = self.tree.pop("profiles", None)
        for section in SECTIONS:
            if section in self.tree and self.tree[section] is None:
                self.tree[section] = {}

    def put(self, keys: Keys, value: Any, source: Findings, source_keys: Keys) -> None:
        """Put a value at `section.entry` or at a top-level key; null removes what is there."""
        *way, last = keys
        target = self.tree
        if way:
            target = self.tree.setdefault(str(way[0]), {})
            if not isinstance(target, dict):
                return  # the section itself is reported as a wrong type
        self.findings.spoiled = {spoiled for spoiled in self.findings.spoiled if spoiled[: len(keys)] != keys}
        if value is None and source_keys not in source.spoiled:
            if last not in target:
                name = ".".join(str(key) for key in keys)
                self.findings.at(source.positions.key(source_keys), f"null removes an entry, but there is no '{name}'")
            target.pop(str(last), None)
            self.positions.remove(keys)
            return
        target[str(last)] = value
        self.positions.replace(keys, source.positions, source_keys)
        for spoiled in source.spoiled:
            if spoiled[: len(source_keys)] == source_keys:
                self.findings.spoiled.add(keys + spoiled[len(source_keys) :])

    def apply_profile(self, name: str, document: Document) -> None:
        """Lay a profile over the file; its entries replace whole entries one level down."""
        profile = self.profiles.get(name)
        way: Keys = ("profiles", name)
        positions = document.positions
        if not isinstance(profile, dict):
            self.findings.at(positions.value(way), f"the profile '{name}' must be a mapping, but got {shown(profile)}")
            return
        for key, value in profile.items():
            if key == "profiles":
                self.findings.at(positions.key((*way, key)), "a profile cannot hold profiles")
            elif key in WHOLE or (key in SECTIONS and value is None):
                self.put((key,), value, document.findings, (*way, key))
            elif key not in SECTIONS:
                self.findings.at(positions.key((*way, key)), _unknown_key(key, (*SECTIONS, *WHOLE)))
            elif not isinstance(value, dict):
                self.findings.at(positions.value((*way, key)), f"{key} must be a mapping, but got {shown(value)}")
            else:
                for entry, entry_value in value.items():
                    self.put((key, entry), entry_value, document.findings, (*way, key, entry))

    def apply_override(self, override: str) -> None:
        """Apply one `--set KEY=VALUE`."""
        place = Place(f"--set {override}")
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            return self.findings.at(place, "--set takes KEY=VALUE, for example budget.studies=10")
        if not text.strip():
            return self.findings.at(place, f"a value is missing after '{key}='; null removes an entry")
        section, dot, entry = key.partition(".")
        if section not in SECTIONS if dot else key not in ("name", *WHOLE, *SECTIONS):
            known = SECTIONS if dot else ("name", *WHOLE, *SECTIONS)
            return self.findings.at(place, _unknown_key(section, known))
        present = self.tree.get(section)
        if dot and (not entry or ("." in entry and not (isinstance(present, dict) and entry in present))):
            reach = f"--set reaches one level deep: set {section}.{entry.partition('.')[0] or 'ENTRY'} as a whole"
            return self.findings.at(place, reach)
        try:
            value = Document(text, place.file, has_lines=False)
        except SpecError as error:
            return self.findings.at(place, error.problems[0].message)
        self.findings.take(value.findings)
        if not dot and key in SECTIONS:
            if not isinstance(value.tree, dict) or not value.tree:
                entries = f"{key} has entries: set one of them as {key}.ENTRY=VALUE, or some as {key}={{ENTRY: VALUE}}"
                return self.findings.at(place, entries)
            for each, part in value.tree.items():
                self.put((key, each), part, value.findings, (each,))
            return None
        self.put((section, entry) if dot else (key,), value.tree, value.findings, ())
        return None


def merge(document: Document, profile: str | None, overrides: Sequence[str] = ()) -> Merged:
    """Return the tree of a file with one profile and the overrides laid over it, in this order."""
    merged = Merged(document)
    if merged.profiles is not None and not isinstance(merged.profiles, dict):
        message = f"profiles must be a mapping, but got {shown(merged.profiles)}"
        merged.findings.at(document.positions.value(("profiles",)), message)
        merged.profiles = None
    if profile is not None:
        if profile in (merged.profiles or {}):
            merged.apply_profile(profile, document)
        else:
            message = f"unknown profile '{profile}'. {choices_text(profile, merged.profiles or ())}"
            merged.findings.at(Place(document.positions.key(()).file), message)
    for override in overrides:
        merged.apply_override(override)
    return merged


def _unknown_key(key: str, known: Sequence[str]) -> str:
    return f"unknown key '{key}'. {choices_text(key, known)}"
