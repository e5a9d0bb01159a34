"""Training of packs: repeatability, divergence, checkpoints, failures."""

import dataclasses
import errno
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from packs import packed, tensors

from ablate.errors import UsageError
from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Request
from ablate.tasks import registry
from ablate.tasks.image_classification.config import PARAMETERS, resolve
from ablate.tasks.image_classification.data.dataset import Split
from ablate.tasks.image_classification.training.device import choose_device
from ablate.tasks.image_classification.training.lr_schedules import lr_at
from ablate.tasks.image_classification.training.trainer import Trainer, weights_digest
from ablate.tasks.registry import names

CPU = torch.device("cpu")
BASE = {"depth": 8, "width": 4, "batch_size": 16, "epochs": 2, "lr": 0.05}


def task(seed: int = 1, phase: str = "confirm", **settings) -> Request:
    config = resolve({**BASE, **settings})
    return Request(
        key=f"{seed}", fingerprint="f", seed=seed, phase=phase, settings=config.settings(), data_digest="d"
    )  # fmt: skip


def train(dataset, *tasks, report=None, checkpoints=None):
    pack = packed(tasks, dataset, CPU, checkpoints)
    return pack.run(report) if report else pack.run()


def outcome(record):
    return record.state, record.metrics, record.curves, record.weights_digest


def test_a_net_learns_what_can_be_learnt(tiny_dataset):
    (record,) = train(tiny_dataset, task(epochs=6))
    assert record.state == "complete"
    assert record.metrics["test_accuracy"] > 0.9
    assert record.curves["train_loss"][-1] < record.curves["train_loss"][0]
    assert record.num_epochs == 6
    assert all(len(curve) == 6 for curve in record.curves.values())


def test_every_epoch_has_an_order_of_its_own_that_the_seed_repeats(tiny_dataset):
    def orders(seed):
        trainer = Trainer(resolve(BASE), tiny_dataset, seed, CPU)
        found = []
        for epoch in range(3):
            trainer.progress.epoch = epoch
            found.append(torch.cat([images for images, _ in trainer.batches()]))
        return found

    first, again, other = orders(1), orders(1), orders(2)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    for one, two in ((first[0], first[1]), (first[1], first[2]), (first[0], other[0])):
        assert not torch.equal(one, two)
        torch.testing.assert_close(one.sum(), two.sum())  # the same images


def test_test_images_are_touched_in_the_confirm_phase_only(tiny_dataset):
    poisoned = dataclasses.replace(tiny_dataset, test=None)
    (record,) = train(poisoned, task(phase="tune"))
    assert record.state == "complete"
    assert not any("test" in name for name in record.metrics)
    (record,) = train(poisoned, task(phase="confirm"))
    assert record.state == "failed"


@pytest.mark.parametrize(
    "settings", [{}, {"augment": "crop_flip"}, {"regularizer": "orthonormal", "modulation": "anchor"}]
)
def test_the_same_seed_repeats_weights_and_curves_bit_for_bit(tiny_dataset, settings):
    first, second, other = (train(tiny_dataset, task(seed, **settings))[0] for seed in (1, 1, 2))
    assert outcome(first) == outcome(second)
    assert first.weights_digest != other.weights_digest


PROCESS = """
import sys, torch
from pathlib import Path
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.prepare import prepare
from ablate.tasks.image_classification.task import TASK
from ablate.run.pack import Pack, Request
last = {"depth": 8, "width": 4, "epochs": 2, "augment": "crop_flip", "regularizer": "l2"}
before = [{"depth": 14, "width": 8, "epochs": 1, "optimizer": "adam", "lr": 0.01, "modulation": "anchor"},
          {"depth": 8, "width": 4, "epochs": 1, "lr": 1e6, "regularizer": "orthonormal"}]
for settings in [*(before if sys.argv[2] == "reused" else []), last]:
    config = resolve(settings)
    data = prepare(config, Path(sys.argv[1]))
    task = {"key": "k", "fingerprint": "f", "seed": 5, "phase": "confirm", "data_digest": data.digest}
    own = Request(**task, settings=config.settings())
    (record,) = Pack(TASK, [own], "cpu", data.path).run()
    print(record.state, record.weights_digest, record.curves, record.metrics)
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> dict[str, list[str]]:
    """The lines of a process that runs one trial, of another, and of one that has run two others before."""
    folder = tmp_path_factory.mktemp("processes")
    return {
        name: subprocess.run(
            [sys.executable, "-c", PROCESS, folder, how], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for name, how in (("one", "fresh"), ("another", "fresh"), ("reused", "reused"))
    }


def test_the_same_seed_repeats_in_another_process(processes):
    assert processes["one"] == processes["another"]
    (line,) = processes["one"]
    assert len(line.split()[1]) == 16


@pytest.mark.parametrize("kind", ["optimizer", "regularizer", "modulation", "init", "lr_schedule", "augment", "norm"])
def test_every_row_trains_two_epochs_with_finite_numbers(tiny_dataset, kind):
    tasks = [task(lr=0.01, **{kind: name}) for name in names(kind)]
    for name, record in zip(names(kind), train(tiny_dataset, *tasks), strict=True):
        assert record.state == "complete", (name, record.message)
        assert all(math.isfinite(number) for curve in record.curves.values() for number in curve), name


def test_members_of_a_pack_train_as_they_do_alone(tiny_dataset):
    tasks = [task(1), task(2, optimizer="adam", lr=0.01)]
    together = train(tiny_dataset, *tasks)
    alone = [train(tiny_dataset, one)[0] for one in tasks]
    assert [outcome(record) for record in together] == [outcome(record) for record in alone]


def test_a_dropped_member_is_pruned_and_the_others_go_on(tiny_dataset):
    reports = []

    def report(epoch, values):
        reports.append((epoch, [value is None for value in values]))
        return {0} if epoch == 1 else set()

    pruned, complete = train(tiny_dataset, task(1, epochs=3), task(2, epochs=3), report=report)
    assert (pruned.state, pruned.num_epochs) == ("pruned", 1)
    assert pruned.metrics["val_accuracy"] == pruned.curves["val_accuracy"][-1]
    assert "val_accuracy_batch_statistics" in pruned.metrics
    assert "test_accuracy" not in pruned.metrics
    assert (complete.state, complete.num_epochs) == ("complete", 3)
    assert reports == [(1, [False, False]), (2, [True, False]), (3, [True, False])]


def plant_nan(trainer: Trainer, layer: str, step: int) -> None:
    """Let a layer's output become NaN at one step of the training, also when the epoch is run again."""
    module = dict(trainer.net.named_modules())[layer]
    present = {"step": -1}
    inner = trainer.step

    def step_with_count(images, labels, index):
        present["step"] = trainer.progress.epoch * trainer.steps_per_epoch + index
        return inner(images, labels, index)

    trainer.step = step_with_count
    module.register_forward_hook(lambda _, __, output: output * math.nan if present["step"] == step else None)


@pytest.mark.parametrize("layer", ["blocks.1.second.conv", "stem.bn", "fc"])
def test_divergence_names_epoch_step_and_first_offending_layer(tiny_dataset, layer):
    trainer = Trainer(resolve({**BASE, "epochs": 3}), tiny_dataset, 1, CPU)
    plant_nan(trainer, layer, step=9)
    assert trainer.run_epoch() is None
    divergence = trainer.run_epoch()
    assert (divergence.epoch, divergence.step, divergence.layer) == (2, 9, layer)
    assert divergence.message == "non-finite output"


def test_a_non_finite_gradient_is_found_in_the_backward_pass(tiny_dataset):
    trainer = Trainer(resolve(BASE), tiny_dataset, 1, CPU)
    layer = trainer.net.blocks[0].first.conv
    layer.register_full_backward_hook(lambda _, grads, __: tuple(g * math.nan if g is not None else g for g in grads))
    divergence = trainer.run_epoch()
    assert divergence.step == 0
    assert divergence.message == "non-finite backpropagated error"
    assert divergence.layer == "stem.bn"


def test_a_loss_above_the_threshold_is_divergence_for_every_arm(tiny_dataset):
    (record,) = train(tiny_dataset, task(max_loss=0.5))
    assert (record.state, record.diverged_epoch, record.diverged_step) == ("diverged", 1, 0)
    assert record.diverged_layer == "loss"
    assert "exceeds max_loss 0.5" in record.message
    assert record.settings["max_loss"] == 0.5


def test_a_huge_learning_rate_diverges_as_a_result_not_as_an_error(tiny_dataset):
    (record,) = train(
        tiny_dataset, task(regularizer="orthonormal", ortho_weight=10.0, lr=100.0, lr_schedule="constant")
    )
    assert record.state == "diverged"
    assert record.diverged_layer not in ("", "unknown")


class StoppedError(Exception):
    """Stands for a worker that is killed."""


def test_a_trial_that_goes_on_from_its_checkpoint_equals_an_uninterrupted_one(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.run.pack.CHECKPOINT_EVERY_S", 0.0)
    one = task(1, epochs=4, optimizer="adam", lr=0.01, augment="crop_flip")
    (uninterrupted,) = train(tiny_dataset, one)
    checkpoints = Checkpoints(tmp_path)
    seen = []

    def report(epoch, values):
        seen.append((epoch, values))
        if epoch == 3 and len(seen) == 3:
            raise StoppedError
        return set()

    with pytest.raises(StoppedError):
        train(tiny_dataset, one, report=report, checkpoints=checkpoints)
    assert checkpoints.path("1").exists()
    (resumed,) = train(tiny_dataset, one, report=report, checkpoints=checkpoints)
    assert outcome(resumed) == outcome(uninterrupted)
    assert seen[3:6] == seen[:3]


def test_a_damaged_checkpoint_lets_the_trial_start_over(tiny_dataset, tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.path("1").write_bytes(b"no checkpoint")
    (record,) = train(tiny_dataset, task(1), checkpoints=checkpoints)
    assert record.state == "complete"
    assert "cannot be read, so its trial starts over" in caplog.text


def test_an_error_in_training_ends_the_trial_as_failed(tiny_dataset, monkeypatch):
    monkeypatch.setattr(Trainer, "run_epoch", lambda self: 1 / 0)
    (record,) = train(tiny_dataset, task())
    assert (record.state, record.reason) == ("failed", "error")
    assert "ZeroDivisionError" in record.message


def no_memory_for_numpy():
    np.empty(2**50)


def no_memory_for_torch():
    torch.empty(2**50)


def no_memory_for_lapack():
    raise RuntimeError("std::bad_alloc")  # All that torch.linalg.svd says.


def no_memory_on_the_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_memory_for_a_process():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    "use_memory",
    [no_memory_for_torch, no_memory_for_numpy, no_memory_for_lapack, no_memory_on_the_gpu, no_memory_for_a_process],
)
@pytest.mark.parametrize("when", ["__init__", "run_epoch", "evaluate"])
def test_running_out_of_memory_has_a_reason_of_its_own(tiny_dataset, tmp_path, monkeypatch, use_memory, when):
    monkeypatch.setattr(Trainer, when, lambda *_: use_memory())
    (record,) = train(tiny_dataset, task(), checkpoints=Checkpoints(tmp_path))
    assert (record.state, record.reason) == ("failed", "out_of_memory"), record.message
    assert use_memory.__name__ in record.message


@pytest.mark.parametrize("num", [33, 34, 48])
def test_a_single_image_left_over_joins_the_batch_before_it(tiny_dataset, num):
    # At 4×4 the last stage is 1×1, where one image has no variance.
    small = Split(tiny_dataset.train.images[:, :, ::2, ::2], tiny_dataset.train.labels)
    data = dataclasses.replace(tiny_dataset, train=small, val=small.take(torch.arange(num)))
    trainer = Trainer(resolve(BASE), data, 1, CPU)
    sizes = []
    trainer.net.stem.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    loss, accuracy = trainer.evaluate(data.val, "batch")
    assert sizes == {33: [16, 17], 34: [16, 16, 2], 48: [16, 16, 16]}[num]
    assert math.isfinite(loss)
    assert 0 <= accuracy <= 1


def test_a_confirm_trial_has_for_every_test_accuracy_which_images_were_right(tiny_dataset, monkeypatch):
    monkeypatch.setattr("ablate.tasks.image_classification.training.trainer.EVAL_BATCH", 10)
    data = dataclasses.replace(tiny_dataset, test=tiny_dataset.test.take(torch.arange(31)), test_digest="t")
    (record,) = train(data, task(lr=0.01, epochs=1))
    assert set(record.items) == {name for name in record.metrics if name.startswith("test_accuracy")}
    for name, bits in record.items.items():
        assert len(bits) == 31
        assert set(bits) <= {0.0, 1.0}
        assert sum(bits) / 31 == pytest.approx(record.metrics[name], abs=1e-9)
    trainer = Trainer(resolve({**BASE, "lr": 0.01, "epochs": 1}), data, 1, CPU)
    trainer.run_epoch()
    alone = [trainer.evaluate(data.test.take(torch.tensor([index])))[1] for index in range(31)]
    assert record.items["test_accuracy"] == alone
    assert 0 < sum(alone) < 31


def test_the_test_images_are_evaluated_no_more_often_than_there_are_accuracies(tiny_dataset, monkeypatch):
    seen = []
    evaluate = Trainer.evaluate
    monkeypatch.setattr(
        Trainer,
        "evaluate",
        lambda self, split, *rest: seen.append(split is self.dataset.test) or evaluate(self, split, *rest),
    )
    (record,) = train(tiny_dataset, task(epochs=1))
    assert sum(seen) == len(record.items) == 4


@pytest.mark.parametrize(("phase", "settings"), [("tune", {}), ("confirm", {"lr": 1e6, "max_loss": 10.0})])
def test_tune_trials_and_diverged_ones_have_no_items(tiny_dataset, phase, settings):
    (record,) = train(tiny_dataset, task(phase=phase, **settings))
    assert record.state == ("diverged" if settings else "complete")
    assert (record.items, record.items_digest) == ({}, "")


def test_items_of_two_trials_have_one_digest_only_where_their_test_images_are_the_same(tiny_dataset):
    def digest(data_digest="d", **changes):
        data = dataclasses.replace(tiny_dataset, **{"test_digest": "t", **changes})
        request = dataclasses.replace(task(epochs=1), data_digest=data_digest)
        (record,) = train(data, request)
        return record.items_digest

    assert re.fullmatch("[0-9a-f]{16}", digest())
    assert digest() == digest(data_digest="other")
    assert digest() != digest(test_digest="u")
    assert digest(test_digest="") != digest("other", test_digest="")


def test_batch_statistics_leave_the_running_ones_alone(tiny_dataset):
    trainer = Trainer(resolve(BASE), tiny_dataset, 1, CPU)
    trainer.run_epoch()
    before = {name: value.clone() for name, value in trainer.net.state_dict().items() if "running" in name}
    running = trainer.evaluate(tiny_dataset.val)
    assert trainer.evaluate(tiny_dataset.val, "batch") != running
    assert all(
        torch.equal(value, before[name]) for name, value in trainer.net.state_dict().items() if "running" in name
    )
    assert trainer.evaluate(tiny_dataset.val) == running


def test_weight_decay_acts_on_conv_and_fc_weights_only(tiny_dataset):
    trainer = Trainer(resolve({**BASE, "regularizer": "l2", "weight_decay": 0.1}), tiny_dataset, 1, CPU)
    decayed, rest = trainer.optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    assert all(weight.dim() in (2, 4) for weight in decayed["params"])
    assert all(weight.dim() == 1 for weight in rest["params"])


def test_modulation_acts_in_its_window_only(tiny_dataset):
    settings = {**BASE, "epochs": 10, "modulation": "anchor", "modulation_window": [0.2, 0.5]}
    trainer = Trainer(resolve(settings), tiny_dataset, 1, CPU)
    assert trainer.num_steps == 60
    assert [step for step in range(60) if trainer.modulation.acts(step, 60)] == list(range(12, 30))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("step", [1, 1, 0.1, 0.01]),
        ("step_thirds", [1, 1, 0.1, 0.01]),
        ("cosine", [1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 + math.cos(3 * math.pi / 4))]),
        ("one_cycle", [0.04, None, None, None]),
    ],
)
def test_lr_schedules(schedule, expected):
    config = resolve({"lr": 2.0, "lr_schedule": schedule})
    for quarter, factor in enumerate(expected):
        if factor is not None:
            assert lr_at(config, 25 * quarter, 100) == pytest.approx(2.0 * factor)


def test_the_two_step_schedules_fall_where_they_say():
    def falls(schedule):
        config = resolve({"lr": 1.0, "lr_schedule": schedule})
        rates = [lr_at(config, step, 12) for step in range(12)]
        return [step for step in range(1, 12) if rates[step] != rates[step - 1]]

    assert falls("step") == [6, 9]
    assert falls("step_thirds") == [4, 8]


def test_one_cycle_agrees_with_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=1001, cycle_momentum=False)
    config = resolve({"lr": 0.5, "lr_schedule": "one_cycle"})
    for step in range(1000):
        assert lr_at(config, step, 1000) == pytest.approx(theirs.get_last_lr()[0], abs=2e-3), step
        optimizer.step()
        theirs.step()


def test_warmup_rises_linearly_to_the_schedule():
    config = resolve({"lr": 1.0, "lr_schedule": "constant", "warmup": 0.1})
    rates = [lr_at(config, step, 100) for step in range(12)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10:] == [1.0, 1.0]


def test_a_device_that_is_not_there_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"there is no device 'cuda' on this machine\. Available: cpu"):
        choose_device("cuda")
    assert choose_device("cpu") == CPU


def test_weights_of_confirm_trials_are_kept_where_asked_for(tiny_dataset, tmp_path):
    kept = Checkpoints(tmp_path / "weights")
    tasks = [task(1, statistics="running"), task(2, phase="tune")]
    records = packed(tasks, tiny_dataset, CPU, weights=kept).run()
    assert [record.state for record in records] == ["complete", "complete"]
    assert [file.name for file in (tmp_path / "weights").iterdir()] == ["1.pt"]
    net = Trainer(resolve(tasks[0].settings), tiny_dataset, 5, CPU).net
    net.load_state_dict(tensors(kept.load("1"))["net"])
    assert weights_digest(net) == records[0].weights_digest


def test_a_reused_worker_gives_the_numbers_of_a_fresh_one(processes):
    """What ran before in a process, with other optimizers, sizes or a divergence, leaves no trace in a trial."""
    assert [line.split()[0] for line in processes["reused"]] == ["complete", "diverged", "complete"]
    assert processes["reused"][-1] == processes["one"][0]


def test_label_smoothing_is_its_formula_and_changes_the_training_loss_only(tiny_dataset):
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    loss = Trainer(resolve({**BASE, "loss": "label_smoothing", "label_smoothing": 0.3}), tiny_dataset, 1, CPU).loss
    shares = 0.7 * torch.nn.functional.one_hot(labels, 4) + 0.3 / 4
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    (plain,) = train(tiny_dataset, task())
    (none,) = train(tiny_dataset, task(loss="label_smoothing", label_smoothing=0.0))
    (smooth,) = train(tiny_dataset, task(loss="label_smoothing", label_smoothing=0.3))
    assert outcome(none) == outcome(plain)
    assert smooth.weights_digest != plain.weights_digest
    one = Trainer(resolve({**BASE, "loss": "label_smoothing", "label_smoothing": 0.9}), tiny_dataset, 1, CPU)
    other = Trainer(resolve(BASE), tiny_dataset, 1, CPU)
    assert one.evaluate(tiny_dataset.val) == other.evaluate(tiny_dataset.val)


def test_the_loss_of_before_stays_out_of_the_fingerprint():
    assert resolve({}).fingerprint("d") == resolve({"loss": "cross_entropy"}).fingerprint("d")
    assert resolve({"loss": "label_smoothing"}).fingerprint("d") != resolve({}).fingerprint("d")
    assert "loss" not in PARAMETERS.written(resolve({}).settings())


class Counting:
    """A regularizer whose penalty depends on how often it was called."""

    weight_decay = 0.0

    def __init__(self, weights, config):
        self.weights, self.count = weights, 0

    def add_gradient(self, moment):
        self.count += 1
        for weight in self.weights:
            weight.grad.add_(weight.detach(), alpha=1e-3 * self.count)

    def after_step(self, moment):
        pass

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = state["count"]


def test_the_state_of_a_regularizer_is_in_the_checkpoint(tiny_dataset, tmp_path, monkeypatch):
    row = registry.Row(kind="regularizer", name="counting", target=Counting, summary="counts")
    monkeypatch.setitem(registry._rows["regularizer"], "counting", row)
    assert_goes_on_from_its_state(tiny_dataset, tmp_path, monkeypatch, task(epochs=3, regularizer="counting"))


def test_the_running_means_of_a_modulation_are_in_the_checkpoint(tiny_dataset, tmp_path, monkeypatch):
    one = task(epochs=3, modulation="anchor", modulation_ema=0.9, modulation_form="backward")
    assert_goes_on_from_its_state(tiny_dataset, tmp_path, monkeypatch, one)


def assert_goes_on_from_its_state(dataset, folder, monkeypatch, one):
    monkeypatch.setattr("ablate.run.pack.CHECKPOINT_EVERY_S", 0.0)
    (whole,) = train(dataset, one)

    def report(epoch, values):
        raise StoppedError

    with pytest.raises(StoppedError):
        train(dataset, one, report=report, checkpoints=Checkpoints(folder))
    (resumed,) = train(dataset, one, checkpoints=Checkpoints(folder))
    assert whole.state == "complete", whole.message
    assert outcome(resumed) == outcome(whole)
