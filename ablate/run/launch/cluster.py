"""A Ray cluster to run on: a private one on this machine, or one that runs already."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.errors import UsageError
from ablate.run.launch.access import one_line, probe, token_mode
from ablate.run.launch.leftovers import clear, cleared_at_the_end
from ablate.run.launch.ray_private import signals_for_us
from ablate.run.launch.shipping import shipped_modules
from ablate.signals import interrupts_deferred

log = logging.getLogger(__name__)
# Read by Ray when it is imported or when a worker starts.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_THRESHOLD_S": "1000",
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    # Tracebacks of lost workers; the scheduler and the ledger say what became of their trials.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A reused worker that ends its trial more slowly than this would block the next one.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "120",
}
SHORT = Path("/tmp")
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "120",
    # What a user's row prints must not fail its trial where the driver's locale lacks a character.
    "PYTHONIOENCODING": "utf-8:backslashreplace",
}


@contextlib.contextmanager
def private_cluster(num_cpus: int) -> Iterator[None]:
    """Start Ray on this machine and connect to it; stop it and remove its files at the end.

    It listens on loopback only, has no dashboard, and answers only to a token of its own. Its files lie in a temporary
    folder of the system that only this user can enter; there, because Ray's sockets need a short path.
    """
    temporary = Path(_new_temporary())
    token = temporary / "token"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(_token())
    changes = {
        # Ray turns token authentication on by itself unless RAY_AUTH_MODE says otherwise. It prefers RAY_AUTH_TOKEN to
        # a file, and without either it would write a token to ~/.ray that everybody on the machine can read.
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_AUTH_TOKEN": None,
        "RAY_ADDRESS": None,
        # Its name speaks of other systems; on Linux, too, it makes Ray take the loopback address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    with cleared_at_the_end(temporary), _environment(changes):
        try:
            # A folder below ours, because Ray lets everybody write to the one that it is given.
            _init(address="local", num_cpus=num_cpus, include_dashboard=False, _temp_dir=str(temporary / "ray"),
                  runtime_env={"env_vars": WORKER_ENVIRONMENT})  # fmt: skip
            yield
        finally:
            _shutdown()


@contextlib.contextmanager
def attached_cluster(address: str, imports: Sequence[Path], code: Mapping[str, Path] | None = None) -> Iterator[None]:
    """Connect to a Ray cluster that runs: "auto" or HOST:PORT. Its workers get this package, imports and a task's code.

    Raises:
        UsageError: Nothing answers there, or it does not let us in; one line.
    """
    with _environment(token_mode(address)), shipped_modules(imports, code or {}) as modules:
        probe(address)
        try:
            try:
                _init(address=address, runtime_env={"env_vars": WORKER_ENVIRONMENT, "py_modules": modules})
            # What Ray raises depends on how far it got: ConnectionError, RuntimeError, ValueError …
            except Exception as error:
                raise UsageError(f"cannot use the Ray cluster at {address}: {one_line(error)}") from None
            yield
        finally:
            _shutdown()


def _init(**arguments: Any) -> None:
    with interrupts_deferred():
        import ray

        for name in ("ray", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with signals_for_us():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **arguments)


def _shutdown() -> None:
    import ray

    ray.shutdown()


@functools.cache
def _token() -> str:
    """Return one secret a process: Ray reads the token once and keeps it."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Change environment variables, None unsets; restore them at the end. What the user has set of ours stays."""
    # Ray sets RAY_AUTH_MODE by itself.
    before = {name: os.environ.get(name) for name in [*ENVIRONMENT, *changes, "RAY_AUTH_MODE"]}
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _set_variables(changes)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _new_temporary() -> str:
    """Return a new folder named after this process; clear those of processes that were killed."""
    parent = SHORT if SHORT.is_dir() else Path(tempfile.gettempdir())
    for left in parent.glob("ablate-ray-*"):
        # In a folder that everybody can write to, anybody can give a name.
        found = re.fullmatch(r"ablate-ray-([0-9]{1,9})-\w+", left.name)
        if found and left.lstat().st_uid == os.getuid() and not _is_alive(int(found[1])):
            num_killed = clear(left)
            if num_killed:
                log.warning("a sweep that was killed had left %d Ray processes; they were ended", num_killed)
    return tempfile.mkdtemp(prefix=f"ablate-ray-{os.getpid()}-", dir=parent)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
