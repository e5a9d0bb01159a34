"""SIGKILL at chosen points: nothing that was finished is lost or runs again, and the sweep ends as if undisturbed.

The process that is killed is real, a fork of this one; the trials are made up, so that the point can be chosen. Sweeps
that train on Ray and are killed from outside are in test_sweep.py.
"""

import os
import signal
from pathlib import Path

import pytest
from made_up import Sweep

import ablate.storage
from ablate.store.ledger import Ledger

OVERRIDES = ("axes.depth=[8]", "budget.trials_per_cell=5", "confirm.runner_up=true", "budget.audit=1")


def score(settings, phase):
    return min(1.0, settings["lr"])


class Killed:
    """A sweep that kills its own process at a point: the name of the point and which time it is passed."""

    def __init__(self, folder: Path, point: str, time: int) -> None:
        self.folder, self.point, self.time = folder, point, time

    def run(self) -> tuple[int, list[str]]:
        """Run in a fork; return how it ended and the log of what it did."""
        child = os.fork()
        if child == 0:
            try:
                self._run()
            finally:
                os._exit(3)  # the point was never reached
        _, status = os.waitpid(child, 0)
        log = self.folder / "log"
        return status, log.read_text().splitlines() if log.exists() else []

    def _run(self) -> None:
        (self.folder / "log").unlink(missing_ok=True)
        real_replace = os.replace

        def replace(source, target):
            if str(target).endswith(".parquet"):
                self.note(f"renaming {Path(target).name}")
                self.passes("between writing and renaming")
            real_replace(source, target)

        ablate.storage.os.replace = replace
        sweep = Sweep(self.folder, *OVERRIDES, score=score)
        append, write = sweep.plan.folder.append_proposal, sweep.ledger.write

        def append_proposal(proposal):
            append(proposal)
            self.passes("after a proposal")

        def write_record(record):
            write(record)
            self.passes("after a record")

        sweep.schedule.folder.append_proposal = append_proposal
        sweep.schedule.ledger.write = write_record
        while (pack := sweep.schedule.next_pack()) is not None:
            self.passes({"tune": "while tuning", "confirm": "while confirming"}.get(pack.proposals[0].phase, "beside"))
            self.note(f"trained {pack.proposals[0].phase} {pack.proposals[0].key}")
            sweep.finish(pack)

    def note(self, text: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(text + "\n")

    def passes(self, point: str) -> None:
        if point == self.point:
            self.time -= 1
            if self.time == 0:
                self.note(f"killed {point}")
                os.kill(os.getpid(), signal.SIGKILL)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "runs" / "ledger").rglob("*.parquet")}


POINTS = [
    ("while tuning", 1),
    ("while tuning", 6),
    ("after a proposal", 1),
    ("after a proposal", 12),
    ("after a record", 4),
    ("after a record", 10),
    ("between writing and renaming", 3),
    ("between writing and renaming", 12),
    ("while confirming", 1),
    ("while confirming", 4),
    ("beside", 2),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Sweep(tmp_path_factory.mktemp("whole"), *OVERRIDES, score=score).run()


@pytest.mark.parametrize(("point", "time"), POINTS)
@pytest.mark.parametrize("num_kills", [1, 2])
def test_a_killed_sweep_loses_nothing_and_repeats_nothing(tmp_path, whole, point, time, num_kills):
    before: dict[str, bytes] = {}
    for kill in range(num_kills):
        status, log = Killed(tmp_path, point, time if kill == 0 else 1).run()
        if kill == 1 and os.WIFEXITED(status):
            break  # the second run passed this point no more
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert log[-1] == f"killed {point}"
        trained = {line.split()[-1] for line in log if line.startswith("trained")}
        finished = {name.partition("~")[0].removesuffix(".parquet") for name in before if "~" not in name}
        assert not {key for key in trained if key in finished}, "a finished trial ran again"
        after = files(tmp_path)
        assert {name: after[name] for name in before} == before
        before = after
    resumed = Sweep(tmp_path, *OVERRIDES, score=score).run()
    assert resumed.schedule.is_finished()
    assert sorted(resumed.proposals()) == sorted(whole.proposals())
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) == set(files(whole.plan.out.parent))
    ran_again = {p.key for _, p, _ in resumed.ended if p.phase != "audit"} & {
        name.partition("~")[0].removesuffix(".parquet") for name in before
    }
    assert not ran_again
    assert not (tmp_path / "runs" / "ledger" / "aside").exists()


def test_the_rest_of_an_unfinished_write_is_no_record(tmp_path):
    """What a kill between writing and renaming leaves behind is a hidden file that nobody reads."""
    status, log = Killed(tmp_path, "between writing and renaming", 2).run()
    assert os.WTERMSIG(status) == signal.SIGKILL
    name = log[-2].removeprefix("renaming ")
    (rest,) = (tmp_path / "runs" / "ledger").rglob(".*.tmp")
    assert rest.name.startswith(f".{name}")
    key, _, cell = name.removesuffix(".parquet").partition("~")
    assert Ledger(tmp_path / "runs").read(key, "small", cell) is None
