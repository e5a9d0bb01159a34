"""Who is let in to the MLflow UI that `ui` serves: its own pages and MLflow's client, no page of another server."""

from __future__ import annotations

import http.client
import json

import pytest
from mlflow.tracking import MlflowClient
from services import free_port

from ablate.tracking.guard import allowed_hosts, refusal
from ablate.tracking.server import served, ui_command

SEARCH = "/ajax-api/2.0/mlflow/experiments/search"
CREATE = "/api/2.0/mlflow/experiments/create"
JSON, FORM, TEXT = "application/json", "application/x-www-form-urlencoded", "text/plain"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A server's port. The user's environment would open it to everybody."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
        patch.setenv("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "*")
        patch.setenv("MLFLOW_SERVER_X_FRAME_OPTIONS", "NONE")
        with served(tmp_path_factory.mktemp("guarded"), port):
            yield port


def ask(port, method, path, headers, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value.format(port=port, other=port + 1))
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def names(port):
    return {experiment.name for experiment in MlflowClient(f"http://127.0.0.1:{port}").search_experiments()}


OURS = ("Host", "127.0.0.1:{port}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "host",
    [
        "evil.example.org", "evil.example.org:{port}", "10.evil.com:{port}", "192.168.evil.com:{port}",
        "172.16.evil.com:{port}", "localhost:evil.com", "localhost:{port}.evil.com", "localhost:{port}@evil.com",
        "127.0.0.1:evil.com", "127.0.0.1.evil.com:{port}", "evil-localhost:{port}", "0.0.0.0:{port}", "10.0.0.1:{port}",
        "127.0.0.2:{port}", "localhost", "127.0.0.1", "localhost:{other}", "localhost.:{port}", "[fc00::1]:{port}", "*",
        "",
    ],
)  # fmt: skip
def test_another_name_gets_nothing(port, host):
    for path in ("/", "/health", "/version", f"{SEARCH}?max_results=1", "/static-files/index.html"):
        status, text, _ = ask(port, "GET", path, [("Host", host)])
        assert status == 403, path
        assert text == f"the Host header must be one of 127.0.0.1:{port}, localhost:{port}, [::1]:{port}\n"


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}"])
def test_this_ports_own_names_get_data(port, host):
    status, text, headers = ask(port, "GET", f"{SEARCH}?max_results=1", [("Host", host)])
    assert status == 200
    assert "experiments" in json.loads(text)
    assert headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.slow
def test_no_host_and_two_hosts_get_nothing(port):
    for headers in ([], [("Host", "evil.com"), OURS], [OURS, ("Host", "evil.com")]):
        assert ask(port, "GET", SEARCH, headers)[0] in (400, 403)


OTHERS = ["http://evil.example.org", "http://localhost:{other}", "http://127.0.0.1:{other}", "http://localhost:{port}",
          "https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:{port}.evil.com", "null",
          "file://", ""]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("origin", OTHERS)
def test_a_page_of_another_origin_neither_writes_nor_reads(port, origin):
    """Another port of this machine is another page; so is localhost for 127.0.0.1. Not even to ask is allowed."""
    name = f"of {origin}"
    body = json.dumps({"name": name}).encode()
    for method, path in (("POST", CREATE), ("POST", SEARCH), ("GET", f"{SEARCH}?max_results=1"), ("OPTIONS", CREATE)):
        sent = body if method == "POST" else None
        status, text, headers = ask(
            port, method, path, [OURS, ("Origin", origin), ("Content-Type", JSON),
                                 ("Access-Control-Request-Method", "POST"), ("X-MLflow-Client-Version", "3")], sent,
        )  # fmt: skip
        assert (status, headers["Access-Control-Allow-Origin"]) == (403, None), method
        assert text == f"this is the page of another server; only http://127.0.0.1:{port} may ask\n"
    assert name not in names(port)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("kind", [JSON, FORM, TEXT, "multipart/form-data; boundary=x", None])
def test_nobody_writes_without_saying_who(port, method, kind):
    headers = [OURS, *([("Content-Type", kind)] if kind else [])]
    for path in (CREATE, CREATE.replace("/api/", "/ajax-api/"), "/graphql", "/v1/traces",
                 "/api/2.0/mlflow-artifacts/artifacts/0/x", "/ajax-api/3.0/mlflow/assistant/message"):  # fmt: skip
        status, text, _ = ask(port, method, path, headers, b'{"name": "of nobody"}')
        assert (status, text) == (
            403,
            "only this UI's pages, which give their Origin, and MLflow's client may write\n",
        ), path
    assert "of nobody" not in names(port)


@pytest.mark.slow
@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_another_page_may_link_here_and_no_more(port, site):
    def status(method, *headers):
        return ask(port, method, "/", [OURS, ("Sec-Fetch-Site", site), *headers])[0]

    assert status("GET", ("Sec-Fetch-Mode", "navigate")) == 200
    assert status("GET", ("Sec-Fetch-Mode", "no-cors")) == 403
    assert status("GET") == 403
    assert status("POST", ("Sec-Fetch-Mode", "navigate"), ("Content-Length", "0")) == 403


@pytest.mark.slow
def test_the_uis_own_page_and_mlflows_client_write(port):
    own = [OURS, ("Origin", "http://127.0.0.1:{port}"), ("Sec-Fetch-Site", "same-origin"), ("Content-Type", JSON)]
    assert ask(port, "POST", CREATE, own, b'{"name": "of the page"}')[0] == 200
    client = MlflowClient(f"http://localhost:{port}")
    experiment = client.create_experiment("of the client")
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "a text", "a.txt")
    client.log_metric(run.info.run_id, "m", 1.0)
    assert {"of the page", "of the client"} <= names(port)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["a.txt"]
    status, text, _ = ask(port, "POST", SEARCH, [OURS, ("Content-Type", JSON)], b'{"max_results": 5}')
    assert status == 200, "a program may read"
    assert "of the page" in text


def test_without_the_guard_exactly_the_same_names_are_let_in(tmp_path):
    command = ui_command(tmp_path, 5001)
    assert command[command.index("--allowed-hosts") + 1].split(",") == allowed_hosts(5001)
    assert allowed_hosts(5001) == ["127.0.0.1:5001", "localhost:5001", "[::1]:5001"]
    assert {"127.0.0.1", "localhost", "[::1]"} < set(allowed_hosts(80)), "browsers leave the port 80 out"


def test_a_websocket_of_another_page_is_refused():
    scope = {"type": "websocket", "path": "/", "server": ("127.0.0.1", 5000)}
    ours = (b"host", b"127.0.0.1:5000")
    assert refusal({**scope, "headers": [ours, (b"origin", b"http://127.0.0.1:5000")]}) == ""
    assert refusal({**scope, "headers": [ours, (b"origin", b"http://evil.com")]}).startswith("this is the page of")
    assert refusal({**scope, "headers": [(b"host", b"evil.com")]}).startswith("the Host header must be")
