"""What the driver keeps of trials that have ended, with Ray; what the schedule keeps is in test_schedule.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = """
import gc, json, os, sys
from pathlib import Path
from ablate.run.launch.cluster import ENVIRONMENT
os.environ.update(ENVIRONMENT)
from sweep_overhead import FILE, Rig, trivial_trial
from ray.tune.experiment import Trial
counts = []
rig = Rig(Path(sys.argv[1]), FILE.replace("TRIALS", "6"), 2, with_mlflow=False,
          ended=lambda: counts.append(sum(isinstance(each, Trial) for each in gc.get_objects())))
rig.run(2, "local", trivial_trial)
print(json.dumps(counts))
"""


@pytest.mark.slow
def test_ray_tune_lets_go_of_trials_that_have_ended(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert len(counts) == 24
    assert max(counts) <= 8, "each with its configuration and the record in its last result"
