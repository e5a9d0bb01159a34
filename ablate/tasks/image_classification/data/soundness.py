"""Whether the data can be trained on, found out before training: tensors of a loader, image files."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable

import torch
from PIL import Image, UnidentifiedImageError

from ablate.errors import DataError
from ablate.tasks.image_classification.data.dataset import RawImages, Split
from ablate.tasks.image_classification.data.decode import check_range, to_rgb
from ablate.tasks.image_classification.data.image_folder import ImageFiles
from ablate.tasks.image_classification.data.listing import shown_name

DECODED_BYTES = 100_000_000
"""Folders of at most so much are decoded whole, which takes some seconds; of larger ones headers are read."""
NUM_HEADERS = 20_000
"""Of more files so many headers, evenly spaced."""
NUM_NAMED = 10
CHUNK = 4096
"""Items that are looked at together: bounds the memory."""


def check_tensors(dataset: str, raw: RawImages) -> None:
    """Refuse tensors that are neither images nor floats with class labels.

    Raises:
        DataError: They are of another type or shape, have no label each, or hold what is no number.
    """
    for part, split in (("training", raw.train), ("test", raw.test)):
        if not isinstance(split, Split):
            continue
        _check_types(f"the {part} part of the data set '{dataset}'", split)
        if isinstance(raw.train, Split) and _kind(split) != _kind(raw.train):
            found = " and ".join(f"{kind} {shape}" for kind, shape in (_kind(raw.train), _kind(split)))
            raise DataError(
                f"training and test images of the data set '{dataset}' must have the same shape: got {found}"
            )
        _check_finite(f"the {part} part of the data set '{dataset}'", split.images)


def _kind(split: Split) -> tuple[str, tuple[int, ...]]:
    return "float" if split.images.is_floating_point() else "uint8", split.image_shape


def _check_types(part: str, split: Split) -> None:
    images, labels = split.images, split.labels
    if not isinstance(images, torch.Tensor) or not isinstance(labels, torch.Tensor):
        names = " and ".join(type(each).__name__ for each in (images, labels))
        raise DataError(f"{part} must be tensors of torch, but got {names}")
    found = f"got {images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
    if labels.is_floating_point():
        raise DataError(
            f"{part} must have int64 labels, the numbers of classes, but {found}: this task's metrics are accuracies. "
            "What predicts real numbers is a training of your own: task: {function: FILE.py:NAME}, see docs/your_own.md"
        )
    is_image = images.dtype == torch.uint8 and images.ndim == 4
    is_float = images.is_floating_point() and images.ndim >= 2
    if not (is_image or is_float) or labels.dtype != torch.int64 or labels.ndim != 1:
        raise DataError(
            f"{part} must be uint8 images (num, channels, height, width) or floats (num, …), and int64 labels (num,), "
            f"but {found}"
        )
    if len(images) != len(labels) or len(images) == 0 or 0 in images.shape:
        raise DataError(f"{part} needs one label an image, but {found}")


def _check_finite(part: str, values: torch.Tensor) -> None:
    """Refuse what float32 cannot hold."""
    if not values.is_floating_point():
        return
    for first in range(0, len(values), CHUNK):
        bad = ~torch.isfinite(values[first : first + CHUNK].float())
        if bool(bad.any()):
            index = torch.nonzero(bad)[0]
            index[0] += first
            value = values[tuple(index.tolist())].item()
            raise DataError(f"{part} must hold finite numbers, but has {value} at index {index.tolist()}")


def check_files(parts: Iterable[ImageFiles]) -> None:
    """Refuse files that are empty, are no images, or hold pixels without a defined range.

    The size of every file is looked at. Then all are decoded, or of large folders headers are read.

    Raises:
        DataError: There are such files; the text names them.
    """
    files = {os.path.join(part.root, path): path for part in parts for path in part.paths}
    if not files:
        return
    bad: dict[str, str] = {}
    num_bytes = 0
    for file in files:
        size, reason = _size(file)
        num_bytes += size
        if reason:
            bad[file] = reason
    whole = num_bytes <= DECODED_BYTES and len(files) <= NUM_HEADERS
    for file in list(files)[:: -(-len(files) // NUM_HEADERS)]:
        if file not in bad and (reason := _fault(file, whole)):
            bad[file] = reason
    if bad:
        named = [f"{shown_name(files[file])} ({reason})" for file, reason in list(bad.items())[:NUM_NAMED]]
        more = f" and {len(bad) - NUM_NAMED} more" if len(bad) > NUM_NAMED else ""
        folder = os.path.commonpath([os.path.dirname(file) for file in files])
        raise DataError(
            f"{len(bad)} of {len(files)} image files below {folder} cannot be used: {', '.join(named)}{more}. "
            "Remove or replace them"
        )


def _size(file: str) -> tuple[int, str]:
    """Return the number of bytes, and what is wrong with the file if its entry in the folder tells it."""
    try:
        found = os.stat(file)
    except OSError as error:
        return 0, error.strerror or "cannot be read"
    if not stat.S_ISREG(found.st_mode):
        return 0, "is no regular file"
    return found.st_size, "" if found.st_size else "is empty"


def _fault(file: str, whole: bool) -> str:
    """Return what is wrong with the image, "" for nothing."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if whole:
                to_rgb(image)
            else:
                check_range(image)
    except UnidentifiedImageError:
        return "no image that can be identified"
    except Exception as error:  # Pillow raises what its decoders raise, and its own error for images too large
        return shown_name(str(error) or type(error).__name__)
    return ""
