"""What a function that lies in no file is made of, as a digest: its own code and all of the session that it uses."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 20


def function_digest(function: Callable[..., Any]) -> str:
    """Return 12 hex digits of a function: code, defaults, closure, what it wraps, and globals of its own session.

    Of objects that are neither functions nor plain values only the class is in it, with the code of its methods and its
    plain attributes; of modules only the name.
    """
    return hashlib.sha256(repr(_parts(function, MAX_DEPTH, set())).encode()).hexdigest()[:12]


def _parts(value: Any, depth: int, seen: set[int]) -> Any:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if depth == 0 or id(value) in seen:
        return type(value).__qualname__
    seen = seen | {id(value)}
    if isinstance(value, frozenset | set):
        return ["set", sorted(repr(_parts(each, depth - 1, seen)) for each in value)]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_parts(each, depth - 1, seen) for each in value]]
    if isinstance(value, dict):
        return ["dict", [[_parts(key, depth - 1, seen), _parts(each, depth - 1, seen)] for key, each in value.items()]]
    if isinstance(value, types.CodeType):
        return [
            "code",
            value.co_code.hex(),
            value.co_names,
            [_parts(each, depth - 1, seen) for each in value.co_consts],
        ]
    if isinstance(value, functools.partial):
        return ["partial", *(_parts(each, depth - 1, seen) for each in (value.func, value.args, value.keywords))]
    if isinstance(value, types.MethodType):
        return ["method", _parts(value.__func__, depth - 1, seen), _parts(value.__self__, depth - 1, seen)]
    if isinstance(value, types.FunctionType):
        return _function(value, depth, seen)
    return _object(value, depth, seen)


def _function(function: types.FunctionType, depth: int, seen: set[int]) -> Any:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # Not set yet.
            cells.append("unset")
    names = _names(function.__code__)
    used = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
    if function.__module__ not in ("__main__", None) and "site-packages" in (function.__code__.co_filename or ""):
        return ["library", function.__module__, function.__qualname__]
    inner = (function.__code__, function.__defaults__, function.__kwdefaults__, cells, used)
    return ["function", *(_parts(each, depth - 1, seen) for each in inner)]


def _names(code: types.CodeType) -> set[str]:
    """Return the names that a code and those within it look up."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner)) if inner else set(code.co_names)


def _object(value: Any, depth: int, seen: set[int]) -> Any:
    kind = value if isinstance(value, type) else type(value)
    if kind.__module__ != "__main__":
        return ["object", kind.__module__, kind.__qualname__]
    methods = {name: each for name, each in sorted(vars(kind).items()) if isinstance(each, types.FunctionType)}
    state = {} if isinstance(value, type) else getattr(value, "__dict__", {})
    return ["object", kind.__qualname__, *(_parts(each, depth - 1, seen) for each in (methods, state))]
