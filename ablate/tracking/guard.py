"""Stands before the MLflow UI on loopback and lets in its own pages and programs, not the pages of others.

MLflow's own check of the `Host` header matches beginnings of names, its check of the origin takes every port of this
machine for its own, and neither asks who writes where no origin is given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

NAME = "ablate-ui"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CLIENT_HEADER = b"x-mlflow-client-version"
"""MLflow's client sends it. A page cannot, without asking first with its origin, and is refused then."""

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


def allowed_hosts(port: int) -> list[str]:
    """Return the names by which a server on this port of loopback is called, as a `Host` header gives them."""
    names = ["127.0.0.1", "localhost", "[::1]"]
    return [f"{name}:{port}" for name in names] + (names if port == 80 else [])


def refusal(scope: Scope) -> str:
    """Return why a request is refused, empty if it is let in."""

    def values(name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in scope["headers"] if key == name]

    method = scope.get("method", "GET")  # A websocket has none.
    hosts, known = values(b"host"), allowed_hosts((scope.get("server") or ("", 0))[1])
    if len(hosts) != 1 or hosts[0] not in known:
        return f"the Host header must be one of {', '.join(known)}"
    origins = values(b"origin")
    if any(origin != f"http://{hosts[0]}" for origin in origins):
        return f"this is the page of another server; only http://{hosts[0]} may ask"
    is_link = method in ("GET", "HEAD") and values(b"sec-fetch-mode") == ["navigate"]
    if any(site not in ("same-origin", "none") for site in values(b"sec-fetch-site")) and not is_link:
        return "this is the page of another server; it may link here and no more"
    is_reading = method in SAFE_METHODS or (method == "POST" and scope["path"].endswith("/search"))
    if not is_reading and not origins and not values(CLIENT_HEADER):
        return "only this UI's pages, which give their Origin, and MLflow's client may write"
    return ""


class Guard:
    """An ASGI application that answers 403 to what is refused and hands everything else on."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answer one request."""
        why = refusal(scope) if scope["type"] in ("http", "websocket") else ""
        if not why:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{why}\n".encode()})


def app() -> Guard:
    """Return the guarded server; uvicorn calls it in the server's process."""
    from mlflow.server.fastapi_app import app as mlflow_app

    return Guard(mlflow_app)


def write_plugin(folder: Path) -> None:
    """Make `mlflow server --app-name` know the guard where this folder is on the path, as an installed plugin would."""
    plugin = folder / f"{NAME.replace('-', '_')}-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\n", encoding="utf-8")
    (plugin / "entry_points.txt").write_text(f"[mlflow.app]\n{NAME} = {__name__}:{app.__name__}\n", encoding="utf-8")
