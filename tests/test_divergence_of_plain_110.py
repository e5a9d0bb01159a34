"""Why the regularizer needs modulation in very deep plain nets, on real digits."""

import pytest
import torch
from sklearn.datasets import load_digits

from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.dataset import Dataset, Split
from ablate.tasks.image_classification.training.trainer import Divergence, Trainer


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """384 training images, 64 for validation and for test."""
    data = load_digits()
    images = torch.tensor(data.images * (255 / 16)).to(torch.uint8).unsqueeze(1)
    labels = torch.tensor(data.target).long()
    train, val, test = (
        Split(images[start:end], labels[start:end]) for start, end in ((0, 384), (400, 464), (500, 564))
    )
    mean, std = torch.tensor([0.3]), torch.tensor([0.37])
    return Dataset(name="digits", train=train, val=val, test=test, num_classes=10, mean=mean, std=std, digest="")


def first_epoch(digits: Dataset, seed: int, **settings) -> Divergence | None:
    """Train plain-110, width 4, for an epoch of 6 steps with lr 0.1; return where it diverged, if it did."""
    core = {"depth": 110, "width": 4, "batch_size": 64, "epochs": 1, "lr": 0.1, "lr_schedule": "constant"}
    config = resolve({**core, "init": "orthonormal", **settings})
    return Trainer(config, digits, seed, torch.device("cpu")).run_epoch()


@pytest.mark.parametrize("seed", [0, 1])
def test_plain_110_with_the_regularizer_diverges_without_modulation_and_not_with_it(digits, seed):
    divergence = first_epoch(digits, seed, regularizer="orthonormal")
    assert divergence is not None
    assert divergence.epoch == 1
    assert divergence.step <= 4
    assert divergence.message.startswith("non-finite")
    assert first_epoch(digits, seed, regularizer="orthonormal", modulation="anchor") is None


def test_the_safe_forms_of_orthonormality_do_not_diverge_without_modulation(digits):
    assert first_epoch(digits, 0, regularizer="orthonormal_semi_implicit") is None
    assert first_epoch(digits, 0, regularizer="retraction") is None
