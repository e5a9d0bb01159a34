"""Every row trains two steps on every net and repeats them bit for bit, or is refused with the rule.

Rows that are added later are tested too. All but the slow tests try every row on two nets, one of them the plain one.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ablate.tasks.image_classification.config import KINDS, resolve
from ablate.tasks.image_classification.data.dataset import Dataset, Split
from ablate.tasks.image_classification.training.trainer import Trainer
from ablate.tasks.parameters import ConfigError
from ablate.tasks.registry import names

SMALL = {"depth": 8, "width": 2}
LARGE = {"depth": 18, "width": 2, "dataset": "image_folder", "image_size": 64}
NETS = {
    ("cifar", "none"): SMALL,
    ("cifar", "identity"): SMALL,
    ("dirac", "none"): SMALL,
    ("imagenet", "none"): LARGE,
    ("imagenet", "identity"): {**LARGE, "depth": 50, "width": 2},
    ("imagenet", "projection"): {**LARGE, "depth": 50, "width": 2},
}
AROUND = "modulation 'layer_profile' holds in nets without shortcuts only, because errors flow around the layers"
REFUSED = {
    ("dirac", "none", "norm", "weight"):
        "norm must not be weight for the model 'dirac', which normalises its filters itself",
    **{(*net, "modulation", "layer_profile"): AROUND for net in NETS if net[1] != "none"},
}  # fmt: skip
ROWS = [(kind, name) for kind in KINDS if kind not in ("dataset", "model") for name in names(kind)]


def trials() -> Iterator[Any]:
    """Every row on every net; those are fast that try it on the plain net and, in turn, on one of the others."""
    plain, *others = NETS
    for index, (kind, name) in enumerate(ROWS):
        fast = {plain, others[index % len(others)]}
        for net in NETS:
            is_fast = net in fast or (*net, kind, name) in REFUSED
            yield pytest.param(*net, kind, name, marks=() if is_fast else pytest.mark.slow)


def dataset(size: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, size, size), generator=generator).to(torch.uint8)
    split = Split(images, torch.arange(16) % 4)
    return Dataset(
        name="noise", train=split, val=split, test=split, num_classes=4,
        mean=torch.full((3,), 0.5), std=torch.full((3,), 0.3), digest="0",
    )  # fmt: skip


def two_steps(settings: dict, data: Dataset) -> tuple[list[torch.Tensor], list[float], list[torch.Tensor]]:
    """Return the weights before, the losses, and the weights after two steps."""
    trainer = Trainer(resolve(settings), data, 1, torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in trainer.net.parameters()]
    steps = [trainer.step(images, labels, index) for index, (images, labels) in enumerate(trainer.batches())]
    after = [parameter.detach() for parameter in trainer.net.parameters()]
    return before, [loss.item() for loss, _ in steps], after


def test_every_net_is_tested():
    assert {model for model, _ in NETS} == set(names("model"))


@pytest.mark.parametrize(("model", "shortcut", "kind", "name"), list(trials()))
def test_every_row_trains_two_steps_on_every_net_or_is_refused(model, shortcut, kind, name):
    net = NETS[model, shortcut]
    settings = {**net, "model": model, "shortcut": shortcut, "batch_size": 8, "epochs": 1, "lr": 1e-3, kind: name}
    if (model, shortcut, kind, name) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[model, shortcut, kind, name]):
            resolve(settings)
        return
    data = dataset(64 if model == "imagenet" else 8)
    before, losses, after = two_steps(settings, data)
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in after)
    moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) / 2
    torch.rand(3)  # What torch's own random numbers are must not matter.
    _, losses_again, after_again = two_steps(settings, data)
    assert losses_again == losses
    assert all(torch.equal(one, other) for one, other in zip(after, after_again, strict=True))


def test_a_plain_net_of_bottlenecks_trains_two_steps_with_the_method():
    method = {"init": "orthonormal", "regularizer": "orthonormal", "modulation": "anchor"}
    net = {**LARGE, "model": "imagenet", "depth": 50, "shortcut": "none"}
    _, losses, after = two_steps({**net, **method, "batch_size": 8, "epochs": 1, "lr": 1e-3}, dataset(64))
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in after)
