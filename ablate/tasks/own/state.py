"""What a user's training saves, as bytes: plain values, tensors and arrays. Nothing in it is ever unpickled."""

from __future__ import annotations

import importlib
import io
import json
import sys
import zipfile
from typing import Any

ENTRY, ARRAYS = "state.json", "arrays"
"""Names within the zip file; a zip file has checksums."""


def to_bytes(state: Any) -> bytes:
    """Return a state as a file.

    Raises:
        TypeError: Something in it is neither a tensor or an array nor a plain value; the text says where.
    """
    parts: list[bytes] = []
    structure = _encoded(state, "state", parts)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(ENTRY, json.dumps(structure))
        archive.writestr(ARRAYS, b"".join(parts))
    return file.getvalue()


def from_bytes(content: bytes) -> Any:
    """Return what `to_bytes` was given, tensors on the CPU.

    Raises:
        Exception: It is damaged; what is raised depends on where.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return _decoded(json.loads(archive.read(ENTRY)), memoryview(bytearray(archive.read(ARRAYS))))


def _encoded(value: Any, place: str, parts: list[bytes]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        pairs = [[_encoded(k, place, parts), _encoded(v, f"{place}[{k!r}]", parts)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        return {type(value).__mro__[-2].__name__: [_encoded(v, f"{place}[{i}]", parts) for i, v in enumerate(value)]}
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        name = str(value.dtype).removeprefix("torch.")
        return _array("torch", name, list(value.shape), content, parts)
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and not value.dtype.hasobject:
        return _array("numpy", value.dtype.str, list(value.shape), value.tobytes(), parts)
    raise TypeError(f"trial.save takes tensors, arrays and plain values, but {place} is {type(value).__name__}")


def _array(kind: str, dtype: str, shape: list[int], content: bytes, parts: list[bytes]) -> dict[str, Any]:
    start = sum(map(len, parts))
    parts.append(content)
    return {kind: [dtype, shape, start, len(content)]}


def _decoded(value: Any, arrays: memoryview) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "dict":
            return {_decoded(key, arrays): _decoded(each, arrays) for key, each in content}
        case "list":
            return [_decoded(each, arrays) for each in content]
        case "tuple":
            return tuple(_decoded(each, arrays) for each in content)
    dtype, shape, start, length = content
    part = bytearray(arrays[start : start + length])
    if kind == "numpy":
        numpy = importlib.import_module("numpy")
        return numpy.frombuffer(part, dtype=numpy.dtype(dtype)).reshape(shape)[()]
    torch = importlib.import_module("torch")
    if not part:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(part, dtype=torch.uint8).view(getattr(torch, dtype)).reshape(shape)
