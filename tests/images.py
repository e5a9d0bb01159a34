"""Files of images: of one colour, in Parquet and IDX; and those that Pillow reads and does not write, byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def encoded(value: int, *, size: int = 32, mode: str = "RGB", format_: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (size, size), value if mode == "L" else (value, 0, 255 - value)).save(buffer, format_)
    return buffer.getvalue()


def write_parquet(path: Path, images: list[bytes | None], labels: list[int | None], **columns: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    content = pa.array([{"bytes": image, "path": None} for image in images], image_type)
    names = [columns.get("image", "img"), columns.get("label", "label")]
    pq.write_table(pa.table([content, pa.array(labels, pa.int64())], names=names), path)


def png16(pixels: np.ndarray) -> bytes:
    """Return a PNG of 16 bits: (height, width) grey, or (height, width, channels) with 2, 3 or 4 channels."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), (b"IDAT", zlib.compress(rows)),
             (b"IEND", b"")]  # fmt: skip
    chunks = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(pixels: np.ndarray, *, order: str = "<", kind: int = 1, photometric: int = 1, bits: int = 0) -> bytes:
    """Return an uncompressed TIFF: (height, width) grey, or (height, width, 3).

    `order` is "<" or ">", `kind` the sample format: 1 unsigned, 2 signed, 3 float. With `photometric` 0 zero is white.
    With `bits` 12 the levels are packed, two in three bytes.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    size = bits or pixels.dtype.itemsize * 8
    data = _packed(pixels) if bits == 12 else pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    entries = [
        (256, "H", [width]), (257, "H", [height]), (258, "H", [size] * channels), (259, "H", [1]),
        (262, "H", [2 if channels == 3 else photometric]), (273, "I", [8]), (277, "H", [channels]),
        (278, "H", [height]), (279, "I", [len(data)]), (339, "H", [kind] * channels),
    ]  # fmt: skip
    start = 8 + len(data) + len(data) % 2
    behind = start + 2 + 12 * len(entries) + 4
    table, more = struct.pack(f"{order}H", len(entries)), b""
    for tag, letter, values in entries:
        value = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(value) > 4:
            value, more = struct.pack(f"{order}I", behind + len(more)), more + value
        table += struct.pack(f"{order}HHI", tag, 3 if letter == "H" else 4, len(values)) + value.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return (head + data).ljust(start, b"\0") + table + bytes(4) + more


def _packed(pixels: np.ndarray) -> bytes:
    first, second = pixels.astype(int).ravel().reshape(-1, 2).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
