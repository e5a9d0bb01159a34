"""Secrets of the driver's environment, planted and looked for while a sweep runs: where others on the machine can look.

That is the command line of every process, Ray's files (on a cluster that runs they stay), and all that a sweep writes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gated_rows import GatedSweep
from ray_nodes import RayNodes
from services import free_port

ROOT = Path(__file__).parent.parent
MARK = "canary5ecret"
PLANTED = {
    name: f"{MARK}-{name}"
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
        "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "RAY_AUTH_TOKEN",
        "GITHUB_TOKEN",
    )
} | {"MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://me:{MARK}-of-a-database@127.0.0.1/db"}  # fmt: skip
# Nothing of it is secret: a mode, a file's name, an address that is planted below.
HARMLESS = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI"}
CONTROL = "TUNE_FUNCTION_THREAD_TIMEOUT_S"
"""A variable that is meant to be in every runtime environment: what finds it would find a secret."""


def test_every_secret_that_the_docs_name_is_planted():
    documented = set()
    for page in ("storage", "security", "cluster"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        documented |= set(re.findall(r"\b[A-Z][A-Z_]*(?:TOKEN|PASSWORD|SECRET|KEY|URI|AUTH)[A-Z_]*\b", text))
    assert len(documented) > 6
    assert documented - HARMLESS <= PLANTED.keys()


class Watch:
    """Looks for secrets on the command lines of all processes, again and again while the block runs."""

    def __init__(self, secrets: list[str]) -> None:
        self.secrets = secrets
        self.leaks: set[str] = set()
        self.controls = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        # A worker is itself only after its runtime environment is set up, which takes a tenth of a second.
        while not self._is_over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                self._look(process / "cmdline")

    def files(self, *folders: Path, but: tuple[Path, ...] = ()) -> None:
        """Look at every file below these folders."""
        for folder in folders:
            for file in folder.rglob("*"):
                if file.is_file() and not file.is_symlink() and file not in but:
                    self._look(file)

    def _look(self, file: Path) -> None:
        try:
            content = file.read_bytes()
        except OSError:  # The process has ended.
            return
        self.controls += CONTROL.encode() in content
        for secret in self.secrets:
            at = content.find(secret.encode())
            if at >= 0:
                self.leaks.add(f"{secret} in {file.name}: {content[max(0, at - 100) : at + 60]!r}")


@contextmanager
def planted_home(folder: Path) -> Iterator[dict[str, str]]:
    """The files that hold secrets, too, and the environment that leads to them."""
    (folder / ".aws").mkdir(parents=True)
    (folder / ".aws" / "credentials").write_text(f"[default]\naws_secret_access_key = {MARK}-of-a-file\n")
    (folder / ".pgpass").write_text(f"*:*:*:*:{MARK}-of-pgpass\n")
    yield {**PLANTED, "HOME": str(folder)}


def check_sweep(
    sweep: GatedSweep, secrets: list[str], ray_folders: Callable[[int], list[Path]], tokens: Callable[[], list[Path]]
) -> None:
    """Watch a sweep, look at Ray's files while its first trial waits, and at all files at the end."""
    sweep.arguments += ["--set", "budget.trials_per_cell=1"]
    with Watch(secrets) as watch:
        process = sweep.start_until(0)
        watch.secrets += [file.read_text() for file in tokens()]
        assert watch.controls, "no worker was seen being set up"
        watch.controls = 0
        folders = ray_folders(process.pid)
        watch.files(*folders, but=tuple(tokens()))
        assert watch.controls, "Ray's logs were not found"
        sweep.open()
        output, errors = process.communicate(timeout=900)
        watch.files(*(folder for folder in folders if folder.exists()), but=tuple(tokens()))
    assert process.returncode == 0, errors
    assert "MLflow at http://me:***@127.0.0.1" in errors
    assert not any(secret in output + errors for secret in secrets)
    names = {file.name for file in sweep.folder.rglob("*")}
    assert {"declaration.json", "resolved.yaml", "optuna.journal", "report.html", "table.tex"} <= names
    assert any(name.startswith("searcher-state") or name.endswith(".pkl") for name in names)
    watch.files(sweep.folder)
    assert watch.leaks == set()


def environment(home: dict[str, str]) -> dict[str, str]:
    """Return all that is planted, with a store's URI that holds two secrets and leads nowhere."""
    uri = f"http://me:{MARK}-of-a-uri@127.0.0.1:{free_port()}/x?token={MARK}-in-a-query"
    return {**home, "MLFLOW_TRACKING_URI": uri}


@pytest.mark.slow
def test_no_secret_is_seen_while_a_sweep_runs_on_this_machine(tmp_path):
    (tmp_path / "sweep").mkdir()
    with planted_home(tmp_path / "home") as home:
        sweep = GatedSweep(tmp_path / "sweep", jobs=1, **environment(home))

        def ray_folders(pid: int) -> list[Path]:
            return list(Path("/tmp").glob(f"ablate-ray-{pid}-*"))

        def tokens() -> list[Path]:  # The private token lies in a file of its own, and only there.
            return [file for file in Path("/tmp").glob("ablate-ray-*/token") if os.access(file, os.R_OK)]

        check_sweep(sweep, [MARK], ray_folders, tokens)


@pytest.mark.slow
def test_no_secret_of_a_driver_is_seen_on_a_cluster_that_runs(tmp_path, monkeypatch):
    (tmp_path / "sweep").mkdir()
    with planted_home(tmp_path / "home") as home:
        sweep = GatedSweep(tmp_path / "sweep", jobs=1, **environment(home))
        for name, value in sweep.environment.items():  # What the user's row needs on the nodes.
            if name.startswith("GATE_"):
                monkeypatch.setenv(name, value)
        with RayNodes([{"num_cpus": 1}]) as nodes:
            token = nodes.token.read_text()
            sweep.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
            sweep.arguments += ["--address", nodes.address]
            check_sweep(sweep, [MARK, token], lambda pid: [nodes.folder], lambda: [nodes.token])
