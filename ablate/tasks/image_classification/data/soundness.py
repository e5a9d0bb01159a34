"""Whether image files can be read, found out before training."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable

from PIL import Image, UnidentifiedImageError

from ablate.errors import DataError
from ablate.tasks.image_classification.data.decode import check_range, to_rgb
from ablate.tasks.image_classification.data.image_folder import ImageFiles
from ablate.tasks.image_classification.data.listing import shown_name

DECODED_BYTES = 100_000_000
"""Folders of at most so much are decoded whole, which takes some seconds; of larger ones headers are read."""
NUM_HEADERS = 20_000
"""Of more files so many headers, evenly spaced."""
NUM_NAMED = 10


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
