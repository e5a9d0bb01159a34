"""The configuration that a user's function is given: it notes what is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ablate.errors import choices_text


class Config(Mapping[str, Any]):
    """The parameters of one trial: `config.lr`, `config["lr"]` or `config.get("dropout", 0.0)`.

    Where it is taken as a whole, as by `dict(config)` or `**config`, it is not known what is read.
    """

    __slots__ = ("_asked", "_is_taken", "_values")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self._asked: dict[str, None] = {}
        self._is_taken = False

    def __getitem__(self, name: str) -> Any:
        self._asked[name] = None
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(self._missing(name)) from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(*error.args) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        self._is_taken = True
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Config({self._values!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        self._is_taken = True
        return Config, (self._values,)

    def _missing(self, name: str) -> str:
        return f"this trial has no parameter '{name}'. {choices_text(name, self._values)}"


def unread(config: Config) -> list[str]:
    """Return a line for each parameter that was never read; [] where the whole mapping was taken."""
    if config._is_taken:
        return []
    read = [name for name in config._asked if name in config._values]
    others = [name for name in config._asked if name not in config._values]
    lines = []
    for name in config._values:
        if name not in config._asked:
            asked = f" It asked for {', '.join(others)}, which the trial does not have." if others else ""
            lines.append(f"the parameter '{name}' was never read. Read: {', '.join(read) or 'none'}.{asked}")
    return lines
