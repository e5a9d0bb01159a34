"""The handwritten digits that scikit-learn embeds: real data without a download.

Source: Alpaydin, Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test part).
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from ablate.tasks.image_classification.data.dataset import RawImages, Split
from ablate.tasks.image_classification.data.folders import DataFolders

NUM_VAL = 360
"""A fifth of the 1,797 images, as many as the test set has."""


def load(folders: DataFolders) -> RawImages:
    """Return 1,797 images: (1797, 1, 8, 8), the grey levels 0..16 scaled by 15 to 0..240. No official test set."""
    digits = load_digits()
    images = torch.tensor(digits.images * 15).to(torch.uint8).unsqueeze(1)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    return RawImages(Split(images, labels), test=None, num_val=NUM_VAL)
