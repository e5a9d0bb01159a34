"""Folders of image files in torchvision's layout: too large for memory, so batches are decoded by worker processes.

    train/<class>/<image>    the training images, of which the validation images are held out
    val/<class>/<image>      the test images, as everyone uses ImageNet's official validation images

Names that begin with a dot are no data.

Source: Russakovsky et al. 2015, arXiv:1409.0575 (ImageNet); torchvision.datasets.ImageFolder (layout).

torchvision takes more than a second to import, so it is imported where such files are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ablate.cpus import num_cpus
from ablate.errors import DataError, is_out_of_memory
from ablate.tasks.image_classification.data.augment import random_resized_crop, resized_crop_flip
from ablate.tasks.image_classification.data.dataset import Augment, Batch, RawImages
from ablate.tasks.image_classification.data.decode import to_rgb
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.data.listing import Ways, list_classes, list_images

DEFAULT_SIZE = 224
RESIZE = 256 / 224
"""The shorter side is resized to this multiple of the crop's before the centre is cut out."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as torchvision has them; taken for every folder."""

VAL_SHARE = 25
"""One of this many training images is held out for validation: about as many as ImageNet has test images."""
SMALL_VAL_SHARE, ENOUGH_VAL = 5, 100
"""Of small folders one of 5, until one image is worth no more than a point."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their labels, decoded when a batch is asked for.

    root: the folder that `paths` are relative to. labels: (num,), int64, on the CPU.
    size: height and width of the images that come out. device: where batches go.
    """

    root: str
    paths: tuple[str, ...]
    labels: torch.Tensor
    size: int = DEFAULT_SIZE
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that come out."""
        return 3, self.size, self.size

    def take(self, indices: torch.Tensor) -> ImageFiles:
        """Return the images at `indices`: (num,), int64."""
        return replace(self, paths=tuple(self.paths[index] for index in indices.tolist()), labels=self.labels[indices])

    def to(self, device: torch.device | str) -> ImageFiles:
        """Return the same images, with batches on a device."""
        return replace(self, device=device)

    def batches(
        self, order: torch.Tensor, size: int, augment: Augment, generator: torch.Generator
    ) -> Iterator[Batch]:  # fmt: skip
        """Yield augmented (images, labels), `size` at a time, in an order: (num,), int64.

        `resized_crop_flip` crops the whole image in the workers; other augmentation acts on centre crops. What comes
        out does not depend on the number of workers: every image has a seed of its own.
        """
        seeds = torch.randint(2**62, (len(order),), generator=generator)
        is_cropped = augment is resized_crop_flip
        items = list(zip(order.tolist(), seeds.tolist() if is_cropped else [None] * len(order), strict=True))
        for images, labels in self._load(items, size):
            yield (images if is_cropped else augment(images, generator)), labels

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield all (images, labels), centre crops, `size` at a time; the last batch may be smaller."""
        return self._load([(index, None) for index in range(len(self))], size)

    def _load(self, items: list[tuple[int, int | None]], size: int) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            _Decoder(self),
            batch_sampler=[items[start : start + size] for start in range(0, len(items), size)],
            num_workers=num_workers(),
            generator=torch.Generator(),
            collate_fn=_arrays,
        )
        for images, labels in loader:
            yield self._on_device(images), self._on_device(labels)

    def _on_device(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if torch.device(self.device).type == "cuda":
            tensor = tensor.pin_memory()  # Training goes on while it is copied.
        return tensor.to(self.device, non_blocking=True)

    def identity(self) -> Iterator[bytes]:
        """Yield what identifies the images: names, file sizes and labels, and the size of what comes out.

        Raises:
            DataError: A file is gone.
        """
        yield str(self.image_shape).encode()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            try:
                num_bytes = os.stat(os.path.join(self.root, path)).st_size
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror}") from None
            # What the folder holds, whatever encoding the terminal has; names need not be text.
            yield os.fsencode(path) + f"\0{num_bytes}\0{label}\n".encode()

    def fields(self) -> dict[str, Any]:
        """Return what the prepared file holds, in plain values."""
        return {"root": self.root, "paths": list(self.paths), "labels": self.labels, "size": self.size}


class _Decoder(Dataset[Batch]):
    """Maps (index, seed) to an image (3, size, size), uint8, and its label; without a seed it is the centre crop."""

    def __init__(self, files: ImageFiles) -> None:
        # Before the decoding processes are forked, so that they have it.
        import torchvision.transforms.v2.functional  # noqa: F401

        self.files = files

    def __getitem__(self, item: tuple[int, int | None]) -> Batch:
        from torchvision.transforms.v2.functional import pil_to_tensor

        index, seed = item
        files = self.files
        path = os.path.join(files.root, files.paths[index])
        try:
            with Image.open(path) as file:
                image: torch.Tensor = pil_to_tensor(to_rgb(file))
        except Exception as error:  # Pillow raises what its decoders raise, and its own error for images too large
            if is_out_of_memory(error):
                raise
            raise DataError(f"cannot decode {path}: {error}") from None
        if seed is None:
            image = centre_crop(image, files.size)
        else:
            image = random_resized_crop(image, (files.size, files.size), torch.Generator().manual_seed(seed))
        return image, files.labels[index]


def _arrays(items: list[Batch]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Stack images and labels.

    Tensors would go from worker to trainer through /dev/shm, which has 64 MB in Docker: less than the batches under way
    at 224×224. Arrays go through a pipe, which costs 14 ms a batch of 128 beside a second of decoding.
    """
    return np.stack([image.numpy() for image, _ in items]), np.array([int(label) for _, label in items], np.int64)


def centre_crop(image: torch.Tensor, size: int) -> torch.Tensor:
    """Return the centre (3, size, size) of an image whose shorter side is resized to 256/224 of it."""
    from torchvision.transforms.v2.functional import center_crop, resize

    resized = resize(image, [round(size * RESIZE)], antialias=True)
    crop: torch.Tensor = center_crop(resized, [size, size])
    return crop


def num_workers() -> int:
    """Return how many processes decode: ABLATE_LOADER_WORKERS, else one a CPU, four at most.

    Raises:
        DataError: ABLATE_LOADER_WORKERS is no integer >= 0.
    """
    given = os.environ.get("ABLATE_LOADER_WORKERS", "")
    if given and not given.isdecimal():
        raise DataError(f"ABLATE_LOADER_WORKERS must be an integer >= 0, but is '{given}'")
    return int(given) if given else min(4, num_cpus())


def load(folders: DataFolders) -> RawImages:
    """Return the images below train/ and val/ of $ABLATE_DATA/image_folder or $ABLATE_DATA; decode none.

    Raises:
        DataError: There are no such folders, they have different classes, or a link brings in a folder or file twice.
    """
    for folder in folders.candidates("image_folder"):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return _read(folder.resolve())
    state = "is not set" if folders.given is None else f"is {folders.given}"
    raise DataError(
        "no image folder found: put train/<class>/<image> and val/<class>/<image> into $ABLATE_DATA/image_folder "
        f"(ABLATE_DATA {state})"
    )


def sources(folders: DataFolders) -> list[str]:
    """Return the paths of the images that `load` would return.

    Raises:
        DataError: As `load`.
    """
    raw = load(folders)
    parts = [part for part in (raw.train, raw.test) if isinstance(part, ImageFiles)]
    return [os.path.join(part.root, path) for part in parts for path in part.paths]


def _read(root: Path) -> RawImages:
    try:
        classes, of_test = (list_classes(root / part) for part in ("train", "val"))
    except DataError as error:
        raise DataError(f"{root} must have train/<class>/<image> and val/<class>/<image>: {error}") from None
    if classes != of_test:
        differ = sorted(set(classes) ^ set(of_test))
        raise DataError(f"{root}/train and {root}/val must have the same classes, but only one has {differ[0]}")
    ways = Ways(root)
    for part in ("train", "val"):
        ways.add(str(root / part), "folder")
    train, test = (_files(root, part, classes, ways) for part in ("train", "val"))
    num_val = max(len(classes), len(train) // VAL_SHARE, min(len(train) // SMALL_VAL_SHARE, ENOUGH_VAL))
    return RawImages(train, test, num_val=num_val, num_classes=len(classes), class_names=tuple(classes))


def _files(root: Path, part: str, classes: list[str], ways: Ways) -> ImageFiles:
    found = [list_images(root / part / name, root, ways) for name in classes]
    labels = [label for label, paths in enumerate(found) for _ in paths]
    return ImageFiles(
        str(root), tuple(path for paths in found for path in paths), torch.tensor(labels, dtype=torch.int64)
    )
