"""The checks that users run on tasks and rows of their own: what is right passes, each fault is told."""

import itertools
from pathlib import Path

import pytest
import toy_task
from toy_task import Line, LineTask

from ablate.tasks import catalog, registry
from ablate.tasks.base import Items
from ablate.tasks.image_classification.config import KINDS
from ablate.testing import ConformanceError, check_row, check_task

SETTINGS = {"epochs": 3, "lr": 0.1}


def test_the_line_conforms(tmp_path):
    metrics = check_task(None, "line", tmp_path, SETTINGS)
    assert set(metrics) == {"train_rmse", "val_rmse", "test_rmse"}


def test_image_classification_conforms(tmp_path):
    settings = {"depth": 8, "width": 2, "batch_size": 256, "epochs": 2, "lr": 0.05, "augment": "crop_flip"}
    metrics = check_task(None, "image_classification", tmp_path, settings)
    assert 0 <= metrics["test_accuracy"] <= 1


@pytest.mark.parametrize("name", ["l2", "orthonormal", "norm_projection"])
def test_a_row_conforms(name):
    own = {"l2": {"weight_decay": 0.1}, "orthonormal": {"ortho_weight": 0.1}}
    check_row(None, "regularizer", name, own.get(name))


def test_a_row_of_another_task_conforms():
    check_row(None, "penalty", "ridge", {"ridge_weight": 0.2}, task="line")


def test_a_row_without_an_effect_is_told():
    with pytest.raises(ConformanceError, match="regularizer 'l2' gives the numbers of 'none'"):
        check_row(None, "regularizer", "l2", {"weight_decay": 0.0})


def test_a_row_of_a_file_conforms(tmp_path, monkeypatch):
    for kind in KINDS:
        monkeypatch.setitem(registry._rows, kind, dict(registry._rows[kind]))
    page = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
    (tmp_path / "mine.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    check_row(tmp_path / "mine.py", "regularizer", "sparse", {"sparsity": 0.1})


NUMBERS = itertools.count()


def twice_as_far(self):
    found = Line.run_epoch(self)
    self.progress.epoch += 1
    return found


def moody(self, is_confirmed):
    return {**Line.measure(self, is_confirmed), "train_rmse": float(next(NUMBERS))}


def forgetful(self, content):
    Line.load(self, content)
    self.velocity = [0.0, 0.0]


def of_number(self):
    return Items(values={"test_rmse": [self._rmse("test")] * 2}, of=str(next(NUMBERS)))


FAULTS = {
    "test_rmse must be the mean of its items": {"items": lambda self: Items(values={"test_rmse": [0.0, 0.5]})},
    "there are items of test_loss, which this trial has not": {
        "items": lambda self: Items(values={"test_loss": [1.0]})
    },
    "items of test_rmse must be numbers": {"items": lambda self: Items(values={"test_rmse": [[1.0]]})},
    "a trial with the same seed has other text for its items": {"items": of_number},
    "run_epoch moved progress.epoch by 2": {"run_epoch": twice_as_far},
    "a trial with the same seed has other metrics": {"measure": moody},
    "a trial that goes on after its first epoch has other curves": {"load": forgetful},
    "after load progress.epoch is 0": {"load": lambda self, content: None},
    "a tune trial measures test_rmse: tuning must not see test data": {
        "measure": lambda self, is_confirmed: Line.measure(self, True)
    },
    "a confirm trial has no test_rmse": {"measure": lambda self, is_confirmed: Line.measure(self, False)},
    "it measures surprise, which it does not declare": {
        "measure": lambda self, is_confirmed: {**Line.measure(self, is_confirmed), "surprise": 1.0}
    },
    "val_rmse is -1.0, but it must be >= 0": {
        "measure": lambda self, is_confirmed: {**Line.measure(self, is_confirmed), "val_rmse": -1.0}
    },
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_of_a_trial_is_told(tmp_path, monkeypatch, message):
    monkeypatch.setattr(toy_task, "Line", type("Faulty", (Line,), FAULTS[message]))
    with pytest.raises(ConformanceError, match=message):
        check_task(None, "line", tmp_path, {**SETTINGS, "momentum": 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "val_loss"}, "objective is 'val_loss', which is none of its metrics"),
        ({"length": "steps"}, "length names the parameter 'steps', which there is not"),
        ({"metrics": LineTask.metrics * 2}, "a metric is declared twice"),
    ],
)
def test_a_fault_of_a_task_is_told(tmp_path, monkeypatch, changes, message):
    wrong = type("Wrong", (LineTask,), changes)()
    monkeypatch.setitem(catalog._registered, "line", wrong)
    with pytest.raises(ConformanceError, match=message):
        check_task(None, "line", tmp_path, SETTINGS)


def test_a_trial_of_one_epoch_is_too_short_to_be_checked(tmp_path):
    with pytest.raises(ConformanceError, match="the check needs a trial of two epochs at least"):
        check_task(None, "line", tmp_path, {"epochs": 1})


def test_a_trial_that_diverges_is_no_check(tmp_path):
    with pytest.raises(ConformanceError, match=r"the trial diverged: .*the weights are too large"):
        check_task(None, "line", tmp_path, {"epochs": 3, "lr": 1e4})
