"""How long `plan --no-probe` takes on every sweep file of search_spaces, and on each of their profiles.

    python benchmarks/plan.py [--rounds 3]

Each is the whole command in a process of its own, with an empty output folder. Profiles whose data is not here are left
out. The last line is JSON with medians: {"seconds": {"depth_ablation.yaml": …, "depth_ablation.yaml@deep": …}}.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ablate.sweepfile.document import Document

ROOT = Path(__file__).resolve().parent.parent


def asked():
    """Return (name, arguments) of every sweep file and profile."""
    for file in sorted((ROOT / "search_spaces").glob("*.yaml")):
        yield file.name, [str(file)]
        for profile in Document(file.read_text(encoding="utf-8"), file.name).tree.get("profiles", {}):
            yield f"{file.name}@{profile}", [str(file), "--profile", profile]


def measure(arguments, num_rounds):
    """Return the median of some runs, or None and why there is none."""
    found = []
    for _ in range(num_rounds):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "cli.py", "plan", *arguments, "--no-probe", "--out", out]
            start = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
            found.append(time.monotonic() - start)
        if done.returncode != 0:
            return None, done.stderr.strip().partition("\n")[0]
    return statistics.median(found), ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seconds = {}
    for name, arguments in asked():
        median, why = measure(arguments, options.rounds)
        print(f"{name}: {f'{median:.2f} s' if median is not None else why}", flush=True)
        if median is not None:
            seconds[name] = round(median, 2)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
