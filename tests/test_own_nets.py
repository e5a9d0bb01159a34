"""A user's own nets and data: their initialisation, their random numbers, the shapes of their data."""

import dataclasses
import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ablate.commands import main
from ablate.errors import UsageError
from ablate.provenance import library_versions
from ablate.run.pack import Pack, Request
from ablate.run.plan import make_plan
from ablate.store.ledger import Ledger
from ablate.sweepfile.spec import SpecError, load_spec
from ablate.tasks import registry
from ablate.tasks.image_classification.config import KINDS, resolve
from ablate.tasks.image_classification.task import TASK
from ablate.tasks.image_classification.training.randomness import seeded
from ablate.tasks.image_classification.training.trainer import Trainer
from ablate.tasks.parameters import trial_key

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


# Random numbers.

DROPS = """
class Drops(nn.Module):
    def __init__(self, config, in_channels, num_classes):
        super().__init__()
        self.levels = nn.Embedding(256, 4)
        self.scale = nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, num_classes)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images, modulate=None):
        levels = (images.clamp(-2, 2) * 60 + 128).long()
        x = self.norm(self.levels(levels).mean(1).permute(0, 3, 1, 2))
        x = nn.functional.dropout(x.mean((2, 3)), 0.3)  # In evaluation too: a common mistake.
        return self.head(x * self.scale)

register(Row(kind="model", name="drops", target=Drops, summary="an embedding and dropout"))
"""


def numbers(trainer: Trainer, until: int = 2) -> list[object]:
    """Train up to an epoch, and return all that must repeat."""
    while trainer.progress.epoch < until:
        assert trainer.run_epoch() is None
    metrics = trainer.measure(is_confirmed=True)
    # Only counted, never used: it grows with every evaluation that uses the statistics of each batch.
    kept = {name: value for name, value in trainer.evaluated_net().items() if "num_batches_tracked" not in name}
    return [{name: value.tolist() for name, value in kept.items()}, trainer.progress.curves, metrics]


@pytest.mark.parametrize("diagnostics", ["none", "epoch"])
def test_all_that_a_net_draws_follows_from_the_trials_seed_and_from_nothing_else(own, tiny_dataset, diagnostics):
    own(DROPS)
    config = resolve({**SMALL, "model": "drops", "diagnostics": diagnostics})
    torch.manual_seed(1)
    first = numbers(Trainer(config, tiny_dataset, 7, CPU))
    torch.manual_seed(2)
    random.random()
    again = Trainer(config, tiny_dataset, 7, CPU)
    assert repr(numbers(again)) == repr(first)
    assert repr(numbers(again)) == repr(first)  # Measured once more.
    assert numbers(Trainer(config, tiny_dataset, 8, CPU))[0] != first[0]


def test_a_trial_that_goes_on_draws_the_same_numbers_and_every_epoch_draws_others(own, tiny_dataset):
    own(DROPS)
    config = resolve({**SMALL, "model": "drops"})
    whole = numbers(Trainer(config, tiny_dataset, 7, CPU))
    begun = Trainer(config, tiny_dataset, 7, CPU)
    numbers(begun, until=1)
    resumed = Trainer(config, tiny_dataset, 7, CPU)
    resumed.load(begun.save())
    assert repr(numbers(resumed)) == repr(whole)
    with begun.drawing():
        second = torch.rand(3)
    begun.progress.epoch = 0
    with begun.drawing():
        assert not torch.equal(torch.rand(3), second)


def test_evaluation_changes_no_number_of_training(own, tiny_dataset):
    own(DROPS)
    config = resolve({**SMALL, "model": "drops"})
    plain, looked_at = (Trainer(config, tiny_dataset, 7, CPU) for _ in range(2))
    for _ in range(2):
        looked_at.evaluate(tiny_dataset.test)
        looked_at.evaluate(tiny_dataset.val, "estimated")
        assert plain.run_epoch() is looked_at.run_epoch() is None
    assert plain.digest() == looked_at.digest()


def test_a_trial_leaves_the_generators_of_its_caller_as_they_were(own, tiny_dataset):
    own(DROPS)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), np.random.random(), torch.rand(1)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    numbers(Trainer(resolve({**SMALL, "model": "drops"}), tiny_dataset, 7, CPU))
    assert (random.random(), np.random.random(), torch.rand(1)) == expected


def test_the_generator_of_a_device_is_seeded_and_restored_with_the_others(monkeypatch):
    class Module:
        calls: ClassVar[list[tuple]] = []

        def get_rng_state(self, device):
            return "before"

        def manual_seed(self, seed):
            self.calls.append(("seed", seed))

        def set_rng_state(self, state, device):
            self.calls.append((state, device.type))

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module())
    with pytest.raises(KeyError), seeded(2**52 + 5, torch.device("cuda")):
        raise KeyError
    assert Module.calls == [("seed", 2**52 + 5), ("before", "cuda")]


def test_a_trial_that_diverges_is_gone_through_again_with_the_same_numbers(own, tiny_dataset):
    own(
        "class Noted(Zero):\n"
        "    drawn = []\n"
        "    def forward(self, images, modulate=None):\n"
        "        self.drawn.append(torch.rand(1).item())\n"
        "        return super().forward(images)\n"
        "register(Row(kind='model', name='noted', target=Noted, summary='notes what it draws'))\n"
    )
    trainer = Trainer(resolve({**SMALL, "model": "noted", "lr": 1e30}), tiny_dataset, 7, CPU)
    assert trainer.run_epoch().layer != "unknown"
    drawn, num = trainer.net.drawn, trainer.steps_per_epoch
    assert len(drawn) > num
    assert drawn[num:] == drawn[: len(drawn) - num]


def test_reproduce_repeats_a_trial_of_ones_own_net_bit_for_bit(own, tmp_path):
    file = own(DROPS)
    out = tmp_path / "runs"
    settings = resolve({**SMALL, "model": "drops", "batch_size": 256}).settings()
    data = TASK.prepare(settings, out / "data")
    fingerprint = TASK.fingerprint(settings, data.digest)
    request = Request(key=trial_key(fingerprint, 7), fingerprint=fingerprint, seed=7, phase="confirm",
                      settings=settings, data_digest=data.digest)  # fmt: skip
    (record,) = Pack(TASK, [request], "cpu", data.path, provenance=library_versions()).run()
    Ledger(out).write(dataclasses.replace(record, rows=TASK.parameters.stamps(settings)))
    torch.rand(5)  # As another process would have drawn other numbers.
    done = CliRunner().invoke(main, ["reproduce", record.key, "--out", str(out), "--import", str(file)])
    assert done.exit_code == 0, done.output
    assert "the numbers agree bit for bit" in done.output
