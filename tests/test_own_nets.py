"""A user's own nets and data: their initialisation, their random numbers, the shapes of their data."""

import dataclasses
import math
import random
import re
import sys
import textwrap
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ablate.commands import main
from ablate.errors import DataError, UsageError
from ablate.provenance import library_versions
from ablate.run.pack import Pack, Request
from ablate.run.plan import make_plan
from ablate.store.ledger import Ledger
from ablate.sweepfile.spec import SpecError, load_spec
from ablate.tasks import registry
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.prepare import load
from ablate.tasks.image_classification.models.layers import regularized_weights
from ablate.tasks.image_classification.task import TASK
from ablate.tasks.image_classification.training.randomness import seeded
from ablate.tasks.image_classification.training.trainer import Trainer
from ablate.tasks.parameters import ConfigError, trial_key
from ablate.testing import ConformanceError, check_row

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


pytestmark = pytest.mark.usefixtures("rows_of_before")


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


# Data of other shapes.

DATA = """
from ablate.tasks.image_classification.data.dataset import RawImages, Split

def table(num=300, shape=(20,), scale=1.0, dtype=torch.float32, bad=None):
    def load(folders):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(num) % 3
        values = torch.randn((num, *shape), generator=generator, dtype=torch.float64)
        values = (values + labels.view(-1, *[1] * len(shape))) * scale
        if bad is not None:
            values[bad] = float("nan")
        return RawImages(Split(values.to(dtype), labels), None, num_val=60)
    return load

class Mlp(nn.Module):
    def __init__(self, config, shape, num_classes):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(torch.Size(shape).numel(), config.width), nn.BatchNorm1d(config.width),
            nn.ReLU(), nn.Linear(config.width, num_classes))

    def forward(self, values):
        return self.net(values)

class Sequences(nn.Module):
    def __init__(self, config, shape, num_classes):
        super().__init__()
        self.conv = nn.Conv1d(shape[0], 8, 3)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, num_classes)

    def forward(self, values):
        out, _ = self.lstm(self.conv(values).transpose(1, 2))
        return self.head(out[:, -1])

register(Row(kind="dataset", name="table", target=table(scale=100.0), summary="a table"))
register(Row(kind="dataset", name="series", target=table(shape=(2, 16)), summary="sequences"))
register(Row(kind="model", name="mlp", target=Mlp, summary="two layers"))
register(Row(kind="model", name="sequences", target=Sequences, summary="a convolution and an LSTM"))
"""


def own_data(more: str) -> str:
    """Return code that registers a data set `odd`, made by the loader that `more` is."""
    return f"{DATA}register(Row(kind='dataset', name='odd', target={more}, summary=''))\n"


@pytest.mark.parametrize(
    ("dataset", "model", "shape"),
    [("table", "mlp", (20,)), ("series", "sequences", (2, 16)), ("series", "mlp", (2, 16))],
)
def test_floats_of_any_shape_are_prepared_standardised_and_trained_on(own, tmp_path, dataset, model, shape):
    own(DATA)
    settings = {**SMALL, "dataset": dataset, "model": model}
    prepared = TASK.prepare(resolve(settings).settings(), tmp_path)
    assert prepared.facts["image_shape"] == list(shape)
    data = load(prepared.path)
    assert data.image_shape == shape
    trainer = Trainer(resolve(settings), data, 1, CPU)
    values = trainer.normalise(data.train.images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(shape[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(shape[0]))
    assert math.isfinite(numbers(trainer)[2]["test_loss"])
    assert data.digest == TASK.prepare(resolve(settings).settings(), tmp_path / "again").digest
    text = TASK.data_line(prepared.facts)
    assert TASK.items_of(prepared.facts) == "examples"
    assert text == f"{dataset} {'×'.join(map(str, shape))}, 180 training, 60 validation and 60 test examples"
    (notice, _) = TASK.notices(prepared.facts, [{"num_val": None}])
    assert notice.startswith("one of the 60 validation examples is worth 1.7 points")


def test_batch_norms_of_every_dimension_are_evaluated_with_estimated_statistics(own, tmp_path):
    own(DATA)
    config = resolve({**SMALL, "dataset": "table", "model": "mlp"})
    trainer = Trainer(config, load(TASK.prepare(config.settings(), tmp_path).path), 1, CPU)
    ((mean, variance),) = trainer.statistics_of("estimated")
    values = trainer.net.net[1](trainer.normalise(trainer.dataset.train.images)).detach()
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(variance, values.var(0, correction=0))


def test_a_table_tells_its_classes_apart_once_it_is_standardised(own, tmp_path):
    own(DATA)
    config = resolve({**SMALL, "dataset": "table", "model": "mlp", "width": 16, "epochs": 8})
    trainer = Trainer(config, load(TASK.prepare(config.settings(), tmp_path).path), 1, CPU)
    assert numbers(trainer, until=8)[2]["test_accuracy"] > 0.8


def test_a_constant_column_stays_finite_and_doubles_become_floats(own, tmp_path):
    own(
        own_data("lambda folders: constant(folders)") + "def constant(folders):\n"
        "    raw = table(dtype=torch.float64)(folders)\n    raw.train.images[:, 3] = 0.1\n    return raw\n"
    )
    data = load(TASK.prepare(resolve({"dataset": "odd"}).settings(), tmp_path).path)
    assert data.train.images.dtype == torch.float32
    assert data.std[3] == 1
    assert bool((data.std > 0).all())


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("table(bad=(17, 3))",
         r"the training part of the data set 'odd' must hold finite numbers, but has nan at index \[17, 3\]"),
        ("table(scale=1e300, dtype=torch.float64)", r"must hold finite numbers, but has .*e\+\d+ at index \[0, 0\]"),
        ("lambda folders: RawImages(Split(torch.rand(90, 4), torch.rand(90)), None)",
         r"this task's metrics are accuracies\. What predicts real numbers is a training of your own: "
         r"task: \{function: FILE\.py:NAME\}, see docs/your_own\.md"),
        ("lambda folders: RawImages(Split(torch.rand(90), torch.arange(90) % 3), None)",
         r"or floats \(num, …\), and int64 labels"),
        ("lambda folders: RawImages(Split(torch.ones(90, 4, dtype=torch.int64), torch.arange(90) % 3), None)",
         r"must be uint8 images .* or floats \(num, …\), and int64 labels \(num,\), but got torch.int64"),
        ("lambda folders: RawImages(Split(torch.rand(90, 4).numpy(), torch.arange(90) % 3), None)",
         "must be tensors of torch, but got ndarray and Tensor"),
        ("lambda folders: RawImages(Split(torch.rand(90, 4), torch.arange(90) % 3),"
         " Split(torch.rand(9, 5), torch.arange(9) % 3))",
         r"must have the same shape: got float \(4,\) and float \(5,\)"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_classified_are_refused_in_one_line(own, tmp_path, loader, message):
    own(own_data(loader))
    with pytest.raises(DataError, match=message) as error:
        TASK.prepare(resolve({"dataset": "odd"}).settings(), tmp_path)
    assert "\n" not in str(error.value)


def test_floats_have_no_size_to_average_down(own, tmp_path):
    own(DATA)
    with pytest.raises(DataError, match=r"image_size averages uint8 images down, but .* has floats of shape \(20,\)"):
        TASK.prepare(resolve({"dataset": "table", "image_size": 8}).settings(), tmp_path)


def test_a_trial_whose_layers_return_several_tensors_says_where_it_diverged(own, tmp_path):
    own(DATA)
    config = resolve({**SMALL, "dataset": "series", "model": "sequences", "lr": 1e31})
    trainer = Trainer(config, load(TASK.prepare(config.settings(), tmp_path).path), 1, CPU)
    assert trainer.run_epoch().layer in ("conv", "lstm", "head", "loss")


def test_weights_that_are_frozen_shared_or_computed_are_not_regularized(own, tiny_dataset):
    own(
        "class Odd(Zero):\n"
        "    def __init__(self, config, in_channels, num_classes):\n"
        "        super().__init__(config, in_channels, num_classes)\n"
        "        self.frozen, self.twin, self.computed = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)\n"
        "        self.frozen.requires_grad_(False)\n"
        "        self.more = nn.Linear(4, 4)\n"
        "        self.more.weight = self.twin.weight\n"
        "        nn.utils.parametrizations.weight_norm(self.computed)\n"
        "    def forward(self, images):\n"
        "        x = self.conv(images).relu().mean((2, 3))\n"
        "        return self.head(self.more(self.twin(self.computed(self.frozen(x)))))\n"
        "register(Row(kind='model', name='odd', target=Odd, summary=''))\n"
    )
    settings = {**SMALL, "model": "odd", "regularizer": "orthonormal", "init": "he"}
    trainer = Trainer(resolve(settings), tiny_dataset, 1, CPU)
    net = trainer.net
    assert [id(each) for each in regularized_weights(net)] == [
        id(each) for each in (net.conv.weight, net.head.weight, net.twin.weight)
    ]
    frozen = net.frozen.weight.clone()
    assert trainer.run_epoch() is None
    assert torch.equal(net.frozen.weight, frozen)


# What a plan says, and what it refuses.

TABLE = "dataset: table, lr: 0.1"


def plain(folder: Path, *arguments: str, **parts: str) -> Result:
    """Write a sweep file with the rows of this section and run a command on it."""
    sweep(folder, **{"axes": "batch_size: [64]", "more": DATA, **parts})
    return CliRunner().invoke(main, [arguments[0], "sweep.yaml", *arguments[1:]])


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_on_a_table_names_its_shape_and_times_its_net(here):
    done = plain(here, "plan", fixed=f"{TABLE}, model: mlp")
    assert done.exit_code == 0, done.output
    assert "data: table 20, 180 training, 60 validation and 60 test examples; chance is 33.3%" in done.output
    assert "warning: one of the 60 validation examples is worth 1.7 points" in done.output
    assert "time: about" in done.output
    assert "overwrites" not in done.output


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"fixed": TABLE},
         r"sweep\.yaml:4:8: model 'cifar' needs images \(channels, height, width\), but an item of the data set "
         r"'table' has the shape \(20,\)\. Name one of your own: see docs/extending\.md"),
        ({"fixed": TABLE, "axes": "model: [mlp, dirac]"}, r"sweep\.yaml:5:\d+: model 'dirac' needs images"),
        ({"fixed": f"{TABLE}, model: mlp, augment: crop_flip"}, r"sweep\.yaml:4:\d+: augment 'crop_flip' needs images"),
        ({"fixed": f"{TABLE}, model: mlp", "tune": "augment: [none, crop_flip]"},
         r"sweep\.yaml:6:\d+: augment 'crop_flip' needs images .*\(20,\)\. Name none"),
        ({"fixed": f"{TABLE}, model: mlp", "axes": "modulation: [none, layer_clip, anchor]"},
         r"sweep\.yaml:5:\d+: modulation 'anchor' acts inside the net, so forward of model 'mlp' .*needs the parameter "
         r"`modulate`, which it calls as ConvBN does: forward\(images, modulate=None\)"),
        ({"fixed": f"{TABLE}, model: mlp", "tune": "modulation: [none, layer_profile]"},
         r"sweep\.yaml:6:\d+: modulation 'layer_profile' acts inside the net"),
        ({},
         r"sweep\.yaml:4:\d+: model 'sequences' .*cannot be built for data of 20: IndexError"),
        ({"fixed": f"{TABLE}, image_size: 8, model: mlp"}, r"image_size averages uint8 images down"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_data_is_refused_when_the_sweep_is_planned(here, parts, message):
    if "sequences" in message:
        parts = {"fixed": f"{TABLE}, model: sequences", "more": DATA.replace("shape[0], 8", "shape[1], 8")}
    done = plain(here, "plan", "--no-probe", **parts)
    assert done.exit_code == 2, done.output
    assert re.search(message, done.output), done.output
    assert done.output.count("\n") == 1


def test_a_plan_says_how_many_tensors_a_named_init_overwrites(here):
    done = plain(here, "plan", "--no-probe", fixed=f"{TABLE}, model: mlp, init: he")
    message = "warning: init 'he' overwrites 2 of the 6 tensors of model 'mlp': init 'own' is its own\n"
    assert message in done.output
    levels = plain(here, "plan", "--no-probe", fixed="lr: 0.1", axes="model: [cifar, zero]", tune="init: [he, own]")
    assert levels.output.count("overwrites") == 1
    assert "init 'he' overwrites 2 of the 4 tensors of model 'zero'" in levels.output


def test_train_says_what_l2_and_the_regularizers_act_on(here):
    done = plain(here, "train", "--cell", "batch_size=64", fixed=f"{TABLE}, model: mlp")
    assert done.exit_code == 0, done.output
    assert "\nL2 and regularizers act on 2 of 6 tensors: net.1.weight, net.4.weight\nepoch 1/2: " in done.output
    long = plain(here, "train", "--cell", "batch_size=64", fixed="lr: 0.1, model: cifar")
    assert (
        "L2 and regularizers act on 8 of 23 tensors: stem.conv.weight, blocks.0.first.conv.weight, "
        "blocks.0.second.conv.weight, blocks.1.first.conv.weight, blocks.1.second.conv.weight and 3 more\n"
    ) in long.output


def test_a_net_without_modulate_is_refused_at_the_start_too(own, tiny_dataset):
    own(DATA)
    with pytest.raises(ConfigError, match=r"forward of model 'mlp' .*needs the parameter `modulate`"):
        Trainer(resolve({**SMALL, "model": "mlp", "modulation": "top"}), tiny_dataset, 1, CPU)
    trainer = Trainer(resolve({**SMALL, "model": "mlp", "modulation": "layer_normalize"}), tiny_dataset, 1, CPU)
    assert trainer.run_epoch() is None


def test_a_net_may_ask_for_the_shape_or_the_channels(own, tiny_dataset):
    own(
        "GIVEN = []\n"
        "def by_shape(config, shape, num_classes):\n"
        "    GIVEN.append(shape)\n"
        "    return Zero(config, shape[0], num_classes)\n"
        "class ByName(Zero):\n"
        "    def __init__(self, config, shape, num_classes):\n"
        "        GIVEN.append(shape)\n"
        "        super().__init__(config, shape[0], num_classes)\n"
        "def by_channels(config, channels, num_classes):\n"
        "    GIVEN.append(channels)\n"
        "    return Zero(config, channels, num_classes)\n"
        "for build in (by_shape, ByName, by_channels):\n"
        "    register(Row(kind='model', name=build.__name__, target=build, summary=''))\n"
    )
    for name in ("by_shape", "ByName", "by_channels"):
        Trainer(resolve({**SMALL, "model": name}), tiny_dataset, 1, CPU)
    module = sys.modules[registry.get("model", "by_shape").target.__module__]
    assert module.GIVEN == [(1, 8, 8), (1, 8, 8), 1]


# The checks for one's own tests.


def test_the_checks_of_rows_pass_nets_and_data_of_ones_own(own):
    file = own(DROPS + DATA)
    check_row(file, "model", "drops")
    check_row(None, "model", "mlp", {"dataset": "table", "batch_size": 64})
    check_row(None, "dataset", "series", {"model": "sequences", "batch_size": 64})
    check_row(None, "dataset", "table", {"model": "mlp", "batch_size": 64, "init": "xavier"})


def test_the_checks_say_what_does_not_suit_or_draws_numbers_of_its_own(own):
    more = (
        "class Moody(Zero):\n"
        "    def __init__(self, config, in_channels, num_classes):\n"
        "        super().__init__(config, in_channels, num_classes)\n"
        "        generator = torch.Generator()\n"
        "        generator.seed()\n"
        "        nn.init.normal_(self.head.weight, generator=generator)\n"
        "register(Row(kind='model', name='moody', target=Moody, summary='seeds itself'))\n"
    )
    file = own(DATA + more)
    with pytest.raises(ConfigError, match=r"model 'cifar' needs images"):
        check_row(file, "dataset", "table", {"batch_size": 64})
    with pytest.raises(ConformanceError, match="a trial with the same seed has other"):
        check_row(None, "model", "moody")


def test_the_nets_of_the_page_train(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(    import torch\n    from sklearn.*?)\n- ", page, re.DOTALL)
    file = tmp_path / "my_nets.py"
    file.write_text(textwrap.dedent(block), encoding="utf-8")
    metrics = check_row(
        file, "model", "mlp", {"dataset": "wine", "batch_size": 16, "width": 16, "epochs": 8, "lr": 0.1}
    )
    assert metrics["test_accuracy"] > 0.8
