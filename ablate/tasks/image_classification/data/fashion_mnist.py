"""Fashion-MNIST from its four IDX files: 28×28 grey, ten classes, 60,000 and 10,000 images.

Source: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from ablate.errors import DataError
from ablate.tasks.image_classification.data.dataset import RawImages, Split
from ablate.tasks.image_classification.data.folders import DataFolders

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

RAW = Path("FashionMNIST", "raw")
"""Where torchvision puts the files, below its root folder."""

NUM_CLASSES = 10

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def load(folders: DataFolders) -> RawImages:
    """Return the official training and test images: (num, 1, 28, 28).

    The four IDX files, each plain or gzipped, are looked for in $ABLATE_DATA/fashion_mnist and $ABLATE_DATA (directly
    or in torchvision's FashionMNIST/raw), in Debian's folder, and in the cache, to which they are downloaded if need
    be.

    Raises:
        DataError: The files are nowhere and the download failed, or a file is damaged.
    """
    found = _find(folders)
    if found is None:
        folders.download(
            lambda: FashionMNIST(folders.cache, download=True),
            dataset="fashion_mnist",
            title="Fashion-MNIST",
            files=f"the files {', '.join(FILES)} (plain or .gz)",
        )
        found = _paths(folders.cache / RAW)
        if found is None:
            raise DataError(f"the download of Fashion-MNIST left no complete set of files in {folders.cache / RAW}")
    train_images, train_labels, test_images, test_labels = found
    train, test = _read_split(train_images, train_labels), _read_split(test_images, test_labels)
    return RawImages(train, test, num_classes=NUM_CLASSES)


def sources(folders: DataFolders) -> list[Path]:
    """Return the four files that `load` would read; none where it would download them.

    Raises:
        DataError: ABLATE_DATA is set, but is no folder.
    """
    return _find(folders) or []


def _find(folders: DataFolders) -> list[Path] | None:
    given = [place for folder in folders.candidates("fashion_mnist") for place in (folder, folder / RAW)]
    places = [*given, DEBIAN_FOLDER, folders.cache / RAW]
    return next((paths for place in places if (paths := _paths(place))), None)


def _paths(folder: Path) -> list[Path] | None:
    """Return the four files of a folder in the order of FILES, or None if one is missing."""
    paths = []
    for name in FILES:
        path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
        if path is None:
            return None
        paths.append(path)
    return paths


def _read_split(image_path: Path, label_path: Path) -> Split:
    images, labels = _read(image_path, read_image_file), _read(label_path, read_label_file)
    if len(images) != len(labels):
        raise DataError(f"{image_path} holds {len(images)} images, but {label_path} holds {len(labels)} labels")
    return Split(images.unsqueeze(1), labels)


def _read(path: Path, reader: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """Read an IDX file; torchvision's readers take uncompressed files only, so a gzipped one is unpacked first."""
    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with tempfile.NamedTemporaryFile() as plain:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain)
            plain.flush()
            return reader(plain.name)
    # The readers check with assert and index tables with what they read.
    except Exception as error:
        raise DataError(f"{path} is not a whole IDX file: {type(error).__name__}: {error}") from error
