"""A task without images and without torch, as a user's file of `imports`: a line fitted by gradient descent.

Its metrics are errors: minimised, without an upper bound and without a floor.
"""

import hashlib
import math
import random
from pathlib import Path

from ablate.metrics import Metric
from ablate.registry import Parameter, Row, register
from ablate.tasks.base import Divergence, Prepared, Progress, Task, Training, from_json, to_json
from ablate.tasks.catalog import register_task
from ablate.tasks.parameters import Parameters

FILE = """
name: line
question: Does momentum help to fit a line?
task: line
imports: [toy_task.py]
fixed: {epochs: 6, points: 40}
axes: {arm: {plain: {momentum: 0}, heavy: {momentum: 0.5}, ridge: {penalty: ridge}}}
tune: {lr: {low: 0.01, high: 0.5, log: true}}
budget: {trials_per_cell: 4}
confirm: {seeds: 3}
report: {columns: arm, baseline: plain}
claims: [heavy beats plain by at least 0.0001 in test_rmse]
"""


class Line(Training):
    """y = a·x + b, ten steps an epoch."""

    num_parameters = 2

    def __init__(self, settings, seed, points):
        self.settings, self.points = settings, points
        self.num_epochs = settings["epochs"]
        self.progress = Progress()
        start = random.Random(seed)
        self.weights, self.velocity = [start.gauss(0, 1), start.gauss(0, 1)], [0.0, 0.0]

    def run_epoch(self):
        ridge = self.settings.get("ridge_weight", 0.0)
        for index in range(10):
            errors = [(self._error(x, y), x) for x, y in self.points["train"]]
            slopes = [sum(e * x for e, x in errors) / len(errors), sum(e for e, _ in errors) / len(errors)]
            for i, slope in enumerate(slopes):
                self.velocity[i] = self.settings["momentum"] * self.velocity[i] - slope - ridge * self.weights[i]
                self.weights[i] += self.settings["lr"] * self.velocity[i]
            if not max(map(abs, self.weights)) < 1e3:
                step = 10 * self.progress.epoch + index
                return Divergence(self.progress.epoch + 1, step, "slope", "the weights are too large")
        self.progress.epoch += 1
        for name in ("train", "val"):
            self.progress.curves.setdefault(f"{name}_rmse", []).append(self._rmse(name))
        return None

    def measure(self, is_confirmed):
        metrics = {name: curve[-1] for name, curve in self.progress.curves.items()}
        return metrics | ({"test_rmse": self._rmse("test")} if is_confirmed else {})

    def save(self):
        return to_json([self.weights, self.velocity, self.progress.epoch, self.progress.curves])

    def load(self, content):
        self.weights, self.velocity, self.progress.epoch, self.progress.curves = from_json(content)

    def _error(self, x, y):
        return self.weights[0] * x + self.weights[1] - y

    def _rmse(self, name):
        points = self.points[name]
        return math.sqrt(sum(self._error(x, y) ** 2 for x, y in points) / len(points))


class LineTask(Task):
    """Fits a line to points that are made."""

    name = "line"
    parameters = Parameters(
        [
            Parameter(name="epochs", type="int", default=5, summary="tens of steps", low=1),
            Parameter(name="points", type="int", default=30, summary="of the training set", low=2),
            Parameter(name="lr", type="float", default=0.1, summary="step size", low=0, low_open=True),
            Parameter(name="momentum", type="float", default=0.0, summary="momentum", low=0, high=0.99),
            Parameter(name="penalty", type="str", default="none", summary="penalty", row_kind="penalty"),
        ],
        kinds=["penalty"],
    )
    metrics = tuple(Metric(name=f"{split}_rmse", direction="min", low=0.0) for split in ("train", "val", "test"))
    objective = "val_rmse"
    shown = "test_rmse"
    data_parameters = ("points",)
    small = {"epochs": 2}  # noqa: RUF012 - a task is one object

    def start(self, trial):
        return Line(trial.settings, trial.seed, from_json(Path(trial.data).read_bytes()))

    def prepare(self, settings, cache):
        made = random.Random(settings["points"])
        sizes = {"train": settings["points"], "val": 20, "test": 50}
        xs = {name: [made.gauss(0, 1) for _ in range(size)] for name, size in sizes.items()}
        content = to_json({name: [(x, 3 * x - 1 + made.gauss(0, 0.3)) for x in xs[name]] for name in xs})
        path = cache / f"line-{settings['points']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return Prepared(path, hashlib.sha256(content).hexdigest()[:16], {"num_test": sizes["test"], "dataset": "line"})

    def data_line(self, facts):
        return f"a line with noise, {facts['num_test']} test points"


register_task(LineTask())
register(Row(kind="penalty", name="none", target=len, summary="no penalty"))
register(
    Row(
        kind="penalty", name="ridge", target=len, summary="squared weights",
        parameters=(Parameter(name="ridge_weight", type="float", default=0.01, summary="its weight", low=0),),
    )
)  # fmt: skip
