"""Whether a Ray cluster that runs answers and lets us in: asked first, because Ray itself would try for minutes."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ablate.errors import UsageError
from ablate.run.launch.ray_private import ask_for_nodes, found_address

TIMEOUT_S = 10.0
log = logging.getLogger(__name__)
TOKEN_HINT = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with the cluster's token"


def check_address(address: str) -> None:
    """Check the form of an address.

    Raises:
        UsageError: It is none of local, auto and HOST:PORT.
    """
    if address.startswith("ray://"):
        raise UsageError(
            f"--address {address}: Ray Client (ray://) is not supported. Run the command on a node of the cluster, "
            "or as a Ray job"
        )
    host, _, port = address.rpartition(":")
    if address not in ("local", "auto") and not (host and "/" not in host and port.isdecimal() and int(port) < 65536):
        raise UsageError(f"--address must be local, auto or HOST:PORT, but got '{address}'")


def token_mode(address: str) -> dict[str, str | None]:
    """Return RAY_AUTH_MODE=token where the user has a token for this cluster and has not chosen a mode.

    As in Ray, ~/.ray/auth_token is for a cluster that is found on this machine, not for any address.
    """
    has_own = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if os.environ.get("RAY_AUTH_MODE") is None and (has_own or (address == "auto" and _default_token().exists())):
        return {"RAY_AUTH_MODE": "token"}
    return {}


def probe(address: str) -> None:
    """Ask the cluster for its nodes.

    Raises:
        UsageError: No Ray cluster answers there, or it asks for a token that we do not have.
    """
    from ray.exceptions import AuthenticationError

    has_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if has_token and not _has_token():
        raise UsageError(f"RAY_AUTH_MODE is token, but there is no token; {TOKEN_HINT}")
    try:
        found = found_address(address)
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"no Ray cluster found for --address {address}: {one_line(error)}") from None
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S).close()
        with _without_stderr():
            ask_for_nodes(found, TIMEOUT_S)
    except AuthenticationError:
        raise UsageError(f"the Ray cluster at {found} asks for its token; {TOKEN_HINT}") from None
    except OSError as error:
        raise UsageError(f"no Ray cluster answers at {found}: {error.strerror or error}") from None
    except Exception as error:  # Ray's own errors, which have no common class.
        raise UsageError(f"what answers at {found} is no Ray cluster: {one_line(error)}") from None
    _warn(found, has_token)


def _warn(address: str, has_token: bool) -> None:
    """Say where others could run code on the cluster."""
    file = _token_file()
    if not has_token:
        log.warning("the Ray cluster at %s asks for no token: whoever reaches it can run code on it", address)
    elif not os.environ.get("RAY_AUTH_TOKEN") and file.stat().st_mode & 0o077:
        log.warning("others on this machine can read the cluster's token: chmod 600 %s", file)


def one_line(error: BaseException) -> str:
    """Return an error's text in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} …"


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what Ray's C++ code writes to the file descriptor itself; it raises what it has to say as well."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    try:
        return bool(_token_file().read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return False


def _token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _default_token())


def _default_token() -> Path:
    return Path.home() / ".ray" / "auth_token"
