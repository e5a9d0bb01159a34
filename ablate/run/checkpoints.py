"""Checkpoints of unfinished trials, and kept weights, named by the trial's key. What is in them the task knows."""

from __future__ import annotations

from ablate.places import Place
from ablate.storage import read_file, write_atomically


class Checkpoints:
    """The files of trials in one folder."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def path(self, key: str) -> Place:
        """Return where the file of a trial lies, or would lie."""
        return self.folder / f"{key}.pt"

    def save(self, key: str, content: bytes) -> None:
        """Write a trial's file, whole or not at all."""
        write_atomically(self.path(key), content)

    def load(self, key: str) -> bytes | None:
        """Return a trial's file, None where there is none.

        Raises:
            OSError: It cannot be read.
        """
        try:
            return read_file(self.path(key))
        except FileNotFoundError:
            return None

    def remove(self, key: str) -> None:
        """Delete the file of a trial."""
        self.path(key).unlink(missing_ok=True)
