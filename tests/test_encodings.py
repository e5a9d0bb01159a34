"""Terminals and locales that are not UTF-8: output never fails for a character, and every file is UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import Sweep

ROOT = Path(__file__).parent.parent
QUESTION = "Ist ▲ größer als 漢 – oder …?"
PLAIN = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ASCII, LATIN = {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "iso-8859-1:strict"}
PLAN, STATUS = ("plan", "small.yaml", "--no-probe", "--set", "question=a"), ("status",)
REPORT, MISSING = ("report", "--to", "elsewhere"), ("plan", "▲.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished sweep under `runs` whose question no other encoding can hold."""
    folder = tmp_path_factory.mktemp("encodings")
    Sweep(folder, f"question={QUESTION}").run()
    return folder


def run(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LANG", "LC_CTYPE")}
    command = [sys.executable, ROOT / "cli.py", *arguments]
    return subprocess.run(command, cwd=folder, env={**clean, **environment}, capture_output=True)


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        (PLAIN, PLAN),
        (PLAIN, STATUS),
        (PLAIN, REPORT),
        pytest.param(LATIN, STATUS, marks=pytest.mark.slow),
        pytest.param(LATIN, REPORT, marks=pytest.mark.slow),
        (LATIN, MISSING),
        pytest.param(ASCII, REPORT, marks=pytest.mark.slow),
        (ASCII, ("sweep", "--help")),
    ],
    ids=str,
)
def test_no_character_makes_a_command_fail(folder, environment, arguments):
    done = run(folder, environment, *arguments)
    assert b"Traceback" not in done.stderr
    assert done.returncode == (2 if arguments == MISSING else 0), done.stderr
    assert (done.stderr if arguments == MISSING else done.stdout).strip()
    page = (folder / "elsewhere" / "report.html").read_bytes() if "report" in arguments else QUESTION.encode()
    assert QUESTION.encode() in page


def test_what_a_terminal_lacks_is_printed_as_an_escape(folder):
    done = run(folder, LATIN, "report", "--to", "there")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    table = (folder / "there" / "table.md").read_text(encoding="utf-8")
    entries = [line for line in table.splitlines() if line.startswith("|")]
    assert any("†" in line for line in entries)
    for line in entries:
        assert line.encode("iso-8859-1", "backslashreplace") in done.stdout


@pytest.mark.parametrize(
    ("environment", "name"),
    [({"PYTHONUTF8": "1"}, os.fsdecode(b"l\xe4ufe")), (PLAIN, "läufe")],
)
def test_a_name_that_the_locale_cannot_read_is_refused_before_anything_runs(folder, environment, name):
    there = folder / name
    there.mkdir(exist_ok=True)
    (there / "small.yaml").write_bytes((folder / "small.yaml").read_bytes())
    for arguments in [("sweep", f"{name}/small.yaml"), ("plan", "small.yaml", "--out", name)]:
        done = run(folder, environment, *arguments)
        assert done.returncode == 2
        (line,) = done.stderr.decode().splitlines()
        assert " is no text in this locale (" in line
        assert line.endswith("): rename it, or set PYTHONUTF8=1")
