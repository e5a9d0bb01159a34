"""What tests start: an S3-compatible store, PostgreSQL, MLflow's tracking server, as people run them; a small disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

S3_SECRET = "canary-of-the-secret-key"
POSTGRES_SECRET = "canary-of-the-password"


@contextmanager
def s3_server(*buckets: str, is_closed: bool = False) -> Iterator[dict[str, str]]:
    """Start moto's S3 server on loopback and yield the environment that leads to it, and its S3_SERVER_PID.

    A closed one checks rights as AWS does, and nobody has any.
    """
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    rights = {"INITIAL_NO_AUTH_ACTION_COUNT": str(len(buckets))} if is_closed else {}
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **rights}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: answers(f"{environment['AWS_ENDPOINT_URL']}/moto-api/"), 60, "moto does not answer")
        for bucket in buckets:
            s3_client(environment).create_bucket(Bucket=bucket)
        yield {**environment, "S3_SERVER_PID": str(server.pid)}
    finally:
        server.kill()
        server.wait()


def s3_client(environment: dict[str, str]) -> Any:
    """Return boto3's client of a server that was started here."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


def s3_objects(environment: dict[str, str], bucket: str) -> dict[str, bytes]:
    """Return every object of a bucket, but for those that are deleted meanwhile."""
    client = s3_client(environment)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = {}
    for key in [entry["Key"] for page in pages for entry in page.get("Contents", [])]:
        with contextlib.suppress(client.exceptions.NoSuchKey):
            found[key] = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(is_there: Any, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_there():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError):
        return bool(opener.open(address, timeout=2).status == 200)
    return False


class Postgres:
    """A PostgreSQL cluster of its own, from Debian's programs, on loopback. It refuses to run as root."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[4]))
        if not found:
            pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
        self.programs = found[-1].parent
        self.user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="ablate-postgres-", dir="/tmp"))
        self.port = free_port()
        password = self.folder / "password"
        password.write_text(POSTGRES_SECRET)
        if self.user:
            for path in (self.folder, password):
                shutil.chown(path, self.user)
        self._run("initdb", "-U", "ablate", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8")
        password.unlink()

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://ablate:{POSTGRES_SECRET}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", settings)

    def stop(self) -> None:
        """End it as a crash does: nothing is written in an orderly way, and connections break."""
        self._run("pg_ctl", "stop", "-m", "immediate", "-w")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, user=self.user, cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class MlflowServer:
    """MLflow's tracking server on loopback; it keeps its port over a stop and a start."""

    def __init__(self, backend: str, artifacts: str, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._environment = {**os.environ, **environment, "MLFLOW_BACKEND_STORE_URI": backend}
        self._environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._artifacts = artifacts
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--artifacts-destination", self._artifacts, "--workers", "1"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_until(self._answers, 120, "the MLflow server does not answer")

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        return answers(f"{self.uri}/health")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Make the folder a file system of 24 MiB of its own; skip the test where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(file: Path) -> None:
    """Write until there is no room for one page more."""
    with file.open("wb", buffering=0) as sink:
        while True:
            try:
                sink.write(b"0" * 4096)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return
