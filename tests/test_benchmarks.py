"""The benchmark of a step runs, and ends with the line that is read by machines."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.tasks.image_classification.config import resolve

FILE = Path(__file__).parent.parent / "benchmarks" / "step_overhead.py"
BENCHMARK = runpy.run_path(str(FILE))


@pytest.mark.slow
def test_the_last_line_of_the_benchmark_holds_the_ratios_of_its_cases():
    case = "plain-44/8x8"
    command = [sys.executable, str(FILE), "--rounds", "3", "--cases", case, "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=FILE.parent.parent)
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.keys() == {"ratios", "memory_ratio", "rivals", "device"}
    assert found["ratios"].keys() == {case}
    assert found["rivals"] == {case: {}}
    assert found["ratios"][case] > 0
    # Errors are not kept, so the peak of live memory is that of a plain step.
    assert 0.9 < found["memory_ratio"] < 1.1


def test_a_whole_run_takes_all_four_nets():
    assert BENCHMARK["CASES"] == ["plain-44/8x8", "plain-110/8x8", "plain-44/32x32", "plain-110/32x32"]


@pytest.mark.parametrize("depth", [44, 110])
def test_every_rival_is_allowed_in_the_nets_that_are_measured(depth):
    for settings in BENCHMARK["RIVALS"].values():
        resolve({"depth": depth, **settings})
