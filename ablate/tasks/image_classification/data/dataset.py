"""What a loader returns and what a trial trains on: images, or floats of any shape.

The names speak of images, which most data are; `shape` is that of one of them, or of what stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

Batch = tuple[torch.Tensor, torch.Tensor]
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


class Images(Protocol):
    """What training asks of a set of images, whether it lies on the device or is decoded batch by batch."""

    @property
    def labels(self) -> torch.Tensor:
        """(num,), int64, in [0, num_classes)."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width), or the shape of one item."""

    def __len__(self) -> int: ...

    def take(self, indices: torch.Tensor) -> Images:
        """Return the images at `indices`: (num,), int64."""

    def to(self, device: torch.device | str) -> Images:
        """Return the images, with batches on a device."""

    def batches(self, order: torch.Tensor, size: int, augment: Augment, generator: torch.Generator) -> Iterator[Batch]:
        """Yield augmented (images, labels), `size` at a time, in an order: (num,), int64, on the CPU."""

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield all (images, labels), `size` at a time; the last batch may be smaller."""

    def identity(self) -> Iterator[Any]:
        """Yield bytes that identify images and labels."""

    def fields(self) -> dict[str, Any]:
        """Return what the prepared file holds."""


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    images: (num, channels, height, width), uint8, 0 is black; or (num, features, …), floats of any shape and range.
    labels: (num,), int64, in [0, num_classes).
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width), or the shape of one item."""
        return tuple(self.images.shape[1:])

    def batches(self, order: torch.Tensor, size: int, augment: Augment, generator: torch.Generator) -> Iterator[Batch]:
        """Yield augmented (images, labels), `size` at a time, in an order: (num,), int64."""
        for chosen in torch.split(order.to(self.labels.device), size):
            yield augment(self.images[chosen], generator), self.labels[chosen]

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield all (images, labels), `size` at a time; the last batch may be smaller."""
        return zip(torch.split(self.images, size), torch.split(self.labels, size), strict=True)

    def identity(self) -> Iterator[Any]:
        """Yield shape and bytes of the images and of the labels."""
        for tensor in (self.images, self.labels):
            yield str(tuple(tensor.shape)).encode()
            yield tensor.flatten().numpy().data

    def fields(self) -> dict[str, Any]:
        """Return what the prepared file holds."""
        return {"images": self.images, "labels": self.labels}

    def take(self, indices: torch.Tensor) -> Split:
        """Return a copy of the images at `indices`: (num,), int64."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> Split:
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class RawImages:
    """What a loader returns: the official training and test images, whole and in the official order.

    Where `test` is None, a fifth of `train` becomes the test set. `num_val` is the number of validation images that
    are held out of `train` unless the configuration asks for another number. Labels count from 0 to `num_classes` - 1
    without gaps; None takes the largest training label. `class_names` are what messages call the classes, in the order
    of the labels; empty leaves them their numbers.
    """

    train: Images
    test: Images | None
    num_val: int = 5_000
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """The three splits of one data set, with what is needed to normalise and to identify them.

    mean, std: (channels,), float32, of the training images divided by 255, std at least 1/255; or of the floats, along
    their first dimension, std 1 where all are equal.
    digest: 16 hex digits over the images and labels of the three splits.
    class_names: what messages call the classes; empty leaves them their numbers.
    test_digest: 16 hex digits over the test images as they were before they were resized, and their labels, in their
    order; "" where it is not known.
    """

    name: str
    train: Images
    val: Images
    test: Images
    num_classes: int
    mean: torch.Tensor
    std: torch.Tensor
    digest: str
    class_names: tuple[str, ...] = ()
    test_digest: str = ""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width), or the shape of one item."""
        return self.train.image_shape

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with all its tensors on a device."""
        return replace(
            self,
            train=self.train.to(device),
            val=self.val.to(device),
            test=self.test.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )
