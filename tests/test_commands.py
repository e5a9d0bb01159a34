"""The command line: help, errors and exit codes. Sweeps that run are in test_sweep.py."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ablate.commands import _write_report, main
from ablate.errors import UsageError
from ablate.report.build import NothingToReportError
from ablate.tasks.image_classification.config import ACCURACIES

ROOT = Path(__file__).parent.parent
FILE = """
name: tiny
fixed: {depth: 8, width: 4, epochs: 1}
axes: {arm: {plain: {shortcut: none}, residual: {shortcut: identity}}}
tune: {lr: {low: 0.01, high: 1, log: true}}
budget: {trials_per_cell: 2}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(FILE)
    return tmp_path


def invoke(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_importing_the_command_line_loads_nothing_heavy():
    code = "import ablate.commands, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"torch", "ray", "optuna", "mlflow", "pandas", "matplotlib", "scipy", "pyarrow", "pydantic", "sklearn"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself_and_is_in_the_documentation(name):
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 4
    assert f"cli.py {name}" in (ROOT / "README.md").read_text() + (ROOT / "docs" / "commands.md").read_text()


def test_a_mistake_in_a_sweep_file_is_one_line_with_its_place_and_writes_nothing(folder):
    (folder / "tiny.yaml").write_text(FILE.replace("depth: 8", "dpth: 8"))
    for name in ("sweep", "plan"):
        done = invoke(name, "tiny.yaml")
        assert done.exit_code == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("tiny.yaml:3:9: unknown parameter 'dpth'. Did you mean 'depth'?")
    assert [entry.name for entry in folder.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("name", ["status", "report", "ui"])
def test_a_command_without_a_sweep_says_how_to_get_one(folder, name):
    done = invoke(name)
    assert done.exit_code == 2
    assert "no sweep in runs yet. Run: python cli.py sweep FILE" in done.stderr


def test_a_missing_device_is_refused_before_anything_runs(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = invoke("sweep", "tiny.yaml", "--device", "cuda")
    assert done.exit_code == 2
    assert "there is no device 'cuda' on this machine" in done.stderr


def test_plan_says_what_a_sweep_asks_for(folder):
    done = invoke("plan", "tiny.yaml")
    assert done.exit_code == 0
    assert "2 arm = 2 cells, each 2 tune trials and 3 confirm seeds: 10 trials" in done.stdout
    assert "arm=plain: lr" in done.stdout
    content = json.loads(invoke("plan", "tiny.yaml", "--json").stdout)
    assert content["trials"] == 10
    assert content["data"]["num_train"] == 1077


def test_a_net_too_large_for_the_machine_is_told_in_one_line(folder):
    done = invoke("plan", "tiny.yaml", "--set", "fixed.width=1000000")
    assert done.exit_code == 1, done.output
    assert re.fullmatch(r"out of memory: .*can't allocate memory: you tried to allocate \d+ bytes.*\n", done.stderr)


def test_plan_of_a_sweep_without_axes(folder):
    (folder / "tiny.yaml").write_text(FILE.replace("axes: {arm: {plain: {shortcut: none}, residual", "#"))
    done = invoke("plan", "tiny.yaml", "--no-probe")
    assert done.exit_code == 0, done.output
    assert "\n1 cell with 2 tune trials and 3 confirm seeds: 5 trials\n" in done.stdout
    assert "\nthe cell: lr\n" in done.stdout


def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-m", "cli", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("is_one", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_sweep_outlasts_the_reader_of_its_lines(folder, is_one):
    code = (
        "import select, sys\n"
        "from types import SimpleNamespace\n"
        "import ablate.commands as commands\n"
        "import ablate.run.runner as runner\n"
        "def run_plan(plan, *, console, **_):\n"
        "    sys.stdin.read()\n"
        "    for _ in range(1_500): console.print('a line ' * 10)\n"  # More than a pipe holds.
        "    print('a line', file=sys.stderr, flush=True)\n"
        "    open('ended', 'w').close()\n"
        "    return SimpleNamespace(not_mirrored='', num_missing=0, num_failed=0)\n"
        "runner.run_plan = run_plan\n"
        "commands.main(['sweep', 'tiny.yaml'])"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    pipes["stderr"] = subprocess.STDOUT if is_one else subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
        assert process.stdout.readline().startswith(b"tiny: ")
        process.stdout.close()
        process.stdin.close()
        errors = b"" if is_one else process.stderr.read()
        assert process.wait(timeout=120) == 0, errors
    assert errors in (b"", b"a line\n")
    assert (folder / "ended").exists()


def test_a_connection_that_breaks_is_told():
    code = (
        "import ablate.commands as commands\n"
        "def refuse(*_): raise BrokenPipeError(32, 'Broken pipe')\n"
        "commands.find_sweep = refuse\n"
        "commands.main(['status'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "[Errno 32] Broken pipe\n")


def test_plan_warns_where_the_baseline_is_tuned_less(folder):
    text = FILE.replace("residual: {shortcut: identity}", "residual: {shortcut: identity, regularizer: l2}").replace(
        "tune: {", "tune: {weight_decay: {low: 1e-6, high: 1e-2, log: true},"
    )
    (folder / "tiny.yaml").write_text(text + "report: {baseline: plain}\n")
    done = invoke("plan", "tiny.yaml")
    assert "warning: the baseline 'plain' has 1 tuned dimensions, another cell 2" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.replace("epochs: 1", "epochs: 1, batch_size: 2000"), "3:52: batch_size must be <= the 1077 training"),
        (FILE.replace("tune: {", "tune: {batch_size: [64, 2000], "), "5:20: batch_size must be <= the 1077 training"),
        (FILE.replace("tune: {", "tune: {num_train: [100, 200], "), "5:8: num_train cannot be tuned: every cell needs"),
        (FILE.replace("epochs: 1", "epochs: 1, image_size: 9"), "3:52: image_size must be at most 8, the size of the"),
        (FILE.replace("epochs: 1", "epochs: 1, num_val: 9999"), "3:49: num_val must be between 10 and "),
        (FILE.replace("epochs: 1", "epochs: 1, num_train: 9999"), "3:51: num_train must be between 10 and "),
        (FILE.replace("{shortcut: none}", "{shortcut: none, num_val: 9999}"), "4:47: num_val must be between 10 and "),
        (
            FILE.replace("axes: {", "axes: {dataset: [digits, fashion_mnist], "),
            "4:26: dataset must be the same in all cells of one table",
        ),
        (
            FILE.replace("identity}", "identity, dataset: cifar10}"),
            "4:79: dataset must be the same in all cells of one table",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused_at_its_line(folder, text, message):
    (folder / "tiny.yaml").write_text(text)
    done = invoke("plan", "tiny.yaml")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tiny.yaml:{message}")


def test_train_says_where_a_trial_diverged(folder):
    options = ("--set", "fixed.max_loss=0.1", "--with", "lr=0.05")
    done = invoke("train", "tiny.yaml", "--cell", "arm=plain", *options)
    assert done.exit_code == 0, done.output
    *_, line, last = done.stdout.splitlines()
    assert line.startswith("diverged in epoch 1, step 0, layer loss: training loss ")
    assert json.loads(last)["state"] == "diverged"


def test_the_last_line_of_train_is_json_where_a_number_is_not_finite(folder, monkeypatch):
    record = SimpleNamespace(state="complete", metrics={"val_loss": float("inf"), "val_accuracy": 0.5})
    monkeypatch.setattr("ablate.run.single.train_one", lambda *_, **__: record)
    done = invoke("train", "tiny.yaml", "--cell", "arm=plain")
    assert done.stdout == '{"state": "complete", "val_loss": null, "val_accuracy": 0.5}\n'


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NothingToReportError("no finished confirm trial yet"), ""),
        (UsageError("the baseline is gone"), "no report: the baseline is gone\n"),
        (OSError(5, "Input/output error", "a.parquet"), "no report: a.parquet: Input/output error\n"),
    ],
)
def test_a_sweep_hides_a_missing_report_only_where_there_is_nothing_to_report(monkeypatch, capsys, error, told):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("ablate.report.build.build_report", refuse)
    unwritten: list[Exception] = []
    assert _write_report(Path("runs"), "s", Path("to"), unwritten) is None
    assert capsys.readouterr().err == told
    assert unwritten == ([error] if told else [])


def test_train_takes_choices_by_their_names(folder):
    text = FILE.replace("tune: {", "tune: {modulation_window: {choices: {always: [0, 1], start: [0, 0.1]}}, ")
    (folder / "tiny.yaml").write_text(text.replace("epochs: 1", "epochs: 1, modulation: anchor"))
    done = invoke("train", "tiny.yaml", "--cell", "arm=plain", "--with", "modulation_window=start")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("lr", "notes"), [("1", []), ("2", ["note: lr=2 is outside of what the sweep tries, 0.01 to 1"])]
)
def test_train_notes_a_value_that_no_trial_of_the_sweep_has(folder, lr, notes):
    done = invoke("train", "tiny.yaml", "--cell", "arm=plain", "--with", f"lr={lr}")
    assert done.exit_code == 0, done.output
    assert [line for line in done.stdout.splitlines() if line.startswith("note: ")] == notes


def test_train_runs_one_trial_without_ray(folder):
    done = invoke(
        "train", "tiny.yaml", "--cell", "arm=residual", "--with", "lr=0.05", "--set", "fixed.epochs=2", "--test"
    )
    assert done.exit_code == 0, done.output
    configuration, regularized, *epochs, last = done.stdout.splitlines()
    assert regularized.startswith("L2 and regularizers act on ")
    assert configuration.startswith("configuration: ")
    assert ", lr=0.05, " in configuration
    assert epochs[1].startswith("epoch 2/2: validation accuracy 0.")
    assert json.loads(last)["state"] == "complete"
    assert {name for name in json.loads(last) if name.endswith(("accuracy", "statistics"))} == {*ACCURACIES}
    assert not (folder / "runs" / "ledger").exists()


def test_train_looks_at_test_data_only_if_it_is_asked_to(folder):
    done = invoke("train", "tiny.yaml", "--cell", "arm=plain")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert "val_accuracy" in found
    assert not [name for name in found if name.startswith("test")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell", "arm=plian"], r"no cell 'arm=plian'. Did you mean 'arm=plain'? Available: arm=plain, arm=residual"),
        (
            ["--cell", "arm=plain", "--with", "depth=20"],
            "--with depth=20: needs PARAMETER=VALUE with a tuned parameter",
        ),
        (
            ["--cell", "arm=plain", "--with", "lr=0.1", "--with", "lr=0.2"],
            "--with lr=0.2: 'lr' is given twice",
        ),
        (["--cell", "arm=plain", "--with", "lr=1_4"], "--with lr=1_4: '1_4' is no plain number: leave out _, : and"),
        (["--cell", "arm=plain", "--with", "lr=[1"], "--with lr=[1: not YAML: expected ',' or ']'"),
        (
            ["--cell", "arm=plain", "--with", "lr=1e+39"],
            "--with lr=1e+39: lr must be a number > 0 that float32 can hold",
        ),
        (["--cell", "arm=plain", "--with", "lr=-1"], "--with lr=-1: lr must be a number > 0, but got -1"),
        (
            ["--cell", "arm=plain", "--set", "tune.optimizer=[sgd, adam]", "--with", "optimizer=adma"],
            "--with optimizer=adma: unknown optimizer 'adma'. Did you mean 'adam'? Available: adadelta, ",
        ),
        (
            ["--cell", "arm=plain", "--set", "tune.batch_size=[32, 64]", "--with", "batch_size=5000"],
            "--with batch_size=5000: batch_size must be <= the 1077 training images of digits, but got 5000",
        ),
        (
            [
                "--cell",
                "arm=plain",
                "--set",
                "fixed.modulation=anchor",
                "--with",
                "modulation_window=alwys",
                "--set",
                "tune.modulation_window={choices: {always: [0, 1], start: [0, 0.1]}}",
            ],
            "with 0 <= start <= end <= 1, but got 'alwys'. Did you mean 'always'? Available: always, start",
        ),
    ],
)
def test_train_refuses_what_it_cannot_run(folder, options, message):
    done = invoke("train", "tiny.yaml", *options)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize("name", ["sweep", "plan", "train"])
def test_an_import_that_raises_keyboard_interrupt_is_an_error_and_ctrl_c_within_one_stops(folder, name):
    (folder / "tiny.yaml").write_text(f"{FILE}imports: [ends.py]\n")
    options = ["--cell", "arm=plain"] if name == "train" else []
    (folder / "ends.py").write_text("raise KeyboardInterrupt")
    done = invoke(name, "tiny.yaml", *options)
    assert (done.exit_code, done.stderr) == (2, "tiny.yaml:7:11: the import ends.py failed: KeyboardInterrupt\n")
    (folder / "ends.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    done = invoke(name, "tiny.yaml", *options)
    assert (done.exit_code, done.stderr) == (1, "stopped\n")


def test_a_pipe_among_the_imports_of_a_trial_is_refused(folder):
    os.mkfifo(folder / "odd.py")
    done = invoke("reproduce", "ab", "--import", "odd.py", "--out", "runs")
    assert done.exit_code == 2
    (folder / "odd.yaml").symlink_to("odd.py")
    for command in (["plan", "odd.yaml"], ["status", "odd.yaml"], ["report", "odd.yaml"], ["ui", "odd.yaml"]):
        done = invoke(*command)
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert "a sweep file must be a regular file, but this is a pipe" in done.stderr


def test_the_schema_beside_the_search_spaces_is_the_present_one():
    written = json.loads((ROOT / "search_spaces" / "sweep.schema.json").read_text())
    assert json.loads(invoke("schema").stdout) == written


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "runs/x"), UsageError("no cluster")]
)
def test_a_sweep_that_stops_has_written_to_mlflow_what_it_was_told(folder, monkeypatch, error):
    """Python ends with the command, and no thread may be in the midst of its work then."""
    written = []
    monkeypatch.setattr(
        "ablate.tracking.mirror.SweepRuns", lambda *_: SimpleNamespace(end=lambda: written.append("end"))
    )

    def run_schedule(*_, **__):
        raise error

    monkeypatch.setattr("ablate.run.runner.run_schedule", run_schedule)
    done = invoke("sweep", "tiny.yaml")
    assert done.exit_code == (1 if isinstance(error, OSError) else 2)
    expected = "the sweep stopped: runs/x: No space left on device" if isinstance(error, OSError) else "no cluster"
    assert expected in done.output
    assert written == ["end"]
    assert "mlflow-mirror" not in [thread.name for thread in threading.enumerate()]
