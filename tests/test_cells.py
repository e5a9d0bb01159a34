"""The cells of a sweep: their order, settings and keys."""

import json
import subprocess
import sys

import pytest

from ablate.sweepfile.cells import build_cells
from ablate.sweepfile.spec import load_spec
from ablate.tasks import registry
from ablate.tasks.parameters import ConfigError

TEXT = """\
name: s
fixed: {epochs: 2, regularizer: l2}
axes:
  depth: [20, 32]
  arm:
    plain: {}
    ortho: {regularizer: orthonormal}
tune:
  optimizer: [sgd, adam]
  lr: {low: 1e-3, high: 1, log: true}
  weight_decay: {low: 1e-6, high: 1e-2, log: true}
budget: {trials_per_cell: 2}
"""


@pytest.fixture
def cells(tmp_path):
    def build(text=TEXT, *overrides):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        return build_cells(load_spec(path, overrides=overrides))

    return build


def keys(cells):
    return [cell.key for cell in cells]


def test_cells_are_the_product_of_the_axes_in_file_order(cells):
    assert [cell.name for cell in cells()] == [
        "depth=20, arm=plain", "depth=20, arm=ortho", "depth=32, arm=plain", "depth=32, arm=ortho",
    ]  # fmt: skip
    assert cells()[3].levels == {"depth": "32", "arm": "ortho"}


def test_a_sweep_without_axes_is_one_cell(cells):
    (cell,) = cells("name: s\nbudget: {trials_per_cell: 1}\n")
    assert (cell.levels, cell.name, cell.space.tuned) == ({}, "", [])
    assert cell.config({})["depth"] == 20


def test_arm_overrides_fixed(cells):
    assert [cell.settings["regularizer"] for cell in cells()[:2]] == ["l2", "orthonormal"]


def test_settings_hold_all_that_is_not_tuned(cells):
    plain, ortho = cells()[:2]
    assert not {"optimizer", "lr", "weight_decay"} & plain.settings.keys()
    assert ortho.settings["ortho_weight"] == 1e-4
    assert plain.settings["momentum"] == 0.9
    assert plain.settings["beta1"] == 0.9
    json.dumps(dict(plain.settings))


def test_config_merges_and_checks(cells):
    plain = cells()[0]
    config = plain.config({"optimizer": "adam", "lr": 0.5, "weight_decay": 1e-3})
    assert (config["optimizer"], config["lr"], config["epochs"], config["weight_decay"]) == ("adam", 0.5, 2, 1e-3)
    assert "momentum" not in config
    with pytest.raises(ConfigError, match="lr must be a number > 0, but got -1"):
        plain.config({"lr": -1})


def test_keys_are_distinct_and_short(cells):
    found = keys(cells())
    assert len(set(found)) == 4
    assert all(len(key) == 12 and int(key, 16) >= 0 for key in found)


def test_cells_with_equal_settings_have_different_keys(cells):
    text = TEXT.replace("ortho: {regularizer: orthonormal}", "same: {}")
    assert len(set(keys(cells(text)))) == 4


@pytest.mark.parametrize(
    "override",
    [
        "budget.trials_per_cell=50",
        "confirm.seeds=9",
        "resources.cpus=4",
        "question=why",
        "name=t",
        "report.columns=depth",
    ],
)
def test_key_does_not_depend_on(cells, override):
    assert keys(cells(TEXT, override)) == keys(cells())


def test_key_does_not_depend_on_defaults_that_are_written_out(cells):
    assert keys(cells(TEXT, "fixed.width=16", "seed=0")) == keys(cells())


@pytest.mark.parametrize(
    "override",
    ["budget.sampler=random", "budget.pruner=none", "budget.batch=2", "seed=1", "fixed.epochs=3",
     "tune.lr={low: 1e-3, high: 2, log: true}", "tune.lr={low: 1e-3, high: 1}", "tune.optimizer=[adam, sgd]"],
)  # fmt: skip
def test_key_depends_on(cells, override):
    assert not set(keys(cells(TEXT, override))) & set(keys(cells()))


def test_key_depends_on_the_versions_of_usable_rows_only(cells, monkeypatch):
    before = keys(cells())
    known = dict(registry._rows["optimizer"])
    monkeypatch.setitem(registry._rows, "optimizer", known)
    changed = type(known["adam"])
    fields = {name: getattr(known["adam"], name) for name in changed.__dataclass_fields__}
    known["rmsprop"] = changed(**{**fields, "name": "rmsprop", "version": 2})
    assert keys(cells()) == before
    known["adam"] = changed(**{**fields, "version": 2})
    assert not set(keys(cells())) & set(before)
    assert "optimizer:adam@2" in cells()[0].stamps


def test_another_process_finds_the_same_keys(cells, tmp_path):
    expected = keys(cells())
    code = (
        "from pathlib import Path; from ablate.sweepfile.spec import load_spec\n"
        "from ablate.sweepfile.cells import build_cells\n"
        f"print([cell.key for cell in build_cells(load_spec(Path({str(tmp_path / 's.yaml')!r})))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(expected)
