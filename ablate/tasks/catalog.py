"""The tasks by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ablate.errors import UsageError, choices_text
from ablate.tasks.base import Task
from ablate.tasks.registry import loading_origin

DEFAULT = "image_classification"
"""The task of a sweep file that names none, and of everything that was written before there were others."""
BUILT_IN = {DEFAULT: "ablate.tasks.image_classification.task:TASK"}
DESCRIBED = ("function", "command")
"""Tasks that the entry `task` of a sweep file describes."""
_registered: dict[str, Task] = {}


def register_task(task: Task) -> None:
    """Add a task.

    Raises:
        UsageError: The name is taken.
    """
    if task.name in (*BUILT_IN, *DESCRIBED) or _registered.setdefault(task.name, task) is not task:
        raise UsageError(f"task '{task.name}' is registered already")
    task.origin = loading_origin()


def own(
    entry: Mapping[str, Any], values: Mapping[str, Iterable[Any]], folder: Path, function: Callable[..., Any] | None
) -> Task:
    """Return the task that is a user's own training, from the entry `task` of a sweep file.

    Raises:
        UsageError: The entry is wrong; the second argument names its key.
    """
    from ablate.tasks.own.command import CommandTask
    from ablate.tasks.own.function import FunctionTask

    if entry.get("function"):
        return FunctionTask(entry, values, folder, function)
    return CommandTask(entry, values, folder)


def misdescribed(values: Mapping[str, Iterable[Any]], metric: str) -> Task:
    """Return what stands in for a task whose entry holds a mistake; `metric` is the table's, "" where none is named."""
    from ablate.tasks.own.task import MisdescribedTask

    return MisdescribedTask(values, [metric] if metric else [])


def from_reference(reference: Any) -> Task:
    """Return the task that `Task.reference` stands for."""
    if isinstance(reference, str):
        return get(reference)
    return own(reference["entry"], {}, Path(reference["folder"]), reference.get("function"))


def names() -> list[str]:
    """Return the names of all tasks."""
    return [*BUILT_IN, *_registered]


def find(name: str) -> Task | None:
    """Return the task of this name; None where it is not known here, as a user's is whose file was not imported."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        task: Task = getattr(importlib.import_module(module), attribute)
        return task
    return _registered.get(name)


def get(name: str) -> Task:
    """Return the task of this name.

    Raises:
        UsageError: There is none.
    """
    task = find(name)
    if task is None:
        raise UsageError(f"unknown task '{name}'. {choices_text(name, names())}")
    return task
