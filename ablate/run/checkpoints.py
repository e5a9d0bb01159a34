"""Checkpoints of unfinished trials, named by the trial's key. They are read as tensors only, never unpickled."""

from __future__ import annotations

import io
import logging
from typing import Any

import torch

from ablate.places import Place
from ablate.storage import read_file, write_atomically
from ablate.tasks.image_classification.data.tensors import read_tensors

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def path(self, key: str) -> Place:
        """Return where the checkpoint of a trial lies, or would lie."""
        return self.folder / f"{key}.pt"

    def save(self, key: str, state: dict[str, Any]) -> None:
        """Write a trainer's state, whole or not at all."""
        sink = io.BytesIO()
        torch.save(state, sink)
        write_atomically(self.path(key), sink.getvalue())

    def load(self, key: str, device: torch.device) -> dict[str, Any] | None:
        """Return the saved state, or None where there is none or it cannot be read."""
        path = self.path(key)
        try:
            state: dict[str, Any] = read_tensors(io.BytesIO(read_file(path)), device)
        except FileNotFoundError:
            return None
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            log.warning("the checkpoint %s cannot be read, so its trial starts over: %s", path.name, reason)
            return None
        return state

    def remove(self, key: str) -> None:
        """Delete the checkpoint of a finished trial."""
        self.path(key).unlink(missing_ok=True)
