"""The files that a user's training is made of, found without running them."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablate.errors import UsageError, choices_text
from ablate.files import read_regular

MAX_BYTES = 10_000_000
MAX_FILES = 1000


@dataclass(frozen=True)
class Sources:
    """A user's file with all modules below its folder that it imports, directly or by way of others.

    `folder` is what they are imported from: that of the file, or above the packages that it lies in. `files` are
    their contents by their place below it, `first` is the file's own place, `module` its name as a module, `others`
    are the top-level names of all else that they import, also inside of functions.
    """

    folder: Path
    first: Path
    module: str
    files: Mapping[str, bytes]
    others: frozenset[str]

    @property
    def digest(self) -> str:
        """12 hex digits of all files."""
        content = hashlib.sha256()
        for place, text in sorted(self.files.items()):
            content.update(f"{place}\0{len(text)}\0".encode() + text)
        return content.hexdigest()[:12]


def read_sources(file: Path) -> Sources:
    """Return a Python file and what it imports.

    Raises:
        UsageError: A file cannot be read or is no Python.
    """
    folder = file.resolve().parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    first = file.resolve().relative_to(folder)
    files: dict[str, bytes] = {}
    others: set[str] = set()
    waiting = [first]
    while waiting:
        place = waiting.pop()
        if place.as_posix() in files:
            continue
        if len(files) >= MAX_FILES:
            raise UsageError(f"{file} imports more than {MAX_FILES} files below {folder}")
        content, tree = _parsed(folder / place)
        files[place.as_posix()] = content
        for name in _imported(tree, place):
            found = list(_places(folder, name))
            waiting += found
            if not found:
                others.add(name.partition(".")[0])
    return Sources(folder, first, ".".join(first.with_suffix("").parts), files, frozenset(others))


def check_function(file: Path, name: str) -> None:
    """Check that a file defines a function of two arguments on its top level, as far as that can be read from it.

    Raises:
        UsageError: It does not.
    """
    _, tree = _parsed(file)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if name in functions:
        node = functions[name]
        where = f"{file}:{node.lineno}: {name}"
        if isinstance(node, ast.AsyncFunctionDef):
            raise UsageError(f"{where} is async: it must be a plain function")
        arguments = node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        least = len(positional) - len(arguments.defaults)
        needs_more = any(default is None for default in arguments.kw_defaults)
        if least > 2 or needs_more or (len(positional) < 2 and arguments.vararg is None):
            given = ", ".join(each.arg for each in [*positional, *arguments.kwonlyargs]) or "none"
            raise UsageError(f"{where} must take two arguments, (config, trial), but takes {given}")
        if any(isinstance(each, ast.Yield | ast.YieldFrom) for each in _own_nodes(node)):
            raise UsageError(f"{where} is a generator: it must call trial.report instead of yield")
        return
    if name not in _bound(tree):
        raise UsageError(f"{file} has no function '{name}'. {choices_text(name, functions)}")


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions inside of it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def _bound(tree: ast.Module) -> set[str]:
    """Return the names that a module may bind on its top level; what a star brings is not known."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return names


def _parsed(file: Path) -> tuple[bytes, ast.Module]:
    try:
        content = read_regular(file, MAX_BYTES, "a Python file")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read {file}: {reason}") from None
    try:
        return content, ast.parse(content, filename=str(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UsageError(f"{file}{line}: {getattr(error, 'msg', None) or error}") from None


def _imported(tree: ast.Module, place: Path) -> Iterator[str]:
    """Yield the full names of all that a module imports, and of what it imports from them: it may be a module too."""
    package = place.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (".".join(filter(None, [base, alias.name])) for alias in node.names if alias.name != "*")


def _places(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files of a module below the folder, those of the packages that it lies in included."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        for place in (Path(*parts[:count]).with_suffix(".py"), Path(*parts[:count]) / "__init__.py"):
            if (folder / place).is_file():
                yield place
