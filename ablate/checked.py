"""JSON that others may have written → dataclasses of which every field has its type."""

from __future__ import annotations

import functools
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")
Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,100}$")]
"""Of a cell or a trial: it becomes the name of a file."""
Count = Annotated[int, Field(ge=0, le=1_000_000)]
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""For `__pydantic_config__` of a dataclass: unknown keys and numbers that are not finite are mistakes."""


def from_json(type_: type[T], content: bytes) -> T:
    """Return the object that JSON text describes.

    Raises:
        ValueError: A field is missing, unknown or of a wrong type; the text is one line.
    """
    return _checked(lambda adapter: adapter.validate_json(content, strict=True), type_)


def from_plain(type_: type[T], content: Any) -> T:
    """Return the object that plain values describe.

    Raises:
        ValueError: As for `from_json`.
    """
    return _checked(lambda adapter: adapter.validate_python(content), type_)


def _checked(validate: Any, type_: type[T]) -> T:
    try:
        made: T = validate(_adapter(type_))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:100]
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return made


@functools.cache
def _adapter(type_: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(type_)
