"""The parameters that the trials of a task are made of, and the fingerprint of their values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ablate.errors import UsageError, choices_text
from ablate.signals import was_interrupted
from ablate.tasks import registry
from ablate.tasks.registry import Parameter, Row, Value


class ConfigError(UsageError):
    """A parameter of a trial is unknown or has a value that it cannot take. `parameter` is its name."""

    def __init__(self, message: str, parameter: str = "") -> None:
        super().__init__(message, parameter)
        self.parameter = parameter

    def __str__(self) -> str:
        return str(self.args[0])


def trial_key(fingerprint: str, seed: int) -> str:
    """Return the name of a trial in the ledger."""
    return f"{fingerprint}-{seed:014x}"


FIRST_TASK = "image_classification@1"
"""The stamp of the task of every trial that was written before there were others: it stays out of fingerprints."""


class Parameters:
    """What a sweep file can set in the trials of one task.

    `core` are the parameters of every trial. `kinds` are those kinds of rows of which a trial has one each, chosen by
    the core parameter of the kind's name; each row brings parameters of its own. `build` makes of the values by name
    what a row's check and the task itself are given. `users` are the defaults that users' rows bring, by kind.
    """

    def __init__(
        self,
        core: Sequence[Parameter],
        kinds: Sequence[str] = (),
        build: Callable[[dict[str, Value]], Any] = lambda values: SimpleNamespace(**values),
        users: Mapping[str, Mapping[str, Value]] | None = None,
    ) -> None:
        self.core = {parameter.name: parameter for parameter in core}
        self.kinds = tuple(kinds)
        self.build = build
        registry.declare(self.kinds, self.core, users)

    def all(self) -> dict[str, Parameter]:
        """Return every parameter that a sweep file can name: the core ones and those of all registered rows."""
        known = dict(self.core)
        for kind in self.kinds:
            for row in registry.rows(kind):
                for parameter in row.parameters:
                    known.setdefault(parameter.name, parameter)
        return known

    def check(self, name: str, value: Any) -> Value:
        """Return the value in the type of the parameter.

        Raises:
            ConfigError: There is no such parameter, or it cannot take this value.
        """
        return _checked(name, value, self.all())

    def owners(self, name: str) -> dict[str, set[str]]:
        """Return the rows that have a parameter, as {kind: names}; empty for a core parameter."""
        found: dict[str, set[str]] = {}
        for kind in self.kinds if name not in self.core else ():
            for row in registry.rows(kind):
                if any(name == known.name for known in row.parameters):
                    found.setdefault(kind, set()).add(row.name)
        return found

    def rows(self, settings: Mapping[str, Any]) -> dict[str, Row]:
        """Return the row of each kind that the settings, or else the defaults, choose."""
        values = {**self._core_defaults(settings), **settings}
        return {kind: registry.get(kind, str(values[kind])) for kind in self.kinds}

    def _core_defaults(self, settings: Mapping[str, Any]) -> dict[str, Value]:
        """Return the default of every core parameter: its own, or what a row brings that the settings choose.

        A row that is chosen by such a default brings none.
        """
        defaults = {name: parameter.default for name, parameter in self.core.items()}
        brought = (registry.get(kind, str(settings.get(kind, defaults[kind]))).defaults for kind in self.kinds)
        return {**defaults, **{name: value for each in brought for name, value in each.items()}}

    def defaults(self, settings: Mapping[str, Any]) -> dict[str, Value]:
        """Return the default of every parameter that matters for these settings, given or not."""
        active = {name: parameter.default for name, parameter in self.active(settings).items()}
        return {**active, **self._core_defaults(settings)}

    def stamps(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return name and version of the chosen row of each kind."""
        return {kind: row.stamp for kind, row in self.rows(settings).items()}

    def active(self, settings: Mapping[str, Any]) -> dict[str, Parameter]:
        """Return the parameters that matter for these settings: the core ones and those of the chosen rows."""
        active = dict(self.core)
        for row in self.rows(settings).values():
            active.update({parameter.name: parameter for parameter in row.parameters})
        return active

    def any_defaults(self, name: str) -> list[Value]:
        """Return the default of a parameter and all that rows bring for it, whichever are chosen."""
        brought = (row.defaults[name] for kind in self.kinds for row in registry.rows(kind) if name in row.defaults)
        return [self.all()[name].default, *brought]

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Value]:
        """Return the whole configuration, checked and flat; defaults fill what is left out.

        Parameters of rows that are not chosen are dropped: `ortho_weight` means nothing where the regularizer is l2.

        Raises:
            ConfigError: A parameter is unknown, has a wrong value, or a row does not allow the combination.
        """
        known = self.all()
        checked = {name: _checked(name, value, known) for name, value in settings.items()}
        values = {name: checked.get(name, default) for name, default in self.defaults(checked).items()}
        config = self.build(values)
        for row in self.rows(values).values():
            parameter, message = _refusal(config, row)
            if message:
                raise ConfigError(message, parameter)
        return values

    def written(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings as fingerprints and cells' keys have them: without what is at its unwritten value."""
        core = self.core
        return {n: value for n, value in settings.items() if n not in core or value not in core[n].unwritten}

    def as_read(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings that an earlier version recorded, with the parameters that it did not know yet."""
        return {**{name: core.unwritten[0] for name, core in self.core.items() if core.unwritten}, **settings}

    def fingerprint(
        self, settings: Mapping[str, Any], stamps: Mapping[str, str], data_digest: str, task: str = FIRST_TASK
    ) -> str:
        """Return 16 hex digits that identify a whole configuration, its rows, its data and the task's stamp."""
        kept = self.written(settings)
        rows = {kind: stamps[kind] for kind in self.kinds if kind in kept and kind in stamps}
        content = {"settings": kept, "rows": rows, "data": data_digest}
        if task != FIRST_TASK:
            content["task"] = task
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checked(name: str, value: Any, known: Mapping[str, Parameter]) -> Value:
    if name not in known:
        raise ConfigError(f"unknown parameter '{name}'. {choices_text(name, known)}", name)
    try:
        return known[name].check(value)
    except ValueError as error:
        raise ConfigError(str(error), name) from None


def _refusal(config: Any, row: Row) -> tuple[str, str]:
    """Return (parameter, message) of a row's check; ("", "") where it allows the configuration."""
    try:
        parameter, message = (row.check(config) if row.check else None) or ("", "")
    except BaseException as error:
        if was_interrupted():
            raise
        return row.kind, f"the check of {registry.described(row)} failed: {registry.error_text(error)}"
    return parameter, message
