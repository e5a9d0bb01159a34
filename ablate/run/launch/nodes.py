"""The nodes of the Ray cluster that is connected: what fits on them, and whether they see what trials need."""

from __future__ import annotations

import hashlib

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import UsageError
from ablate.places import Place, to_place
from ablate.run.capacity import Node, num_fitting

CHECK_TIMEOUT_S = 180.0
"""For a worker's start on every node, with the shipped code unpacked."""


def present_nodes() -> dict[str, tuple[str, Node]]:
    """Return address and resources of every node that is up, by Ray's id."""
    return {
        node["NodeID"]: (
            node["NodeManagerAddress"],
            Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def trials_at_a_time(trial: Node, where: str) -> int:
    """Return how many trials fit on the nodes that are up.

    Raises:
        UsageError: There is no node that could run one.
    """
    nodes = [node for _, node in present_nodes().values()]
    num = num_fitting(nodes, trial)
    if num == 0:
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node(0.0))
        raise UsageError(
            f"a trial needs {trial} ('resources' in the sweep file), but {where} has no node with that much: "
            f"the largest has {largest}"
        )
    return num


def check_nodes_share(file: Place, trial: Node) -> None:
    """Read a file on every node that can run a trial, with the code that trials run with.

    Raises:
        UsageError: A node does not see this file as it is here, or cannot start a worker.
    """
    read = ray.remote(_digest)
    wanted, asked = _digest(str(file)), {}
    for node_id, (address, node) in present_nodes().items():
        if num_fitting([node], trial):
            pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
            asked[address, node_id] = read.options(num_cpus=0, scheduling_strategy=pinned, max_retries=0).remote(
                str(file)
            )
    for (address, _), answer in asked.items():
        try:
            found = ray.get(answer, timeout=CHECK_TIMEOUT_S)
        except GetTimeoutError:
            raise UsageError(f"the node {address} did not start a worker within {CHECK_TIMEOUT_S:g} s") from None
        except RayError as error:
            raise UsageError(f"the node {address} cannot run trials: {_last_line(error)}") from None
        if found != wanted:
            raise UsageError(
                f"the node {address} does not see {file}: --out must lie on storage that all nodes share, at one path"
            )


def _digest(file: str) -> str:
    try:
        return hashlib.sha256(to_place(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
