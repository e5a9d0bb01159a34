"""How many trials fit on nodes with so many CPUs and GPUs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ROUNDING = 1e-6


@dataclass(frozen=True)
class Node:
    """What one machine offers, or what one trial asks for."""

    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        """For example "2 CPUs and 0.5 GPUs"."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


def num_fitting(nodes: Iterable[Node], trial: Node) -> int:
    """Return how many trials fit at a time. A trial stays on one node, and a part of a GPU on one GPU."""
    return sum(_num_on(node, trial) for node in nodes)


def _num_on(node: Node, trial: Node) -> int:
    by_cpus = math.floor(node.cpus / trial.cpus + ROUNDING)
    if trial.gpus == 0:
        return by_cpus
    if trial.gpus < 1:
        return min(by_cpus, int(node.gpus) * math.floor(1 / trial.gpus + ROUNDING))
    return min(by_cpus, math.floor(node.gpus / trial.gpus + ROUNDING))
