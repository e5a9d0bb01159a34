"""Rows from outside: the file that docs/extending.md shows is imported, checked, trained, and told by its hash."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ablate.commands import main
from ablate.errors import UsageError
from ablate.run.plan import make_plan
from ablate.sweepfile.spec import SpecError
from ablate.tasks import registry
from ablate.tasks.image_classification.config import KINDS, resolve
from ablate.tasks.image_classification.training.trainer import Trainer
from ablate.tasks.parameters import ConfigError

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(YAML,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SMALL = {"depth": 8, "width": 4, "batch_size": 16, "epochs": 2}
SWEEP = "name: mine\n" + YAML + "axes: {depth: [8]}\nbudget: {trials_per_cell: 2, pruner: none}\nconfirm: {seeds: 2}\n"


pytestmark = pytest.mark.usefixtures("rows_of_before")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_methods.py"
    path.write_text(CODE)
    return path


@pytest.mark.parametrize(
    "settings",
    [{"regularizer": "sparse", "sparsity": 0.1}, {"init": "uniform"}, {"lr_schedule": "quadratic"},
     {"optimizer": "lion", "lr": 1e-3}],
    ids=str,
)  # fmt: skip
def test_every_row_of_the_page_changes_what_is_trained_and_repeats(tiny_dataset, file, settings):
    registry.load_imports([file])

    def weights(**chosen):
        trainer = Trainer(resolve({**SMALL, **chosen}), tiny_dataset, 1, torch.device("cpu"))
        assert trainer.run_epoch() is None
        assert trainer.run_epoch() is None
        return torch.cat([parameter.detach().flatten() for parameter in trainer.net.parameters()])

    changed = weights(**settings)
    assert torch.isfinite(changed).all()
    assert torch.equal(changed, weights(**settings))
    own = [name for name in settings if name in KINDS]
    assert not torch.allclose(changed, weights(**{n: v for n, v in settings.items() if n not in (*own, "sparsity")}))


def test_the_parameters_of_an_imported_row_are_checked_as_others_are(file):
    with pytest.raises(ConfigError, match="unknown regularizer 'sparse'"):
        resolve({"regularizer": "sparse"})
    registry.load_imports([file])
    assert resolve({"regularizer": "sparse"}).options["sparsity"] == 1e-5
    with pytest.raises(ConfigError, match="sparsity must be a number >= 0, but got -1"):
        resolve({"regularizer": "sparse", "sparsity": -1})


def test_the_hash_of_the_file_is_in_the_fingerprint_of_what_uses_it_and_of_nothing_else(file, tmp_path):
    plain = resolve({}).fingerprint("d")
    registry.load_imports([file])
    first = resolve({"regularizer": "sparse"}).fingerprint("d")
    assert resolve({}).fingerprint("d") == plain
    for kind in KINDS:
        registry._rows[kind] = {name: row for name, row in registry._rows[kind].items() if not row.origin}
    other = tmp_path / "other.py"
    other.write_text(CODE + "# One comment more.\n")
    registry.load_imports([other])
    assert resolve({"regularizer": "sparse"}).fingerprint("d") != first
    assert resolve({"regularizer": "sparse"}).row("regularizer").stamp != "sparse@1"


def test_rows_that_a_users_file_is_the_first_to_import_stay_the_built_in_ones(file):
    code = (
        "import sys; from pathlib import Path; from ablate.tasks.registry import load_imports;"
        "load_imports([Path(sys.argv[1])]); from ablate.tasks.image_classification.config import resolve;"
        "print(resolve({}).row('optimizer').stamp, resolve({'regularizer': 'sparse'}).row('regularizer').stamp)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert done.stdout.split() == ["sgd@1", f"sparse@1+{digest}"]


def test_a_file_that_changes_while_it_is_in_use_is_refused(file):
    registry.load_imports([file])
    registry.load_imports([file])  # Once more is once.
    file.write_text(CODE + "\n")
    with pytest.raises(UsageError, match=r"my_methods.py changed while it was in use; run the command again"):
        registry.load_imports([file])


def test_the_sweep_file_of_the_page_is_planned_and_its_keys_follow_the_imported_file(file, tmp_path):
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP)
    plan = make_plan(sweep, None, [], tmp_path)
    (cell,) = plan.cells
    assert {"regularizer": "sparse", "lr_schedule": "quadratic"}.items() <= cell.settings.items()
    assert "sparsity" in plan.spec.tune
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert any(stamp.endswith(f"sparse@1+{digest}") for stamp in cell.stamps)
    sweep.write_text(SWEEP.replace("low: 1e-7", "low: -1"))
    with pytest.raises(SpecError, match=r"sweep\.yaml:4:25: sparsity must be a number >= 0, but got -1"):
        make_plan(sweep, None, [], tmp_path)


def row(**changes: str) -> str:
    """Return a user's file that registers one regularizer."""
    written = {"kind": "'regularizer'", "name": "'mine'", "target": "print", "summary": "''", **changes}
    arguments = ", ".join(f"{name}={value}" for name, value in written.items())
    return f"from ablate.registry import Parameter, Row, register\nregister(Row({arguments}))\n"


def parameter(**changes: str) -> str:
    """Return the `parameters` of a row, with one in them."""
    written = {"name": "'sparsity'", "type": "'float'", "default": "0.5", "summary": "''", **changes}
    return "(Parameter(" + ", ".join(f"{name}={value}" for name, value in written.items()) + "),)"


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import sys; sys.exit(3)", "failed: SystemExit: 3"),
        ("import sys; sys.exit()", "failed: SystemExit"),
        ("raise ValueError('one\\ntwo')", "failed: ValueError: one two"),
        (row(kind="'regulariser'"), "is not right: unknown kind of row 'regulariser'. Did you mean 'regularizer'?"),
        (row(name="'l2'"), "is not right: regularizer 'l2' is registered already"),
        (row(target="'nope.mod:x'"),
         "is not right: the target 'nope.mod:x' of regularizer 'mine' fails: "
         "ModuleNotFoundError: No module named 'nope'"),
        (row(target="'math:nope'"),
         "is not right: the target 'math:nope' of regularizer 'mine' fails: AttributeError: module 'math' has no"),
        (row(target="'math:pi'"), "is not right: the target of regularizer 'mine' must be callable, but got 3.14"),
        (row(parameters="('weight_decay',)"),
         "is not right: parameters of regularizer 'mine' must be Parameter objects, but got 'weight_decay'"),
        (row(parameters=parameter(name="'depth'")),
         "is not right: the parameter 'depth' of regularizer 'mine' needs another name: "
         "every trial has one of this name"),
        (row(parameters=parameter(name="'weight_decay'", low="0", high="1")),
         "is not right: the parameter 'weight_decay' of regularizer 'mine' needs another name: "
         "that of regularizer 'l2' has another rule"),
        (row(parameters=parameter(low="1")),
         "is not right: the default of the parameter 'sparsity' of regularizer 'mine' is not allowed: "
         "sparsity must be a number >= 1, but got 0.5"),
    ],
)  # fmt: skip
def test_a_broken_import_is_one_line_at_its_place(tmp_path, monkeypatch, code, rule):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(code)
    Path("sweep.yaml").write_text(SWEEP.replace(YAML, "imports: [mine.py]\n"))
    result = CliRunner().invoke(main, ["plan", "sweep.yaml"])
    assert result.exit_code == 2
    assert result.output.startswith(f"sweep.yaml:2:11: the import mine.py {rule}")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("check", "reason"),
    [("lambda config: config.nope", "AttributeError: 'TrialConfig' object has no attribute 'nope'"),
     ("lambda config: 'refused'", "ValueError: too many values to unpack"),
     ("lambda config: 1", "TypeError: cannot unpack non-iterable int object")],
)  # fmt: skip
def test_a_check_that_fails_is_one_line_at_the_row_that_has_it(tmp_path, monkeypatch, check, reason):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(row(check=check))
    Path("sweep.yaml").write_text(SWEEP.replace(YAML, "imports: [mine.py]\nfixed: {regularizer: mine}\n"))
    result = CliRunner().invoke(main, ["plan", "sweep.yaml"])
    assert result.exit_code == 2
    place = f"the check of regularizer 'mine' of the import {tmp_path / 'mine.py'} failed: {reason}"
    assert result.output.startswith(f"sweep.yaml:3:22: {place}")
    assert result.output.count("\n") == 1


def test_a_parameter_can_be_shared_with_another_row_and_have_another_default(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(row(parameters=parameter(name="'weight_decay'", default="0.01", low="0")))
    registry.load_imports([path])
    assert resolve({"regularizer": "mine"}).options == {**resolve({}).options, "weight_decay": 0.01}
