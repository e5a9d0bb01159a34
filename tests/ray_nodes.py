"""A Ray cluster of several nodes on this machine, in processes of its own, that lets in who has its token.

with RayNodes(folder, [{"num_cpus": 0}, {"num_cpus": 2, "num_gpus": 1}]) as nodes:
    subprocess.run([..., "--address", nodes.address], env=nodes.environment())
    nodes.kill(1)
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

START_TIMEOUT_S = 60


class RayNodes:
    """The first node is the head, where drivers run. GPUs are numbers in Ray's books: none is needed."""

    def __init__(self, nodes: list[dict[str, Any]], mode: str = "token") -> None:
        self.mode = mode
        # Short, because it becomes part of the names of sockets.
        self.folder = Path(tempfile.mkdtemp(prefix="ablate-nodes-", dir="/tmp"))
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)
        self._errors = (self.folder / "errors").open("w")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**self.environment(), "RAY_TMPDIR": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.ids: list[str] = []
        for node in nodes:
            self.add(**node)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(START_TIMEOUT_S)
        finally:
            self._process.kill()
            self._errors.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, with_token: bool = True) -> dict[str, str]:
        """Return the environment of a process that uses the cluster."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        if not with_token:
            return clean
        return {**clean, "RAY_AUTH_MODE": self.mode, "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def add(self, **arguments: Any) -> str:
        """Start one more node and return Ray's id of it."""
        answer = self._ask({"add": arguments})
        self.address = answer["address"]
        self.ids.append(answer["id"])
        return answer["id"]

    def kill(self, index: int) -> None:
        """Kill all processes of a node, as if its machine were lost."""
        self._ask({"kill": index})

    def count(self) -> int:
        """Return how many nodes are up, whoever started them."""
        return self._ask({"count": True})["count"]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError((self.folder / "errors").read_text())


def serve() -> None:
    """Answer questions, one line each, until there are no more."""
    from ray.cluster_utils import Cluster

    cluster, nodes = Cluster(), []
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "add" in question:
            nodes.append(cluster.add_node(include_dashboard=False, **question["add"]))
            answer = {"address": cluster.address, "id": nodes[-1].node_id}
        if "kill" in question:
            cluster.remove_node(nodes[question["kill"]], allow_graceful=False)
        if "count" in question:
            answer = {"count": len(cluster.global_state._live_node_ids())}
        print(json.dumps(answer), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
