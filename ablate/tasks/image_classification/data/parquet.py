"""Labelled images in Parquet files as Hugging Face distributes them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image

from ablate.errors import DataError
from ablate.tasks.image_classification.data.dataset import Split
from ablate.tasks.image_classification.data.decode import to_rgb
from ablate.tasks.image_classification.data.listing import is_hidden, shown_name

IMAGE_COLUMNS = ("img", "image")


def find_parquet(places: Sequence[tuple[Path, str]]) -> tuple[list[Path], list[Path]] | None:
    """Return the train and the test files of the first (folder, glob pattern) that has any, each sorted by name.

    Raises:
        DataError: There are train files but no test files, or the other way round.
    """
    for folder, pattern in places:
        paths = sorted(path for path in folder.glob(pattern) if not is_hidden(path, folder))
        train = [path for path in paths if "train" in path.name]
        test = [path for path in paths if "test" in path.name and "train" not in path.name]
        if train and test:
            return train, test
        if train or test:
            there, missing = ("train", "test") if train else ("test", "train")
            raise DataError(f"{folder} has Parquet files *{there}*.parquet, but no *{missing}*.parquet")
    return None


def read_parquet(paths: Sequence[Path], *, label_column: str, size: int, num_classes: int = 2**63) -> Split:
    """Return the images of all files in order, decoded to RGB: (num, 3, size, size).

    The column `img` or `image` is a struct with the encoded image in `bytes` and, in `path`, its name if it has one;
    `label_column` holds integers in [0, num_classes).

    Raises:
        DataError: A file is damaged, empty or lacks a column, or an image or label is not what it should be; the text
            names the file, the row, which counts from 0, and the image.
    """
    parts = [_read_file(path, label_column, num_classes, size) for path in paths]
    return Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _read_file(path: Path, label_column: str, num_classes: int, size: int) -> Split:
    # ParquetFile reads this one file; read_table would also take columns from the names of its folders.
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            image_column = next((name for name in IMAGE_COLUMNS if _is_image(schema, name)), None)
            if image_column is None:
                raise DataError(
                    f"{path} must have a column img: struct<bytes, path>, but has {', '.join(schema.names)}"
                )
            if label_column not in schema.names or not pa.types.is_integer(schema.field(label_column).type):
                raise DataError(f"{path} must have an integer column {label_column}, but has {', '.join(schema.names)}")
            table = file.read(columns=[image_column, label_column])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows")
    pixels = np.empty((table.num_rows, size, size, 3), np.uint8)
    encoded = table.column(image_column)
    for row, content in enumerate(pc.struct_field(encoded, "bytes")):
        try:
            pixels[row] = _decode(content.as_py(), size)
        except Exception as error:  # Pillow raises what its decoders raise, and its own error for images too large
            raise DataError(f"{path}, {_place(encoded, row)}: no {size}×{size} image: {error}") from error
    labels = table.column(label_column).to_pylist()
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < num_classes:
            rule = f"<= {num_classes - 1}" if label is not None and label > 0 else ">= 0"
            raise DataError(f"{path}, {_place(encoded, row)}: {label_column} must be an integer {rule}, but is {label}")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(labels, dtype=torch.int64))


def _is_image(schema: pa.Schema, name: str) -> bool:
    if name not in schema.names:
        return False
    type_ = schema.field(name).type
    return bool(pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0)


def _place(images: pa.ChunkedArray, row: int) -> str:
    """For example "row 3 (bird_07.png)"."""
    name = (images[row].as_py() or {}).get("path")
    return f"row {row} ({shown_name(name)})" if isinstance(name, str) and name else f"row {row}"


def _decode(content: bytes | None, size: int) -> Image.Image:
    """Decode one image; raises a ValueError where it is missing or has another size, and whatever Pillow raises."""
    if content is None:
        raise ValueError("its bytes are missing")
    with Image.open(io.BytesIO(content)) as image:
        if image.size != (size, size):
            raise ValueError(f"its size is {image.width}×{image.height}")
        return to_rgb(image)
