"""CIFAR-10 and CIFAR-100 from torchvision's files or from Parquet files: 32×32 RGB, 50,000 and 10,000 images.

Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision.datasets

from ablate.errors import DataError
from ablate.tasks.image_classification.data.dataset import RawImages, Split
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.data.parquet import find_parquet, read_parquet

SIZE = 32


def load_cifar10(folders: DataFolders) -> RawImages:
    """Return the official training and test images of ten classes: (num, 3, 32, 32).

    Looked for in $ABLATE_DATA/cifar10 and $ABLATE_DATA, then in the cache, to which they are downloaded if need be:
    torchvision's folder cifar-10-batches-py, or Parquet files with the columns `img` (or `image`) and `label`.

    Raises:
        DataError: The files are nowhere and the download failed, or a file is damaged.
    """
    return _load(folders, torchvision.datasets.CIFAR10, "cifar10", "CIFAR-10", "label", 10)


def load_cifar100(folders: DataFolders) -> RawImages:
    """Return the official training and test images of a hundred classes: (num, 3, 32, 32).

    As `load_cifar10`, in $ABLATE_DATA/cifar100: the folder cifar-100-python, or Parquet files with `fine_label`.

    Raises:
        DataError: The files are nowhere and the download failed, or a file is damaged.
    """
    return _load(folders, torchvision.datasets.CIFAR100, "cifar100", "CIFAR-100", "fine_label", 100)


def _load(
    folders: DataFolders, source: Any, dataset: str, title: str, label_column: str, num_classes: int
) -> RawImages:
    found = _find(folders, source, dataset)
    if isinstance(found, Path):
        return _read_torchvision(found, source, title, num_classes)
    if found:
        train, test = (
            read_parquet(paths, label_column=label_column, num_classes=num_classes, size=SIZE) for paths in found
        )
        return RawImages(train, test, num_classes=num_classes)
    folders.download(
        lambda: source(folders.cache, download=True),
        dataset=dataset,
        title=title,
        files=f"{source.base_folder}, or the Parquet files train-*.parquet and test-*.parquet,",
    )
    return _read_torchvision(folders.cache, source, title, num_classes)


def sources_cifar10(folders: DataFolders) -> list[Path]:
    """Return the files that `load_cifar10` would read; none where it would download them.

    Raises:
        DataError: ABLATE_DATA is set, but is no folder, or a part of the files is missing.
    """
    return _sources(folders, torchvision.datasets.CIFAR10, "cifar10")


def sources_cifar100(folders: DataFolders) -> list[Path]:
    """Return the files that `load_cifar100` would read; none where it would download them.

    Raises:
        DataError: ABLATE_DATA is set, but is no folder, or a part of the files is missing.
    """
    return _sources(folders, torchvision.datasets.CIFAR100, "cifar100")


def _sources(folders: DataFolders, source: Any, dataset: str) -> list[Path]:
    found = _find(folders, source, dataset) or folders.cache
    if not isinstance(found, Path):
        return [path for paths in found for path in paths]
    return sorted(path for path in (found / source.base_folder).glob("*") if path.is_file())


def _find(folders: DataFolders, source: Any, dataset: str) -> Path | tuple[list[Path], list[Path]] | None:
    """Return the user's folder that holds torchvision's, or the user's train and test Parquet files."""
    for folder in folders.candidates(dataset):
        if (folder / source.base_folder).is_dir():
            return folder
        # A shared folder is not searched to any depth: the files of another data set may lie below it. plain_text is
        # the folder's name at Hugging Face.
        patterns = ("**/*.parquet",) if folder.name == dataset else ("*.parquet", "plain_text/*.parquet")
        found = find_parquet([(folder, pattern) for pattern in patterns])
        if found:
            return found
    return None


def _read_torchvision(root: Path, source: Any, title: str, num_classes: int) -> RawImages:
    """Read torchvision's pickled batches; torchvision checks their MD5 sums before it unpickles them."""
    train, test = (_read_part(root, source, title, train=train) for train in (True, False))
    return RawImages(train, test, num_classes=num_classes)


def _read_part(root: Path, source: Any, title: str, *, train: bool) -> Split:
    try:
        content = source(root, train=train)
    except RuntimeError:
        raise DataError(
            f"{root / source.base_folder} is not a whole copy of {title}: a file is missing or has a wrong MD5 sum"
        ) from None
    images = torch.from_numpy(content.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(content.targets, dtype=torch.int64))
