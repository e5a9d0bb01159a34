"""Which files of a folder are data: names that begin with a dot are what other programs left there."""

from __future__ import annotations

import os
from pathlib import Path

from ablate.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files, in any case: torchvision's."""


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a name below `folder` on the way to `path` begins with a dot."""
    return any(name.startswith(".") for name in path.relative_to(folder).parts)


def shown_name(name: str) -> str:
    """Return a file's name for a message of one line."""
    return "".join(character if character.isprintable() else "?" for character in name)


def list_classes(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted.

    Raises:
        DataError: There is none, or the folder cannot be read.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from None
    if not names:
        raise DataError(f"{folder} has no class folder")
    return names


def list_images(folder: Path, root: Path) -> list[str]:
    """Return the image files at any depth of a class folder, relative to `root`, in torchvision's order.

    Raises:
        DataError: There is none, or a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        found.append((place, sorted(images)))
    paths = [os.path.relpath(os.path.join(place, name), root) for place, images in sorted(found) for name in images]
    if not paths:
        raise DataError(f"{folder} has no image file; images end in {', '.join(EXTENSIONS)}")
    return paths
