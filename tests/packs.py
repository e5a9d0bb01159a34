"""Packs of image trials whose data is in memory, and states of theirs."""

import io

import torch

from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Pack, Request
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.tensors import read_tensors
from ablate.tasks.image_classification.task import TASK
from ablate.tasks.image_classification.training.trainer import Trainer

CPU = torch.device("cpu")


def packed(requests, dataset, device=CPU, checkpoints=None, provenance=None, weights=None):
    """Return a pack of these requests."""

    def start(request):
        return Trainer(resolve(request.settings), dataset, request.seed, device)

    return Pack(TASK, requests, device.type, None, checkpoints, provenance, weights, start=start)


def tensors(content, device=CPU):
    """Return what a checkpoint or a file of kept weights holds."""
    return read_tensors(io.BytesIO(content), device)


def starts_over(folder, dataset, key="k"):
    """Run a trial whose checkpoint cannot be read, and check that it says so and starts over."""
    settings = resolve({"depth": 8, "width": 2, "epochs": 1, "batch_size": 16}).settings()
    request = Request(key=key, fingerprint="f", seed=0, phase="tune", settings=settings, data_digest="d")
    (record,) = packed([request], dataset, CPU, Checkpoints(folder)).run()
    assert (record.state, record.message) == ("complete", "its checkpoint could not be read, so it started over")
