"""What the further figures are made of, and published figures."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from shared_work import meet_and_draw
from synthetic import ARMS, DEPTHS, TEST_ACCURACY, VAL_ACCURACY, Synthetic

from ablate import processes
from ablate.report import drawing, figures, tables
from ablate.report.curves import MAX_POINTS, decimated, learning_curves
from ablate.report.entries import Entry, entries
from ablate.report.entries import entry as entry_of
from ablate.report.importance import importance_figure, importances, slices_figure
from ablate.report.inference import estimate
from ablate.report.layout import Grid, grid
from ablate.report.tuning import expected_best, expected_best_figure
from ablate.store.declaration import CellTrials, DeclaredCell, Proposal, SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.tasks.image_classification.published import PUBLISHED, published

pytestmark = pytest.mark.figures


def laid_out(tmp_path, **options):
    declaration = Synthetic(tmp_path, **options).write()
    cells = collect(declaration, SweepFolder(tmp_path, declaration.sweep).read_proposals(), Ledger(tmp_path))
    return declaration, grid(declaration, entries(declaration, cells))


def cell_entry(num_trials, *, settings=None):
    """A cell in which the accuracy follows lr and not momentum."""
    rng = np.random.default_rng(0)
    cell = DeclaredCell(key="c", levels={"arm": "plain"}, settings=settings or {}, tuned=["lr", "momentum", "only_sgd"])
    tune = []
    for number in range(num_trials):
        values = {"lr": float(10 ** rng.uniform(-4, 0)), "momentum": float(rng.uniform(0, 0.9))}
        accuracy = 0.9 - 0.1 * abs(np.log10(values["lr"]) + 2)
        proposal = Proposal(cell="c", phase="tune", number=number, key=f"k{number}", seed=0, settings=values)
        record = TrialRecord(
            key=f"k{number}", fingerprint="f", seed=0, phase="tune", state="complete", settings=values, rows={},
            data_digest="d", metrics={"val_accuracy": float(accuracy)},
        )  # fmt: skip
        tune.append((proposal, record))
    found = estimate([0.9, 0.91], 0, TEST_ACCURACY)
    return Entry(
        trials=CellTrials(cell, tune, [], objective=VAL_ACCURACY),
        by_row={0: 0.9, 1: 0.91},
        estimate=found,
        num_rows=2,
        num_failed=0,
        metric=TEST_ACCURACY,
    )


def test_expected_best_is_the_mean_maximum_over_all_subsets():
    values = [0.3, 0.9, 0.5, 0.5]
    for k, found in enumerate(expected_best(values), start=1):
        assert found == pytest.approx(np.mean([max(subset) for subset in itertools.combinations(values, k)]))
    assert expected_best([]) == []


def test_the_expected_best_is_drawn_up_to_the_tune_trials_of_a_study(tmp_path):
    declaration, found = laid_out(tmp_path, num_studies=3, num_seeds=1, tune_states=("complete",))
    assert len(next(iter(found.at.values())).trials.tune) == 18
    figure = expected_best_figure(declaration, found)
    assert {tuple(line.get_xdata()) for axes in figure.axes for line in axes.lines} == {(1, 2, 3, 4, 5, 6)}


def test_importance_names_the_parameter_that_matters_and_needs_20_trials():
    shares = importances(cell_entry(30))
    assert set(shares) == {"lr", "momentum"}  # the third is not in every trial
    assert shares["lr"] > 0.8
    assert importances(cell_entry(19)) == {}


def test_importance_and_slices_are_drawn_for_cells_with_enough_trials():
    layout = {"row_axes": (), "rows": [()], "column_axis": "arm", "columns": ["plain"], "baseline": None}
    asked = SimpleNamespace(
        tuned_metric=VAL_ACCURACY,
        tune={"lr": {"low": 1e-4, "high": 1, "log": True}, "momentum": {"low": 0, "high": 0.9}},
    )
    enough = Grid(at={((), "plain"): cell_entry(30)}, **layout)
    importance = importance_figure(asked, enough)
    assert [axes.get_title(loc="left") for axes in importance.axes] == ["lr", "momentum"]
    shares = {axes.get_title(loc="left"): axes.texts[0].get_text() for axes in importance.axes}
    assert {name: float(text) for name, text in shares.items()} == pytest.approx(
        importances(cell_entry(30), {"lr"}), abs=0.006
    )
    panels = {axes.get_xlabel(): axes for axes in slices_figure(asked, enough).axes}
    assert panels["lr"].get_xscale() == "log"
    assert panels["momentum"].get_xscale() == "linear"
    assert len(panels["lr"].collections[0].get_offsets()) == 30
    few = Grid(at={((), "plain"): cell_entry(19)}, **layout)
    assert importance_figure(asked, few) is None
    assert slices_figure(asked, few) is None


def test_long_curves_are_decimated_and_keep_their_ends():
    assert decimated(20) == list(range(1, 21))
    found = decimated(1000)
    assert (len(found), found[0], found[-1]) == (MAX_POINTS, 1, 1000)


def test_learning_curves_have_a_panel_a_cell_with_all_seeds(tmp_path):
    declaration, found = laid_out(tmp_path)
    figure = learning_curves(declaration, found, "val_accuracy")
    assert len(figure.axes) == len(ARMS) * len(DEPTHS)
    assert [axes.get_title(loc="left") for axes in figure.axes[: len(ARMS)]] == list(ARMS)
    named = [axes.texts[0].get_text() for axes in figure.axes if axes.texts]
    assert named == [f"depth {depth}" for depth in DEPTHS]
    for axes in figure.axes:
        curves, chance = axes.lines
        assert chance.get_label() == "chance"
        assert np.isnan(curves.get_ydata()).sum() == 3  # a gap behind each seed
    assert [axes.lines[0].get_label() for axes in figure.axes[3:6]] == list(ARMS)


def test_learning_curves_of_a_large_table_have_a_panel_a_row(tmp_path):
    declaration, found = laid_out(tmp_path)
    rows = [(f"{depth}-{copy}",) for depth in DEPTHS for copy in range(3)]
    at = {(row, arm): found.at[(row[0].split("-")[0],), arm] for row in rows for arm in ARMS}
    figure = learning_curves(declaration, dataclasses.replace(found, rows=rows, at=at), "val_accuracy")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"depth {row[0]}" for row in rows]
    assert all(len(axes.lines) == len(ARMS) + 1 for axes in figure.axes)


def test_long_names_are_cut_off_beside_small_panels(tmp_path):
    axes = {"augment": ["none", "a_very_long_name_that_cannot_break"], "depth": ["20"], "arm": list(ARMS)}
    figure = learning_curves(*laid_out(tmp_path, axes=axes), "val_accuracy")
    assert [axes.texts[0].get_text() for axes in figure.axes if axes.texts] == [
        "augment none\ndepth 20", "augment\na_very_long_name_th…\ndepth 20",
    ]  # fmt: skip
    drawing.render_pages([figure])
    assert all(axes.get_position().height > 0.2 for axes in figure.axes)


def test_degradation_shows_training_beside_test_error(tmp_path):
    declaration, found = laid_out(tmp_path)
    figure = figures.degradation(declaration, found)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["training error", "test error"]
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines}
    entry = found.at[("110",), "plain"]
    assert lines["plain"][-1] == pytest.approx(100 - 100 * entry.estimate.mean)
    trained = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert trained["plain"][-1] < lines["plain"][-1]


def test_cost_counts_all_trials_of_a_cell(tmp_path):
    _, found = laid_out(tmp_path)
    # 9 trials of 36 s.
    assert found.at[("20",), "plain"].device_hours == pytest.approx(0.09)
    assert tables.cost_table(found).text[1][1] == "0.090 h · 99,200"


def dearer(found, factors):
    """The grid with each row's trials as many times as long."""
    at = {}
    for (row, column), entry in found.at.items():
        tune, confirm = (
            [(p, dataclasses.replace(r, duration_s=r.duration_s * factors[row[0]]) if r else None) for p, r in trials]
            for trials in (entry.trials.tune, entry.trials.confirm)
        )
        at[row, column] = dataclasses.replace(
            entry, trials=CellTrials(entry.trials.cell, tune, confirm, objective=VAL_ACCURACY)
        )
    return dataclasses.replace(found, at=at)


def test_the_figure_of_cost_has_a_mark_a_cell_that_grows_with_the_row_and_no_labels(tmp_path):
    declaration, found = laid_out(tmp_path, confirm={("plain", "56", 1): "diverged"})
    figure = figures.metric_by_cost(declaration, dearer(found, {"20": 1, "56": 2, "110": 4}))
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert not axes.texts
    marks = {
        (round(float(x), 6), round(float(y), 3)): area**0.5
        for marked in axes.collections if isinstance(marked, PathCollection)
        for (x, y), area in zip(marked.get_offsets().filled(np.nan), marked.get_sizes(), strict=True)
    }  # fmt: skip
    expected = {}
    for (row, _), entry in found.at.items():
        if not entry.estimate.is_mixed:
            place = {"20": 0.09, "56": 0.18, "110": 0.36}[row[0]], round(100 * entry.estimate.mean, 3)
            expected[place] = {"20": 4.0, "56": 7.0, "110": 10.0}[row[0]]
    assert len(expected) == 8
    assert {place: size for place, size in marks.items() if place[1] == place[1]} == pytest.approx(expected)
    bars = [bar for lines in axes.collections if isinstance(lines, LineCollection) for bar in lines.get_segments()]
    found_bars = sorted(tuple(bar[:, 1].round(3)) for bar in bars if len(bar))
    intervals = [(e.estimate.low, e.estimate.high) for e in found.at.values() if not e.estimate.is_mixed]
    assert found_bars == sorted((round(100 * low, 3), round(100 * high, 3)) for low, high in intervals)
    assert [text.get_text() for text in figure.legends[1].texts] == ["depth 20", "depth 56", "depth 110"]
    far = figures.metric_by_cost(declaration, dearer(found, {"20": 1, "56": 2, "110": 40}))
    assert far.axes[0].get_xscale() == "log"


def test_a_legend_of_long_names_stays_within_its_figure(tmp_path):
    rows = [(f"learning_rate_{number}", "a-rather-long-name-of-a-level") for number in range(3)]
    layout = {"row_axes": ("schedule", "depth"), "column_axis": "arm", "columns": ["plain"], "baseline": None}
    entry = cell_entry(30)
    trials = [(p, dataclasses.replace(r, duration_s=36.0)) for p, r in entry.trials.tune]
    entry = dataclasses.replace(entry, trials=CellTrials(entry.trials.cell, trials, [], objective=VAL_ACCURACY))
    found = Grid(at={(row, "plain"): entry for row in rows}, rows=rows, **layout)
    declaration = dataclasses.replace(Synthetic(tmp_path).declaration(), tune={})
    for figure in (figures.metric_by_cost(declaration, found), slices_figure(declaration, found)):
        drawing.render_pages([figure])
        legend = figure.legends[-1]
        assert len(legend.texts) == 3
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_slices_use_no_faint_colour(tmp_path):
    rows = [("20",), ("56",)]
    layout = {"row_axes": ("depth",), "column_axis": "arm", "columns": ["plain"], "baseline": None}
    found = Grid(at={(row, "plain"): cell_entry(30) for row in rows}, rows=rows, **layout)
    asked = dataclasses.replace(Synthetic(tmp_path).declaration(), tune={})
    last = slices_figure(asked, found).axes[0].collections[-1].get_facecolor()[0, :3]
    # Viridis' yellow has 0.87.
    assert last @ (0.2126, 0.7152, 0.0722) < 0.76


def test_lines_break_at_a_cell_that_mixes_success_and_collapse(tmp_path):
    declaration, found = laid_out(tmp_path, confirm={("plain", "56", 1): "diverged"})
    for figure in (figures.degradation(declaration, found), figures.metric_by_cost(declaration, found)):
        for axes in figure.axes:
            lines = [line for line in axes.lines if len(line.get_xdata()) == len(DEPTHS)]
            gaps = [[position for position, y in enumerate(line.get_ydata()) if np.isnan(y)] for line in lines]
            assert sorted(gap for gap in gaps if gap) == [[1]]


def test_figures_of_many_rows_stay_as_wide_and_high_as_a_page(tmp_path):
    depths = [str(depth) for depth in range(8, 133, 5)]
    layout = {"row_axes": ("depth",), "column_axis": "arm", "columns": ["plain"], "baseline": None}
    rows = [(depth,) for depth in depths]
    entry = cell_entry(30)
    found = Grid(at={(row, "plain"): entry for row in rows}, rows=rows, **layout)
    declaration = dataclasses.replace(Synthetic(tmp_path).declaration(), tune={})
    for figure in (
        figures.metric_by_row(declaration, found),
        expected_best_figure(declaration, found),
        importance_figure(declaration, found),
        slices_figure(declaration, found),
    ):
        width, height = figure.get_size_inches()
        assert width <= 10.5
        assert height <= 12
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "depth 8", "depth 38", "depth 68", "depth 98", "depth 128",
    ]  # fmt: skip


def test_two_processes_draw_the_bytes_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "num_cpus", lambda: 2)
    declaration, found = laid_out(tmp_path)

    def documents():
        pages = [figures.metric_by_row(declaration, found), learning_curves(declaration, found, "val_accuracy")]
        return [pages, *([] for _ in range(15)), [figures.degradation(declaration, found)]]

    draw = functools.partial(meet_and_draw, os.getpid(), tmp_path / "mark")
    shared = processes.map_in_two(draw, documents())
    assert len({pid for pid, _ in shared}) == 2
    assert [drawn for _, drawn in shared] == list(map(drawing.render_pages, documents()))


PAPER = {
    "dataset": "cifar10", "image_size": None, "num_train": None, "width": 16, "augment": "none", "depth": 44,
    "shortcut": "none", "modulation": "none", "regularizer": "l2", "init": "he",
}  # fmt: skip


def test_a_published_figure_stands_beside_the_same_experiment():
    found = published("test_accuracy", PAPER)
    assert found.text == "≈ 83.7, read off a figure of Xie, Xiong, Pu 2017, arXiv:1703.01827"
    assert published("val_accuracy", PAPER) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("dataset", "digits"), ("width", 8), ("augment", "crop_flip"), ("image_size", 16), ("num_train", 20000),
     ("depth", 32), ("regularizer", "none")],
)  # fmt: skip
def test_no_published_figure_stands_beside_another_experiment(name, value):
    assert published("test_accuracy", {**PAPER, name: value}) is None
    tuned = {key: setting for key, setting in PAPER.items() if key != name}
    assert published("test_accuracy", tuned) is None


def test_every_published_figure_has_a_public_source():
    assert all("arXiv:" in figure.source and 0 < figure.error < 100 for figure in PUBLISHED)


def test_an_entry_of_fewer_replicates_is_an_entry(tmp_path):
    declaration, found = laid_out(tmp_path)
    whole = found.at[("20",), "plain"].trials
    first = entry_of(declaration, dataclasses.replace(whole, confirm=whole.confirm[:2]))
    assert (first.estimate.n, first.num_waiting) == (2, 1)
