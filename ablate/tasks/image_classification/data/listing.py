"""Which files of a folder are data: names that begin with a dot are what other programs left there."""

from __future__ import annotations

import contextlib
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


class Ways:
    """Knows each folder and file by device and inode, and the way by which it was first reached.

    Links are followed. One that leads back, into another class or into the other split would bring an image in twice,
    perhaps with two labels. Two links to one file elsewhere, and two hard links, are two images that are equal.
    """

    def __init__(self, root: Path) -> None:
        """Begin with `root` and the folders above it: no link may lead back to them."""
        self._first: dict[tuple[int, int], str] = {}
        for folder in (root, *root.parents):
            with contextlib.suppress(DataError):  # Container engines can make one file system appear twice.
                self.add(str(folder), "folder")

    def add(self, path: str, kind: str) -> None:
        """Note that a folder or file was reached; one that cannot be read is left to whoever reads it.

        Raises:
            DataError: It was reached before; the text names both ways.
        """
        try:
            found = os.stat(path)
        except OSError:
            return
        first = self._first.setdefault((found.st_dev, found.st_ino), path)
        if first is path or not found.st_ino:  # Some file systems have no inodes.
            return
        # Stores that keep equal images once give each its link, or its hard link, to one file.
        if kind == "folder" or os.path.islink(path) != os.path.islink(first):
            raise DataError(
                f"{shown_name(path)} and {shown_name(first)} are the same {kind}, so its images would be used twice: "
                "remove the link"
            )


def list_images(folder: Path, root: Path, ways: Ways) -> list[str]:
    """Return the image files at any depth of a class folder, relative to `root`, in torchvision's order.

    Raises:
        DataError: There is none, a folder cannot be read, or a folder or file was reached before by another way.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        ways.add(place, "folder")
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        found.append((place, sorted(images)))
    files = [os.path.join(place, name) for place, images in sorted(found) for name in images]
    for file in files:
        ways.add(file, "file")
    paths = [os.path.relpath(file, root) for file in files]
    if not paths:
        raise DataError(f"{folder} has no image file; images end in {', '.join(EXTENSIONS)}")
    return paths
