"""What labels must be: the numbers of the classes, from 0 on without gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from ablate.errors import DataError
from ablate.tasks.image_classification.data.dataset import Images, RawImages

NUM_NAMED = 5


def check_labels(dataset: str, raw: RawImages) -> int:
    """Return the number of classes.

    Raises:
        DataError: Labels are negative or too large, there are fewer than two classes, or one has no training image.
    """
    num_classes, reason = int(raw.train.labels.max()) + 1, "the largest training label"
    if raw.num_classes is not None:
        num_classes, reason = raw.num_classes, f"as it has {raw.num_classes} classes"
    for split in (raw.train, raw.test):
        low, high = (0, 0) if split is None else (int(split.labels.min()), int(split.labels.max()))
        if low < 0 or high >= num_classes:
            rule = f"must lie between 0 and {num_classes - 1}, {reason}" if num_classes > 0 else "must be >= 0"
            raise DataError(f"labels of the data set '{dataset}' {rule}, but they reach from {low} to {high}")
    if num_classes < 2:
        raise DataError(f"the data set '{dataset}' must have two classes or more, but its labels are all 0")
    absent = num_classes - len(torch.unique(raw.train.labels))
    if absent:
        names = ", ".join(islice(absent_classes(raw.train, num_classes, raw.class_names), NUM_NAMED))
        more = f" and {absent - NUM_NAMED} more" if absent > NUM_NAMED else ""
        raise DataError(
            f"the data set '{dataset}' must have training images of every class, labels 0 to {num_classes - 1}, but "
            f"there is none of {names}{more}"
        )
    return num_classes


def absent_classes(split: Images, num_classes: int, class_names: Sequence[str]) -> Iterator[str]:
    """Yield the classes that have no image in a split, by name where they have one."""
    present = set(torch.unique(split.labels).tolist())
    return (class_name(label, class_names) for label in range(num_classes) if label not in present)


def class_name(label: int, class_names: Sequence[str]) -> str:
    """Return what messages call a class."""
    return class_names[label] if label < len(class_names) else f"class {label}"
