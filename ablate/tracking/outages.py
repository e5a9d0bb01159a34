"""Tells an outage of a store, which passes by itself, from a refusal, which stays until somebody mends something."""

from __future__ import annotations

import re
from collections.abc import Iterator

_OUTAGES = {
    "ConnectionError", "TimeoutError", "Timeout", "RetryError", "ChunkedEncodingError", "HTTPClientError",
    "OperationalError", "InterfaceError",
}  # fmt: skip
"""Classes of Python, requests, botocore, SQLAlchemy and the drivers of databases, not all of them installed."""
_REFUSALS = re.compile(
    r"unable to open database file|readonly database|(disk|database) is full|no such (table|column)|SSLError"
    r"|authentication failed|access denied|unknown database|does not exist|no pg_hba\.conf entry",
    re.IGNORECASE,
)
"""What a class of outages is raised for, too: the driver's words tell it."""
_WORDS = re.compile(r"failed with error code (429|5\d\d) |\([\w.]+\.(OperationalError|InterfaceError)\)")
"""Of a proxy before the server, and of the server's database."""


def passes(error: BaseException) -> bool:
    """Say whether an error of a store is an outage; one that is not known is none.

    An error that MLflow's server sends tells by its code; one that MLflow raises here has the code INTERNAL_ERROR also
    for what is wrong for good, such as a schema that is out of date.
    """
    if _REFUSALS.search(str(error)):
        return False
    if _WORDS.search(str(error)) or any(
        kind.__name__ in _OUTAGES for link in _chain(error) for kind in type(link).__mro__
    ):
        return True
    if type(error).__name__ == "RestException":
        status = getattr(error, "get_http_status_code", lambda: 0)()
        return status == 429 or (status >= 499 and status != 501)
    return getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those it came of."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
