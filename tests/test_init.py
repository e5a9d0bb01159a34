"""`init` writes examples, and nothing over what is there."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ablate import starters
from ablate.commands import main
from ablate.sweepfile.spec import load_spec

FILES = {
    "command": ["averaging.yaml", "train.py"],
    "function": ["regression.yaml", "train.py"],
    "image": ["digits.yaml"],
    "notebook": ["ablation.ipynb"],
    "transformer": ["characters.yaml", "train.py"],
}


@pytest.fixture
def init(tmp_path, monkeypatch):
    """A function that runs `init` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["init", *arguments])


def test_there_is_an_example_of_every_kind():
    assert starters.kinds() == sorted(FILES)


@pytest.mark.parametrize("kind", FILES)
def test_its_files_are_written_and_the_next_command_is_told(init, tmp_path, kind):
    done = init(kind, "--to", "my lab")
    assert done.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "my lab").iterdir()) == FILES[kind]
    first = f"'my lab/{FILES[kind][0]}'"
    command = f"jupyter lab {first}" if kind == "notebook" else f"python cli.py sweep {first}"
    wrote = "".join(f"wrote my lab/{name}\n" for name in FILES[kind])
    assert done.output == f"{wrote}Next: {command}\n"


@pytest.mark.parametrize("kind", sorted(set(FILES) - {"notebook"}))
def test_its_sweep_file_is_valid(init, kind):
    init(kind)
    spec = load_spec(Path(FILES[kind][0]))
    assert spec.axes
    assert spec.report.baseline is not None
    assert spec.report.metric.startswith("test_")


def test_a_function_in_this_folder_is_the_default(init):
    assert init().output == "wrote regression.yaml\nwrote train.py\nNext: python cli.py sweep regression.yaml\n"


@pytest.mark.parametrize("is_link", [False, True])
def test_nothing_is_overwritten(init, tmp_path, is_link):
    if is_link:
        (tmp_path / "train.py").symlink_to("nowhere")
    else:
        (tmp_path / "train.py").write_text("mine")
    done = init()
    assert done.exit_code == 2
    assert done.output == "train.py is there already, so nothing was written; choose another folder: --to\n"
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["funktion"], "'funktion' is not one of 'command', 'function', 'image', 'notebook', 'transformer'."),
        (["--to", "s3://bucket/lab"], "must be a path on this machine; got s3://…"),
        (["--to", "file"], "Directory 'file' is a file"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused(init, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    done = init(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_notebook_has_no_output_of_a_run():
    notebook = json.loads((starters.FOLDER / "notebook" / "ablation.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 2
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
