"""Where each part of a sweep file was written, kept beside the plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ablate.errors import Problem, SpecError

MAX_MESSAGE, MAX_FILE = 1500, 300
"""Characters of a problem's message and of where it is; names in a file may have any length."""

Keys = tuple[str | int, ...]
"""The way to a value: ("axes", "arm", "plain", "init"); lists are indexed from 0."""


@dataclass(frozen=True)
class Place:
    """One place in a file, counted from 1; a value from the command line has no line."""

    file: str
    line: int | None = None
    column: int | None = None


class Positions:
    """The places of keys and values, by the way to them."""

    def __init__(self, top: Place) -> None:
        self._keys: dict[Keys, Place] = {(): top}
        self._values: dict[Keys, Place] = {(): top}

    def add(self, keys: Keys, key: Place, value: Place) -> None:
        """Record where a key and its value are; an entry of a list has the same place for both."""
        self._keys[keys] = key
        self._values[keys] = value

    def key(self, keys: Keys) -> Place:
        """Return the place of a key, or of the nearest thing around it."""
        return self._nearest(self._keys, keys)

    def value(self, keys: Keys) -> Place:
        """Return the place of a value, or of the nearest thing around it."""
        return self._nearest(self._values, keys)

    def remove(self, keys: Keys) -> None:
        """Forget an entry and everything in it."""
        for known in (self._keys, self._values):
            for found in [found for found in known if found[: len(keys)] == keys]:
                del known[found]

    def replace(self, keys: Keys, source: Positions, source_keys: Keys) -> None:
        """Take an entry and everything in it from other positions."""
        self.remove(keys)
        for found, place in list(source._keys.items()):
            if found[: len(source_keys)] == source_keys:
                self.add(keys + found[len(source_keys) :], place, source._values[found])

    def within(self, keys: Keys) -> set[Place]:
        """Return the places of an entry and everything in it."""
        return {
            place for known in (self._keys, self._values) for way, place in known.items() if way[: len(keys)] == keys
        }

    def copy(self) -> Positions:
        """Return positions that can be changed without changing these."""
        other = Positions(self._keys[()])
        other._keys, other._values = dict(self._keys), dict(self._values)
        return other

    @staticmethod
    def _nearest(known: dict[Keys, Place], keys: Keys) -> Place:
        while keys and keys not in known:
            keys = keys[:-1]
        return known[keys]


class Findings:
    """Collects the problems of one file, each once. `spoiled` are the entries that hold one."""

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        self.spoiled: set[Keys] = set()
        self._problems: dict[Problem, None] = {}

    def at_key(self, keys: Keys, message: str) -> None:
        """Add a problem with a key."""
        self.spoiled.add(keys)
        self.at(self.positions.key(keys), message)

    def at_value(self, keys: Keys, message: str) -> None:
        """Add a problem with a value."""
        self.spoiled.add(keys)
        self.at(self.positions.value(keys), message)

    def at(self, place: Place, message: str) -> None:
        """Add a problem at a place."""
        problem = Problem(_one_line(message), _one_line(place.file, MAX_FILE), place.line, place.column)
        self._problems[problem] = None

    def take(self, other: Findings) -> None:
        """Add the problems of others, not their spoiled entries."""
        self._problems.update(other._problems)

    def without(self, other: Findings) -> Findings:
        """Return these problems without those that others hold too."""
        kept = Findings(self.positions)
        kept._problems = {problem: None for problem in self._problems if problem not in other._problems}
        return kept

    def marked(self, remark: str, positions: Positions, keys: Keys) -> Findings:
        """Return these problems, with a remark before those that are not in an entry of the file."""
        within = positions.within(keys)
        marked = Findings(self.positions)
        for problem in self._problems:
            is_within = Place(problem.file, problem.line, problem.column) in within
            marked._problems[problem if is_within else replace(problem, message=remark + problem.message)] = None
        return marked

    def __bool__(self) -> bool:
        return bool(self._problems)

    def raise_all(self) -> None:
        """Raise a SpecError with all problems, sorted by line, if there is one."""
        if self._problems:
            raise SpecError(*sorted(self._problems, key=_by_line))


def _by_line(problem: Problem) -> tuple[bool, int, int]:
    return problem.line is None, problem.line or 0, problem.column or 0


def _one_line(text: str, most: int = MAX_MESSAGE) -> str:
    shortened = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(character if character.isprintable() else " " for character in shortened)
