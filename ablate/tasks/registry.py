"""Rows: everything that a sweep file can choose by name.

A row holds data only, so that a sweep file is checked without importing torch. The code behind a row is
imported by `Row.load`. A task registers the rows that come with it; `imports:` in a sweep file adds a user's.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablate.errors import UsageError, choices_text, shown
from ablate.files import read_regular
from ablate.signals import was_interrupted

Value = None | bool | int | float | str | tuple[float, ...]


class _Absent:
    """The default of a parameter that is not there unless it is given."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT: Any = _Absent()

FLOAT32 = (1.1754943508222875e-38, 1e32)
"""The smallest number that every device keeps apart from 0; and the largest one, 3.4e38, less the factor 1e6 by which
Adam's first step can exceed lr."""
MAX_INT = 2**31 - 1
MAX_IMPORT_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a trial: its type, its default and the values it takes.

    `low` and `high` are inclusive unless `low_open`; a float must be in float32's range too, in which nets compute.
    `choices` are the allowed strings. `row_kind` says that the value names a row of that kind. `type` is bool, int,
    float, str, "window": a pair 0 <= start <= end <= 1, "steps": a pair of whole numbers 0 <= start <= end, or "any".
    `refused` are pairs of a string that one might expect among the choices, and why it is none.
    `unwritten` is empty or holds one value: that of every trial before the parameter existed. With this value the
    parameter, and the row that it names, stay out of fingerprints and of cells' keys; what an earlier version wrote
    without the parameter means this value.
    """

    name: str
    type: str
    default: Value
    summary: str
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    choices: tuple[str, ...] = ()
    row_kind: str = ""
    optional: bool = False
    fixed_only: bool = False
    refused: tuple[tuple[str, str], ...] = ()
    unwritten: tuple[Value, ...] = ()

    def allowed(self) -> tuple[str, ...]:
        """Return the allowed strings, or () where any value of the type is allowed."""
        return names(self.row_kind) if self.row_kind else self.choices

    def check(self, value: Any) -> Value:
        """Return the value in this parameter's type.

        Raises:
            ValueError: The value has the wrong type or lies outside the range; the text states the rule.
        """
        if self.type == "any" or (value is None and self.optional):
            return value  # type: ignore[no-any-return]
        if self.type in ("window", "steps"):
            return self._check_window(value)
        if self.type == "str":
            if not isinstance(value, str):
                raise ValueError(f"{self.name} must be a name, but got {shown(value)}")
            reason = dict(self.refused).get(value)
            if reason:
                raise ValueError(f"{self.name} '{value}' is refused: {reason}")
            allowed = self.allowed()
            if allowed and value not in allowed:
                what = (self.row_kind or self.name).replace("_", " ")
                raise ValueError(f"unknown {what} '{value}'. {choices_text(value, allowed)}")
            return value
        if self.type == "bool":
            if not isinstance(value, bool):
                raise ValueError(f"{self.name} must be true or false, but got {shown(value)}")
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ValueError(f"{self.name} must be {self.rule()}, but got {shown(value)}")
        number: int | float = value
        is_int = self.type == "int"
        if is_int and (math.isinf(number) or int(number) != number):
            raise ValueError(f"{self.name} must be {self.rule()}, but got {shown(value)}")
        number = int(number) if is_int else float(number)
        below = self.low is not None and (number <= self.low if self.low_open else number < self.low)
        if below or (self.high is not None and number > self.high):
            raise ValueError(f"{self.name} must be {self.rule()}, but got {shown(value)}")
        if is_int and abs(number) > MAX_INT:
            raise ValueError(f"{self.name} must be {self.rule()} and at most {MAX_INT}, but got {shown(value)}")
        # Float32 has an infinity, which code may ask for: sweep files hold finite numbers only.
        is_held = number == 0 or math.isinf(number) or FLOAT32[0] <= abs(number) <= FLOAT32[1]
        if not is_int and not is_held:
            size = f"a size from {FLOAT32[0]:.2g} to {FLOAT32[1]:.2g}"
            raise ValueError(
                f"{self.name} must be {self.rule()} that float32 can hold ({size}), but got {shown(value)}"
            )
        return number

    def _check_window(self, value: Any) -> Value:
        is_pair = isinstance(value, list | tuple) and len(value) == 2
        if not is_pair or not all(isinstance(part, int | float) and not isinstance(part, bool) for part in value):
            raise ValueError(f"{self.name} must be {self.rule()}, but got {shown(value)}")
        start, end = value
        is_whole = all(float(part).is_integer() for part in value)
        if not 0 <= start <= end or (end > 1 if self.type == "window" else not is_whole):
            raise ValueError(f"{self.name} must be {self.rule()}, but got {shown(value)}")
        return (float(start), float(end))

    def rule(self) -> str:
        """Return what values it takes, for example "a number > 0"."""
        if self.type == "window":
            return "a pair [start, end] with 0 <= start <= end <= 1"
        if self.type == "steps":
            return "a pair [start, end] of whole numbers with 0 <= start <= end"
        bounds = []
        if self.low is not None:
            bounds.append(f"{'>' if self.low_open else '>='} {self.low:g}")
        if self.high is not None:
            bounds.append(f"<= {self.high:g}")
        noun = "an integer" if self.type == "int" else "a number"
        return " ".join([noun, " and ".join(bounds)]).strip()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice of one kind.

    `target` is the code, as "module:name" or the object itself. `version` is raised when the row's numbers
    change: it enters the fingerprint. `source` is a citation or "–". `check` returns (parameter,
    message) for a configuration that this row does not allow, else None. `origin` is the hash of the user's file that
    registered the row, empty for built-in rows. `image_shape` is (channels, height, width) of a data set's images, or
    the shape of one of its items, so that a net can refuse them before they are loaded; None where it is not known.
    `needs_images` says of a net or an augmentation that it refuses other shapes. `sources` of a data set is like
    `target`: it takes the folders and returns the paths of the files that the loader would read, none where they are
    not there. Where their paths, sizes or times have changed, the data is prepared anew. `defaults` are those of
    parameters of every trial, by name, where this row is chosen: what a sweep file does not give is this then.
    """

    kind: str
    name: str
    target: str | Callable[..., Any]
    summary: str
    version: int = 1
    source: str = "–"
    parameters: tuple[Parameter, ...] = ()
    check: Callable[[Any], tuple[str, str] | None] | None = None
    origin: str = ""
    image_shape: tuple[int, ...] | None = None
    needs_images: bool = False
    sources: str | Callable[..., Any] | None = None
    defaults: Mapping[str, Value] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """What the fingerprint records of this row, for example "adam@1"."""
        return f"{self.name}@{self.version}" + (f"+{self.origin}" if self.origin else "")

    @property
    def brings(self) -> set[str]:
        """The names of the parameters whose defaults depend on this row."""
        return {*self.defaults, *(parameter.name for parameter in self.parameters)}

    def load(self) -> Any:
        """Import and return the code behind this row."""
        return _imported_object(self.target)

    def load_sources(self) -> Any:
        """Import and return what names the files of a data set; None where nothing does."""
        return None if self.sources is None else _imported_object(self.sources)


def _imported_object(target: str | Callable[..., Any]) -> Any:
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return operator.attrgetter(attribute)(importlib.import_module(module))


_rows: dict[str, dict[str, Row]] = {}
_core: dict[str, dict[str, Parameter]] = {}
_users: dict[str, Mapping[str, Value]] = {}
_loading_origin = ""
_imported: dict[str, str] = {}


def declare(
    kinds: Iterable[str], core: Mapping[str, Parameter], users: Mapping[str, Mapping[str, Value]] | None = None
) -> None:
    """Say which kinds of rows there are, and the parameters of every trial, whose names no row's parameter can have.

    `users` are the `defaults` of rows that users register, by kind, unless a row has its own.
    """
    for kind in kinds:
        _rows.setdefault(kind, {})
        _core.setdefault(kind, {}).update(core)
        _users.setdefault(kind, (users or {}).get(kind, {}))


def register(row: Row) -> None:
    """Add a row; while `load_imports` runs a user's file it is the file's.

    Raises:
        UsageError: The kind is unknown, the name is taken, or a parameter is not right.
    """
    add(replace(row, defaults={**_users.get(row.kind, {}), **row.defaults}), _loading_origin)


def add(row: Row, origin: str = "") -> None:
    """Add a row with its origin: a built-in one has none, also where a user's file is what imports it first."""
    if row.kind not in _rows:
        raise UsageError(f"unknown kind of row '{row.kind}'. {choices_text(row.kind, _rows)}")
    if row.name in _rows[row.kind]:
        raise UsageError(f"{row.kind} '{row.name}' is registered already")
    for parameter in row.parameters:
        _check_parameter(row, parameter)
    _rows[row.kind][row.name] = replace(row, origin=origin) if origin else row


def _check_parameter(row: Row, parameter: Parameter) -> None:
    if not isinstance(parameter, Parameter):
        raise UsageError(f"parameters of {described(row)} must be Parameter objects, but got {parameter!r}")
    what = f"the parameter '{parameter.name}' of {described(row)}"
    if parameter.name in _core[row.kind]:
        raise UsageError(f"{what} needs another name: every trial has one of this name")
    try:
        parameter.check(parameter.default)
    except ValueError as error:
        raise UsageError(f"the default of {what} is not allowed: {error}") from None
    for other in (other for known in _rows.values() for other in known.values()):
        for like in other.parameters:
            if like.name == parameter.name and replace(parameter, default=like.default, summary=like.summary) != like:
                raise UsageError(f"{what} needs another name: that of {described(other)} has another rule")


def loading_origin() -> str:
    """Return the hash of the user's file that is being run by `load_imports`, "" while none is."""
    return _loading_origin


def described(row: Row) -> str:
    """Return how errors name a row: "regularizer 'l2'", and the file that an imported one comes from."""
    files = [path for path, digest in _imported.items() if digest == row.origin]
    return f"{row.kind} '{row.name}'" + (f" of the import {files[0]}" if files else "")


def error_text(error: BaseException) -> str:
    """Return what a user's code raised as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def names(kind: str) -> tuple[str, ...]:
    """Return the names of all rows of a kind, in the order of registration."""
    return tuple(_rows[kind])


def rows(kind: str) -> tuple[Row, ...]:
    """Return all rows of a kind, in the order of registration."""
    return tuple(_rows[kind].values())


def get(kind: str, name: str) -> Row:
    """Return one row.

    Raises:
        UsageError: There is no such row.
    """
    try:
        return _rows[kind][name]
    except KeyError:
        kind_text = kind.replace("_", " ")
        raise UsageError(f"unknown {kind_text} '{name}'. {choices_text(name, _rows[kind])}") from None


def load_imports(paths: Iterable[Path]) -> None:
    """Run users' Python files, which call `register`; a file that was loaded already is not run again.

    Raises:
        UsageError: A file is missing, fails, has changed since this process loaded it, or registers what is not right.
    """
    global _loading_origin
    for path in paths:
        try:
            digest = hashlib.sha256(read_regular(path, MAX_IMPORT_BYTES, "an import")).hexdigest()[:12]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot read the import {path}: {reason}") from None
        known = _imported.get(str(path.resolve()))
        if known == digest:
            continue
        if known is not None:
            raise UsageError(f"the import {path} changed while it was in use; run the command again")
        name = f"ablate_import_{digest}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"the import {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        _loading_origin = digest
        try:
            spec.loader.exec_module(module)
            _check_targets(digest)
        except UsageError as error:
            raise UsageError(f"the import {path} is not right: {error}") from None
        except BaseException as error:
            if was_interrupted():
                raise
            raise UsageError(f"the import {path} failed: {error_text(error)}") from error
        finally:
            _loading_origin = ""
        _imported[str(path.resolve())] = digest


def _check_targets(origin: str) -> None:
    """Import the code of the rows that a user's file has registered, so that what is missing is told here."""
    for row in (row for known in _rows.values() for row in known.values() if row.origin == origin):
        _check_defaults(row)
        try:
            target = row.load()
        except BaseException as error:
            if was_interrupted():
                raise
            raise UsageError(f"the target {row.target!r} of {described(row)} fails: {error_text(error)}") from error
        if row.kind != "norm" and not callable(target):
            raise UsageError(f"the target of {described(row)} must be callable, but got {target!r}")


def _check_defaults(row: Row) -> None:
    """Refuse defaults that are none of every trial's parameters, or values that these cannot take."""
    core = _core[row.kind]
    for name, value in row.defaults.items():
        what = f"the default of '{name}' that {described(row)} brings"
        if name not in core:
            raise UsageError(f"{what} is of no parameter of every trial. {choices_text(name, core)}")
        try:
            core[name].check(value)
        except ValueError as error:
            raise UsageError(f"{what} is not allowed: {error}") from None
