"""Opens the MLflow UI on loopback, at a sweep's experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ablate.command_lines import Commands, quoted
from ablate.errors import AblateError, UsageError, choices_text
from ablate.places import Place
from ablate.tracking.server import HOST, check_port, served, ui_command
from ablate.tracking.store import has_store, is_server, masked, open_client, plain_cause, tracking_uri
from ablate.tracking.view import link

__all__ = ["open_ui", "ui_command"]


def open_ui(out: Place, sweep: str, port: int, echo: Callable[[str], Any]) -> None:
    """Serve the UI until Ctrl-C (or SIGTERM), or print the link where a server runs already.

    Raises:
        UsageError: There is no store or no such sweep in it, or the port is taken.
        AblateError: The server did not start.
    """
    uri = tracking_uri(out)
    if not has_store(out):
        raise UsageError(f"no MLflow store in {out} yet. Run: {Commands(out).line('sweep', 'FILE')}")
    if not is_server(uri):
        check_port(port)
    experiment = _experiment_id(uri, sweep)
    if is_server(uri):
        echo(link(masked(uri), experiment))
        return
    try:
        with served(out, port) as server:
            echo(f"{sweep}: {link(f'http://{HOST}:{port}', experiment)}")
            echo(f"Without this command, and without its check of who writes: {_plain_line(out, port)}")
            echo("Ctrl-C ends it.")
            code = server.wait()
    except KeyboardInterrupt:
        return
    raise AblateError(f"the MLflow UI ended by itself with exit code {code}")


def _experiment_id(uri: str, sweep: str) -> str:
    from_store = f"MLflow at {masked(uri)}"
    try:
        client = open_client(uri)
        found = client.get_experiment_by_name(sweep)
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
        names = [experiment.name for experiment in client.search_experiments() if experiment.name != "Default"]
    except Exception as error:
        raise UsageError(f"cannot read {from_store}: {plain_cause(error, uri)}") from None
    raise UsageError(f"no sweep '{sweep}' in {from_store}. {choices_text(sweep, names)}")


def _plain_line(out: Place, port: int) -> str:
    prefix = (
        "" if "--backend-store-uri" in ui_command(out, port) else 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" '
    )
    return prefix + quoted(ui_command(out, port))
