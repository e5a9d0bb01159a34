"""Parameters that no registry knows: their types follow from the values that a sweep file gives them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ablate.tasks.parameters import ConfigError, Parameters
from ablate.tasks.registry import ABSENT, Parameter, Value


class OwnParameters(Parameters):
    """The parameters of a user's own training; `values` are all that a sweep file gives each of them.

    One that a cell does not set is not there: the user's code has the default. Those in `required` must be there.
    """

    def __init__(self, values: Mapping[str, Iterable[Any]]) -> None:
        super().__init__([_parameter(name, list(given)) for name, given in values.items()])
        self.required: tuple[str, ...] = ()

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Value]:
        """Return the settings, checked: nothing is filled in.

        Raises:
            ConfigError: A parameter is unknown, or has a value that it cannot take.
        """
        given = {name: value for name, value in settings.items() if value is not ABSENT}
        for name in self.required if given else ():  # The data is asked for without parameters.
            if name not in given:
                raise ConfigError(f"{name} has a place in the command, but no value here", name)
        return {name: self.check(name, value) for name, value in given.items()}

    def check(self, name: str, value: Any) -> Value:
        """Return the value in the type of the parameter."""
        return super().check(name, value) if name in self.core else plain(value)


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return json.loads(json.dumps(value))


def _parameter(name: str, values: list[Any]) -> Parameter:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        kinds = {float}
    names = {bool: "bool", int: "int", float: "float", str: "str"}
    kind = names.get(kinds.pop(), "any") if len(kinds) == 1 else "any"
    return Parameter(
        name=name,
        type=kind,
        default=ABSENT,
        summary="of the user's own training",
        optional=None in values,
    )
