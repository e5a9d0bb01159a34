"""Links from the page to the MLflow runs behind its entries.

The mirror leaves the ids of the cells' runs in the sweep's folder; which server shows them is the reader's business.
"""

from __future__ import annotations

import logging
import os
import re
from urllib.parse import urlsplit

from ablate.errors import UsageError
from ablate.places import Place
from ablate.storage import read_json
from ablate.store.declaration import MLFLOW_RUNS, Declaration

log = logging.getLogger(__name__)
SERVER = "http://127.0.0.1:5000"
"""Where `ui` serves by default."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
VIEW = "?workflowType=machine_learning"
"""Without it MLflow shows a run among its pages about language models."""
ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

Links = dict[tuple[str, ...], str]
"""The address of a cell's run by the labels of its levels."""


def link_server(asked: str | None = None) -> str | None:
    """Return the address of the MLflow server that the page's links lead to.

    As asked, else MLFLOW_TRACKING_URI if a server on this machine stands behind it, else where `ui` serves by default.
    None where MLFLOW_TRACKING_URI names a server elsewhere: a page tells no host unless it is asked to.

    Raises:
        UsageError: `asked` is no http(s) address, or has a user name or a password in it.
    """
    if asked is None:
        found = _address(os.environ.get("MLFLOW_TRACKING_URI", ""))
        if found is None:
            return SERVER
        return found if urlsplit(found).hostname in LOOPBACK else None
    found = _address(asked)
    if found is None or found != asked.rstrip("/"):
        # The value is not repeated: it may hold a password.
        raise UsageError(
            "--mlflow-url must be an address such as https://mlflow.example.org:5000, without a user name, a password "
            "or a query, because the page shows it"
        )
    return found


def read_links(out: Place, declaration: Declaration, server: str) -> Links:
    """Return the links of a sweep's cells; none for cells that MLflow was not told of."""
    try:
        content = read_json(out / declaration.sweep / MLFLOW_RUNS)
        experiment, cells = str(content["experiment"]), dict(content["cells"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("no links to MLflow: %s is damaged: %s", out / declaration.sweep / MLFLOW_RUNS, error)
        return {}
    return {
        tuple(cell.levels.values()): f"{server}/#/experiments/{experiment}/runs/{run}{VIEW}"
        for cell in declaration.cells
        if ID.fullmatch(experiment) and ID.fullmatch(run := str(cells.get(cell.key, "")))
    }


def _address(text: str) -> str | None:
    """Return the http(s) address in a text without user, password and query; None if there is none."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
