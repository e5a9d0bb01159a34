"""The MLflow server as a process of its own, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ablate.errors import AblateError, UsageError
from ablate.places import Place
from ablate.signals import graceful_signals
from ablate.tracking.guard import NAME, allowed_hosts, write_plugin
from ablate.tracking.store import SQLITE, artifact_root, quiet_environment, tracking_uri

HOST = "127.0.0.1"
OPENINGS = (
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_X_FRAME_OPTIONS",
)  # fmt: skip
"""Variables that weaken what MLflow itself checks; they are meant for servers that others reach."""
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 5.0


def ui_command(out: Place, port: int) -> list[str]:
    """Return the command that serves the UI of an output folder; it runs without this project, and without its guard.

    A store that is no file is left out, because its URI may hold a password: the command takes it from
    MLFLOW_BACKEND_STORE_URI.
    """
    uri = tracking_uri(out)
    store = ["--backend-store-uri", uri] if uri.startswith(SQLITE) else []
    artifacts = ["--artifacts-destination", str(artifact_root(out))]
    hosts = ["--allowed-hosts", ",".join(allowed_hosts(port))]
    return ["mlflow", "ui", *store, *artifacts, "--host", HOST, "--port", str(port), "--workers", "1", *hosts]


def check_port(port: int) -> None:
    """Raise a UsageError that names the next free port if the port is taken."""
    if _is_free(port):
        return
    free = next((other for other in range(port + 1, min(port + 100, 65536)) if _is_free(other)), None)
    hint = f" Try: --port {free}" if free else ""
    raise UsageError(f"port {port} on {HOST} is taken.{hint}")


@contextlib.contextmanager
def served(out: Place, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server behind its guard, in a process group of its own, while the block runs, from when it answers."""
    quiet_environment()
    environment = {name: value for name, value in os.environ.items() if name not in OPENINGS}
    environment["MLFLOW_BACKEND_STORE_URI"] = tracking_uri(out)
    command = [sys.executable, "-m", *ui_command(out, port), "--app-name", NAME]
    with tempfile.TemporaryDirectory() as plugin, tempfile.TemporaryFile() as output, graceful_signals():
        write_plugin(Path(plugin))
        environment["PYTHONPATH"] = os.pathsep.join([plugin, *filter(None, sys.path)])
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_it_answers(server, port, output)
            yield server
        finally:
            _end_group(server)


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError):
            # Loopback: never through a proxy.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            if opener.open(f"http://{HOST}:{port}/health", timeout=2).status == 200:
                return
        time.sleep(0.2)
    output.seek(0)
    last = output.read().decode(errors="replace").strip().splitlines()[-5:]
    raise AblateError("\n".join(["the MLflow UI did not start:", *last]))


def _end_group(server: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_TIMEOUT_S)


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As the server does it, so that connections that just ended do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True
