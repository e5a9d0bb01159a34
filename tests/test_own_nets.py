"""A user's own nets and data: their initialisation, their random numbers, the shapes of their data."""

from pathlib import Path

import pytest
import torch

from ablate.errors import UsageError
from ablate.run.plan import make_plan
from ablate.sweepfile.spec import SpecError, load_spec
from ablate.tasks import registry
from ablate.tasks.image_classification.config import KINDS, resolve
from ablate.tasks.image_classification.training.trainer import Trainer

CPU = torch.device("cpu")
CODE = """
import torch
from torch import nn
from ablate.registry import Row, register

class Zero(nn.Module):
    def __init__(self, config, in_channels, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3)
        self.head = nn.Linear(4, num_classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, images, modulate=None):
        return self.head(self.conv(images).relu().mean((2, 3)))

register(Row(kind="model", name="zero", target=Zero, summary="its head starts at zero"))
register(Row(kind="model", name="other", target=Zero, summary="the same"))
register(Row(kind="model", name="xavier", target=Zero, summary="the same", defaults={"init": "xavier"}))
"""
SMALL = {"width": 4, "depth": 8, "batch_size": 16, "epochs": 2, "lr": 0.05}
SWEEP = """
name: mine
imports: [mine.py]
fixed: {depth: 8, width: 4, epochs: 2, FIXED}
axes: {AXES}
tune: {TUNE}
budget: {trials_per_cell: 2, pruner: none}
confirm: {seeds: 2}
"""


@pytest.fixture(autouse=True)
def rows_of_before(monkeypatch):
    for kind in KINDS:
        monkeypatch.setitem(registry._rows, kind, dict(registry._rows[kind]))
    monkeypatch.setattr(registry, "_imported", {})


@pytest.fixture
def own(tmp_path):
    """Import a user's file with the nets of this module and more code."""

    def load(more: str = "") -> Path:
        path = tmp_path / "mine.py"
        path.write_text(CODE + more)
        registry.load_imports([path])
        return path

    return load


def sweep(folder: Path, fixed: str = "model: zero", axes: str = "lr: [0.1]", tune: str = "", more: str = "") -> Path:
    """Write a sweep file beside the imported one."""
    (folder / "mine.py").write_text(CODE + more)
    path = folder / "sweep.yaml"
    path.write_text(SWEEP.replace("FIXED", fixed).replace("AXES", axes).replace("TUNE", tune))
    return path


def inits(file: Path) -> dict[str, object]:
    """Return the initialisation of each cell of a sweep file."""
    return {cell.name: cell.settings.get("init") for cell in make_plan(file, None, [], file.parent).cells}


# The initialisation.


def test_a_model_of_ones_own_keeps_its_initialisation_unless_the_file_names_one(own, tiny_dataset):
    own()
    config = resolve({**SMALL, "model": "zero"})
    assert config.init == "own"
    assert bool((Trainer(config, tiny_dataset, 1, CPU).net.head.weight == 0).all())
    named = resolve({**SMALL, "model": "zero", "init": "he"})
    assert float(Trainer(named, tiny_dataset, 1, CPU).net.head.weight.detach().std()) > 0.1
    assert resolve({**SMALL, "model": "xavier"}).init == "xavier"
    assert resolve(SMALL).init == "he"


def test_gains_of_ones_own_model_stay_as_it_makes_them(own, tiny_dataset):
    own(
        "from ablate.tasks.image_classification.models.kernels import WeightNormConv2d\n"
        "class Gain(Zero):\n"
        "    def __init__(self, config, in_channels, num_classes):\n"
        "        super().__init__(config, in_channels, num_classes)\n"
        "        self.conv = WeightNormConv2d(in_channels, 4, 3)\n"
        "register(Row(kind='model', name='gain', target=Gain, summary='gains'))\n"
    )
    assert bool((Trainer(resolve({**SMALL, "model": "gain"}), tiny_dataset, 1, CPU).net.conv.gain == 1).all())
    named = Trainer(resolve({**SMALL, "model": "gain", "init": "he"}), tiny_dataset, 1, CPU).net.conv
    assert torch.equal(named.gain, named.weight.flatten(1).norm(dim=1))


def test_every_cell_has_the_default_that_its_model_brings(tmp_path):
    assert inits(sweep(tmp_path)) == {"lr=0.1": "own"}
    levels = inits(sweep(tmp_path, "init: he", "model: [cifar, zero]"))
    assert levels == {"model=cifar": "he", "model=zero": "he"}
    levels = inits(sweep(tmp_path, "lr: 0.1", "model: [cifar, zero, xavier]"))
    assert levels == {"model=cifar": "he", "model=zero": "own", "model=xavier": "xavier"}


def test_models_that_are_tuned_must_agree_or_the_file_names_the_init(tmp_path):
    assert inits(sweep(tmp_path, "lr: 0.1", "batch_size: [256]", "model: [zero, other]")) == {"batch_size=256": "own"}
    message = (
        r"sweep\.yaml:6:8: init is not given, and its default is another for another model \(he, own\): "
        "give init where model is tuned"
    )
    with pytest.raises(SpecError, match=message):
        load_spec(sweep(tmp_path, "lr: 0.1", "batch_size: [256]", "model: [cifar, zero]"))
    assert load_spec(sweep(tmp_path, "lr: 0.1, init: own", "batch_size: [256]", "model: [cifar, zero]"))


def test_a_cell_has_the_default_that_its_own_row_gives_a_parameter_of_several_rows(tmp_path):
    more = (
        "from ablate.registry import Parameter\n"
        "from ablate.tasks.image_classification.methods.regularizers import L2\n"
        "DECAY = Parameter(name='weight_decay', type='float', default=0.01, summary='', low=0)\n"
        "register(Row(kind='regularizer', name='strong', target=L2, summary='', parameters=(DECAY,)))\n"
    )
    (cell,) = make_plan(sweep(tmp_path, "regularizer: strong", more=more), None, [], tmp_path).cells
    assert cell.settings["weight_decay"] == cell.config({})["weight_decay"] == 0.01


def test_a_condition_may_ask_for_the_default_that_a_model_brings(tmp_path):
    (cell,) = make_plan(
        sweep(tmp_path, "model: zero", "batch_size: [256]", "lr: {low: 0.1, high: 1, when: {init: own}}"),
        None,
        [],
        tmp_path,
    ).cells
    assert cell.space.tuned == ["lr"]


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ("{'nope': 1}", "the default of 'nope' that model 'wrong' brings is of no parameter of every trial"),
        ("{'init': 'nope'}", "the default of 'init' that model 'wrong' brings is not allowed: unknown init 'nope'"),
    ],
)
def test_defaults_that_cannot_be_are_refused(own, defaults, message):
    with pytest.raises(UsageError, match=message):
        own(f"register(Row(kind='model', name='wrong', target=Zero, summary='', defaults={defaults}))\n")
