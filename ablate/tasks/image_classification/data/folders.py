"""Where the raw files of data sets are looked for."""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ablate.errors import DataError


@dataclass(frozen=True)
class DataFolders:
    """The folders that a loader looks in.

    `given` is the user's folder, from the environment variable ABLATE_DATA, and may be read-only.
    `cache` is ours: torchvision downloads to it what is found nowhere else.
    """

    given: Path | None
    cache: Path

    @classmethod
    def from_environment(cls, cache: Path) -> DataFolders:
        """Return the folders with `given` taken from ABLATE_DATA, None where it is unset or empty."""
        given = os.environ.get("ABLATE_DATA")
        return cls(Path(given).expanduser() if given else None, cache)

    def candidates(self, dataset: str) -> list[Path]:
        """Return the existing folders among $ABLATE_DATA/<dataset> and $ABLATE_DATA, in this order.

        Raises:
            DataError: ABLATE_DATA is set, but is no folder.
        """
        if self.given is None:
            return []
        if not self.given.is_dir():
            raise DataError(f"ABLATE_DATA must name a folder, but {self.given} is none")
        return [folder for folder in (self.given / dataset, self.given) if folder.is_dir()]

    def download(self, fetch: Callable[[], object], *, dataset: str, title: str, files: str) -> None:
        """Call `fetch`, which downloads to `cache` what is not there yet.

        `title` is the data set's name for people; `files` says which files the user may provide instead.

        Raises:
            DataError: The download failed; the text says which files to put where.
        """
        try:
            fetch()
        except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            state = "is not set" if self.given is None else f"is {self.given}"
            raise DataError(
                f"no {title} found and the download failed ({reason}): "
                f"put {files} into $ABLATE_DATA/{dataset} (ABLATE_DATA {state})"
            ) from error
