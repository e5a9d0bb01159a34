"""Where each part of a sweep file was written, kept beside the plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ablate.errors import Problem, SpecError

MAX_PROBLEMS = 100
"""Nobody reads more, and to find the names that were meant takes time for each."""
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


@dataclass
class _Entry:
    """The places of one key and its value, and what is in it."""

    key: Place
    value: Place
    entries: dict[str | int, _Entry] = field(default_factory=dict)

    def copy(self) -> _Entry:
        return _Entry(self.key, self.value, {name: entry.copy() for name, entry in self.entries.items()})

    def places(self) -> Iterator[Place]:
        yield from (self.key, self.value)
        for entry in self.entries.values():
            yield from entry.places()


class Positions:
    """The places of keys and values, by the way to them."""

    def __init__(self, top: Place) -> None:
        self._top = _Entry(top, top)

    def add(self, keys: Keys, key: Place, value: Place) -> None:
        """Record where a key and its value are; an entry of a list has the same place for both."""
        found = self._made(keys)
        found.key, found.value = key, value

    def key(self, keys: Keys) -> Place:
        """Return the place of a key, or of the nearest thing around it."""
        return self._nearest(keys).key

    def value(self, keys: Keys) -> Place:
        """Return the place of a value, or of the nearest thing around it."""
        return self._nearest(keys).value

    def remove(self, keys: Keys) -> None:
        """Forget an entry and everything in it."""
        around = self._find(keys[:-1])
        if around is not None:
            around.entries.pop(keys[-1], None)

    def replace(self, keys: Keys, source: Positions, source_keys: Keys) -> None:
        """Take an entry and everything in it from other positions."""
        self.remove(keys)
        found = source._find(source_keys)
        if found is not None:
            self._made(keys[:-1]).entries[keys[-1]] = found.copy()

    def within(self, keys: Keys) -> set[Place]:
        """Return the places of an entry and everything in it."""
        found = self._find(keys)
        return set(found.places()) if found is not None else set()

    def copy(self) -> Positions:
        """Return positions that can be changed without changing these."""
        other = Positions(self._top.key)
        other._top = self._top.copy()
        return other

    def _find(self, keys: Keys) -> _Entry | None:
        found: _Entry | None = self._top
        for key in keys:
            found = found.entries.get(key) if found is not None else None
        return found

    def _made(self, keys: Keys) -> _Entry:
        """Return an entry; where there is none, it and what is around it get the nearest places."""
        found = self._top
        for key in keys:
            found = found.entries.setdefault(key, _Entry(found.key, found.value))
        return found

    def _nearest(self, keys: Keys) -> _Entry:
        found = self._top
        for key in keys:
            if key not in found.entries:
                break
            found = found.entries[key]
        return found


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
        """Add a problem at a place.

        Raises:
            SpecError: There are too many to go on.
        """
        problem = Problem(_one_line(message), _one_line(place.file, MAX_FILE), place.line, place.column)
        self._problems[problem] = None
        if len(self._problems) >= MAX_PROBLEMS:
            self.raise_all()

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
