"""The command line in processes of its own, a small sweep for it, and what the sweep has written so far."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILE = """
name: tiny
question: Does a residual net of 8 layers beat a plain one?
fixed: {dataset: digits, width: 4, epochs: 4, batch_size: 64, depth: 8}
axes:
  arm:
    plain: {shortcut: none, regularizer: orthonormal, init: orthonormal}
    residual: {shortcut: identity}
tune:
  lr: {low: 1e-6, high: 1, log: true}
budget: {trials_per_cell: 8}
confirm: {seeds: 2}
report: {baseline: plain}
"""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


def run(*arguments: str | Path, cwd: Path, timeout: int = 900) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=timeout)


def ledger_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the time of the last change of every trial in the ledger."""
    files = sorted((folder / "runs" / "ledger" / "trials").rglob("*.parquet"))
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def status(folder: Path) -> dict[str, Any]:
    done = run("status", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], timeout: float = 900) -> None:
    """Wait for a condition while a process runs."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
