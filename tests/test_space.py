"""What is searched in a cell, and in which trials a parameter is drawn."""

import json
import random

import pytest

from ablate.errors import SpecError
from ablate.sweepfile.cells import build_cells
from ablate.sweepfile.space import Definition, suggestion_order
from ablate.sweepfile.spec import load_spec
from ablate.tasks.image_classification.config import CORE, KINDS, PARAMETERS, resolve
from ablate.tasks.registry import rows

LR = """\
  lr:
    - {low: 1e-3, high: 1, log: true, when: {optimizer: [sgd, nesterov]}}
    - {low: 1e-5, high: 1e-2, log: true, when: {optimizer: adam}}
"""


class Draws:
    """A trial that draws at random, or what it is told to, and remembers what it was asked."""

    def __init__(self, seed=0, **forced):
        self.random = random.Random(seed)
        self.forced = forced
        self.asked = {}

    def suggest_float(self, name, low, high, *, step, log):
        self.asked[name] = ("float", low, high, step, log)
        return self.forced.get(name, self.random.uniform(low, high))

    def suggest_int(self, name, low, high, *, step, log):
        self.asked[name] = ("int", low, high, step, log)
        return self.forced.get(name, self.random.randrange(low, high + 1, step))

    def suggest_categorical(self, name, choices):
        self.asked[name] = ("categorical", *choices)
        return self.forced.get(name, self.random.choice(choices))


@pytest.fixture
def spaces(tmp_path):
    def build(text):
        path = tmp_path / "s.yaml"
        path.write_text("name: s\nbudget: {trials_per_cell: 1}\n" + text)
        return [cell.space for cell in build_cells(load_spec(path))]

    return build


def test_each_kind_is_drawn_by_its_own_call(spaces):
    (space,) = spaces(
        "fixed: {modulation: top}\n"
        "tune:\n  width: {low: 4, high: 16, step: 4}\n  epochs: {low: 1, high: 9, log: true}\n"
        "  warmup: {low: 0, high: 0.5, step: 0.25}\n  lr: {low: 1e-3, high: 1, log: true}\n"
        "  batch_size: [32, 64]\n  modulation_window: {choices: {always: [0, 1], start: [0, 0.1]}}\n"
    )
    trial = Draws(modulation_window="start", lr=0.5, batch_size=64)
    drawn = space.suggest(trial)
    assert trial.asked == {
        "width": ("int", 4, 16, 4, False),
        "epochs": ("int", 1, 9, 1, True),
        "warmup": ("float", 0.0, 0.5, 0.25, False),
        "lr": ("float", 0.001, 1.0, None, True),
        "batch_size": ("categorical", 32, 64),
        "modulation_window": ("categorical", "always", "start"),
    }
    assert (drawn["modulation_window"], drawn["lr"], drawn["batch_size"]) == ((0.0, 0.1), 0.5, 64)
    assert space.num_dimensions == 6


def test_definition_is_chosen_by_a_drawn_value(spaces):
    (space,) = spaces("tune:\n" + LR + "  optimizer: [sgd, adam, nesterov, adagrad]\n")
    assert space.tuned == ["optimizer", "lr"]
    asked = {}
    for optimizer in ("sgd", "adam", "adagrad"):
        trial = Draws(optimizer=optimizer)
        drawn = space.suggest(trial)
        asked[optimizer] = [name for name in trial.asked if name != "optimizer"]
        assert ("lr" in drawn) == (optimizer != "adagrad")
    assert asked == {"sgd": ["lr[optimizer=sgd|nesterov]"], "adam": ["lr[optimizer=adam]"], "adagrad": []}


def test_definition_is_chosen_by_the_cell(spaces):
    sgd, _, adam = spaces("axes: {optimizer: [sgd, nesterov, adam]}\ntune:\n" + LR)
    assert [definition["name"] for definition in sgd.describe()["lr"]] == ["lr[optimizer=sgd|nesterov]"]
    assert [definition["name"] for definition in adam.describe()["lr"]] == ["lr[optimizer=adam]"]
    assert sgd.definitions("lr")[0].when == {}
    assert len(sgd.definitions("lr")) == 1


def test_parameter_of_a_row_is_drawn_with_its_row_only(spaces):
    (space,) = spaces("tune: {optimizer: [sgd, adam], momentum: {low: 0.5, high: 0.9}}\n")
    assert "momentum" in space.suggest(Draws(optimizer="sgd"))
    assert "momentum" not in space.suggest(Draws(optimizer="adam"))


def test_parameter_that_no_row_of_the_cell_has_is_dropped(spaces):
    text = "axes: {optimizer: [sgd, adam]}\ntune: {momentum: {low: 0.5, high: 0.9}}\n"
    sgd, adam = spaces(text)
    assert (sgd.tuned, adam.tuned) == (["momentum"], [])
    assert (sgd.num_dimensions, adam.num_dimensions) == (1, 0)
    assert "momentum" not in adam.settings
    assert adam.settings["beta1"] == 0.9


def test_condition_on_a_default_is_settled_in_the_cell(spaces):
    (space,) = spaces("tune: {lr: {low: 0.1, high: 1, when: {optimizer: sgd, momentum: 0.9}}}\n")
    assert space.definitions("lr")[0].when == {}


def test_condition_on_an_inactive_parameter_does_not_hold(spaces):
    (space,) = spaces(
        "fixed: {momentum: 0.9}\ntune: {optimizer: [sgd, adam], warmup: {low: 0.1, high: 0.2, when: {momentum: 0.9}}}\n"
    )
    assert "warmup" in space.suggest(Draws(optimizer="sgd"))
    assert "warmup" not in space.suggest(Draws(optimizer="adam"))


def test_conditions_are_followed_through_a_chain(spaces):
    (space,) = spaces(
        "tune:\n  batch_size: {choices: [32, 64], when: {epochs: 2}}\n  epochs: {choices: [1, 2], when: {width: 8}}\n"
        "  width: [4, 8]\n"
    )
    assert space.tuned == ["width", "epochs", "batch_size"]
    assert list(space.suggest(Draws(width=4, epochs=2))) == ["width"]
    assert list(space.suggest(Draws(width=8, epochs=1))) == ["width", "epochs"]
    assert list(space.suggest(Draws(width=8, epochs=2))) == ["width", "epochs", "batch_size"]


def test_single_choice_is_no_dimension(spaces):
    (space,) = spaces("tune: {lr: [0.1], width: [4, 8]}\n")
    assert (sorted(space.tuned), space.num_dimensions) == (["lr", "width"], 1)


def test_order_does_not_depend_on_the_file(spaces):
    (first,) = spaces("tune: {lr: [0.1, 0.2], width: [4, 8]}\n")
    (second,) = spaces("tune: {width: [4, 8], lr: [0.1, 0.2]}\n")
    assert first.tuned == second.tuned == ["lr", "width"]
    assert json.dumps(first.describe()) == json.dumps(second.describe())


def test_suggestion_order_draws_conditions_first():
    first = Definition(parameter="width", sampled_name="width", kind="int", low=1, high=2, when={"optimizer": ("sgd",)})
    other = Definition(parameter="optimizer", sampled_name="optimizer", kind="categorical", choices={"sgd": "sgd"})
    assert suggestion_order({"width": (first,), "optimizer": (other,)}, PARAMETERS) == ["optimizer", "width"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if len(rows(kind)) > 1 and kind not in ("model", "dataset")])
def test_every_row_and_its_parameters_can_be_drawn(spaces, kind):
    names = [row.name for row in rows(kind)]
    known = {p.name: p for row in rows(kind) for p in row.parameters if p.type == "float"}
    lows = {name: (p.low or 0) + 0.1 for name, p in known.items()}
    tune = "".join(f"  {name}: {{low: {low}, high: {low + 0.4}}}\n" for name, low in lows.items())
    fixed = "fixed: {statistics: running}\n" if kind == "norm" else ""  # What frozen_statistics asks for.
    (space,) = spaces(f"{fixed}tune:\n  {kind}: [{', '.join(names)}]\n{tune}")
    for row in rows(kind):
        drawn = space.suggest(Draws(**{kind: row.name}))
        assert set(drawn) == {kind, *(p.name for p in row.parameters if p.name in known)}
        config = resolve({**space.settings, **drawn})
        assert config.settings().items() >= drawn.items()
    assert {name for name in space.settings if name in CORE} == set(CORE) - {kind}


def test_two_choices_that_do_not_go_together_are_refused_before_a_trial_draws_them(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "name: s\nfixed: {depth: 8, shortcut: none, modulation: anchor}\naxes: {arm: {plain: {init: he}}}\n"
        "tune:\n  modulation_form: [auto, post_hoc]\n  modulation_site: [conv, block]\nbudget: {trials_per_cell: 6}\n"
    )
    message = r"s\.yaml:5:27: modulation_form 'post_hoc' knows the sites conv and norm, but got modulation_site 'block'"
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(tmp_path / "s.yaml")
    assert len(caught.value.problems) == 1
