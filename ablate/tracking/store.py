"""Which MLflow store a sweep is mirrored to, and how it is opened."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablate.command_lines import Commands
from ablate.places import Place, local_view
from ablate.storage import open_at_once
from ablate.store.declaration import Declaration
from ablate.tracking.content import shortened
from ablate.tracking.outages import passes
from ablate.tracking.view import VIEW_TAG, view_state

SQLITE = "sqlite:///"
MAX_CAUSE = 1500
MAX_QUESTION = 19_000
"""Characters of the question in the experiment's note; MLflow takes 20,000 in all."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The defaults, 7 retries of 120 s, hold up a caller for minutes when a server is gone.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Else the first opening of a store prints the steps of its schema's migration.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


_QUERY = re.compile(
    r"([?&;][^=&;\s]*(?:passw|pwd|token|secret|credential|(?:api|access)[_-]?key)[^=&;\s]*=)[^&;\s'\"]+", re.IGNORECASE
)
_USER = re.compile(r"(?<=//)([^:/?#@\s]*):(.*)@", re.DOTALL)
"""SQLAlchemy takes all up to the last @ for the password, also what a URI should have quoted."""
_OPEN = re.compile(r"^(?:postgresql|mysql|mssql|sqlite|file)\b")
"""Their users are no secrets; before the @ of another store may stand a token, also where its scheme is misspelt."""
_BEFORE_AT = re.compile(r"^(?!\.|/(?!/))((?:[A-Za-z][\w+.-]*(?::|(?=//)))?(?://)?)(.*)(?<!\*\*\*)@", re.DOTALL)
"""An address may lack its scheme; a path of this machine has no user."""
_PROFILED = re.compile(r"^(?:databricks|uc)\b", re.IGNORECASE)
_TOKEN = re.compile(r"(?<=[:/])(?:dapi[^:/@?#\s]*|[A-Za-z0-9]{20,}(?![^:/@?#\s]))", re.IGNORECASE)
"""What looks like a token where the name of a profile is to stand."""
_FRAGMENT = re.compile(r"#.+$", re.DOTALL)
_HEADER = re.compile(r"(authorization[\\'\"]*\s*[:=,]\s*b?[\\'\"]*)?\b(Bearer|Basic)(\s+)([^\s'\",\\]+)", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]?[a-z]{0,14}[.;:!?)\]]*")
_SECRET_NAME = re.compile(r"^(?:MLFLOW|DATABRICKS)_.*(?:TOKEN|PASSWORD|SECRET|CREDENTIAL)")


def quiet_environment() -> None:
    """Set what keeps mlflow quiet and quick to give up, unless the user has set it.

    It must be called before mlflow is imported, because mlflow reads its logging level while importing.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def tracking_uri(out: Place) -> str:
    """Return MLFLOW_TRACKING_URI if it is set, else an SQLite file under the output folder, or its local view."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{_database(out)}"


def is_server(uri: str) -> bool:
    """Whether a server stands behind the URI, which then keeps the artifacts too."""
    return uri.startswith(("http://", "https://", "databricks", "uc:"))


def is_database_server(uri: str) -> bool:
    """Whether the URI leads to a database over the network, without an MLflow server before it."""
    return uri.startswith(("postgresql", "mysql", "mssql"))


def has_store(out: Place) -> bool:
    """Whether there is something to open: a store that the user named, or the file that a sweep wrote."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or _database(out).exists()


def artifact_root(out: Place) -> Path:
    """Return the absolute folder of the artifacts, for every store that is not a server."""
    return Path(os.path.abspath(local_view(out))) / "mlartifacts"


def masked(uri: str) -> str:
    """Return the URI for printing, without its password or token."""
    if uri.startswith(SQLITE):
        return _QUERY.sub(r"\1***", uri)
    text = _USER.sub(r"\1:***@", _QUERY.sub(r"\1***", uri))
    if not _OPEN.match(text):
        text = _FRAGMENT.sub("#***", _BEFORE_AT.sub(r"\1***@", text))
    return _TOKEN.sub("***", text) if _PROFILED.match(text) else text


def _without_secrets(text: str) -> str:
    """Return a text without the passwords and tokens of the environment, and without those of headers in it."""
    found = {name: value for name, value in os.environ.items() if _SECRET_NAME.match(name)}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    secrets = {*found.values(), base64.b64encode(f"{user}:{password}".encode()).decode() if password else ""}
    # A token that a file ended with a newline is printed with an escape, and used without it.
    secrets |= {form for value in secrets for form in (value.strip(), repr(value)[1:-1])}
    for secret in sorted((each for each in secrets if len(each) > 3), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _HEADER.sub(_masked_header, text)


def _masked_header(found: re.Match[str]) -> str:
    """Return what names a scheme without the credentials after it; prose that only names one stays as it is."""
    header, scheme, _, value = found.groups()
    is_quoted = found.string[: found.start(2)].endswith(("'", '"'))
    is_secret = _is_basic(value) if scheme.lower() == "basic" else is_quoted or not _WORD.fullmatch(value)
    return f"{header or ''}{scheme} ***" if header or is_secret else found[0]


def _is_basic(value: str) -> bool:
    """Whether a text is the base64 of a user, a colon and a password, or the beginning of it."""
    text = re.split(r"[^\w+/-]", value, maxsplit=1)[0].replace("-", "+").replace("_", "/")
    text = text[:-1] if len(text) % 4 == 1 else text
    try:
        user, colon, _ = base64.b64decode(text + "=" * (-len(text) % 4)).partition(b":")
        return bool(colon) and user.decode().isprintable()
    except ValueError:
        return False


def plain_cause(error: BaseException, uri: str) -> str:
    """Return an error in one line, without the store's password: all that MLflow says of what must be mended.

    Of an outage it is the first 200 characters.
    """
    text = _QUERY.sub(r"\1***", str(error).replace(uri.rstrip("/"), masked(uri).rstrip("/")))
    text = _without_secrets(text)
    # What a driver makes of a password that is not quoted: it takes a part of it for the host.
    secrets = [] if uri.startswith(SQLITE) else [password[2] for password in _USER.finditer(uri)]
    if not _OPEN.match(uri):
        secrets += [found[0][1:] for found in _FRAGMENT.finditer(uri)]
        secrets += [found[2].rpartition(":")[2] for found in _BEFORE_AT.finditer(uri)]
    if _PROFILED.match(uri):
        secrets += _TOKEN.findall(uri)
    for secret in filter(None, secrets):
        for part in (secret, *re.split(r"[@/?#:]", secret)):
            text = text.replace(part, "***") if len(part) > 3 else text
    # The remedy may be in a later line of MLflow's own words; other libraries add pages of addresses and SQL.
    text = re.split(r"\n\[SQL|\n\(Background", text.strip())[0]
    is_of_mlflow = type(error).__module__.startswith("mlflow") and not passes(error)
    line = " ".join(text.split() if is_of_mlflow else text.partition("\n")[:1]) or type(error).__name__
    most = 200 if passes(error) else MAX_CAUSE
    return line if len(line) <= most else f"{line[: most - 3]}..."


def open_client(uri: str) -> Any:
    """Return an MlflowClient of the store; a new SQLite file is created with its schema.

    A database is tried first: mlflow itself would try for 100 s, with a warning of five lines each time.
    """
    quiet_environment()
    # Its warnings of retries print the address with all that is in it; the mirror tells the outage itself.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    if is_database_server(uri):
        _try_database(uri)
    from mlflow import MlflowClient

    # It prints the traceback of every error of the database that it raises all the same.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if not uri.startswith(SQLITE):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    file = Path(uri.removeprefix(SQLITE))
    with _alone(file.with_suffix(".lock")):
        if not file.exists():
            # A process that is killed while it makes the schema leaves a store that nobody can open.
            new = file.with_suffix(".new")
            new.unlink(missing_ok=True)
            _try_database(f"{SQLITE}{new}")
            MlflowClient(tracking_uri=f"{SQLITE}{new}", registry_uri=f"{SQLITE}{new}")
            os.replace(new, file)
        _try_database(uri)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _try_database(uri: str) -> None:
    from sqlalchemy import create_engine, inspect

    engine = create_engine(uri)
    try:
        inspect(engine).get_table_names()  # SQLite opens a file only when something is asked.
    finally:
        engine.dispose()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time open an SQLite store: two that make its schema at once disturb each other."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = open_at_once(lock, os.O_WRONLY | os.O_CREAT)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def open_experiment(client: Any, uri: str, out: Place, declaration: Declaration) -> str:
    """Return the id of the sweep's experiment, which is created, or restored where a user deleted it."""
    found = client.get_experiment_by_name(declaration.sweep)
    if found is None:
        location = None if is_server(uri) else str(artifact_root(out) / declaration.sweep)
        experiment = str(client.create_experiment(declaration.sweep, artifact_location=location))
    else:
        experiment = str(found.experiment_id)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(experiment)
    # Without a kind the UI asks for one before it shows the runs.
    tags = {"mlflow.note.content": _note(out, declaration), "mlflow.experimentKind": "custom_model_development"}
    for name, value in (tags | {VIEW_TAG: view_state(declaration)}).items():
        client.set_experiment_tag(experiment, name, value)
    return experiment


def _note(out: Place, declaration: Declaration) -> str:
    command = declaration.command("sweep", Commands(out, in_public=True))
    question = shortened(declaration.question, MAX_QUESTION)
    return "\n\n".join([*([question] if question else []), f"    {command}\n"])


def _database(out: Place) -> Path:
    return Path(os.path.abspath(local_view(out))) / "mlflow.db"
