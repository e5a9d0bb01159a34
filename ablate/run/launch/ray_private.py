"""All that is used of Ray beyond its public interface, as Ray 2.60.0 has it; `tests/test_ray_private.py` watches it."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

from ablate.errors import AblateError

SEEN_IN = "2.60.0"
SERVICES = ("ray._private.services", "ConsolePopen")
SIGTERM = ("ray._private.utils", "set_sigterm_handler")
FIND_ADDRESS = ("ray._private.services", "canonicalize_bootstrap_address_or_die")
GCS = ("ray._raylet", "GcsClient")
PROPAGATED = ("ray.tune.execution.class_cache", "ENV_VARS_TO_PROPAGATE")
PROGRESS = ("ray.tune.progress_reporter", "TrialProgressCallback")
PARTS = (SERVICES, SIGTERM, FIND_ADDRESS, GCS, PROPAGATED, PROGRESS)
HOLDING = ("_stopped_trials", "_failed_trials", "_trials_to_cache")
"""Attributes of Ray Tune's controller: sets that hold trials which have ended."""


@contextlib.contextmanager
def signals_for_us() -> Iterator[None]:
    """Let Ray start its processes in sessions of their own, and leave SIGTERM to us.

    `timeout`, Slurm and service managers send SIGTERM to a whole process group. It is for the driver, which stops
    gracefully; without its Ray it could not. Ray's own handler exits at once, wherever it is.
    """
    popen = functools.partial(_part(SERVICES), start_new_session=True)
    with _replaced(SERVICES, popen), _replaced(SIGTERM, lambda handler: None):
        yield


@contextlib.contextmanager
def nothing_propagated() -> Iterator[None]:
    """Keep Ray Tune from copying variables of the driver, AWS's keys among them, into the trials' runtime environment.

    Ray puts that on the command line of a process that every user can list, and into the log of its agent, which stays
    on a cluster that runs. Workers have the environment of their node; on a private Ray it is the driver's.
    """
    with _replaced(PROPAGATED, frozenset()):
        yield


@contextlib.contextmanager
def nothing_reported() -> Iterator[None]:
    """Do without Ray Tune's own lines of progress, which we hide: what prints them keeps every trial and result."""
    from ray.tune import Callback

    class Silent(Callback):
        def __init__(self, **_: Any) -> None:
            super().__init__()

    with _replaced(PROGRESS, Silent):
        yield


def forget_ended_trials(controller: Any) -> None:
    """Let Ray Tune's controller go of the trials that have ended.

    It would keep each with its configuration, its last result and statistics of it, and write all of them to a
    snapshot at the end. Where Ray is built otherwise, it keeps them.
    """
    trials = controller.get_trials()
    ended = {trial for trial in trials if trial.is_finished()}
    trials[:] = [trial for trial in trials if trial not in ended]
    for name in HOLDING:
        getattr(controller, name, set()).difference_update(ended)


def found_address(address: str) -> str:
    """Return HOST:PORT of the cluster that an address means.

    Raises:
        ConnectionError, ValueError: There is none.
    """
    return str(_part(FIND_ADDRESS)(address))


def ask_for_nodes(address: str, timeout_s: float) -> None:
    """Ask the cluster at HOST:PORT for its nodes; raise whatever Ray raises where it does not answer or let us in."""
    _part(GCS)(address=address).get_all_node_info(timeout=timeout_s)


def _part(part: tuple[str, str]) -> Any:
    module, name = part
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        import ray

        raise AblateError(
            f"Ray {ray.__version__} has no {module}.{name}, which Ray {SEEN_IN} had: install ray[tune]=={SEEN_IN}"
        ) from None


@contextlib.contextmanager
def _replaced(part: tuple[str, str], value: Any) -> Iterator[None]:
    before, module = _part(part), importlib.import_module(part[0])
    setattr(module, part[1], value)
    try:
        yield
    finally:
        setattr(module, part[1], before)
