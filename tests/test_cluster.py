"""Sweeps on a real Ray cluster of several nodes on this machine, with a token; its GPUs are numbers in Ray's books."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from command_line import command, wait_for
from logged_rows import read_log, stretches, write_logged_sweep
from ray_nodes import RayNodes

from ablate.errors import UsageError
from ablate.run.launch import cluster
from ablate.run.launch.access import check_address

ROOT = Path(__file__).parent.parent
SMALL = ("--set", "fixed.epochs=1", "--set", "confirm.seeds=0")


@pytest.fixture(scope="module")
def nodes():
    gpus = {"num_cpus": 2, "num_gpus": 2}
    with RayNodes([{"num_cpus": 0}, gpus, gpus]) as nodes:
        yield nodes


def sweep(folder: Path, nodes: RayNodes, *options: str, env: dict[str, str] | None = None):
    arguments = command("sweep", "logged.yaml", "--address", nodes.address, *options)
    env = nodes.environment() if env is None else env
    return subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "jobs"), [("0.5", 4), ("2", 2)])
def test_trials_are_placed_as_the_file_asks(tmp_path, nodes, gpus, jobs):
    log = write_logged_sweep(tmp_path, pause_s=0.5)
    asked = ("--set", f"resources.gpus={gpus}", "--set", "budget.trials_per_cell=4", "--set", "budget.batch=4")
    done = sweep(tmp_path, nodes, *SMALL, *asked)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"Ray cluster of 3 nodes, {jobs} trials at a time" in done.stdout
    trials = stretches(read_log(log))
    assert len(trials) == 8
    # On nodes with GPUs only, each trial on as many as it asked for.
    assert {step["node"] for trial in trials for step in trial} <= set(nodes.ids[1:])
    assert {len(step["gpus"]) for trial in trials for step in trial} == {1 if gpus == "0.5" else 2}
    # How many trials had a GPU at one time, and how many there were at a time.
    on_gpu, together = defaultdict(int), 0
    for moment in (trial[0]["time"] for trial in trials):
        running = [t[0] for t in trials if t[0]["time"] <= moment <= t[-1]["time"]]
        together = max(together, len(running))
        for node, gpu in {(step["node"], gpu) for step in running for gpu in step["gpus"]}:
            here = sum(step["node"] == node and gpu in step["gpus"] for step in running)
            on_gpu[node, gpu] = max(on_gpu[node, gpu], here)
    assert max(on_gpu.values()) <= (2 if gpus == "0.5" else 1)
    assert 2 <= together <= jobs


@pytest.mark.slow
def test_a_node_without_the_code_gets_it_with_the_imports(tmp_path, nodes):
    """The third node has an empty folder where this package lies, and another beside the sweep file's imports."""
    log = write_logged_sweep(tmp_path, pause_s=0)
    with hiding_node(nodes, ROOT / "ablate", num_cpus=5):
        done = sweep(tmp_path, nodes, *SMALL, "--set", "resources.cpus=5")
    assert done.returncode == 0, done.stderr
    assert "Ray cluster of 4 nodes, 1 trials at a time" in done.stdout
    (trial, *_) = trials = stretches(read_log(log))
    assert len(trials) == 4
    assert not Path(trial[0]["ablate"]).is_relative_to(ROOT)
    assert not Path(trial[0]["imported"]).is_relative_to(tmp_path)


@pytest.mark.slow
def test_a_node_that_does_not_see_the_output_folder_is_named(tmp_path, nodes):
    write_logged_sweep(tmp_path, pause_s=0)
    (tmp_path / "runs").mkdir()
    with hiding_node(nodes, tmp_path / "runs", num_cpus=1):
        done = sweep(tmp_path, nodes, *SMALL)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("the node ")
    assert line.endswith("declaration.json: --out must lie on storage that all nodes share, at one path")


class hiding_node:  # noqa: N801
    """One more node, which sees an empty folder where a folder is."""

    def __init__(self, nodes: RayNodes, hidden: Path, num_cpus: int) -> None:
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
            pytest.skip("needs the right to make a mount namespace")
        self.nodes = nodes
        empty = nodes.folder / "empty"
        empty.mkdir(exist_ok=True)
        ray = Path(sys.executable).parent / "ray"
        start = f"exec {ray} start --address={nodes.address} --num-cpus={num_cpus} --num-gpus=0 --block"
        self.command = ["unshare", "--mount", "sh", "-c", f"mount --bind {empty} {hidden} && {start}"]

    def __enter__(self) -> None:
        self.num = self.nodes.count()
        environment = {**self.nodes.environment(), "RAY_TMPDIR": str(self.nodes.folder)}
        self.process = subprocess.Popen(
            self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )
        wait_for(lambda: self.nodes.count() == self.num + 1, self.process)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        deadline = time.monotonic() + 60
        while self.nodes.count() != self.num:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.slow
def test_resources_that_no_node_has_are_refused_in_one_line(tmp_path, nodes):
    write_logged_sweep(tmp_path, pause_s=0)
    done = sweep(tmp_path, nodes, "--set", "resources.gpus=3")
    assert done.returncode == 2
    assert done.stderr == (
        "a trial needs 1 CPUs and 3 GPUs ('resources' in the sweep file), but the Ray cluster at "
        f"{nodes.address} has no node with that much: the largest has 2 CPUs and 2 GPUs\n"
    )
    assert read_log(tmp_path / "log.jsonl") == []


ATTACH = """
import sys
from ablate.errors import UsageError
from ablate.run.launch.cluster import attached_cluster
try:
    with attached_cluster(sys.argv[1], []):
        import ray
        print(sum(node["Alive"] for node in ray.nodes()))
except UsageError as error:
    print(error)
"""


def attach(address: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-c", ATTACH, address]
    return subprocess.run(arguments, env=env, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_who_has_the_token_is_let_in(nodes):
    assert attach(nodes.address, nodes.environment()).stdout == "3\n"
    # Also without RAY_AUTH_MODE, and by RAY_ADDRESS.
    environment = {**nodes.environment(with_token=False), "RAY_AUTH_TOKEN": nodes.token.read_text()}
    assert attach("auto", {**environment, "RAY_ADDRESS": nodes.address}).stdout == "3\n"


@pytest.mark.slow
def test_a_token_that_others_can_read_is_said(nodes, tmp_path):
    token = tmp_path / "token"
    token.write_text(nodes.token.read_text())
    for mode, said in (
        (0o644, f"others on this machine can read the cluster's token: chmod 600 {token}\n"),
        (0o600, ""),
    ):
        token.chmod(mode)
        done = attach(nodes.address, {**nodes.environment(), "RAY_AUTH_TOKEN_PATH": str(token)})
        assert (done.stdout, done.stderr) == ("3\n", said)


@pytest.mark.slow
def test_a_cluster_that_asks_for_no_token_is_said():
    with RayNodes([{"num_cpus": 1}], mode="disabled") as nodes:
        done = attach(nodes.address, nodes.environment())
        assert done.stdout == "1\n"
        warning = f"the Ray cluster at {nodes.address} asks for no token: whoever reaches it can run code on it\n"
        assert done.stderr == warning


def test_files_of_killed_sweeps_go_and_those_of_others_stay(monkeypatch, tmp_path):
    """In a folder where everybody can write, names can be anything."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = [
        "ablate-ray-²-x",
        f"ablate-ray-{'9' * 30}-x",
        "ablate-ray--x",
        "ablate-ray-x",
        f"ablate-ray-{os.getpid()}-x",
    ]
    for name in [*names, f"ablate-ray-{gone.pid}-x", f"ablate-ray-{gone.pid}-y"]:
        (tmp_path / name).mkdir()
    others = tmp_path / f"ablate-ray-{gone.pid}-y"
    if os.getuid() == 0:
        os.chown(others, 1, -1)
    monkeypatch.setattr(cluster, "SHORT", tmp_path)
    made = Path(cluster._new_temporary())
    left = {entry.name for entry in tmp_path.iterdir()} - {made.name}
    assert left == {*names, *([others.name] if os.getuid() == 0 else [])}


def processes_in(folder: Path) -> dict[int, str]:
    """Return the processes that have a file of the folder open, with their command lines."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir()):
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ").strip()
    return found


def test_the_processes_of_a_killed_sweep_go_with_its_files_and_no_others_do(monkeypatch, tmp_path, caplog):
    gone = subprocess.Popen(["true"])
    gone.wait()
    started = []
    for pid, script in [
        (gone.pid, "exec sleep 600 > raylet.out"),
        (gone.pid, "exec sleep 600 < raylet.out"),  # as who reads what happened
        (os.getpid(), "exec sleep 600 > raylet.out"),  # as of a sweep that runs
    ]:
        logs = tmp_path / f"ablate-ray-{pid}-x" / "ray" / "session" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "raylet.out").touch()
        started.append(subprocess.Popen(["sh", "-c", script], cwd=logs))
    left, other = (tmp_path / f"ablate-ray-{pid}-x" for pid in (gone.pid, os.getpid()))
    monkeypatch.setattr(cluster, "SHORT", tmp_path)
    try:
        deadline = time.monotonic() + 30
        while len(processes_in(left)) < 2 or not processes_in(other):
            assert time.monotonic() < deadline
        cluster._new_temporary()
        assert started[0].wait(10) == -signal.SIGKILL
        assert not left.exists()
        assert [process.poll() for process in started[1:]] == [None, None]
        assert caplog.messages == ["a sweep that was killed had left 1 Ray processes; they were ended"]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the driver", "its process group"])
def test_ray_and_its_files_are_gone_soon_after_the_driver_is_killed(how):
    """Ray's agents would live for a minute."""
    code = (
        "import os, time\n"
        "from ablate.run.launch.cluster import private_cluster\n"
        "with private_cluster(1):\n"
        "    import ray\n"
        "    ray.get(ray.remote(lambda: 1).remote())\n"
        "    print(os.environ['RAY_AUTH_TOKEN_PATH'], flush=True)\n"
        "    time.sleep(120)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as driver:
        folder = Path(driver.stdout.readline().strip()).parent
        before = processes_in(folder)
        (os.kill if how == "the driver" else os.killpg)(driver.pid, signal.SIGKILL)
        killed_at = time.monotonic()
    assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= {title.strip("\0 ") for title in before.values()}
    while processes_in(folder) or folder.exists():
        assert time.monotonic() - killed_at < 10, processes_in(folder)
        time.sleep(0.1)


@pytest.mark.slow
def test_who_has_no_token_or_another_is_refused_at_once(nodes, tmp_path):
    hint = "; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with the cluster's token\n"
    without = {**nodes.environment(with_token=False), "HOME": str(tmp_path)}
    asked = f"the Ray cluster at {nodes.address} asks for its token{hint}"
    for environment, message in [
        (without, asked),
        ({**without, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, asked),
        ({**without, "RAY_AUTH_MODE": "token"}, f"RAY_AUTH_MODE is token, but there is no token{hint}"),
    ]:
        started = time.monotonic()
        done = attach(nodes.address, environment)
        assert done.stdout == message
        assert done.stderr == ""
        assert time.monotonic() - started < 120
    assert list(tmp_path.iterdir()) == []  # no token was written


@pytest.mark.slow
def test_an_address_where_nothing_answers_is_one_line(nodes):
    done = attach("127.0.0.1:1", nodes.environment())
    assert done.stdout.endswith(":1: Connection refused\n")
    assert done.stdout.startswith("no Ray cluster answers at ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head", "--address must be local, auto or HOST:PORT, but got 'head'"),
        ("head:port", "--address must be local, auto or HOST:PORT, but got 'head:port'"),
        ("head:99999", "--address must be local, auto or HOST:PORT"),
        ("http://head:8265", "--address must be local, auto or HOST:PORT"),
        (
            "ray://head:10001",
            r"--address ray://head:10001: Ray Client \(ray://\) is not supported. Run the command on a",
        ),
    ],
)
def test_a_wrong_address_is_refused(address, message):
    with pytest.raises(UsageError, match=message):
        check_address(address)


PRIVATE = """
import json, os
from pathlib import Path
from ablate.run.launch.cluster import private_cluster
with private_cluster(1):
    import ray
    import psutil  # Ray brings it
    process = psutil.Process()
    listening = [(connection.laddr.ip, " ".join(child.cmdline()))
                 for child in [process, *process.children(recursive=True)]
                 for connection in child.net_connections() if connection.status == "LISTEN"]
    print(json.dumps({
        "address": ray.get_runtime_context().gcs_address, "listening": listening,
        "token": os.environ["RAY_AUTH_TOKEN_PATH"],
        "worker": ray.get(ray.remote(lambda: os.environ["RAY_AUTH_MODE"]).remote()),
    }), flush=True)
    input()
print(json.dumps({name: value for name, value in os.environ.items() if name.startswith(("RAY_", "TUNE_"))}))
"""


@pytest.fixture
def private(tmp_path):
    """The private cluster of a sweep, as a process of its own, and what that says of it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**clean, "HOME": str(tmp_path), "RAY_AUTH_TOKEN": "of-another-cluster"}
    process = subprocess.Popen(
        [sys.executable, "-c", PRIVATE],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, json.loads(process.stdout.readline())
    if process.poll() is None:
        process.communicate("\n", timeout=900)


@pytest.mark.slow
def test_the_private_cluster_has_a_token_of_its_own_that_nobody_else_can_read(private, tmp_path):
    process, found = private
    token = Path(found["token"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) == 64
    assert found["worker"] == "token"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    refused = attach(found["address"], {**clean, "HOME": str(tmp_path)})
    # Ray takes 127.0.0.1 for this machine's other address, where the private cluster does not listen.
    assert refused.stdout.startswith(("no Ray cluster answers at", "the Ray cluster at"))
    here = {**clean, "HOME": str(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    asked = f"the Ray cluster at {found['address']} asks for its token"
    assert attach(found["address"], here).stdout.startswith(asked)
    assert attach(found["address"], {**here, "RAY_AUTH_TOKEN_PATH": str(token)}).stdout == "1\n"
    assert not (tmp_path / ".ray").exists()
    left, _ = process.communicate("\n", timeout=900)
    restored = {name: value for name, value in json.loads(left).items() if name.startswith("RAY_AUTH")}
    assert restored == {"RAY_AUTH_TOKEN": "of-another-cluster"}
    assert not token.parent.exists()


@pytest.mark.slow
def test_the_private_cluster_listens_on_loopback_and_has_no_dashboard(private):
    _, found = private
    assert {address.removeprefix("::ffff:") for address, _ in found["listening"]} == {"127.0.0.1"}
    assert found["address"].startswith("127.0.0.1:")
    assert any("raylet" in command for _, command in found["listening"])
    assert not any("dashboard.py" in command for _, command in found["listening"])
