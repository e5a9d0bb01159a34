"""How many CPUs this process may use: a container often has fewer than its machine."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def num_cpus(process: Path = Path("/proc/self")) -> int:
    """Return the number of whole CPUs that this process may use, at least 1.

    Affinity and cpusets leave it some CPUs only. Its control groups, of version 1 or 2, may have a quota of CPU time,
    as `docker run --cpus`, Kubernetes and systemd set it. `process` is its folder below /proc.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([usable, *_quotas(process)])))


def _quotas(process: Path) -> Iterator[float]:
    """Yield how many CPUs each control group that the process is in allows, the outer ones too."""
    groups = {}
    for line in _lines(process / "cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            groups["cgroup" if controllers else "cgroup2"] = group
    for line in _lines(process / "mountinfo"):
        fields = line.split(" ")
        kind, _, options = fields[fields.index("-", 6) + 1 :]
        if kind in groups and (kind == "cgroup2" or "cpu" in options.split(",")):
            top = Path(_unescaped(fields[4]))
            for folder in _folders(top, _unescaped(fields[3]), groups[kind]):
                yield _quota(folder)


def _folders(top: Path, root: str, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of those around it, of which `root` is mounted at `top`."""
    # A group outside of what is mounted, as a container may have it, has no folder: only that of `root` is looked at.
    is_inside = PurePosixPath(group).is_relative_to(root) and ".." not in PurePosixPath(group).parts
    folder = top / PurePosixPath(group).relative_to(root) if is_inside else top
    while folder != top:
        yield folder
        folder = folder.parent
    yield top


def _quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max", or none is set here.
        return math.inf


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # Not Linux.
        return []


def _unescaped(field: str) -> str:
    """Return a path as it is: the kernel writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
