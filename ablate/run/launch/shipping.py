"""The code that workers on other machines run: this package and the user's imports, shipped by Ray."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PACKAGE = "ablate_imports"
CODE = "code"
"""The folder in it that has the files of a task."""


@contextlib.contextmanager
def shipped_modules(imports: Sequence[Path], code: Mapping[str, Path]) -> Iterator[list[str]]:
    """Yield the folders for Ray's `py_modules`; they are copied when Ray is initialised within this context."""
    with tempfile.TemporaryDirectory(prefix="ablate-imports-") as name:
        folder = Path(name) / PACKAGE
        folder.mkdir()
        (folder / "__init__.py").touch()
        for index, path in enumerate(imports):
            shutil.copyfile(path, folder / shipped_name(index, path))
        for place, path in code.items():
            (folder / CODE / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / CODE / place)
        yield [str(Path(__file__).resolve().parents[2]), str(folder)]


def shipped_name(index: int, path: Path) -> str:
    """Return the name that an import has among the shipped ones; two files may have the same name."""
    return f"{index}_{path.name}"


def import_path(name: str) -> Path:
    """Return where an import lies on this machine: a path as it is, a shipped file's name in Ray's copy."""
    path = Path(name)
    if path.is_absolute():
        return path
    return Path(str(importlib.import_module(PACKAGE).__file__)).parent / name
