"""The tasks by name."""

from __future__ import annotations

import importlib

from ablate.errors import UsageError, choices_text
from ablate.tasks.base import Task
from ablate.tasks.registry import loading_origin

DEFAULT = "image_classification"
"""The task of a sweep file that names none, and of everything that was written before there were others."""
BUILT_IN = {DEFAULT: "ablate.tasks.image_classification.task:TASK"}
_registered: dict[str, Task] = {}


def register_task(task: Task) -> None:
    """Add a task.

    Raises:
        UsageError: The name is taken.
    """
    if task.name in BUILT_IN or _registered.setdefault(task.name, task) is not task:
        raise UsageError(f"task '{task.name}' is registered already")
    task.origin = loading_origin()


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
