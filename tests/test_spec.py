"""A sweep file is read, merged with its profile and overrides, and written again."""

import functools
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from ablate.sweepfile.document import Document
from ablate.sweepfile.merge import SECTIONS, WHOLE
from ablate.sweepfile.schema import json_schema
from ablate.sweepfile.shape import SweepFile
from ablate.sweepfile.spec import load_spec, resolved_yaml
from ablate.tasks import registry
from ablate.tasks.image_classification.config import PARAMETERS
from ablate.tasks.image_classification.task import TASK

SEARCH_SPACES = Path(__file__).parent.parent / "search_spaces"
DEPTH_ABLATION = """\
# Question: does orthonormality replace shortcuts?
name: depth_ablation
question: Does orthonormality replace shortcuts?
fixed: {dataset: digits, width: 8, epochs: 20, batch_size: 64, init: he}
axes:
  depth: [20, 32, 44, 56]
  arm:
    residual:                {shortcut: identity, regularizer: l2}
    plain:                   {regularizer: l2}
    plain+ortho:             &ortho {init: orthonormal, regularizer: orthonormal}
    plain+ortho+modulation:  {<<: *ortho, modulation: anchor}
tune:
  optimizer: [sgd, nesterov, adam]
  lr:
    - {low: 1e-3, high: 1, log: true, when: {optimizer: [sgd, nesterov]}}
    - {low: 1e-5, high: 1e-2, log: true, when: {optimizer: adam}}
  weight_decay: {low: 1e-6, high: 1e-2, log: true, when: {regularizer: l2}}
  ortho_weight: {low: 1e-6, high: 1e-1, log: true, when: {regularizer: orthonormal}}
  modulation_window: {choices: {always: [0, 1], start: [0, 0.1]}, when: {modulation: anchor}}
budget: {trials_per_cell: 6, pruner: median}
confirm: {seeds: 3}
report: {rows: depth, columns: arm, metric: test_accuracy, baseline: plain}
profiles:
  smoke:
    fixed: {epochs: 2, width: null}
    axes: {depth: [8]}
    tune: {lr: {low: 0.01, high: 0.1}, weight_decay: null}
    budget: {trials_per_cell: 3}
    seed: 7
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "depth_ablation.yaml"
    path.write_text(DEPTH_ABLATION)
    return path


def write(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nbudget: {trials_per_cell: 1}\n" + text)
    return path


def test_file_is_read_in_its_parameters_types(file):
    spec = load_spec(file)
    assert spec.sweep_id == "depth_ablation"
    assert spec.path == file
    assert spec.fixed == {"dataset": "digits", "width": 8, "epochs": 20, "batch_size": 64, "init": "he"}
    assert list(spec.axes["depth"]) == ["20", "32", "44", "56"]
    assert spec.axes["depth"]["20"] == {"depth": 20}
    assert spec.axes["arm"]["plain+ortho+modulation"] == {
        "init": "orthonormal", "regularizer": "orthonormal", "modulation": "anchor",
    }  # fmt: skip
    assert (spec.budget.trials_per_cell, spec.budget.sampler, spec.budget.pruner, spec.budget.batch) == (
        6, "tpe", "median", 1,
    )  # fmt: skip
    assert spec.tune["modulation_window"][0].choices == {"always": (0.0, 1.0), "start": (0.0, 0.1)}
    assert (spec.report.rows, spec.report.columns, spec.report.baseline) == ("depth", "arm", "plain")
    assert (spec.resources.cpus, spec.resources.gpus, spec.seed, spec.confirm.seeds) == (1, 0, 0, 3)


def test_profile_replaces_and_removes_whole_entries(file):
    spec = load_spec(file, "smoke")
    assert spec.sweep_id == "depth_ablation@smoke"
    assert spec.fixed == {"dataset": "digits", "epochs": 2, "batch_size": 64, "init": "he"}
    assert list(spec.axes) == ["depth", "arm"]
    assert list(spec.axes["depth"]) == ["8"]
    assert [definition.low for definition in spec.tune["lr"]] == [0.01]
    assert "weight_decay" not in spec.tune
    assert (spec.budget.trials_per_cell, spec.budget.pruner, spec.seed) == (3, "median", 7)


def test_overrides_come_after_the_profile(file):
    overrides = ["budget.trials_per_cell=4", "seed=3", "tune.lr=null", "fixed.lr=1e-2", "axes.depth=[14]"]
    spec = load_spec(file, "smoke", overrides)
    assert (spec.budget.trials_per_cell, spec.seed, spec.fixed["lr"]) == (4, 3, 0.01)
    assert "lr" not in spec.tune
    assert list(spec.axes["depth"]) == ["14"]


def test_an_override_of_a_section_replaces_the_entries_that_it_names(file):
    spec = load_spec(file, overrides=["resources={cpus: 2, gpus: 0.25}", "confirm={seeds: 7}"])
    assert (spec.resources.cpus, spec.resources.gpus, spec.confirm.seeds) == (2, 0.25, 7)


def test_override_replaces_a_wrong_entry(tmp_path):
    path = write(tmp_path, "fixed: {lr: fast}\nseed: x\n")
    assert load_spec(path, overrides=["fixed.lr=1", "seed=2"]).fixed == {"lr": 1.0}


def test_what_an_override_repairs_is_no_mistake_of_the_profiles(tmp_path):
    path = write(tmp_path, "fixed: {lr: fast}\nprofiles: {a: {seed: 3}, b: {fixed: {lr: 1}}}\n")
    assert load_spec(path, overrides=["fixed.lr=1"]).fixed == {"lr": 1.0}
    assert load_spec(path, "b").fixed == {"lr": 1.0}


def test_profile_may_complete_a_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nprofiles: {a: {budget: {trials_per_cell: 3}}}\n")
    assert load_spec(path, "a").budget.trials_per_cell == 3


@pytest.mark.parametrize("profile", [None, "smoke"])
def test_resolved_file_loads_again_to_an_equal_spec(file, tmp_path, profile):
    spec = load_spec(file, profile, ["question='yes: [no] # 1'", "fixed.lr_schedule=step"])
    again = tmp_path / "again.yaml"
    again.write_text(resolved_yaml(spec), encoding="utf-8")
    loaded = load_spec(again)
    assert loaded == spec
    assert resolved_yaml(loaded) == resolved_yaml(spec)
    assert "profiles" not in resolved_yaml(spec)


@pytest.mark.parametrize("text", ["yes", "2024-01-01", "0o17", "1e-3", "=", "<<", "é\nü", "null", " x ", "#", ""])
def test_any_text_survives_the_resolved_file(tmp_path, text):
    path = write(tmp_path, "")
    quoted = "'" + text.replace("\n", "\n\n") + "'"
    spec = load_spec(path, overrides=[f"question={quoted}"])
    assert spec.question == text
    path.write_text(resolved_yaml(spec), encoding="utf-8")
    assert load_spec(path) == spec


@pytest.mark.parametrize(
    ("axes", "report", "rows", "columns"),
    [
        ("{}", "{}", None, None),
        ("{depth: [20]}", "{}", None, "depth"),
        ("{depth: [20], width: [4]}", "{}", "depth", "width"),
        ("{depth: [20], width: [4]}", "{rows: width}", "width", "depth"),
        ("{depth: [20], width: [4]}", "{columns: depth, baseline: 20}", "width", "depth"),
        ("{depth: [20], width: [4], epochs: [1]}", "{}", "depth", "width"),
        ("{depth: [20], width: [4], epochs: [1]}", "{rows: epochs, columns: depth}", "epochs", "depth"),
        ("{lr: [1, 0.1]}", "{baseline: 1}", None, "lr"),
        ("{lr: [1, 1e-1]}", "{baseline: '0.1'}", None, "lr"),
    ],
)
def test_rows_and_columns_follow_from_the_axes(tmp_path, axes, report, rows, columns):
    spec = load_spec(write(tmp_path, f"axes: {axes}\nreport: {report}\n"))
    assert (spec.report.rows, spec.report.columns) == (rows, columns)


def test_yaml_is_version_1_2(tmp_path):
    spec = load_spec(write(tmp_path, "question: yes\nfixed: {lr: 1e-3, epochs: 0o17}\n"))
    assert (spec.question, spec.fixed) == ("yes", {"lr": 0.001, "epochs": 15})


def test_section_without_entries_is_empty(tmp_path):
    assert load_spec(write(tmp_path, "tune:\nfixed:\n")).tune == {}


def test_integer_step_and_byte_order_mark_are_fine(tmp_path):
    path = write(tmp_path, "tune: {width: {low: 4, high: 16, step: 4}, warmup: {low: 0, high: 0.3, step: 0.1}}\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_spec(path).tune["width"][0].step == 4


def test_imports_add_rows_before_names_are_checked(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._rows, "lr_schedule", dict(registry._rows["lr_schedule"]))
    (tmp_path / "mine.py").write_text(
        "from ablate.registry import Parameter, Row, register\n"
        "power = Parameter(name='power', type='float', default=1.0, summary='p', low=0)\n"
        "def poly(config, progress):\n    return 1.0\n"
        "register(Row(kind='lr_schedule', name='poly', target=poly, summary='s', parameters=(power,)))\n"
    )
    spec = load_spec(write(tmp_path, "imports: [mine.py]\nfixed: {lr_schedule: poly, power: 2}\n"))
    assert spec.import_paths == ((tmp_path / "mine.py").resolve(),)
    assert spec.fixed == {"lr_schedule": "poly", "power": 2.0}


def test_heavy_libraries_are_not_imported():
    code = (
        "import sys, ablate.sweepfile.spec, ablate.sweepfile.cells, ablate.sweepfile.schema\n"
        "print([name for name in ('torch', 'ray', 'optuna', 'mlflow') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def as_data(file):
    return load_spec(file).tree


@functools.cache
def validator():
    return jsonschema.Draft202012Validator(json_schema(TASK))


def test_schema_accepts_a_good_file_and_all_its_profiles(file):
    validator().check_schema(json_schema(TASK))
    profiles = {
        "a": {"fixed": {"lr": 1, "width": None}, "budget": {"batch": 2}, "seed": None, "tune": None},
        "b": {"axes": {"depth": None, "arm": {"a": {"init": "he"}}}, "tune": {"lr": None, "depth": [8, 14]}},
        "c": {"report": {"baseline": None, "metric": None}, "confirm": None, "resources": {"gpus": 0.5}},
        "d": {"imports": ["mine.py"], "fixed": {"power": 2}, "components": {"a": {"power": 2}, "b": None}},
    }
    validator().validate({**as_data(file), "profiles": profiles})
    validator().validate({"name": "s", "budget": {"trials_per_cell": 1}, "tune": None, "confirm": None})


@pytest.mark.parametrize("path", sorted(SEARCH_SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_schema_accepts_the_search_spaces(path):
    validator().validate(Document(path.read_text(), str(path)).tree)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fixxed", {}),
        ("name", "a/b"),
        ("fixed", {"widht": 3}),
        ("fixed", {"optimizer": "adma"}),
        ("fixed", {"lr": 0}),
        ("fixed", {"epochs": 1.5}),
        ("axes", {"depth": []}),
        ("axes", {"dpeth": [20]}),
        ("axes", {"arm": {"a": {"widht": 3}}}),
        ("axes", {"arm": {"a": {"max_loss": 3}}}),
        ("tune", {"rl": [1]}),
        ("tune", {"lr": {"low": 1}}),
        ("tune", {"lr": {"low": 1, "high": 2, "lag": True}}),
        ("budget", {}),
        ("budget", {"trials_per_cell": 0}),
        ("budget", {"trials_per_cell": 1, "sampler": "tep"}),
        ("tune", {"optimizer": ["adma"]}),
        ("tune", {"optimizer": {"choices": ["adma"]}}),
        ("tune", {"optimizer": {"choices": {"a": "adma"}}}),
        ("tune", {"optimizer": {"low": 1, "high": 2}}),
        ("tune", {"lr": {"low": -5, "high": 1}}),
        ("tune", {"lr": [{"low": 0.1, "high": 1}, {"low": -5, "high": 1}]}),
        ("tune", {"lr": []}),
        ("tune", {"modulation_window": [[0, 1]]}),
        ("tune", {"lr": {"low": 0.1, "high": 1, "when": {"optimiser": "sgd"}}}),
        ("tune", {"lr": {"low": 0.1, "high": 1, "when": {"optimizer": "adma"}}}),
        ("axes", {"modulation_window": [[0, 1]]}),
        ("axes", {"a b": {"a": {"width": 3}}}),
        ("report", {"metric": "test_acuracy"}),
        ("profiles", {"a": {"tune": {"lr": {"lo": 1}}}}),
        ("profiles", {"a": {"tune": {"optimizer": ["adma"]}}}),
        ("profiles", {"a": {"confirm": {"seeds": "x"}}}),
        ("profiles", {"a": {"fixed": {"widht": 3}}}),
        ("profiles", {"a": {"axes": {"depth": []}}}),
        ("profiles", {"a": {"axes": {"arm": {"a": {"init": None}}}}}),
        ("profiles", {"a": {"profiles": {}}}),
        ("budget", {"studies": 2}),
        ("budget", {"studies": 2, "trials_per_cell": 1}),
        ("budget", {"trials": 1, "trials_per_cell": 1}),
        ("budget", {"trials": 0}),
        ("budget", {"studies": 0, "trials": 1}),
        ("profiles", {"a": {"budget": {"trails": 3}}}),
    ],
)
def test_schema_refuses_a_bad_file(file, key, value):
    with pytest.raises(jsonschema.ValidationError):
        validator().validate({**as_data(file), key: value})


def test_schema_lets_unknown_names_through_where_files_are_imported(file):
    unknown = {"imports": ["mine.py"], "fixed": {"power": 2, "optimizer": "mine"}, "tune": {"power": [1, 2]}}
    validator().validate({**as_data(file), **unknown})
    profile = {
        "fixed": {"power": 2},
        "tune": {"optimizer": ["mine"], "lr": {"low": 1, "high": 2, "when": {"power": 1}}},
    }
    validator().validate({**as_data(file), **unknown, "profiles": {"a": profile}})
    for wrong in ({"fixed": {"width": "wide"}}, {"profiles": {"a": {"fixed": {"width": "wide"}}}}):
        with pytest.raises(jsonschema.ValidationError):
            validator().validate({**as_data(file), **unknown, **wrong})


def test_schema_names_every_key_and_parameter():
    schema = json_schema(TASK)
    assert set(schema["properties"]) == {*SweepFile.model_fields, "profiles"}
    assert {*SECTIONS, *WHOLE, "name"} == set(SweepFile.model_fields)
    definitions = schema["$defs"]
    for branch in ("then", "else"):
        fixed = definitions[referred(schema[branch]["properties"]["fixed"])]["properties"]
        assert {name: definitions[referred(entry)]["description"] for name, entry in fixed.items()} == {
            name: parameter.summary for name, parameter in PARAMETERS.all().items()
        }


def referred(schema):
    return schema["$ref"].removeprefix("#/$defs/")
