"""The fixed split of a data set: no seed of a sweep enters, so every trial sees the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ablate.errors import DataError
from ablate.seeds import derive_seed
from ablate.tasks.image_classification.data.dataset import Images, RawImages
from ablate.tasks.image_classification.data.labels import absent_classes, class_name

TEST_FRACTION = 0.2
"""Part of the images that becomes the test set where there is no official one; rounded up."""


def split_images(dataset: str, raw: RawImages, *, num_train: int | None, num_val: int | None) -> list[Images]:
    """Return the training, validation and test images, each stratified by label and in the raw order.

    Test and validation images are held out first, so they do not depend on `num_train`. None takes all training
    images, or as many validation images as the loader says.

    Raises:
        DataError: A number is larger than what is available, or too small to have every class.
    """
    train, test = raw.train, raw.test
    if test is None:
        train, test = _hold_out(train, math.ceil(TEST_FRACTION * len(train)), dataset, "test", raw.class_names)
    train, val = _hold_out(train, raw.num_val if num_val is None else num_val, dataset, "val", raw.class_names)
    if num_train is not None and num_train != len(train):
        _, train = _hold_out(train, num_train, dataset, "train", raw.class_names)
    _check_training(dataset, raw, train, "num_train" if num_train else "num_val" if num_val else "")
    return [train, val, test]


def _check_training(dataset: str, raw: RawImages, train: Images, parameter: str) -> None:
    """Check that images of every class are left to train on: of a rare class a stratified draw may take none."""
    num_classes = len(torch.unique(raw.train.labels))
    for name in absent_classes(train, num_classes, raw.class_names):
        raise DataError(
            f"the {len(train)} training images that are left of the data set '{dataset}' have none of {name}, which is "
            "rare: raise num_train or lower num_val"
        ).about(parameter)


def _hold_out(
    split: Images, num: int, dataset: str, part: str, class_names: Sequence[str]
) -> tuple[Images, Images]:  # fmt: skip
    """Return the rest and `num` stratified images; a rare class may have an image in one of them only."""
    labels, counts = torch.unique(split.labels, return_counts=True)
    num_classes = len(labels)
    available = len(split) - num_classes
    if not num_classes <= num <= available:
        whole = f", or {len(split)}, which is all of them" if part == "train" else ""
        raise DataError(
            f"num_{part} must be between {num_classes} and {available} for the data set '{dataset}', which has "
            f"{len(split)} images to take them from in {num_classes} classes{whole}; but got {num}"
        ).about(f"num_{part}")
    if int(counts.min()) < 2:
        raise DataError(
            f"cannot split the data set '{dataset}' by class: {class_name(int(labels[counts.argmin()]), class_names)} "
            f"has only 1 member to take num_{part} from, but needs 2"
        )
    # Slow to import, and not needed where the data is prepared.
    from sklearn.model_selection import train_test_split

    rest, held = train_test_split(
        torch.arange(len(split)).numpy(),
        test_size=num,
        stratify=split.labels.numpy(),
        random_state=derive_seed(0, "split", dataset, part) % 2**32,
    )
    return split.take(torch.from_numpy(rest).sort().values), split.take(torch.from_numpy(held).sort().values)
