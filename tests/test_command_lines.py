"""Every command that is printed runs as it was pasted into a shell, and those in a report name nobody."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from synthetic import Synthetic

from ablate.command_lines import Commands
from ablate.commands import main
from ablate.places import ObjectPath
from ablate.redaction import public_path
from ablate.report.build import build_report
from ablate.run.runner import where_options
from ablate.store.declaration import SweepFolder
from ablate.tracking.store import open_client, tracking_uri

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ablate"
ODD = ["a b", "it's", 'say "no"', "$HOME", "`ls`", "a;b", "*", "é–", "a\nb", "\\", "-x", "#1", "{a,b}", "!x", "~"]
# The number that wins lies at an end of its range, so that the report prints what would settle it.
FILE = """
name: pasted
fixed: {depth: 8, width: 4, epochs: 1, num_train: 300}
axes: {arm: {plain: {shortcut: none}}}
tune: {batch_size: {low: 96, high: 144, step: 48}}
budget: {trials_per_cell: 1}
confirm: {seeds: 2}
profiles: {"other+one": {confirm: {seeds: 1}}}
"""


def paste(line: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "PATH": path}
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)


def words_of(line: str, cwd: Path, **variables: str) -> list[str]:
    """Return the words that a shell makes of a command."""
    assert line.startswith("python cli.py ")
    done = paste(line.replace("python cli.py", "printf '%s\\0'", 1), cwd, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


def parsed(words: list[str]) -> dict:
    """Return what the command line makes of a command's words."""
    return main.commands[words[0]].make_context(words[0], words[1:]).params


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("in_public", [False, True])
def test_names_that_a_shell_would_change_reach_the_program_as_they_are(tmp_path, monkeypatch, odd, in_public):
    monkeypatch.chdir(tmp_path)
    commands = Commands(Path(odd) / "runs", in_public)
    line = commands.line(
        "sweep", commands.file(f"{odd}/s.yaml", ""), options={"profile": None, "set": [f"question={odd}"]}
    )
    found = parsed(words_of(line, tmp_path))
    assert (found["overrides"], found["profile"]) == ((f"question={odd}",), None)
    assert (found["file"], found["out"]) == (Path(odd) / "s.yaml", Path(odd) / "runs")


def test_the_usual_output_folder_is_left_out():
    assert Commands(Path("./runs")).line("report") == "python cli.py report"


@pytest.mark.parametrize(("program", "words"), [("/opt/bin/ablate", "ablate ui"), ("/opt/cli.py", "python cli.py ui")])
def test_the_command_is_called_as_it_was(monkeypatch, program, words):
    monkeypatch.setattr(sys, "argv", [program])
    assert Commands().line("ui") == words


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("runs 2", "runs 2"),
        ("../elsewhere/runs", "../elsewhere/runs"),
        ("{here}/sweeps/s.yaml", "sweeps/s.yaml"),
        ("{here}/../other/s.yaml", "../other/s.yaml"),
        ("/elsewhere/of/someone/s.yaml", None),
        ("/", None),
        ("../{user}/runs", None),
        ("{here}/{user}/runs", None),
    ],
)
def test_a_path_for_readers_leads_from_the_current_folder_or_is_not_shown(tmp_path, monkeypatch, path, shown):
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("LOGNAME", "alice")
    assert public_path(Path(os.path.normpath(path.format(here=here, user="alice")))) == shown


@pytest.mark.parametrize("out", [Path("/elsewhere/of/someone/runs"), ObjectPath("bucket/prefix")])
def test_an_output_folder_that_cannot_be_shown_is_asked_for_by_the_shell(tmp_path, out):
    line = Commands(out, in_public=True).line("report", "s")
    assert "someone" not in line
    assert "bucket" not in line
    refused = paste(line, tmp_path)
    assert refused.returncode != 0
    assert "OUT: the output folder" in refused.stderr
    assert words_of(line, tmp_path, OUT="my runs") == ["report", "s", "--out", "my runs"]


def test_a_sweep_that_goes_on_runs_where_it_ran():
    assert where_options("auto", "local") == {}
    assert where_options("auto", "local", 3) == {"jobs": "3"}
    assert where_options("cuda", "10.0.0.1:6379") == {"device": "cuda", "address": "10.0.0.1:6379"}


@pytest.mark.parametrize("name", ["status", "report", "ui"])
def test_where_there_is_no_sweep_the_command_that_makes_one_is_quoted(tmp_path, name):
    done = paste(f"python {ROOT / 'cli.py'} {name} --out 'no runs/it'\\''s'", tmp_path)
    assert done.returncode == 2
    words = words_of(done.stderr.strip().partition("Run: ")[2], tmp_path)
    assert words == ["sweep", "FILE", "--out", "no runs/it's"]


def test_commands_are_made_in_one_place():
    for file in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.html")]:
        if file.name != "command_lines.py":
            assert not re.search(r"shlex|\bcli\.py|ablate (sweep|report|status|ui|plan)\b", file.read_text()), file


def test_commands_of_several_sweeps_are_whole(tmp_path):
    for sweep in ("first", "second"):
        Synthetic(tmp_path / "runs", sweep=sweep, tune_states=("complete", *["diverged"] * 4, "failed")).write()
    made = build_report(tmp_path / "runs", ["first", "second"], tmp_path / "report", columns="arm")
    page = (tmp_path / "report" / "report.html").read_text()
    sweeps, report = unescape(re.search(r"<pre.*?><code>(.*?)</code>", page, re.DOTALL)[1]).splitlines()
    assert words_of(report, tmp_path, OUT="x") == [
        "report", "first", "second", "--columns", "arm", "--out", "x",
    ]  # fmt: skip
    both = sweeps.split(" && ")
    assert len(both) == 2
    for line in both:
        assert parsed(words_of(line, tmp_path, OUT="x"))["profile"] == "smoke"
    printed = made.table.partition("run: ")[2].partition(" (")[0]
    assert parsed(words_of(printed.split(" && ")[0], tmp_path))["out"] == tmp_path / "runs"


@pytest.fixture(scope="module")
def pasted(tmp_path_factory) -> tuple[Path, Path, subprocess.CompletedProcess]:
    """A sweep whose file, output folder and working folder have names that a shell would change."""
    top = tmp_path_factory.mktemp("it's a place")
    here, out = top / "work & play", top / "runs 'elsewhere'"
    (here / "my sweeps").mkdir(parents=True)
    (here / "my sweeps" / 'the "first".yaml').write_text(FILE)
    (here / "cli.py").write_text((ROOT / "cli.py").read_text())
    words = ["sweep", 'my sweeps/the "first".yaml', "--profile", "other+one", "--set", "question=Who's first?"]
    line = Commands(out).line(words[0], words[1], options={"profile": words[3], "set": [words[5]]})
    assert words_of(line, here) == [*words, "--out", str(out)]
    done = paste(f"{line} --jobs 1", here)
    assert done.returncode == 0, done.stderr
    return here, out, done


def as_plan(line: str) -> str:
    """Return the command that takes the same file and options, and trains nothing."""
    return line.replace("cli.py sweep ", "cli.py plan --no-probe ")


@pytest.mark.slow
def test_what_a_sweep_prints_can_be_pasted(pasted):
    here, out, done = pasted
    report = re.search(r"^Next: (.*)   or browse: (.*)$", done.stdout, re.MULTILINE)
    made = paste(report[1], here)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("# pasted@other+one")
    assert parsed(words_of(report[2], here)) == {"sweep": None, "out": out, "port": 5000}
    settles = re.findall(r"To settle it, run: (.*) \(it ", made.stdout)
    assert settles
    for line in settles:
        again = paste(as_plan(line), here)
        assert again.returncode == 0, again.stderr
        assert again.stdout.startswith("pasted@other+one: Who's first?")
        assert parsed(words_of(line, here))["out"] == out


@pytest.mark.slow
def test_what_a_report_and_mlflow_show_can_be_pasted_and_names_no_absolute_path(pasted):
    here, out, _ = pasted
    made = paste(Commands(out).line("report", options={"to": "the report"}), here)
    assert made.returncode == 0, made.stderr
    files = [file for file in (here / "the report").rglob("*") if file.is_file()]
    assert not [file for file in files if str(out.parent).encode() in file.read_bytes()]
    page = (here / "the report" / "report.html").read_text()
    sweep, report = unescape(re.search(r"<pre.*?><code>(.*?)</code>", page, re.DOTALL)[1]).splitlines()
    settles = re.findall(
        r"To settle it, run: (.*) \(it ", unescape(page) + (here / "the report" / "table.md").read_text()
    )
    assert len(settles) == 2
    found = open_client(tracking_uri(out)).get_experiment_by_name("pasted@other+one")
    note = found.tags["mlflow.note.content"].strip().splitlines()[-1].strip()
    for line in [sweep, note, *settles]:
        again = paste(as_plan(line), here)
        assert again.returncode == 0, again.stderr
        assert again.stdout.startswith("pasted@other+one: Who's first?")
        assert "in the ledger already: " in again.stdout
        assert parsed(words_of(line, here))["out"] == Path("../runs 'elsewhere'")
    assert "in the ledger already: 2 of 2 trials" in paste(as_plan(sweep), here).stdout
    assert paste(report, here).returncode == 0
    links = unescape(re.search(r"<code>(python cli.py ui.*?)</code>", page)[1])
    assert parsed(words_of(links, here))["sweep"] == "pasted@other+one"


@pytest.mark.slow
def test_what_an_interrupted_sweep_says_can_be_pasted(pasted):
    here, out, _ = pasted
    folder = SweepFolder(out, "pasted@other+one")
    file = folder.path / "proposals.jsonl"
    lines = file.read_text().splitlines()
    file.write_text(lines[0] + "\n")
    try:
        done = paste(Commands(out).line("report"), here)
    finally:
        file.write_text("\n".join([*lines, ""]))
    assert done.returncode == 2
    again = paste(as_plan(done.stderr.strip().partition("To go on, run: ")[2]), here)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("pasted@other+one: Who's first?")
