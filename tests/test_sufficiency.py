"""Signs that tuning did not suffice, the command that would settle each, and what stands beside the table."""

import csv
import dataclasses
import json
import shlex

import pytest
from synthetic import VAL_ACCURACY, Synthetic

from ablate.command_lines import Commands
from ablate.report.appendix import origin_lines, regret_text
from ablate.report.build import build_report
from ablate.report.sufficiency import command, doubts, legend
from ablate.run.plan import make_plan
from ablate.store.declaration import (
    CellTrials,
    Declaration,
    DeclaredCell,
    Proposal,
    StudyTrials,
    SweepFolder,
    cell_trials,
    collect,
)
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.sweepfile.cells import build_cells
from ablate.sweepfile.spec import load_spec
from ablate.tasks.image_classification.config import OBJECTIVE, measured

LR = {"name": "lr", "kind": "float", "low": 0.001, "high": 1.0, "log": True, "step": None, "when": {}}
MOMENTUM = {"name": "momentum", "kind": "float", "low": 0.0, "high": 0.9, "log": False, "step": None, "when": {}}
WIDTH = {"name": "width", "kind": "int", "low": 8, "high": 16, "log": False, "step": 4, "when": {}}
TUNE = {
    "lr": {"low": 0.001, "high": 1.0, "log": True},
    "momentum": {"low": 0, "high": 0.9},
    "width": {"low": 8, "high": 16, "step": 4},
}


def record(number: int, accuracy: float | None, curve=None) -> TrialRecord:
    return TrialRecord(
        key=f"k{number}", fingerprint="f", seed=number, phase="tune", rows={}, data_digest="d", settings={},
        state="diverged" if accuracy is None else "complete", diverged_step=number,
        metrics={} if accuracy is None else {"val_accuracy": accuracy},
        curves={"val_accuracy": curve if curve is not None else [accuracy] * 10},
    )  # fmt: skip


def cell(accuracies, params=None, curve=None) -> tuple[Declaration, StudyTrials]:
    """The study of a cell, whose best trial has these sampled values and this curve."""
    declared = DeclaredCell(
        key="c", levels={"arm": "plain"}, settings={"epochs": 10}, tuned=["lr"],
        space={"lr": [LR], "momentum": [MOMENTUM], "width": [WIDTH]},
    )  # fmt: skip
    best = max(range(len(accuracies)), key=lambda number: accuracies[number] or 0)
    tune = [
        (
            Proposal(cell="c", phase="tune", number=n, key=f"k{n}", seed=n, settings={"epochs": 10},
                     params=(params or {"lr": 0.03}) if n == best else {}),
            record(n, accuracy, curve if n == best else None),
        )
        for n, accuracy in enumerate(accuracies)
    ]  # fmt: skip
    declaration = Declaration(
        sweep="s", name="s", profile="small", question="", axes={"arm": ["plain"]}, cells=[declared],
        num_tune=len(tune), num_seeds=1, sampler="tpe", pruner="none", seed=0,
        report={"metric": "test_accuracy"}, tune=TUNE, metrics=measured({"num_classes": 10}), objective=OBJECTIVE,
        data={"num_classes": 10}, file="/home/alice/s.yaml", overrides=["budget.trials_per_cell=6", "seed=3"],
    )  # fmt: skip
    return declaration, StudyTrials(cell=declared, number=0, objective=VAL_ACCURACY, tune=tune, confirm=[], extra=[])


CALM = [0.9, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_a_calm_cell_raises_no_doubt():
    assert doubts(*cell(CALM)) == []
    assert legend(cell(CALM)[0], [cell_trials([cell(CALM)[1]])], Commands()) == []


@pytest.mark.parametrize(
    ("params", "text", "key", "value"),
    [
        ({"lr": 0.9}, "the best lr 0.9 is at the upper end of 0.001 to 1", "tune.lr",
         {"low": 0.001, "high": 10.0, "log": True}),
        ({"lr": 0.0011}, "the best lr 0.0011 is at the lower end of 0.001 to 1", "tune.lr",
         {"low": 0.0001, "high": 1.0, "log": True}),
        ({"momentum": 0.89}, "upper end of 0 to 0.9", "tune.momentum", {"low": 0, "high": 0.999999}),
        ({"width": 16}, "the best width 16 is at the upper end", "tune.width", {"low": 8, "high": 24, "step": 4}),
    ],
)  # fmt: skip
def test_a_best_value_at_the_edge_of_its_range_asks_for_a_wider_one(params, text, key, value):
    (doubt,) = doubts(*cell(CALM, params))
    assert (doubt.kind, doubt.key, doubt.value) == ("edge", key, value)
    assert text in doubt.text


@pytest.mark.parametrize(
    ("name", "range_", "best", "ends"),
    [
        ("lr", {"low": 0.01, "high": 0.5}, 0.011, {"low": 0.001}),  # lr must be > 0
        ("batch_size", {"low": 32, "high": 128, "step": 32}, 128, {"high": 224}),
        ("batch_size", {"low": 64, "high": 1000}, 990, None),  # of 1077 images 5% would be no whole step
        ("batch_size", {"low": 64, "high": 1000}, 1000, {"high": 1077}),
        ("width", {"low": 5, "high": 29, "step": 8}, 5, None),
        ("momentum", {"low": 0.1, "high": 0.9, "step": 0.2}, 0.1, None),
        ("momentum", {"low": 0.3, "high": 0.9, "step": 0.2}, 0.3, {"low": 0.1}),
    ],
)
def test_every_command_that_is_printed_is_one_that_the_sweep_file_takes(tmp_path, name, range_, best, ends):
    (tmp_path / "s.yaml").write_text(
        "name: s\nfixed: {depth: 8}\naxes: {arm: {plain: {shortcut: none}}}\nbudget: {trials_per_cell: 6}\n"
        f"tune: {{{name}: {json.dumps(range_)}}}\n"
    )
    definition = build_cells(load_spec(tmp_path / "s.yaml"))[0].space.describe()[name][0]
    declaration, trials = cell(CALM, {name: best})
    declared = dataclasses.replace(declaration.cells[0], space={name: [definition]})
    changed = dataclasses.replace(
        declaration, cells=[declared], tune={name: range_}, data={"num_classes": 10, "num_train": 1077}, profile="",
        overrides=[],
    )  # fmt: skip
    found = doubts(changed, trials)
    if ends is None:
        assert found == []
        return
    (doubt,) = found
    assert doubt.value == range_ | ends
    overrides = shlex.split(command(changed, doubt, Commands()))[5:]
    assert load_spec(tmp_path / "s.yaml", None, overrides).tune
    (doubt,) = doubts(dataclasses.replace(changed, sampler="grid"), trials)
    assert (doubt.kind, doubt.key) == ("edge", ""), "a wider grid has more points than the budget"


def test_a_winner_that_diverged_is_always_doubted():
    declaration, trials = cell([None] * 3 + [0.5] * 3)
    pruned = [(p, dataclasses.replace(r, state="pruned") if r.state == "complete" else r) for p, r in trials.tune]
    (doubt,) = doubts(declaration, dataclasses.replace(trials, tune=pruned))
    text = "3 of 6 tune trials diverged and none came to its end, so the one that lasted longest was confirmed"
    assert doubt.text == text
    (doubt,) = doubts(dataclasses.replace(declaration, sampler="grid"), dataclasses.replace(trials, tune=pruned))
    assert doubt.key == ""


def test_an_end_that_no_value_can_pass_is_no_edge():
    assert doubts(*cell(CALM, {"momentum": 0.001})) == []
    assert doubts(*cell(CALM, {"width": 12})) == []


def test_one_of_several_definitions_is_widened_and_the_others_stay():
    declaration, trials = cell(CALM, {"lr[optimizer=adam]": 0.0099})
    definition = {**LR, "name": "lr[optimizer=adam]", "low": 1e-4, "high": 1e-2}
    declared = dataclasses.replace(declaration.cells[0], space={"lr": [LR, definition]})
    raw = [{"low": 0.001, "high": 1.0, "log": True, "when": {"optimizer": "sgd"}},
           {"low": 1e-4, "high": 1e-2, "log": True, "when": {"optimizer": "adam"}}]  # fmt: skip
    (doubt,) = doubts(dataclasses.replace(declaration, cells=[declared], tune={"lr": raw}), trials)
    assert doubt.value == [raw[0], {**raw[1], "high": 0.1}]
    assert raw[1]["high"] == 1e-2


def test_a_curve_that_still_rises_asks_for_more_epochs():
    curve = [0.1 * epoch for epoch in range(1, 10)] + [0.9]
    declaration, trials = cell(CALM, curve=curve)
    (doubt,) = doubts(declaration, trials)
    assert (doubt.kind, doubt.key, doubt.value) == ("epochs", "fixed.epochs", 20)
    assert "still rose by 15.0 points in the last fifth of training" in doubt.text


def test_divergence_of_most_trials_and_a_late_improvement_ask_for_more_trials():
    (doubt,) = doubts(*cell([0.9, None, None, None, None, 0.5]))
    assert (doubt.kind, doubt.value, doubt.text) == ("divergence", 12, "4 of 6 tune trials diverged")
    (doubt,) = doubts(*cell([None] * 6))
    assert "every tune trial diverged, so the one that lasted longest was confirmed" in doubt.text
    (doubt,) = doubts(*cell([0.5, 0.6, 0.7, 0.7, 0.7, 0.9]))
    assert (doubt.kind, doubt.value) == ("trials", 9)
    assert "the last 2 of 6 tune trials raised the best validation accuracy by 20.0 points" in doubt.text


FINITE = """
name: s
axes: {depth: [8]}
tune:
  optimizer: [sgd, adam]
  lr: [0.001, 0.01]
  momentum: {low: 0, high: 0.9, step: 0.9}
budget: {studies: 5, trials: 9}
"""


def test_more_trials_are_not_asked_of_a_study_that_tried_all_points(tmp_path):
    (tmp_path / "s.yaml").write_text(FINITE)
    declared = make_plan(tmp_path / "s.yaml", None, [], tmp_path / "runs").declaration
    # adam has no momentum: 2 rates with each of 2 momenta, and 2 rates without.
    assert (declared.cells[0].num_points, declared.num_tune) == (6, 6)

    def found(accuracies, num_tried):
        declaration, trials = cell(accuracies)
        finite = dataclasses.replace(trials.cell, num_points=6)
        tune = [(dataclasses.replace(p, params={"point": p.number % num_tried}), r) for p, r in trials.tune]
        return doubts(declaration, dataclasses.replace(trials, cell=finite, tune=tune))

    late, lost = [0.5, 0.6, 0.7, 0.7, 0.7, 0.9], [0.9, None, None, None, None, 0.5]
    assert found(late, 6) == []
    assert [doubt.kind for doubt in found(late, 5)] == ["trials"]
    ((settled,), (more,)) = (found(lost, num_tried) for num_tried in (6, 5))
    assert settled.text == more.text == "4 of 6 tune trials diverged"
    assert (settled.key, more.key) == ("", "budget.trials_per_cell")


def test_an_unfinished_cell_is_not_judged():
    declaration, trials = cell([None] * 6)
    assert doubts(dataclasses.replace(declaration, num_tune=7), trials) == []


def test_the_command_that_settles_it_is_whole_and_replaces_an_earlier_set():
    declaration, trials = cell([0.5, 0.6, 0.7, 0.7, 0.7, 0.9], {"lr": 1.0})
    edge, more = doubts(declaration, trials)
    parts = shlex.split(command(declaration, more, Commands()))
    assert parts == ["python", "cli.py", "sweep", "s.yaml", "--profile", "small", "--set", "seed=3",
                     "--set", "budget.trials_per_cell=9"]  # fmt: skip
    wider = 'tune.lr={"low": 0.001, "high": 10.0, "log": true}'
    assert shlex.split(command(declaration, edge, Commands()))[-1] == wider
    lines = legend(declaration, [cell_trials([trials])], Commands())
    assert lines[0].startswith("† Tuning may not have sufficed for arm=plain (the best lr 1 is at the upper end")
    assert lines[0].endswith("(it reruns every cell, and a new winner is confirmed anew)")
    assert lines[1].endswith("(it runs only what is missing, and a new winner is confirmed anew)")


def test_the_report_marks_the_entry_and_says_why(tmp_path):
    sweep = Synthetic(tmp_path / "runs", tune_states=("complete", *["diverged"] * 4, "failed"))
    sweep.write()
    made = build_report(tmp_path / "runs", sweep.sweep, tmp_path / "report")
    assert made.table.count("] †") == 9
    line = "4 of 6 tune trials diverged"
    for name in ("table.md", "report.html"):
        assert line in (tmp_path / "report" / name).read_text()
    assert r"\textdagger{} tuning may not have sufficed" in (tmp_path / "report" / "table.tex").read_text()
    rows = list(csv.DictReader((tmp_path / "report" / "table.csv").open()))
    assert [(row["mark"], row["doubts"]) for row in rows] == [("†", line)] * 9
    plain = Synthetic(tmp_path / "plain")
    plain.write()
    assert "†" not in build_report(tmp_path / "plain", plain.sweep, tmp_path / "report2").table
    rows = list(csv.DictReader((tmp_path / "report2" / "table.csv").open()))
    assert {(row["mark"], row["doubts"]) for row in rows} == {("", "")}


def test_the_epochs_that_were_really_spent_are_told_for_every_cell(tmp_path):
    sweep = Synthetic(tmp_path / "runs")
    sweep.write()
    build_report(tmp_path / "runs", sweep.sweep, tmp_path / "report")
    # Of six tune trials three are complete (12 epochs), one was stopped (4), one diverged (3); and three confirm seeds.
    tuned, confirmed = 3 * 12 + 4 + 3, 3 * 12
    cells = f'<td class="number">{tuned}</td><td class="number">{confirmed}</td>'
    assert (tmp_path / "report" / "report.html").read_text().count(cells) == 9
    rows = list(csv.DictReader((tmp_path / "report" / "table.csv").open()))
    assert [row["num_epochs"] for row in rows] == [str(tuned + confirmed)] * 9


def test_trials_of_another_commit_are_counted_in_the_footer(tmp_path):
    sweep = Synthetic(tmp_path / "runs")
    declaration = sweep.write()
    folder, ledger = SweepFolder(tmp_path / "runs", sweep.sweep), Ledger(tmp_path / "runs")
    _, found = collect(declaration, folder.read_proposals(), ledger)[0].tune[0]
    ledger.path(found.key).unlink()
    ledger.write(dataclasses.replace(found, provenance={**found.provenance, "git_sha": "abc"}))
    build_report(tmp_path / "runs", sweep.sweep, tmp_path / "report")
    footer = (tmp_path / "report" / "report.html").read_text().rpartition("<footer")[2]
    assert "The trials are from 2 commits: 80 from 946241c and 1 from abc." in footer


def test_runner_up_audit_and_origin_stand_in_the_report(tmp_path):
    sweep = Synthetic(tmp_path / "runs")
    declaration = dataclasses.replace(sweep.write(), runner_up=True, audit=1)
    folder, ledger = SweepFolder(tmp_path / "runs", sweep.sweep), Ledger(tmp_path / "runs")
    folder.write_declaration(declaration, "")
    for trials in (study for cell in collect(declaration, folder.read_proposals(), ledger) for study in cell.studies):
        second, winner = trials.runner_up(), trials.winner()
        sources = [("runner_up", 0, 1000, second), ("audit", 2, trials.stopped()[0].seed, trials.stopped()[0])]
        for phase, number, seed, source in sources:
            fingerprint = source.key.partition("-")[0]
            key = f"{fingerprint}-{seed:014x}"
            folder.append_proposal(dataclasses.replace(source, phase=phase, number=number, key=key, seed=seed))
            value = 0.75 if phase == "runner_up" else 1.0
            ledger.write(dataclasses.replace(
                record(number, value), key=key, fingerprint=fingerprint, seed=seed, settings=source.settings,
                phase="confirm" if phase == "runner_up" else "tune",
                metrics={"val_accuracy": value, "test_accuracy": value}, provenance={"torch": "1.0"},
            ))  # fmt: skip
        assert winner.settings != second.settings
    cells = collect(declaration, folder.read_proposals(), ledger)
    assert regret_text(cells).startswith(
        "Audit of the pruner: of 9 stopped trials that were run to their end after tuning"
    )
    assert "9 would have beaten the winner of their cell, by at most" in regret_text(cells)
    assert "The rank regret of a cell is how many did" in regret_text(cells)
    made = build_report(tmp_path / "runs", sweep.sweep, tmp_path / "report")
    html = (tmp_path / "report" / "report.html").read_text()
    for text in ("The runner-up of each cell", "Audit of the pruner"):
        assert text in html
        assert text in made.table
    assert "It never makes the entry" in html
    assert origin_lines(cells) == []
    mixed = [dataclasses.replace(r, provenance={"git_sha": "abc"}) for r in [record(1, 0.5)]]
    both = [
        CellTrials(
            cells[0].cell,
            [(cells[0].tune[0][0], r) for r in [*mixed, cells[0].tune[0][1]]],
            [],
            objective=cells[0].objective,
        )
    ]
    assert origin_lines(both)[0] == "The trials are from 2 commits: 1 from abc and 1 from 946241c."
    clean, changed = ({"git_sha": "946241c", "git_dirty": dirty} for dirty in ("no", "yes"))
    two = [dataclasses.replace(r, provenance=p) for r, p in zip([record(1, 0.5)] * 2, (clean, changed), strict=True)]
    both = [CellTrials(cells[0].cell, [(cells[0].tune[0][0], r) for r in two], [], objective=cells[0].objective)]
    assert origin_lines(both)[0] == "The trials are from 2 commits: 1 from 946241c and 1 from 946241c with changes."


@pytest.mark.parametrize(("length", "key"), [("steps", "fixed.steps"), ("", "")])
def test_longer_training_is_asked_for_by_the_parameter_that_says_how_long_it_is(length, key):
    declaration, trials = cell([0.2, 0.6], curve=[number / 10 for number in range(10)])
    (doubt,) = [
        each for each in doubts(dataclasses.replace(declaration, length=length), trials) if each.kind == "epochs"
    ]
    assert (doubt.key, doubt.value) == (key, 20 if key else None)
