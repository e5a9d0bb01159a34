"""Small examples that run: what `init` copies for a user to begin from."""

from __future__ import annotations

import os
from pathlib import Path

from ablate.command_lines import Commands, quoted
from ablate.errors import UsageError

FOLDER = Path(__file__).with_name("examples")
DEFAULT = "function"


def kinds() -> list[str]:
    """Return the names of the examples."""
    return sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir() and folder.name.isidentifier())


def write(kind: str, to: Path) -> list[Path]:
    """Copy the files of an example into a folder; return where they are.

    Raises:
        UsageError: A file of this name is there already; nothing is written then.
    """
    sources = sorted(file for file in (FOLDER / kind).iterdir() if file.is_file())
    for source in sources:
        if os.path.lexists(to / source.name):
            raise UsageError(
                f"{to / source.name} is there already, so nothing was written; choose another folder: --to"
            )
    to.mkdir(parents=True, exist_ok=True)
    for source in sources:
        with open(to / source.name, "xb") as file:
            file.write(source.read_bytes())
    return [to / source.name for source in sources]


def next_line(written: list[Path]) -> str:
    """Return the command that runs an example."""
    for path in written:
        if path.suffix == ".yaml":
            return Commands().line("sweep", str(path))
    return quoted(["jupyter", "lab", *map(str, written)])
