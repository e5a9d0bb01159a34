"""How many CPUs this process may use: affinity, and the quotas of control groups, made up and real."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.cpus import num_cpus
from ablate.tasks.image_classification.data.image_folder import num_workers

ROOT = Path(__file__).parent.parent
V1 = "{top} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2 = "{top} rw,relatime - cgroup2 cgroup rw,nsdelegate"


class Machine:
    """A machine with 64 CPUs that this process may use, and made-up control groups."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.process = folder / "proc"
        self.process.mkdir()
        self.top = folder / "sys fs" / "cgroup"  # The kernel writes the space as \040.
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    def mount(self, line: str, groups: str, root: str = "/") -> None:
        shown = str(self.top).replace(" ", r"\040")
        (self.process / "mountinfo").write_text(
            f"22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n32 31 0:29 {root} {line.format(top=shown)}\n"
        )
        (self.process / "cgroup").write_text(groups)

    def limit(self, group: str, **files: str) -> None:
        folder = self.top / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("quota", "num"),
    [("200000 100000", 2), ("max 100000", 64), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 64)],
)
def test_a_quota_of_version_2_counts_in_whole_cpus(machine, quota, num):
    machine.mount(V2, "0::/\n")
    machine.limit("", cpu__max=quota)
    assert num_cpus(machine.process) == num


@pytest.mark.parametrize(
    ("quota", "period", "num"),
    [("200000", "100000", 2), ("-1", "100000", 64), ("75000", "50000", 1), ("1000", "100000", 1), ("x", "0", 64)],
)
def test_a_quota_of_version_1_counts_in_whole_cpus(machine, quota, period, num):
    machine.mount(V1, "4:cpu,cpuacct:/\n3:cpuset:/other\n0::/\n")
    machine.limit("", cpu__cfs_quota_us=quota, cpu__cfs_period_us=period)
    assert num_cpus(machine.process) == num


def test_a_quota_of_an_outer_group_counts_and_the_smallest_one_decides(machine):
    machine.mount(V2, "0::/user.slice/job.slice/step.scope\n")
    machine.limit("user.slice", cpu__max="300000 100000")
    machine.limit("user.slice/job.slice", cpu__max="max 100000")
    machine.limit("user.slice/job.slice/step.scope", cpu__max="800000 100000")
    machine.limit("user.slice/another", cpu__max="100000 100000")
    assert num_cpus(machine.process) == 3
    machine.limit("user.slice/job.slice/step.scope", cpu__max="200000 100000")
    assert num_cpus(machine.process) == 2


@pytest.mark.parametrize(
    ("root", "group"),
    [
        ("/docker/ab12", "/docker/ab12"),  # a container that sees its own group at the top
        ("/docker/ab12", "/docker/ab12/job"),
        ("/", "/../../docker/ab12"),  # a process that was moved out of its namespace
        ("/docker/ab12", "/"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_quota_wherever_its_group_is_mounted(machine, version, root, group):
    machine.mount(V1 if version == 1 else V2, f"4:cpu,cpuacct:{group}\n" if version == 1 else f"0::{group}\n", root)
    if version == 1:
        machine.limit("", cpu__cfs_quota_us="150000", cpu__cfs_period_us="50000")
    else:
        machine.limit("", cpu__max="150000 50000")
    assert num_cpus(machine.process) == 3


def test_affinity_counts_beside_a_quota(machine, monkeypatch):
    machine.mount(V2, "0::/\n")
    machine.limit("", cpu__max="400000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8})
    assert num_cpus(machine.process) == 3


def test_without_control_groups_all_usable_cpus_count(machine, tmp_path):
    assert num_cpus(tmp_path / "nothing") == 64


def test_a_real_quota_limits_jobs_decoders_and_rays_cpus(tmp_path):
    """Version 1, where root may make a group; the groups of version 2 are tried above only."""
    group = Path(f"/sys/fs/cgroup/cpu/ablate-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"needs the right to make a control group: {error.strerror}")
    code = (
        f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from ablate.tasks.image_classification.data.image_folder import num_workers\n"
        "from ablate.run.launch import tuner as run\n"
        "from ablate.run.plan import default_jobs, make_plan\n"
        f"plan = make_plan(Path('search_spaces/depth_ablation.yaml'), None, [], Path('{tmp_path}'))\n"
        "run.private_cluster = lambda num_cpus: num_cpus\n"
        "ray = run._cluster(SimpleNamespace(address='local', jobs=None, cpus=1))\n"
        "print(default_jobs(plan), num_workers(), ray)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    finally:
        group.rmdir()
    assert done.stdout == "1 1 1\n", done.stderr


def test_image_decoders_follow_the_affinity(monkeypatch):
    monkeypatch.delenv("ABLATE_LOADER_WORKERS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for num in (1, 3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, num=num: set(range(num)))
        assert num_workers() == min(4, num_cpus(), num)


def test_nobody_else_counts_cpus():
    counts = re.compile(r"cpu_count|sched_getaffinity")
    files = [file for file in (ROOT / "ablate").rglob("*.py") if counts.search(file.read_text(encoding="utf-8"))]
    assert files == [ROOT / "ablate" / "cpus.py"]
    assert math.isfinite(num_cpus())
