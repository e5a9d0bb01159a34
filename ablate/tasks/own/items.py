"""Test items that a user's training tells beside its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablate.tasks.base import Items

ITEMS, OF = "items", "items_of"
"""What they and the text that says which they are go by."""


def split_items(told: Mapping[str, Any]) -> tuple[dict[str, Any], Items]:
    """Return what was told without its items, and the items; a single number by that name is a metric like others.

    Raises:
        TypeError: The items do not map metrics to numbers.
    """
    rest = dict(told)
    of = rest.pop(OF) if isinstance(rest.get(OF), str) else ""
    given = rest.get(ITEMS)
    if given is None or _is_number(given):
        return rest, Items()
    if not isinstance(given, Mapping):
        raise TypeError(f"items must map metrics to one number a test item each, but got {type(given).__name__}")
    del rest[ITEMS]
    return rest, Items(values={str(name): _numbers(str(name), values) for name, values in given.items()}, of=of)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except OverflowError:
        return True
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _numbers(name: str, values: Any) -> list[float]:
    plain = values.tolist() if hasattr(values, "tolist") else values  # An array's, or a tensor's on any device.
    if not isinstance(plain, list | tuple):
        raise TypeError(f"items of {name} must be a list or an array of numbers, but got {type(values).__name__}")
    found = []
    for index, value in enumerate(plain):
        try:
            found.append(float(value))
        except (TypeError, ValueError, OverflowError, RuntimeError):
            kind = type(value).__name__
            raise TypeError(f"items of {name} must be numbers, but item {index} is {kind}") from None
    return found
