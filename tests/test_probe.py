"""What `plan` measures of a net: its time and the size of its state."""

import pytest
import torch

from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.training.timing import time_epoch
from ablate.tasks.registry import names

# How many tensors of a kernel's size each optimizer keeps for it.
KEPT = {
    "sgd": 1, "nesterov": 1, "adagrad": 1, "adadelta": 2, "adam": 2, "adamw": 2, "rmsprop": 1, "lars": 1,
    "novograd": 1, "muon": 1,
}  # fmt: skip


@pytest.mark.parametrize("optimizer", names("optimizer"))
def test_every_optimizer_is_probed_with_the_state_it_keeps(tiny_dataset, optimizer):
    config = resolve({"depth": 8, "width": 8, "batch_size": 16, "lr": 1e-3, "optimizer": optimizer})
    found = time_epoch(config, tiny_dataset, torch.device("cpu"))
    assert found.epoch_s > 0
    assert found.memory_mib > 0
    # 18,504 numbers of four bytes in the convolutions; norms and the fully connected layer add little.
    assert found.state_mib * 2**20 / (4 * 18_504) == pytest.approx(1 + KEPT[optimizer], rel=0.1)
