"""Importing a user's files for one trial: anew, from the bytes that were hashed."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablate.errors import UsageError
from ablate.tasks.own.sources import Sources
from ablate.tasks.own.trial import seed_all


class _Hashed(importlib.machinery.SourceFileLoader):
    """Runs the source that was read, never bytecode of another time."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self.content = content

    def get_code(self, fullname: str) -> types.CodeType:
        """Return the code of the module."""
        code: types.CodeType = self.source_to_code(self.content, self.path)
        return code


class _Finder:
    """Finds the modules of a user's files, before anything else does."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.places = {}
        for place in sources.files:
            parts = Path(place).with_suffix("").parts
            self.places[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = place

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how a module of the user's is loaded, None for others."""
        place = self.places.get(fullname)
        if place is None:
            return None
        file = self.sources.folder / place
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Hashed(fullname, str(file), self.sources.files[place])
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=folders)


_finder: list[_Finder] = []


def import_function(sources: Sources, name: str) -> Callable[..., Any]:
    """Return a function of a user's file, imported anew with all that it imports of the user's.

    So no trial sees what another left behind in a module. What modules draw when they are imported is the same in
    every worker.

    Raises:
        UsageError: There is no such function in it.
        BaseException: What the files raise.
    """
    for old in _finder:
        sys.meta_path.remove(old)
        for module in old.places:
            sys.modules.pop(module, None)
    finder = _Finder(sources)
    _finder[:] = [finder]
    sys.meta_path.insert(0, finder)
    folder = str(sources.folder)
    if folder not in sys.path:  # For processes that the user's code starts.
        sys.path.insert(0, folder)
    module_name = sources.module
    known = sys.modules.get(module_name)
    if known is not None or not all(part.isidentifier() for part in module_name.split(".")):
        # Another module, perhaps Python's own, has this name: the file gets one that nobody has.
        finder.places[f"ablate_function_{sources.digest}"] = finder.places.pop(module_name)
        module_name = f"ablate_function_{sources.digest}"
    seed_all(0)
    found = getattr(importlib.import_module(module_name), name, None)
    if not callable(found):
        raise UsageError(f"{sources.folder / sources.first} has no function '{name}'")
    function: Callable[..., Any] = found
    return function
