"""Samplers, known points and pruners of a cell, and the combinations of them that are refused."""

import json
import re
from collections import Counter
from math import log10
from pathlib import Path

import pytest
from made_up import Sweep

from ablate.errors import SpecError
from ablate.search.cell_search import CellSearch, new_storage
from ablate.search.samplers import build_sampler
from ablate.seeds import study_seed
from ablate.store.declaration import num_shared
from ablate.sweepfile.cells import build_cells
from ablate.sweepfile.grid_points import MAX_POINTS, any_order, grid, num_points
from ablate.sweepfile.shared_points import NUM_COORDINATES, coordinates, shared_point
from ablate.sweepfile.spec import load_spec

FINITE = ["tune={lr: [0.001, 0.01, 0.1], optimizer: [sgd, adam]}", "budget.trials_per_cell=9"]
SAMPLERS = {
    "auto": ["budget.sampler=auto"],
    "tpe": ["budget.sampler=tpe"],
    "random": ["budget.sampler=random"],
    "qmc": ["budget.sampler=qmc"],
    "grid": [
        "budget.sampler=grid",
        "tune.lr=[0.001, 0.01, 0.1]",
        "tune.momentum={low: 0, high: 0.9, step: 0.9, when: {optimizer: sgd}}",
        "budget.trials_per_cell=9",
    ],
    "known points": ["budget.start_from=[{lr: 0.3, optimizer: sgd, momentum: 0.5}, {optimizer: adam}]"],
    "known points, qmc": ["budget.start_from=[{lr: 0.3}]", "budget.sampler=qmc"],
    "known points, auto": ["budget.start_from=[{lr: 0.3}]", "budget.sampler=auto"],
    "batch": ["budget.batch=3"],
    "batch, auto": ["budget.batch=3", "budget.sampler=auto"],
    "finite, auto": ["budget.sampler=auto", *FINITE],
    "finite, tpe": ["budget.sampler=tpe", "budget.batch=2", *FINITE],
    "finite, random": ["budget.sampler=random", *FINITE],
}
FIRST_VERSION = [1.592165, 1.229956, 1.351411, 1.955815]
KEYS_OF_TPE = ["80c5f1127286", "5fa27c293029"]
"""Of the cells of POINTS, as they were before there were shared points."""
PRUNERS = ["median", "successive_halving", "hyperband", "none"]


def folders(tmp_path: Path, *names: str):
    for name in names:
        (tmp_path / name).mkdir()


def by_cell(sweep: Sweep, phase: str = "tune"):
    found = {}
    for name, proposal, record in sweep.ended:
        if proposal.phase == phase:
            found.setdefault(name, {})[proposal.number] = (proposal.settings, record)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_after_any_interruption_as_if_there_had_been_none(tmp_path, sampler):
    folders(tmp_path, "a", "b")
    overrides = ["axes.depth=[8]", *SAMPLERS[sampler]]
    whole = Sweep(tmp_path / "a", *overrides).run()
    assert whole.schedule.is_finished()
    for _ in range(100):
        cut = Sweep(tmp_path / "b", *overrides)
        if cut.schedule.is_finished():
            break
        cut.run(3)
        cut.schedule.next_pack()
    assert sorted(cut.proposals()) == sorted(whole.proposals())
    assert len(whole.proposals()) == len(set(whole.proposals())) == whole.plan.declaration.num_trials


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_trial_of_every_cell_has_a_draw_of_its_own(tmp_path, sampler):
    sweep = Sweep(tmp_path, f"budget.sampler={sampler}", "budget.pruner=none", "confirm.seeds=0").run()
    rates = [proposal.settings["lr"] for _, proposal, _ in sweep.ended]
    assert len(set(rates)) == len(rates) == 4 * 7


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_stops_the_same_trials_after_an_interruption(tmp_path, pruner):
    folders(tmp_path, "a", "b")
    overrides = ["axes.depth=[8]", f"budget.pruner={pruner}", "budget.trials_per_cell=12", "confirm.seeds=0"]
    score = {"score": lambda settings, phase: min(1.0, settings["lr"])}
    whole = Sweep(tmp_path / "a", *overrides, **score).run()
    outcomes = {(name, p.number): (r.state, r.num_epochs, p.key) for name, p, r in whole.ended}
    pruned = [state for state, _, _ in outcomes.values() if state == "pruned"]
    assert bool(pruned) == (pruner != "none")
    found = {}
    for _ in range(5):
        cut = Sweep(tmp_path / "b", *overrides, **score).run(5)
        found |= {(name, p.number): (r.state, r.num_epochs, p.key) for name, p, r in cut.ended}
        assert len(cut.ended) <= 5
    assert found == outcomes


def test_successive_halving_keeps_its_rungs_over_a_resume(tmp_path):
    """The values at the rungs are what later trials are judged by: they are put into the rebuilt study."""
    overrides = ["axes.depth=[8]", "budget.pruner=successive_halving", "confirm.seeds=0"]
    score = {"score": lambda settings, phase: min(1.0, settings["lr"])}
    before = Sweep(tmp_path, *overrides, **score).run()
    after = Sweep(tmp_path, *overrides, **score)
    for run, again in zip(before.schedule.studies, after.schedule.studies, strict=True):
        rungs = [trial.system_attrs for trial in run.search.study.trials]
        assert any("completed_rung_0" in attributes for attributes in rungs)
        assert [trial.system_attrs.get("completed_rung_0") for trial in again.search.study.trials] == [
            attributes.get("completed_rung_0") for attributes in rungs
        ]


def test_hyperband_puts_trial_k_into_the_same_bracket_in_every_cell(tmp_path):
    sweep = Sweep(tmp_path, "budget.pruner=hyperband", "budget.trials_per_cell=12", "confirm.seeds=0").run()
    brackets = []
    for run in sweep.schedule.studies:
        pruner = run.search.study.pruner
        brackets.append([pruner._get_bracket_id(run.search.study, trial) for trial in run.search.study.trials])
    assert len(set(brackets[0])) > 1
    assert all(other == brackets[0] for other in brackets)


def test_tpe_models_parameters_together_also_those_of_some_trials_only(tmp_path):
    """Its relative space, which it draws from jointly: without groups it has no conditional parameter."""
    sweep = Sweep(tmp_path, "axes.depth=[8]").run()
    for run in sweep.schedule.studies:
        momenta = ["momentum" in trial.params for trial in run.search.study.trials]
        assert {True, False} == set(momenta)
        sampler = build_sampler("tpe", num_startup=2, seed=0)
        drawn = sampler.infer_relative_search_space(run.search.study, run.search.study.trials[-1])
        assert set(drawn) == {"lr", "optimizer", "momentum"}


def test_quasi_random_points_cover_the_range_more_evenly_than_chance(tmp_path):
    overrides = ["budget.trials_per_cell=16", "axes.depth=[8]", "budget.pruner=none", "confirm.seeds=0"]
    sweep = Sweep(tmp_path, *overrides, "budget.sampler=qmc").run()
    for trials in by_cell(sweep).values():
        rates = [settings["lr"] for settings, _ in trials.values()]
        # 16 points of a scrambled Sobol' sequence have one in each sixteenth of every coordinate.
        assert sorted(int((log10(rate) + 4) / 4 * 16) for rate in rates) == list(range(16))
        assert sum(settings["optimizer"] == "sgd" for settings, _ in trials.values()) == 8
    first, second = by_cell(sweep).values()
    assert [settings["lr"] for settings, _ in first.values()] == [settings["lr"] for settings, _ in second.values()]


def test_a_grid_tries_every_point_once_in_every_cell(tmp_path):
    sweep = Sweep(tmp_path, *SAMPLERS["grid"]).run()
    for trials in by_cell(sweep).values():
        points = [(s["optimizer"], s["lr"], s.get("momentum")) for s, _ in trials.values()]
        assert len(set(points)) == len(points) == 9
        assert {lr for _, lr, _ in points} == {0.001, 0.01, 0.1}
        assert {momentum for optimizer, _, momentum in points if optimizer == "sgd"} == {0.0, 0.9}


def test_known_points_come_first_in_every_cell_and_the_sampler_fills_in_the_rest(tmp_path):
    points = "budget.start_from=[{lr: 0.25, optimizer: sgd, momentum: 0.5}, {lr: 0.125}]"
    sweep = Sweep(tmp_path, points).run()
    for trials in by_cell(sweep).values():
        settings = trials[0][0]
        assert (settings["lr"], settings["optimizer"], settings["momentum"]) == (0.25, "sgd", 0.5)
        assert trials[1][0]["lr"] == 0.125
        assert trials[1][0]["optimizer"] in ("sgd", "adam")
        assert trials[2][0]["lr"] not in (0.25, 0.125)


def spec_of(tmp_path, text):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    return load_spec(file)


def test_a_known_point_is_adapted_to_cells_that_tune_less_and_tried_there_once(tmp_path):
    spec = spec_of(
        tmp_path,
        """
name: s
axes: {arm: {plain: {regularizer: none}, ortho: {regularizer: orthonormal}}}
tune:
  lr: {low: 0.01, high: 1, log: true}
  ortho_weight: {low: 1e-5, high: 1, log: true, when: {regularizer: orthonormal}}
budget: {trials_per_cell: 4, start_from: [{lr: 0.1, ortho_weight: 1e-3}, {lr: 0.1, ortho_weight: 0.1}]}
""",
    )
    plain, ortho = build_cells(spec)
    assert plain.start == ({"lr": 0.1},)
    assert ortho.start == ({"lr": 0.1, "ortho_weight": 1e-3}, {"lr": 0.1, "ortho_weight": 0.1})


def test_known_points_choose_the_definition_whose_conditions_they_meet_and_name_choices(tmp_path):
    spec = spec_of(
        tmp_path,
        """
name: s
fixed: {modulation: anchor}
tune:
  optimizer: [sgd, adam]
  lr:
    - {low: 0.01, high: 1, log: true, when: {optimizer: sgd}}
    - {low: 1e-4, high: 1e-2, log: true, when: {optimizer: adam}}
  modulation_window: {choices: {always: [0, 1], start: [0, 0.1]}}
  batch_size: {low: 32, high: 128, step: 32}
budget:
  trials_per_cell: 4
  start_from: [{optimizer: adam, lr: 0.001, modulation_window: start, batch_size: 96}]
""",
    )
    (cell,) = build_cells(spec)
    expected = {"optimizer": "adam", "lr[optimizer=adam]": 0.001, "modulation_window": "start", "batch_size": 96}
    assert cell.start == (expected,)


POINTS = """
name: s
axes: {arm: {plain: {regularizer: none}, ortho: {regularizer: orthonormal}}}
tune:
  optimizer: [sgd, adam, rmsprop]
  lr:
    - {low: 0.01, high: 1, log: true, when: {optimizer: sgd}}
    - {low: 1e-4, high: 1e-2, log: true, when: {optimizer: [adam, rmsprop]}}
  momentum: {low: 0, high: 0.8, when: {optimizer: sgd}}
  ortho_weight: {low: 1e-5, high: 1, log: true, when: {regularizer: orthonormal}}
  batch_size: {low: 32, high: 128, step: 32}
  width: {low: 1, high: 64, log: true}
  warmup: {low: 0, high: 0.3, step: 0.1}
budget: {trials_per_cell: 6, sampler: auto}
"""


def points_of(cell, num=16, seed=0):
    return [shared_point(cell.space, seed, index) for index in range(num)]


def test_all_cells_share_their_points_whatever_else_they_tune_and_in_which_order(tmp_path):
    plain, ortho = build_cells(spec_of(tmp_path, POINTS))
    lines = POINTS.splitlines()
    reordered = "\n".join([*lines[:4], *reversed(lines[9:12]), *lines[4:8], lines[8], lines[12], lines[13]])
    (other, _) = build_cells(spec_of(tmp_path, reordered.replace("seed: 0", "")))
    with_more = [{n: v for n, v in point.items() if n != "ortho_weight"} for point in points_of(ortho)]
    assert points_of(plain) == with_more == points_of(other)
    assert all("ortho_weight" in point for point in points_of(ortho))


def test_a_parameter_keeps_its_values_when_another_one_is_added(tmp_path):
    before = "name: s\ntune: {lr: {low: 0.1, high: 1}}\nbudget: {trials_per_cell: 6, sampler: qmc}\n"
    after = before.replace("}}\nbudget", "}, batch_size: [8, 16], width: {low: 1, high: 64}}\nbudget")
    (one,), (three,) = (build_cells(spec_of(tmp_path, text)) for text in (before, after))
    assert [point["lr"] for point in points_of(one)] == [point["lr"] for point in points_of(three)]


def test_definitions_of_one_parameter_read_one_coordinate(tmp_path):
    lows = {"lr[optimizer=sgd]": 0.01, "lr[optimizer=adam|rmsprop]": 1e-4}
    numbers = []
    for point in points_of(build_cells(spec_of(tmp_path, POINTS))[0]):
        (name,) = point.keys() & lows
        assert (name == "lr[optimizer=sgd]") == (point["optimizer"] == "sgd") == ("momentum" in point)
        numbers.append(log10(point[name] / lows[name]) / 2)
    alone = "name: s\ntune: {lr: {low: 1, high: 2}}\nbudget: {trials_per_cell: 6}\n"
    expected = [point["lr"] for point in points_of(build_cells(spec_of(tmp_path, alone))[0])]
    assert numbers == pytest.approx([rate - 1 for rate in expected])


def test_every_kind_of_definition_takes_the_values_of_its_range_evenly(tmp_path):
    cell = build_cells(spec_of(tmp_path, POINTS))[0]
    points = points_of(cell, 64)
    # As many of 64 points in each of 2^m equal parts of [0, 1).
    assert Counter(point["batch_size"] for point in points) == {32: 16, 64: 16, 96: 16, 128: 16}
    assert Counter(point["warmup"] for point in points) == {0.0: 16, 0.1: 16, 0.2: 16, 0.3: 16}
    assert set(Counter(point["optimizer"] for point in points).values()) <= {21, 22}
    widths = [point["width"] for point in points]
    assert all(isinstance(width, int) and 1 <= width <= 64 for width in widths)
    # The length of log [1/2, 3/2] in that of log [1/2, 129/2], and the upper half of the logarithms.
    assert widths.count(1) in (14, 15)
    assert sum(width >= 6 for width in widths) == pytest.approx(32, abs=1)
    assert {"sgd", "adam", "rmsprop"} == {point["optimizer"] for point in points}
    for point in points:
        drawn = cell.space.suggest(Fixed(point))
        assert cell.config(drawn)["width"] == point["width"]


class Fixed:
    """Stands in for a trial that takes what a point says, as Optuna would."""

    def __init__(self, point):
        self.point = point

    def suggest_float(self, name, low, high, *, step, log):
        assert low <= self.point[name] <= high
        return self.point[name]

    def suggest_int(self, name, low, high, *, step, log):
        assert low <= self.point[name] <= high
        return self.point[name]

    def suggest_categorical(self, name, choices):
        assert self.point[name] in choices
        return self.point[name]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_few_points_of_a_parameter_lie_far_apart(tmp_path, seed):
    text = "name: s\ntune: {lr: {low: 1, high: 2}, momentum: {low: 0, high: 0.5}}\nbudget: {trials_per_cell: 6}\n"
    (cell,) = build_cells(spec_of(tmp_path, text))
    points = points_of(cell, 128, seed)
    for values in ([point["lr"] - 1 for point in points], [2 * point["momentum"] for point in points]):
        for num in (4, 8, 64, 128):
            assert sorted(int(value * num) for value in values[:num]) == list(range(num))


def test_another_study_has_other_points(tmp_path):
    (cell,) = build_cells(spec_of(tmp_path, "name: s\ntune: {lr: {low: 1, high: 2}}\nbudget: {trials_per_cell: 6}\n"))
    values = {point["lr"] for study in range(5) for point in points_of(cell, 16, study_seed(3, study))}
    assert len(values) == 5 * 16


def test_no_two_names_share_a_coordinate_and_only_equal_choices_move_one():
    names = tuple(f"p{number}" for number in range(NUM_COORDINATES))
    for seed in range(3):
        found = coordinates(seed, names)
        assert sorted(found.values()) == list(range(NUM_COORDINATES))
    alone = {name: coordinates(0, (name,))[name] for name in names}
    wanted = Counter(alone.values())
    found = coordinates(0, names)
    assert all(found[name] == alone[name] for name in names if wanted[alone[name]] == 1)
    assert coordinates(0, names[::-1]) == found
    with pytest.raises(ValueError, match="257 names need more than 256 coordinates"):
        coordinates(0, (*names, "q"))


def test_the_points_are_those_of_the_first_version(tmp_path):
    """What the rule gives must not change without SEQUENCE_VERSION: cells that go on would mix two sequences."""
    (cell,) = build_cells(spec_of(tmp_path, "name: s\ntune: {lr: {low: 1, high: 2}}\nbudget: {trials_per_cell: 6}\n"))
    assert [round(point["lr"], 6) for point in points_of(cell, 4)] == FIRST_VERSION


def test_more_parameters_than_coordinates_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.sweepfile.combinations.NUM_COORDINATES", 1)
    text = "name: s\ntune: {lr: {low: 1, high: 2}, width: [8, 16]}\nbudget: {trials_per_cell: 6, sampler: SAMPLER}\n"
    for sampler in ("auto", "qmc"):
        with pytest.raises(SpecError, match=rf"2:1: sampler {sampler} takes at most 1 tuned parameters, but got 2"):
            spec_of(tmp_path, text.replace("SAMPLER", sampler))
    assert spec_of(tmp_path, text.replace("SAMPLER", "tpe"))


@pytest.mark.parametrize(("sampler", "trials", "num"), [
    ("auto", 1, 1), ("auto", 3, 3), ("auto", 6, 6), ("auto", 7, 6), ("auto", 9, 6), ("auto", 10, 7), ("auto", 24, 16),
    ("qmc", 7, 7), ("tpe", 7, 0), ("random", 7, 0), ("grid", 7, 0),
])  # fmt: skip
def test_two_thirds_of_auto_are_shared_points_and_six_at_least(sampler, trials, num):
    assert num_shared(sampler, trials) == num


def test_the_last_third_of_auto_follows_the_results_and_the_rest_does_not(tmp_path):
    folders(tmp_path, "low", "high", "again")
    overrides = ["axes.depth=[8]", "budget.sampler=auto", "budget.trials_per_cell=12", "budget.pruner=none"]
    found = {}
    for name, best in (("low", 1e-3), ("high", 0.5), ("again", 1e-3)):

        def score(settings, phase, best=best):
            return 1 - abs(log10(settings["lr"] / best)) / 4

        sweep = Sweep(tmp_path / name, *overrides, "confirm.seeds=0", score=score).run()
        found[name] = [[trials[k][0]["lr"] for k in range(12)] for trials in by_cell(sweep).values()]
    assert found["again"] == found["low"]
    for low, high in zip(found["low"], found["high"], strict=True):
        assert low[:8] == high[:8] == found["low"][0][:8]
        assert len(set(low[8:]) - set(high[8:])) >= 3
    # Other cells are guided by their own results, with draws of their own.
    assert found["low"][0][8:] != found["low"][1][8:]


def test_trials_after_the_shared_points_are_guided_by_however_few_have_ended(tmp_path):
    """None is drawn at random: with a single result TPE would draw at random if it waited for more."""
    sampler = build_sampler("auto", num_startup=5, seed=0)
    assert sampler._n_startup_trials == 1
    assert build_sampler("tpe", num_startup=5, seed=0)._n_startup_trials == 5


@pytest.mark.parametrize("sampler", ["auto", "qmc"])
def test_trial_k_takes_shared_point_k_and_a_known_point_replaces_what_it_says(tmp_path, sampler):
    start = "budget.start_from=[{lr: 0.25}, {optimizer: sgd, momentum: 0.5}]"
    sweep = Sweep(tmp_path, f"budget.sampler={sampler}", start, "budget.pruner=none", "confirm.seeds=0").run()
    for run, trials in zip(sweep.schedule.studies, by_cell(sweep).values(), strict=True):
        expected = [
            shared_point(run.cell.space, 0, 0, {"lr": 0.25}),
            shared_point(run.cell.space, 0, 1, {"optimizer": "sgd", "momentum": 0.5}),
            *(shared_point(run.cell.space, 0, number) for number in range(2, 5)),
        ]
        for number, point in enumerate(expected):
            assert {name: trials[number][0][name] for name in point} == point
        assert expected[0]["lr"] == 0.25
        assert expected[1]["momentum"] == 0.5
        assert expected[1]["lr"] == shared_point(run.cell.space, 0, 1)["lr"]


def test_keys_of_cells_have_the_version_of_shared_points_where_they_use_them(tmp_path, monkeypatch):
    def keys(sampler):
        return [cell.key for cell in build_cells(spec_of(tmp_path, POINTS.replace("auto", sampler)))]

    names = ("auto", "qmc", "tpe", "random")
    before = {name: keys(name) for name in names}
    assert before["tpe"] == KEYS_OF_TPE
    monkeypatch.setattr("ablate.sweepfile.cells.SEQUENCE_VERSION", 2)
    assert {name: keys(name) == before[name] for name in names} == {
        "auto": False, "qmc": False, "tpe": True, "random": True,
    }  # fmt: skip


def searches(tmp_path, text, sampler, trials, seed=0):
    spec = spec_of(tmp_path, text)
    storage = new_storage(tmp_path / "optuna.journal")
    return [
        CellSearch(
            storage, cell.name or "cell", cell, sampler=sampler, pruner="none", num_tune=trials, num_epochs=2,
            seed=seed, objective=spec.task.metric(spec.task.objective),
        )
        for cell in build_cells(spec)
    ]  # fmt: skip


def proposed(search, num, score=lambda params: 0.5):
    found = []
    for number in range(num):
        _, params = search.ask(number)
        search.study.tell(search.trials[number], score(params))
        found.append(params)
    return found


TWO = "name: s\naxes: {depth: [8, 14]}\ntune: {optimizer: [sgd, nesterov]}\nbudget: {trials_per_cell: 2}\n"
SIX = TWO.replace("nesterov]", "nesterov, adam], batch_size: {low: 32, high: 64, step: 32}")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sampler", ["auto", "qmc", "tpe", "random"])
def test_two_trials_of_two_choices_try_both(tmp_path, sampler, seed):
    for search in searches(tmp_path, TWO, sampler, 2, seed):
        assert {point["optimizer"] for point in proposed(search, 2)} == {"sgd", "nesterov"}


@pytest.mark.parametrize("sampler", ["auto", "qmc", "tpe", "random"])
def test_points_of_a_finite_space_come_again_when_all_were_tried_and_equally_often(tmp_path, sampler):
    for search in searches(tmp_path, SIX, sampler, 20):
        points = [json.dumps(point, sort_keys=True) for point in proposed(search, 20)]
        assert len(set(points[:6])) == len(set(points[6:12])) == len(set(points[12:18])) == 6
        assert len(set(points[18:])) == 2


def test_cells_of_an_equal_finite_space_share_its_points_too(tmp_path):
    for sampler in ("qmc", "auto"):
        first, second = searches(tmp_path, SIX, sampler, 12)
        shared = num_shared(sampler, 12)
        assert proposed(first, shared) == proposed(second, shared, lambda params: len(params["optimizer"]))
    points = {json.dumps(proposed(searches(tmp_path, SIX, "qmc", 6, seed)[0], 6)) for seed in range(6)}
    assert len(points) > 1


def test_a_point_that_was_tried_gives_way_to_one_that_is_like_it(tmp_path):
    text = SIX.replace("[sgd, nesterov, adam]", "[sgd, nesterov, adam, rmsprop]")
    for search in searches(tmp_path, text, "qmc", 8):
        points = proposed(search, 8)
        for number, point in enumerate(points):
            own = shared_point(search.cell.space, 0, number)
            assert own in points[: number + 1]
            if own not in points[:number]:
                assert point == own
            elif any(len(own.items() - other.items()) == 1 for other in points[number:]):
                assert len(own.items() - point.items()) == 1


def test_known_points_of_a_finite_space_are_tried_as_they_are_and_not_again(tmp_path):
    known = "[{optimizer: adam, batch_size: 64}, {optimizer: sgd, batch_size: 32}]"
    text = SIX.replace("2}\n", f"6, start_from: {known}}}\n")
    for sampler in ("auto", "qmc", "tpe", "random"):
        for search in searches(tmp_path, text, sampler, 6):
            points = proposed(search, 6)
            assert points[:2] == [{"optimizer": "adam", "batch_size": 64}, {"optimizer": "sgd", "batch_size": 32}]
            assert len({json.dumps(point, sort_keys=True) for point in points}) == 6


def test_proposals_that_were_recorded_are_repeated_and_count_as_tried(tmp_path):
    for sampler in ("auto", "qmc", "tpe", "random"):
        search = searches(tmp_path, TWO, sampler, 3)[0]
        for number in range(2):
            assert search.ask(number, known={"optimizer": "sgd"})[1] == {"optimizer": "sgd"}
        assert search.ask(2)[1] == {"optimizer": "nesterov"}


def test_a_finite_space_leaves_what_a_sampler_proposes_where_nothing_was_tried_before(tmp_path):
    """Drawing a point to look at it is drawing it."""
    tune = "{lr: {low: 1, high: 101, step: 0.0625}, optimizer: [sgd, adam]}"
    text = f"name: s\ntune: {tune}\nbudget: {{trials_per_cell: 9}}\n"
    for sampler in ("tpe", "random"):
        (search,), (free,) = searches(tmp_path, text, sampler, 9), searches(tmp_path, text, sampler, 9)
        assert search.is_finite
        free.is_finite = False
        score = {"score": lambda params: params["lr"] / 100}
        assert proposed(search, 9, **score) == proposed(free, 9, **score)


def test_the_number_of_points_is_that_of_the_grid_without_walking_it(tmp_path):
    tune = [
        ("{lr: {low: 0.1, high: 1}}", None),
        ("{optimizer: [sgd, adam], lr: [{low: 0.1, high: 1, when: {optimizer: sgd}}, "
         "{low: 0.1, high: 0.2, step: 0.1, when: {optimizer: adam}}]}", None),
        ("{lr: [0.1, 1], optimizer: [sgd, adam]}", 4),
        ("{optimizer: [sgd, adam], momentum: {low: 0, high: 0.5, step: 0.25, when: {optimizer: sgd}}, "
         "batch_size: {low: 32, high: 64, step: 32}}", 8),
        ("{width: {low: 1, high: 3}, batch_size: {choices: [8, 16], when: {width: [1, 2]}}, lr: [0.1, 1]}", 10),
        ("{width: {low: 1, high: 100}, batch_size: {low: 2, high: 101}}", MAX_POINTS),
        ("{width: {low: 1, high: 73}, batch_size: {low: 2, high: 138}}", None),
        ("{}", 1),
    ]  # fmt: skip
    for text, expected in tune:
        spec = spec_of(tmp_path, f"name: s\ntune: {text}\nbudget: {{trials_per_cell: 3}}\n")
        (cell,) = build_cells(spec)
        assert num_points(cell.space) == expected, text
        if expected is not None:
            points = [sorted(point.items()) for point in grid(cell.space)]
            assert len(points) == expected
            assert sorted(points) == sorted(sorted(point.items()) for point in any_order(cell.space))


def test_the_last_value_of_a_stepped_range_is_its_end(tmp_path):
    text = "name: s\ntune: {momentum: {low: 0, high: 0.3, step: 0.1}}\nbudget: {trials_per_cell: 4, sampler: grid}\n"
    assert max(point["momentum"] for point in grid(build_cells(spec_of(tmp_path, text))[0].space)) == 0.3


def test_points_of_a_grid_follow_the_conditions(tmp_path):
    spec = spec_of(
        tmp_path,
        """
name: s
tune:
  optimizer: [sgd, adam]
  momentum: {low: 0, high: 0.5, step: 0.25, when: {optimizer: sgd}}
  batch_size: {low: 32, high: 64, step: 32}
budget: {trials_per_cell: 8, sampler: grid}
""",
    )
    points = grid(build_cells(spec)[0].space)
    assert len(points) == 2 * 3 + 2
    assert {"optimizer": "adam", "batch_size": 64} in points
    assert {"optimizer": "sgd", "momentum": 0.25, "batch_size": 32} in points


WRONG = {
    "median_of_two": ("{trials_per_cell: 2, pruner: median}", "", "2:38: the pruner median has nothing to judge:"
                      " it needs at least 3 trials a cell, but trials_per_cell is 2"),
    "halving_of_one": ("{trials_per_cell: 1, pruner: hyperband}", "",
                       "2:38: the pruner hyperband has nothing to judge"),
    "one_epoch": ("{trials_per_cell: 9, pruner: median}", "fixed: {epochs: 1}", "2:38: the pruner median has nothing to"
                  " judge: with epochs 1 no trial can be stopped before its end. Set pruner: none"),
    "audit_without_pruner": ("{trials_per_cell: 9, pruner: none, audit: 2}", "", "2:51: audit needs a pruner"),
    "runner_up_without_seeds": ("{trials_per_cell: 9}", "confirm: {seeds: 0, runner_up: true}",
                                "3:32: runner_up needs confirm trials, but seeds is 0"),
    "weights_without_seeds": ("{trials_per_cell: 9}", "confirm: {seeds: 0, keep_weights: true}",
                              "3:35: keep_weights needs confirm trials, but seeds is 0"),
    "runner_up_of_one": ("{trials_per_cell: 1}", "confirm: {runner_up: true}",
                         "3:22: runner_up needs at least 2 trials a cell, but trials_per_cell is 1"),
    "negative_audit": ("{trials_per_cell: 9, audit: -1}", "", "2:37: audit must be greater than or equal to 0"),
    "unknown_sampler": ("{trials_per_cell: 9, sampler: sobol}", "",
                        "2:39: unknown sampler 'sobol'. Available: auto, grid"),
    "grid_over_a_range": ("{trials_per_cell: 9, sampler: grid}", "tune: {lr: {low: 0.1, high: 1}}",
                          "3:8: sampler grid needs a step or choices for lr"),
    "grid_of_another_size": ("{trials_per_cell: 9, sampler: grid}", "tune: {lr: [0.1, 1]}",
                             "2:27: sampler grid needs as many points in every cell as trials_per_cell, but got 9 and"
                             " points the only cell: 2"),
    "grid_of_unequal_cells": (
        "{trials_per_cell: 2, sampler: grid}",
        "axes: {regularizer: [none, l2]}\ntune: {weight_decay: [0.1, 1], lr: [0.1, 1]}",
        "2:27: sampler grid .* points regularizer=l2: 4",
    ),
    "endless_grid": ("{trials_per_cell: 9, sampler: grid}", "tune: {width: {low: 1, high: 20000}}",
                     "2:27: .* more than 10000"),
    "grid_and_points": ("{trials_per_cell: 2, sampler: grid, start_from: [{lr: 1}]}", "tune: {lr: [0.1, 1]}",
                        "2:45: start_from and sampler grid cannot be combined"),
    "more_points_than_trials": ("{trials_per_cell: 1, start_from: [{lr: 1}, {lr: 0.1}]}", "tune: {lr: [0.1, 1]}",
                                "2:30: start_from has 2 points, but trials_per_cell is 1"),
    "empty_point": ("{trials_per_cell: 3, start_from: [{}]}", "tune: {lr: [0.1, 1]}", "2:43: a known point names no"),
    "point_is_a_number": ("{trials_per_cell: 3, start_from: [3]}", "tune: {lr: [0.1, 1]}",
                          "2:43: start_from must be a mapping"),
    "point_of_the_untuned": ("{trials_per_cell: 3, start_from: [{depth: 8}]}", "tune: {lr: [0.1, 1]}",
                             "2:44: 'depth' is not tuned here: known points name tuned parameters. Available: lr"),
    "unknown_in_point": ("{trials_per_cell: 3, start_from: [{rl: 8}]}", "tune: {lr: [0.1, 1]}",
                         "2:44: 'rl' is no parameter: known points name tuned parameters. Available: lr"),
    "point_out_of_range": ("{trials_per_cell: 3, start_from: [{lr: 8}]}", "tune: {lr: {low: 0.1, high: 1}}",
                           "2:48: lr takes 0.1 to 1, but got 8"),
    "point_between_steps": ("{trials_per_cell: 3, start_from: [{width: 9}]}",
                            "tune: {width: {low: 8, high: 16, step: 4}}",
                            "2:51: width takes 8 to 16 in steps of 4, but got 9"),
    "point_is_no_choice": ("{trials_per_cell: 3, start_from: [{optimizer: sgdd}]}", "tune: {optimizer: [sgd, adam]}",
                           "2:55: optimizer takes sgd, adam, but got 'sgdd'"),
    "point_in_one_of_two_ranges": (
        "{trials_per_cell: 3, start_from: [{lr: 0.5}]}",
        "tune:\n  optimizer: [sgd, adam]\n  lr:\n    - {low: 0.1, high: 1, when: {optimizer: sgd}}\n"
        "    - {low: 0.01, high: 0.1, when: {optimizer: adam}}",
        r"2:48: lr\[optimizer=adam\] takes 0.01 to 0.1, but got 0.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_combination_is_one_line_with_its_place(tmp_path, case):
    budget, rest, problem = WRONG[case]
    file = tmp_path / "s.yaml"
    file.write_text(f"name: s\nbudget: {budget}\n{rest}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    (line,) = str(caught.value).splitlines()
    assert re.match(problem, line.removeprefix(f"{file}:")), line


def test_a_quick_look_by_set_may_leave_the_pruner_idle_and_the_runner_up_out(tmp_path):
    file = tmp_path / "s.yaml"
    text = "name: s\nbudget: {trials_per_cell: 9, pruner: median}\nconfirm: {seeds: 2, runner_up: true}\n"
    file.write_text(text)
    assert load_spec(file, None, ["budget.trials_per_cell=1"]).budget.trials_per_cell == 1
    assert load_spec(file, None, ["confirm.seeds=0"]).confirm.seeds == 0


def test_seeds_that_collide_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.sweepfile.combinations.derive_seed", lambda root, phase, number: number)
    text = "name: s\nbudget: {trials_per_cell: 2, pruner: none}\n"
    for line, place in (("", "s.yaml:1:1"), ("seed: 0\n", "s.yaml:3:7")):
        with pytest.raises(SpecError, match=rf"{place}: two trials of a cell would share a seed with seed 0: take"):
            spec_of(tmp_path, text + line)
