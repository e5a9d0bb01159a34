"""`--time-limit` stops a real sweep gracefully, and the same command goes on."""

import pytest
from click.testing import CliRunner
from command_line import FILE, ledger_files, run, status

from ablate.commands import main

# A regularizer that waits in training until a file is there.
GATE = """
import time
from pathlib import Path
from ablate.registry import Row, register

class Gate:
    weight_decay = 0.0
    def __init__(self, weights, config):
        pass
    def add_gradient(self, moment):
        while not Path({gate!r}).exists():
            time.sleep(0.05)
    def after_step(self, moment):
        pass

register(Row(kind="regularizer", name="gate", target=Gate, summary="waits"))
"""


@pytest.mark.slow
def test_a_sweep_stops_at_its_time_limit_and_goes_on(tmp_path):
    gate = tmp_path / "gate"
    (tmp_path / "mine.py").write_text(GATE.format(gate=str(gate)))
    text = FILE.replace("name: tiny", "name: tiny\nimports: [mine.py]")
    text = text.replace("residual: {shortcut: identity}", "residual: {shortcut: identity, regularizer: gate}")
    (tmp_path / "tiny.yaml").write_text(text.replace("trials_per_cell: 8", "trials_per_cell: 2"))
    stopped = run("sweep", "tiny.yaml", "--time-limit", "0.35", "--jobs", "2", cwd=tmp_path)
    assert stopped.returncode == 1, stopped.stderr
    before = ledger_files(tmp_path)
    assert len(before) <= 4  # all of the arm that does not wait, if the machine was quick enough
    assert (
        f"The time limit of 0.35 min was reached. {len(before)} of 8 trials have ended, 0 of them failed. To go on:\n"
        "  python cli.py sweep tiny.yaml" in stopped.stderr
    )
    assert "Traceback" not in stopped.stderr
    assert status(tmp_path)["trials"]["waiting"] == 8 - len(before)

    gate.touch()
    done = run("sweep", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 8 trials are in the ledger already" in done.stdout or not before
    after = ledger_files(tmp_path)
    assert len(after) == 8
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "0.0 is not in the range x>0"),
        ("nan", "--time-limit must be a number of minutes > 0, but got nan"),
        ("1h", "'1h' is not a valid float"),
    ],
)
def test_a_time_limit_that_is_none_is_refused(tmp_path, value, message):
    done = CliRunner().invoke(main, ["sweep", str(tmp_path / "none.yaml"), "--time-limit", value])
    assert done.exit_code == 2
    assert message in done.stderr
