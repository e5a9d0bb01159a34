"""Designs of components: which arms they make, what is refused, and the effects that are computed from them."""

import re

import pytest
from synthetic import VAL_ACCURACY, accuracy

from ablate.errors import SpecError
from ablate.report.effects import effects
from ablate.report.entries import Entry
from ablate.report.inference import estimate
from ablate.store.declaration import CellTrials, Declaration, DeclaredCell
from ablate.sweepfile.cells import build_cells
from ablate.sweepfile.spec import load_spec, resolved_yaml

FILE = """
name: s
fixed: {regularizer: l2}
axes: {depth: [8, 14]}
components:
  ortho: {regularizer: orthonormal, init: orthonormal}
  modulation: {modulation: anchor}
  shortcut: {shortcut: identity}
budget: {trials_per_cell: 1}
"""


def spec_of(tmp_path, text, *overrides):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    return load_spec(file, None, overrides)


ARMS = {
    "full": ["baseline", "ortho", "modulation", "shortcut", "ortho+modulation", "ortho+shortcut",
             "modulation+shortcut", "ortho+modulation+shortcut"],
    "leave-one-out": ["full", "full-ortho", "full-modulation", "full-shortcut"],
    "add-one": ["baseline", "baseline+ortho", "baseline+modulation", "baseline+shortcut"],
    "list": ["baseline", "ortho+modulation"],
}  # fmt: skip


@pytest.mark.parametrize("design", ARMS)
def test_a_design_makes_its_arms_and_their_settings(tmp_path, design):
    more = "combinations: [[], [modulation, ortho]]\n" if design == "list" else ""
    spec = spec_of(tmp_path, f"{FILE}design: {design}\n{more}")
    assert list(spec.axes["arm"]) == ARMS[design]
    assert (spec.report.rows, spec.report.columns, spec.report.baseline) == ("depth", "arm", ARMS[design][0])
    cells = build_cells(spec)
    assert len(cells) == 2 * len(ARMS[design])
    for cell in cells:
        on = spec.components[cell.levels["arm"]]
        assert cell.settings["regularizer"] == ("orthonormal" if "ortho" in on else "l2")
        assert cell.settings["modulation"] == ("anchor" if "modulation" in on else "none")
        assert cell.settings["shortcut"] == ("identity" if "shortcut" in on else "none")


def test_the_resolved_file_keeps_the_design_and_loads_to_an_equal_spec(tmp_path):
    spec = spec_of(tmp_path, FILE + "design: leave-one-out\n")
    again = tmp_path / "again.yaml"
    again.write_text(resolved_yaml(spec))
    assert "design: leave-one-out" in again.read_text()
    assert load_spec(again) == spec


def test_a_design_can_be_changed_by_set_and_by_a_profile(tmp_path):
    text = FILE + "design: full\nprofiles: {less: {design: add-one, components: {shortcut: null}}}\n"
    assert len(spec_of(tmp_path, text, "design=leave-one-out").axes["arm"]) == 4
    assert list(load_spec(tmp_path / "s.yaml", "less").axes["arm"]) == ARMS["add-one"][:3]


HEAD = "name: s\nbudget: {trials_per_cell: 1}\n"
WRONG = {
    "no_components": ("design: full", "3:1: design full needs components"),
    "no_design": ("components: {a: {shortcut: identity}}", "3:1: components need a design: full, leave-one-out"),
    "unknown_design": ("design: half\ncomponents: {a: {depth: 8}}", "3:9: unknown design 'half'. Available: add-one"),
    "arms_too": (
        "design: full\ncomponents: {a: {shortcut: identity}}\naxes: {arm: {x: {init: he}}}",
        "5:8: a design makes the axis arm: give components or arms, not both",
    ),
    "overlap": (
        "design: full\ncomponents: {a: {init: he}, b: {init: orthonormal}}",
        "4:33: init is set by the components a and b",
    ),
    "unknown_parameter": ("design: full\ncomponents: {a: {initt: he}}", "4:18: unknown parameter 'initt'"),
    "wrong_value": ("design: full\ncomponents: {a: {init: hee}}", "4:24: unknown init 'hee'. Did you mean 'he'"),
    "empty": ("design: full\ncomponents: {a: {}}", "4:14: the component a switches nothing"),
    "reserved_name": ("design: full\ncomponents: {full: {init: he}}", "4:14: a component's name must be .* got 'full'"),
    "list_without": ("design: list\ncomponents: {a: {init: he}}", "3:1: design list needs combinations"),
    "not_a_list": (
        "design: full\ncomponents: {a: {init: he}}\ncombinations: [[a]]", "5:1: combinations are for design list",
    ),
    "unknown_component": (
        "design: list\ncomponents: {abc: {init: he}}\ncombinations: [[abd]]",
        "5:17: unknown component 'abd'. Did you mean 'abc'",
    ),
    "twice": (
        "design: list\ncomponents: {a: {init: he}}\ncombinations: [[a], [a]]", "5:21: this combination is given twice",
    ),
    "tuned_too": (
        "design: full\ncomponents: {a: {init: orthonormal}}\ntune: {init: [he, orthonormal]}",
        "5:8: init is defined in axes.arm and in tune",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_design_is_one_line_with_its_place(tmp_path, case):
    text, problem = WRONG[case]
    with pytest.raises(SpecError) as caught:
        spec_of(tmp_path, HEAD + text)
    (line,) = str(caught.value).splitlines()
    assert re.match(problem, line.removeprefix(f"{tmp_path / 's.yaml'}:")), line


def entry(arm: str, values: dict[int, float], depth: str = "8") -> Entry:
    cell = DeclaredCell(key=arm + depth, levels={"depth": depth, "arm": arm}, settings={}, tuned=[])
    return Entry(
        trials=CellTrials(cell, [], [], objective=VAL_ACCURACY), by_row=values, metric=accuracy(),
        estimate=estimate(values.values(), 0, accuracy()),        num_rows=len(values), num_failed=0,
    )  # fmt: skip


def declared(components: dict[str, list[str]]) -> Declaration:
    return Declaration(
        sweep="s", name="s", profile="", question="", axes={}, cells=[], num_tune=1, num_seeds=2, sampler="tpe",
        pruner="none", seed=0, report={"metric": "test_accuracy"}, tune={}, data={}, components=components,
        metrics=[accuracy()], objective="val_accuracy",
    )  # fmt: skip


FULL = {"baseline": [], "a": ["a"], "b": ["b"], "a+b": ["a", "b"]}


def test_effects_of_a_full_design_recover_a_known_truth():
    """Accuracy 0.5 + 0.1 a + 0.02 b + 0.06 a·b + noise shared by the arms of a seed, which pairing cancels."""
    noise = {1: 0.01, 2: -0.03, 3: 0.02}
    entries = [
        entry(
            arm, {s: 0.5 + 0.1 * ("a" in on) + 0.02 * ("b" in on) + 0.06 * (len(on) == 2) + e for s, e in noise.items()}
        )
        for arm, on in FULL.items()
    ]
    found = {effect.name: effect for effect in effects(declared(FULL), entries)}
    assert {name: round(effect.mean, 9) for name, effect in found.items()} == {"a": 0.13, "b": 0.05, "a × b": 0.06}
    assert [found[name].num_contrasts for name in ("a", "b", "a × b")] == [2, 2, 1]
    assert all(effect.n == 3 and effect.high - effect.low < 1e-9 for effect in found.values())
    assert found["a"].others == {"depth": "8"}


def test_the_interval_of_an_effect_is_the_t_interval_over_seeds():
    entries = [entry("baseline", {1: 0.5, 2: 0.5}), entry("a", {1: 0.6, 2: 0.7})]
    (effect,) = effects(declared({"baseline": [], "a": ["a"]}), entries)
    # Mean 0.15, sd 0.0707, half width 12.706 · 0.05.
    assert (round(effect.mean, 9), round(effect.high - effect.mean, 4)) == (0.15, 0.6353)


def test_leave_one_out_has_main_effects_at_the_full_method_and_no_interactions():
    components = {"full": ["a", "b"], "full-a": ["b"], "full-b": ["a"]}
    entries = [entry("full", {1: 0.9}), entry("full-a", {1: 0.7}), entry("full-b", {1: 0.85})]
    found = {effect.name: effect for effect in effects(declared(components), entries)}
    assert {name: round(effect.mean, 9) for name, effect in found.items()} == {"a": 0.2, "b": 0.05}
    assert found["a"].low is None


def test_effects_are_for_each_setting_of_the_other_axes_and_need_their_cells():
    entries = [entry(arm, {1: 0.5 + 0.1 * len(on)}, depth) for depth in ("8", "14") for arm, on in FULL.items()]
    entries = [e for e in entries if e.levels != {"depth": "14", "arm": "a+b"}]
    found = effects(declared(FULL), entries)
    assert {(effect.others["depth"], effect.name) for effect in found} == {
        ("8", "a"), ("8", "b"), ("8", "a × b"), ("14", "a"), ("14", "b"),
    }  # fmt: skip
    assert effects(declared({}), entries) == []
