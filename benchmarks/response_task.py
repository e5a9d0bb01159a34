"""A task whose truth is known: accuracy as a function of its hyperparameters, with noise of training. Imports no torch.

The validation accuracy is `peak` minus what the learning rate, the weight decay and a choice cost, with a cliff above
the best learning rate beyond which nothing trains. Noise grows with the distance to the peak.
"""

import math
import random

from ablate.metrics import Metric
from ablate.registry import Parameter
from ablate.tasks.base import Progress, Task, Training, from_json, to_json
from ablate.tasks.catalog import register_task
from ablate.tasks.parameters import Parameters

CHANCE = 10.0


def accuracy(settings):
    """Return the expected accuracy in percent and the standard deviation of one training."""
    lr = math.log10(settings["lr"] / 1e-3) / 2  # 0 to 1 over the range that is searched
    decay = math.log10(settings["decay"] / 1e-6) / 4
    best, slope, sigma = settings["best"], settings["slope"], settings["noise"]
    mean = settings["peak"] - slope * ((lr - best) / 0.5) ** 2 - slope / 5 * ((decay - 0.4) / 0.5) ** 2
    mean = max(mean - (1.5 if settings["late"] else 0.0), CHANCE)
    cliff = 1 / (1 + math.exp(min(700.0, -(best + 0.15 - lr) / 0.02)))
    mean = CHANCE + (mean - CHANCE) * cliff
    grown = min(1 + max(settings["peak"] - mean, 0) / 15, 4)
    return mean, sigma * grown * min(1.0, max(mean - CHANCE, 1.0) / 10)


class Curve(Training):
    """A learning curve that ends at the expected accuracy and one draw of noise."""

    num_parameters = 1

    def __init__(self, settings, seed):
        self.num_epochs = settings["epochs"]
        self.progress = Progress()
        mean, sd = accuracy(settings)
        draw = random.Random(f"{seed} {settings['stream']}")
        self.ends = [min(100.0, max(0.0, mean + sd * draw.gauss(0, 1))) / 100 for _ in ("val", "test")]

    def run_epoch(self):
        self.progress.epoch += 1
        grown = 1 - math.exp(-3 * self.progress.epoch / self.num_epochs) + math.exp(-3)
        self.progress.curves.setdefault("val_accuracy", []).append(self.ends[0] * grown)

    def measure(self, is_confirmed):
        return {"val_accuracy": self.ends[0]} | ({"test_accuracy": self.ends[1]} if is_confirmed else {})

    def save(self):
        return to_json([self.progress.epoch, self.progress.curves])

    def load(self, content):
        self.progress.epoch, self.progress.curves = from_json(content)


class ResponseTask(Task):
    """Trains a `Curve`."""

    name = "response"
    parameters = Parameters(
        [
            Parameter(name="epochs", type="int", default=6, summary="epochs", low=1),
            Parameter(name="lr", type="float", default=0.01, summary="learning rate", low=1e-3, high=0.1),
            Parameter(name="decay", type="float", default=1e-4, summary="weight decay", low=1e-6, high=1e-2),
            Parameter(name="late", type="bool", default=False, summary="a choice that costs 1.5 points"),
            Parameter(name="peak", type="float", default=90.0, summary="accuracy at the best point, in percent", low=0),
            Parameter(name="best", type="float", default=0.5, summary="the best learning rate's place in its range"),
            Parameter(name="slope", type="float", default=20.0, summary="points lost at the ends of that range", low=0),
            Parameter(
                name="noise", type="float", default=1.5, summary="sd of a training at the peak, in points", low=0
            ),
            Parameter(name="stream", type="int", default=0, summary="the arm's own draws of noise", low=0),
        ]
    )
    metrics = tuple(
        Metric(name=f"{split}_accuracy", unit="percent", low=0.0, high=1.0, floor=CHANCE / 100, floor_name="chance")
        for split in ("val", "test")
    )
    objective = "val_accuracy"
    shown = "test_accuracy"

    def start(self, trial):
        return Curve(trial.settings, trial.seed)


register_task(ResponseTask())
