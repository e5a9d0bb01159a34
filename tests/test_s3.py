"""Whole sweeps in an object store: moto's S3 server, real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import FILE, ROOT, command, wait_for
from services import S3_SECRET, s3_objects, s3_server, wait_until

import ablate.places
import ablate.storage
from ablate.places import local_view, to_place
from ablate.storage import Lines, append_line, is_locked, locked, read_lines, write_atomically

OUT = "s3://bucket/team/runs"
OPTIONS = ("--set", "budget.trials_per_cell=3", "--set", "confirm.seeds=1", "--set", "fixed.epochs=4")
OFTEN = """
import time, ablate.run.pack
from ablate.tasks.image_classification.training.trainer import Trainer
ablate.run.pack.CHECKPOINT_EVERY_S = 0
run_epoch = Trainer.run_epoch
def run_slowly(self):
    time.sleep(0.3)
    return run_epoch(self)
Trainer.run_epoch = run_slowly
"""
NUM_TRIALS = 8


@pytest.fixture(scope="module")
def server():
    with s3_server("bucket") as environment:
        yield environment


@pytest.fixture
def store(server, monkeypatch, tmp_path):
    """An empty prefix of the store, as this process sees it."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ablate.places._store.cache_clear()
    yield to_place(f"s3://bucket/{tmp_path.name}")
    ablate.places._store.cache_clear()


def environment_of(server: dict[str, str], folder: Path) -> dict[str, str]:
    return {**os.environ, **server, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}


def run(folder: Path, server: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment_of(server, folder), capture_output=True, text=True, timeout=400
    )


def trials(server: dict[str, str], prefix: str = "team/runs") -> dict[str, bytes]:
    objects = s3_objects(server, "bucket")
    return {key: content for key, content in objects.items() if key.startswith(f"{prefix}/ledger/trials/")}


def checkpoints(server: dict[str, str]) -> list[str]:
    # Where pyarrow deleted an object it leaves an empty one that stands for the folder.
    return [key for key in s3_objects(server, "bucket") if key.startswith("team/runs/checkpoints/") and key[-1] != "/"]


def write_sweep(folder: Path) -> None:
    (folder / "often.py").write_text(OFTEN)
    (folder / "tiny.yaml").write_text(FILE + "imports: [often.py]\n")


@pytest.fixture(scope="module")
def resumed(server, tmp_path_factory):
    """A sweep in the store whose driver was killed, and that then went on; the objects before and after."""
    folder = tmp_path_factory.mktemp("s3")
    write_sweep(folder)
    process = subprocess.Popen(
        command("sweep", "tiny.yaml", "--out", OUT, *OPTIONS),
        cwd=folder, env=environment_of(server, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(trials(server)) >= 2, process, timeout=900)
    # A trial in one of its first epochs, so that it is not ended before the driver is.
    seen = set(checkpoints(server))
    wait_for(lambda: set(checkpoints(server)) - seen, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=900)
    before = trials(server)
    # Of trials under way: only the driver deletes them.
    assert checkpoints(server)
    # Another machine: nothing of the first one's cache is there.
    other = tmp_path_factory.mktemp("other")
    write_sweep(other)
    done = run(other, server, "sweep", "tiny.yaml", "--out", OUT, *OPTIONS)
    return other, before, done


@pytest.mark.slow
def test_a_sweep_in_the_store_goes_on_after_its_driver_was_killed(server, resumed):
    _, before, done = resumed
    assert done.returncode == 0, done.stderr
    assert 2 <= len(before) < NUM_TRIALS
    assert "s3://bucket/team/runs/tiny/lock is there: waiting 30 s to see whether its holder lives" in done.stderr
    assert f"{len(before)} of {NUM_TRIALS} trials are in the ledger already" in done.stdout
    after = trials(server)
    assert len(after) == NUM_TRIALS
    assert not checkpoints(server)
    assert {key: after[key] for key in before} == before


@pytest.mark.slow
def test_the_commands_read_the_store(server, resumed):
    folder = resumed[0]
    status = run(folder, server, "status", "--out", OUT, "--json")
    counted = json.loads(status.stdout)["trials"]
    assert (counted["planned"], counted["waiting"], counted["running"]) == (NUM_TRIALS, 0, 0)
    report = run(folder, server, "report", "--out", OUT, "--to", "report")
    assert report.returncode == 0, report.stderr
    assert (folder / "report" / "report.html").exists()
    plan = run(folder, server, "plan", "tiny.yaml", "--out", OUT, *OPTIONS, "--no-probe", "--json")
    assert plan.returncode == 0, plan.stderr
    key = max(trials(server), key=len).rpartition("/")[2].partition("~")[0].removesuffix(".parquet")
    again = run(folder, server, "reproduce", key, "--out", OUT, "--import", "often.py")
    assert again.returncode == 0, again.stderr
    assert "the numbers agree bit for bit" in again.stdout


@pytest.mark.slow
def test_what_lies_where(server, resumed):
    folder, _, done = resumed
    found = [key for key in s3_objects(server, "bucket") if key.startswith("team/runs/")]
    # Where pyarrow deleted an object it leaves an empty one that stands for the folder.
    names = {key.removeprefix("team/runs/") for key in found if not key.endswith("/")}
    prepared = {name for name in names if name.startswith("data/")}
    assert len(prepared) == 1
    # An object for each proposal, and those of the first run are still there.
    proposals = sorted(name for name in names if name.startswith("tiny/proposals.jsonl"))
    assert [name.rpartition("/")[2].partition(".")[0] for name in proposals] == [
        f"{number:08d}" for number in range(NUM_TRIALS)
    ]
    files = ("declaration.json", "resolved.yaml", "mlflow_runs.json", "running.json")
    declared = {f"tiny/{name}" for name in files}
    others = {key.removeprefix("team/runs/") for key in trials(server)} | prepared | set(proposals)
    assert names - others == {
        *declared,
        "ledger/latest_sweep",
    }
    local = folder / "cache" / "ablate" / "bucket" / "team" / "runs"
    assert {"mlflow.db", "tiny", "data"} <= {entry.name for entry in local.iterdir()}
    assert (local / "tiny" / "report" / "report.html").exists()
    assert f"on this machine only, in {local}" in done.stdout
    assert sorted(entry.name for entry in folder.iterdir() if entry.name != "report") == [
        "cache",
        "often.py",
        "tiny.yaml",
    ]


@pytest.mark.slow
def test_no_object_and_no_file_holds_a_secret(server, resumed):
    folder, _, done = resumed
    for key, content in s3_objects(server, "bucket").items():
        assert S3_SECRET.encode() not in content, key
    for file in (file for file in folder.rglob("*") if file.is_file()):
        assert S3_SECRET.encode() not in file.read_bytes(), file
    assert S3_SECRET not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_store_that_hangs_in_the_middle_stops_the_sweep_which_then_goes_on(server, tmp_path):
    out, arguments = "s3://bucket/hangs", ("sweep", "tiny.yaml", "--out", "s3://bucket/hangs", *OPTIONS)
    (tmp_path / "tiny.yaml").write_text(FILE)
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment_of(server, tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(trials(server, "hangs")) >= 2, process, timeout=900)
    os.kill(int(server["S3_SERVER_PID"]), signal.SIGSTOP)
    try:
        output, errors = process.communicate(timeout=900)
    finally:
        os.kill(int(server["S3_SERVER_PID"]), signal.SIGCONT)
    assert process.returncode == 1, output + errors
    assert "the sweep stopped: cannot reach the S3 store for s3://bucket/hangs/" in errors
    assert "go on with:\n  python cli.py sweep tiny.yaml --set budget.trials_per_cell=3" in errors
    assert f"--out {out}" in errors
    assert "Traceback" not in output + errors
    before = trials(server, "hangs")
    assert 2 <= len(before) < NUM_TRIALS
    done = run(tmp_path, server, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of {NUM_TRIALS} trials are in the ledger already" in done.stdout
    after = trials(server, "hangs")
    assert len(after) == NUM_TRIALS
    assert not checkpoints(server)
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize(
    ("out", "changed", "message"),
    [
        ("s3://nowhere/runs", {}, "there is no bucket 'nowhere' at the S3 endpoint (AWS_ENDPOINT_URL)"),
        (
            "s3://bucket/runs",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "cannot reach the S3 store for s3://bucket/runs/tiny/declaration.json: check AWS_ENDPOINT_URL and",
        ),
        (f"s3://me:{S3_SECRET}@bucket/runs", {}, "a folder must be a path or s3://BUCKET/PREFIX; endpoint and"),
        (f"s3://bucket/runs?secret_key={S3_SECRET}", {}, "a folder must be a path or s3://BUCKET/PREFIX; endpoint"),
        ("s3://bucket", {}, "a folder must be a path or s3://BUCKET/PREFIX"),
        ("s3://bucket/../up", {}, "a folder must be a path or s3://BUCKET/PREFIX"),
        ("gs://bucket/runs", {}, "credentials come from the environment"),
    ],
)
def test_a_store_that_is_not_there_is_one_line(server, tmp_path, out, changed, message):
    (tmp_path / "tiny.yaml").write_text(FILE)
    done = run(tmp_path, {**server, **changed}, "status", "tiny", "--out", out)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert S3_SECRET not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "cache"] == ["tiny.yaml"]


def test_a_place_behaves_as_a_path_does(store, tmp_path):
    for folder in (store, tmp_path / "runs"):
        file = folder / "a" / "one.json"
        assert not file.exists()
        with pytest.raises(FileNotFoundError):
            file.read_bytes()
        assert list(folder.glob("*/one.json")) == []
        write_atomically(file, b"1")
        write_atomically(file, b"22")
        write_atomically(folder / "b" / "one.json", b"3")
        write_atomically(folder / "b" / "two.json", b"4")
        write_atomically(folder / "b" / "c" / "one.json", b"5")
        assert file.read_text() == "22"
        assert (file.name, file.stem, file.parent.name, file.parent) == ("one.json", "one", "a", folder / "a")
        assert sorted(str(found)[len(str(folder)) :] for found in folder.glob("*/one.json")) == [
            "/a/one.json",
            "/b/one.json",
        ]
        assert sorted(found.name for found in folder.glob("b/*.json")) == ["one.json", "two.json"]
        append_line(folder / "lines", {"a": 1})
        append_line(folder / "lines", {"b": 2})
        assert list(read_lines(folder / "lines")) == [{"a": 1}, {"b": 2}]
        file.unlink()
        file.unlink(missing_ok=True)
        assert not file.exists()


def test_lines_are_an_object_each_beside_the_one_object_of_the_first_version(store, server):
    write_atomically(store / "lines", b'{"a": 0}\n{"a": 1}\n{"a": 2, "cut o')
    first = Lines(store / "lines")
    first.append({"a": 3})
    first.append({"a": 4})
    before = s3_objects(server, "bucket")
    second = Lines(store / "lines")
    for number in range(5, 15):
        second.append({"a": number})
    assert [line["a"] for line in read_lines(store / "lines")] == [0, 1, *range(3, 15)]
    after = s3_objects(server, "bucket")
    assert {key: after[key] for key in before} == before, "no object is written again"
    prefix = f"{store.path.removeprefix('bucket/')}/lines.parts/"
    assert len([key for key in after if key.startswith(prefix) and key != prefix]) == 12


def test_a_large_object_arrives_whole(store):
    content = os.urandom(12 * 2**20)  # More than one part of an upload.
    write_atomically(store / "checkpoints" / "key.pt", content)
    assert (store / "checkpoints" / "key.pt").read_bytes() == content


def test_a_lock_in_the_store_is_held_by_one(store, monkeypatch):
    monkeypatch.setattr(ablate.storage, "HEARTBEAT_S", 0.4)
    lock = store / "tiny" / "lock"
    assert not is_locked(lock)
    with locked(lock) as first:
        assert first
        assert is_locked(lock)
        with locked(lock) as second:
            assert not second
    assert not lock.exists()


def test_a_lock_whose_holder_is_gone_is_taken_over(store, monkeypatch):
    monkeypatch.setattr(ablate.storage, "HEARTBEAT_S", 0.2)
    lock = store / "tiny" / "lock"
    write_atomically(lock, b"somebody 7")
    assert not is_locked(lock)
    with locked(lock) as is_ours:
        assert is_ours
    assert not lock.exists()


LOCKER = """
import sys, time
from pathlib import Path
import ablate.storage
from ablate.places import ObjectPath, to_place
ablate.storage.HEARTBEAT_S = 0.4
if sys.argv[2:]:  # Stands still between its look and its first put.
    folder, put = Path(sys.argv[2]), ObjectPath.put
    def put_late(self, content):
        ObjectPath.put = put
        (folder / "has looked").touch()
        while not (folder / "go on").exists():
            time.sleep(0.01)
        put(self, content)
    ObjectPath.put = put_late
for _ in sys.stdin:
    with ablate.storage.locked(to_place(sys.argv[1])) as is_ours:
        print("held" if is_ours else "refused", flush=True)
        sys.stdin.readline()
    print("done", flush=True)
"""


class Driver:
    """Another process that takes a lock, and lets go of it when it is told to."""

    def __init__(self, server: dict[str, str], folder: Path, lock: object, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOCKER, str(lock), *arguments], env=environment_of(server, folder),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()


def test_of_two_processes_that_take_a_lock_at_once_one_has_it(server, store, tmp_path):
    with Driver(server, tmp_path, store / "lock") as one, Driver(server, tmp_path, store / "lock") as other:
        for _ in range(5):
            one.go_on()
            other.go_on()
            assert sorted([one.answer(), other.answer()]) == ["held", "refused"]
            one.go_on()
            other.go_on()
            assert [one.answer(), other.answer()] == ["done", "done"]
    assert not (store / "lock").exists()
    assert not list((store / "lock.claims").glob("*"))


def test_a_process_that_looked_before_another_took_the_lock_is_refused(server, store, tmp_path):
    """However long it stood still after its look, when there was no lock."""
    with (
        Driver(server, tmp_path, store / "lock", str(tmp_path)) as late,
        Driver(server, tmp_path, store / "lock") as early,
    ):
        late.go_on()
        wait_until((tmp_path / "has looked").exists, 60, "it does not look")
        early.go_on()
        assert early.answer() == "held"
        (tmp_path / "go on").touch()
        assert late.answer() == "refused"


def test_a_claim_whose_process_was_killed_is_cleared_away(store, monkeypatch):
    monkeypatch.setattr(ablate.storage, "HEARTBEAT_S", 0.1)
    write_atomically(store / "lock.claims" / "somebody", b"somebody")
    with locked(store / "lock") as is_ours:
        assert is_ours
    assert not list((store / "lock.claims").glob("*"))


@pytest.mark.slow
def test_of_two_sweeps_on_one_prefix_one_is_refused_in_a_line(server, tmp_path):
    (tmp_path / "tiny.yaml").write_text(FILE)
    arguments = command("sweep", "tiny.yaml", "--out", "s3://bucket/both", *OPTIONS)
    both = [
        subprocess.Popen(
            arguments, cwd=tmp_path, env=environment_of(server, tmp_path),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    ends = [process.communicate(timeout=900) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], ends
    (refused,) = [errors for process, (_, errors) in zip(both, ends, strict=True) if process.returncode == 2]
    assert refused.splitlines()[-1] == (
        "the sweep 'tiny' is running already in s3://bucket/both; how far it is says: "
        "python cli.py status tiny --out s3://bucket/both"
    )
    assert len(trials(server, "both")) == NUM_TRIALS


def test_a_holder_whose_lock_was_taken_over_is_told_to_stop(store, monkeypatch, caplog):
    monkeypatch.setattr(ablate.storage, "HEARTBEAT_S", 0.2)
    lock = store / "tiny" / "lock"

    def hold() -> None:
        with locked(lock) as is_ours:
            assert is_ours
            write_atomically(lock, b"somebody 1")
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        hold()
    assert "another process took" in caplog.text
    assert lock.read_bytes() == b"somebody 1"


def test_prepared_data_is_fetched_once(store):
    from ablate.storage import fetched

    copy = store / "data" / "0123.pt"
    write_atomically(copy, b"data")
    local = fetched(copy)
    assert local == local_view(copy)
    assert local.read_bytes() == b"data"
    copy.unlink()
    assert fetched(copy).read_bytes() == b"data"


def test_an_unreadable_object_is_set_aside(store, caplog):
    from ablate.store.ledger import Ledger

    ledger = Ledger(store)
    write_atomically(ledger.path("ab12"), b"no parquet")
    assert ledger.read("ab12", "tiny") is None
    assert not ledger.path("ab12").exists()
    assert (store / "ledger" / "aside" / "ab12.parquet").read_bytes() == b"no parquet"
    assert "set aside the unreadable file ab12.parquet" in caplog.text


def test_rights_that_are_missing_are_named(server, tmp_path):
    """A server that asks for the rights of its users, as AWS does, and knows none of this one."""
    with s3_server("bucket", is_closed=True) as strict:
        done = run(tmp_path, strict, "status", "tiny", "--out", "s3://bucket/runs")
    assert done.returncode == 2
    assert (
        "the S3 store refuses access to s3://bucket/runs/tiny/declaration.json: check AWS_ACCESS_KEY_ID" in done.stderr
    )
    assert len(done.stderr.strip().splitlines()) == 1
