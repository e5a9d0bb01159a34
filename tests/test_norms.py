"""The forward side: norms, reparametrised kernels, the remedies of the gap between batch and running statistics."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from packs import packed, tensors
from torch import nn

from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Request
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.methods.regularizers import Moment, defect
from ablate.tasks.image_classification.models.cifar import CifarNet
from ablate.tasks.image_classification.models.kernels import DiracConv2d, WeightNormConv2d, kernel
from ablate.tasks.image_classification.models.layers import ConvBN, regularized_weights
from ablate.tasks.image_classification.models.norms import (
    BATCH_RENORM,
    NONE,
    BatchRenorm2d,
    batch_norms,
    batch_statistics,
)
from ablate.tasks.image_classification.training.statistics import StatisticsSchedule, estimate, running_statistics
from ablate.tasks.image_classification.training.trainer import Trainer
from ablate.tasks.parameters import ConfigError
from ablate.tasks.registry import names

CPU = torch.device("cpu")
BASE = {"depth": 8, "width": 4, "batch_size": 16, "epochs": 4, "lr": 0.05}
VARIANTS = [
    {"norm": "none"},
    {"norm": "weight"},
    {"norm": "batch_renorm", "renorm_window": [0, 0.5]},
    {"norm": "batch", "frozen_statistics": 0.4, "statistics": "running"},
    {"norm": "batch_renorm", "precise_batches": 3, "statistics": "running"},
    {"norm": "batch", "frozen_statistics": 0.5, "precise_batches": 100, "statistics": "running"},
    {"statistics": "running"},
    {"statistics_images": 40, "augment": "crop_flip"},
    {"model": "dirac"},
    {"precision": "bfloat16"},
]


def trainer(dataset, **settings) -> Trainer:
    return Trainer(resolve({**BASE, **settings}), dataset, 1, CPU)


def train(dataset, checkpoints=None, report=None, **settings):
    config = resolve({**BASE, **settings})
    task = Request(
        key="k", fingerprint="f", seed=1, phase="confirm", settings=config.settings(), data_digest="d"
    )  # fmt: skip
    pack = packed([task], dataset, CPU, checkpoints)
    return (pack.run(report) if report else pack.run())[0]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_variant_repeats_bit_for_bit_and_resumes(tiny_dataset, tmp_path, monkeypatch, settings):
    monkeypatch.setattr("ablate.run.pack.CHECKPOINT_EVERY_S", 0.0)
    torch.manual_seed(1)
    first = train(tiny_dataset, **settings)
    torch.manual_seed(2)  # Nothing may be drawn from the global generator.

    def stop(epoch, values):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(tiny_dataset, Checkpoints(tmp_path), stop, **settings)
    resumed = train(tiny_dataset, Checkpoints(tmp_path), **settings)
    assert first.state == "complete", first.message
    assert (resumed.weights_digest, resumed.curves, resumed.metrics) == (
        first.weights_digest, first.curves, first.metrics,
    )  # fmt: skip
    for split in ("val", "test"):
        for statistics in ("", "_batch_statistics", "_running_statistics", "_estimated_statistics"):
            assert 0 <= first.metrics[f"{split}_accuracy{statistics}"] <= 1
    assert all(math.isfinite(number) for curve in first.curves.values() for number in curve)


@pytest.mark.parametrize("settings", [*VARIANTS, {}], ids=str)
def test_every_variant_learns_what_can_be_learnt(tiny_dataset, settings):
    lr = 0.02 if settings.get("norm") in ("none", "weight") else 0.05
    record = train(tiny_dataset, **{**settings, "epochs": 12, "lr": lr, "width": 8})
    assert record.metrics["test_accuracy"] > 0.9, (record.state, record.message)


@pytest.mark.parametrize("norm", ["none", "weight", "batch_renorm"])
def test_divergence_names_the_layer_with_every_norm(tiny_dataset, norm):
    one = trainer(tiny_dataset, norm=norm)
    one.net.blocks[1].first.conv.register_forward_hook(lambda _, __, output: output * math.nan)
    divergence = one.run_epoch()
    assert (divergence.step, divergence.layer) == (0, "blocks.1.first.conv")


def test_without_batch_norm_batch_and_running_statistics_are_one(tiny_dataset):
    one = trainer(tiny_dataset, norm="none")
    one.run_epoch()
    assert not batch_norms(one.net)
    running, batch = (one.evaluate(tiny_dataset.val, name)[1] for name in ("running", "batch"))
    assert running == batch == one.evaluate(tiny_dataset.val, "estimated")[1]
    assert one.statistics_of("estimated") == []


@pytest.mark.parametrize("norm", ["none", "weight"])
def test_layers_without_batch_norm_have_a_bias_that_starts_at_zero(norm):
    net = CifarNet.build(resolve({**BASE, "norm": norm}), 1, 3)
    biases = [module.bias for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(biases) == 7
    assert all(torch.count_nonzero(bias) == 0 for bias in biases)


def test_weight_norm_agrees_with_torch():
    ours = WeightNormConv2d(3, 5, 3, padding=1).double()
    with torch.no_grad():
        ours.gain.copy_(torch.rand(5) + 0.5)
    theirs = nn.Conv2d(3, 5, 3, padding=1).double()
    theirs.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    theirs = nn.utils.parametrizations.weight_norm(theirs)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.copy_(ours.gain.view(-1, 1, 1, 1))
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(images), theirs(images))
    ours(images).square().sum().backward()
    theirs(images).square().sum().backward()
    torch.testing.assert_close(ours.gain.grad, theirs.parametrizations.weight.original0.grad.flatten())
    torch.testing.assert_close(ours.weight.grad, theirs.parametrizations.weight.original1.grad)


@pytest.mark.parametrize("init", ["he", "orthonormal"])
def test_weight_norm_starts_from_the_kernel_that_the_init_gave(tiny_dataset, init):
    plain, normed = (trainer(tiny_dataset, norm=norm, init=init).net for norm in ("none", "weight"))
    for layer, other in zip(plain.modules(), normed.modules(), strict=True):
        if isinstance(layer, nn.Conv2d):
            torch.testing.assert_close(kernel(other), layer.weight)


def test_dirac_kernel_is_the_formula_of_its_paper():
    layer = DiracConv2d(3, 5, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.a.copy_(torch.arange(1.0, 6.0))
        layer.b.copy_(torch.arange(0.1, 0.6, 0.1))
    for row in range(5):
        expected = layer.b[row] * layer.weight[row] / layer.weight[row].norm()
        if row < 3:
            expected = expected.clone()
            expected[row, 1, 1] += layer.a[row]
        torch.testing.assert_close(layer.kernel()[row], expected)


def test_a_dirac_layer_without_filters_hands_its_input_on():
    layer = DiracConv2d(4, 4, 3, padding=1, bias=False)
    nn.init.zeros_(layer.b)
    images = torch.randn(2, 4, 5, 5)
    assert torch.equal(layer(images), images)


def test_a_dirac_net_has_dirac_kernels_above_the_stem_and_gains_that_nothing_regularizes(tiny_dataset):
    one = trainer(tiny_dataset, model="dirac", depth=14, regularizer="l2")
    convs = [module for module in one.net.modules() if isinstance(module, nn.Conv2d)]
    assert [isinstance(conv, DiracConv2d) for conv in convs] == [False] + [True] * 12
    decayed, rest = one.optimizer.param_groups
    assert all(weight.dim() in (2, 4) for weight in decayed["params"])
    assert any(parameter is convs[1].a for parameter in rest["params"])


@pytest.mark.parametrize("settings", [{"norm": "weight"}, {"model": "dirac"}], ids=str)
def test_the_orthonormal_init_and_regularizer_act_on_the_stored_weight(tiny_dataset, settings):
    one = trainer(
        tiny_dataset, init="orthonormal", regularizer="orthonormal", ortho_weight=0.5, **settings
    )  # fmt: skip
    weights = regularized_weights(one.net)
    assert max(defect(weight).item() for weight in weights) < 1e-9
    conv = one.net.blocks[0].first.conv
    with torch.no_grad():
        conv.weight.mul_(1.2)
    before = kernel(conv).clone()
    one.optimizer.zero_grad(set_to_none=False)
    for parameter in one.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one.regularizer.add_gradient(Moment(step=0, progress=0.0, lr=0.1))
    w = conv.weight.flatten(1)
    expected = 2 * 0.5 * (w @ w.T - torch.eye(len(w))) @ w
    torch.testing.assert_close(conv.weight.grad.flatten(1), expected, atol=1e-5, rtol=1e-4)
    assert torch.count_nonzero(expected) > 0
    torch.testing.assert_close(kernel(conv), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "dirac", "shortcut": "identity"}, "shortcut must be none for the model 'dirac', a plain net"),
        ({"model": "dirac", "norm": "weight"}, "norm must not be weight for the model 'dirac'"),
        ({"model": "dirac", "depth": 9}, r"depth must be 6n\+2 .* for the model 'dirac', but got 9"),
        ({"shortcut": "projection"}, "shortcut must be none or identity for the model 'cifar'"),
        ({"precision": "float16"}, r"precision 'float16' is refused: .* leave its range \(65,504\); use bfloat16"),
        ({"precision": "half"}, "unknown precision 'half'. Available: bfloat16, float32"),
        ({"frozen_statistics": 0.2}, "frozen_statistics needs statistics 'running': weights that were trained with"),
        (
            {"precise_batches": 4},
            "precise_batches needs statistics 'running': 'estimated' estimates them anew at every",
        ),
        ({"norm": "batch_renorm", "frozen_statistics": 0.2}, "frozen_statistics needs statistics 'running'"),
        ({"statistics": "precise"}, "unknown statistics 'precise'. Available: estimated, running"),
        ({"statistics_images": 1}, "statistics_images must be an integer >= 2, but got 1"),
        ({"norm": "btch"}, "unknown norm 'btch'. Did you mean 'batch'"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve(settings)


def renorm_reference(x, norm, running_mean, running_var):
    """The formulas of the paper, a channel at a time."""
    out = torch.empty_like(x)
    for channel in range(x.shape[1]):
        values = x[:, channel]
        mean, std = values.mean(), (values.var(correction=0) + norm.eps).sqrt()
        running_std = (running_var[channel] + norm.eps).sqrt()
        r = (std / running_std).clamp(1 / norm.r_max, norm.r_max).detach()
        d = ((mean - running_mean[channel]) / running_std).clamp(-norm.d_max, norm.d_max).detach()
        out[:, channel] = ((values - mean) / std * r + d) * norm.weight[channel] + norm.bias[channel]
    return out


@pytest.mark.parametrize(("r_max", "d_max"), [(3.0, 5.0), (1.1, 0.05)])
def test_batch_renorm_is_the_formula_of_its_paper(r_max, d_max):
    norm = BatchRenorm2d(3).double()
    norm.r_max, norm.d_max = r_max, d_max
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([0.0, 0.5, -1.0]))
        norm.running_var.copy_(torch.tensor([1.0, 2.0, 0.2]))
        norm.weight.copy_(torch.tensor([1.0, 0.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    expected = renorm_reference(x, norm, norm.running_mean.clone(), norm.running_var.clone())
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    plain = nn.BatchNorm2d(3).double()
    plain.load_state_dict(norm.state_dict())
    out = norm(x)
    plain(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad((out * weights).sum(), x)[0], gradient)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)


def test_batch_renorm_trains_as_it_evaluates_where_nothing_is_clipped():
    norm = BatchRenorm2d(3)
    norm.r_max, norm.d_max = 100.0, 100.0
    norm.running_mean.copy_(torch.tensor([0.1, 0.2, -0.3]))
    x = torch.randn(8, 3, 4, 4)
    evaluated = norm.eval()(x)
    torch.testing.assert_close(norm.train()(x), evaluated)


def test_batch_renorm_with_its_first_limits_is_batch_norm_bit_for_bit():
    norm, plain = BatchRenorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(8, 3, 4, 4)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)


def test_the_limits_of_batch_renorm_rise_in_their_window(tiny_dataset):
    one = trainer(tiny_dataset, norm="batch_renorm", renorm_window=[0.2, 0.6], renorm_r_max=3, renorm_d_max=5)
    norm = batch_norms(one.net)[0]
    found = []
    for progress in (0.0, 0.2, 0.4, 0.6, 0.9):
        one.statistics.at(progress)
        found.append((norm.r_max, norm.d_max))
    assert found == [(1, 0), (1, 0), (pytest.approx(2), pytest.approx(2.5)), (3, 5), (3, 5)]
    one.statistics.config = resolve({**BASE, "norm": "batch_renorm", "renorm_window": [0.5, 0.5]})
    one.statistics.at(0.3)
    assert (norm.r_max, norm.d_max) == (1, 0)


def test_batch_statistics_of_batch_renorm_are_those_of_the_batch_alone():
    layer = ConvBN(1, 3, norm=BATCH_RENORM)
    layer.bn.r_max, layer.bn.d_max = 3.0, 5.0
    layer.bn.running_mean.fill_(7.0)
    x = torch.randn(8, 1, 4, 4)
    layer.eval()
    with batch_statistics(layer):
        out, _ = layer(x, None, None)
    expected = F.batch_norm(layer.conv(x), None, None, training=True)
    torch.testing.assert_close(out, expected)
    assert (layer.bn.r_max, layer.bn.d_max, layer.bn.training) == (3.0, 5.0, False)
    assert torch.equal(layer.bn.running_mean, torch.full((3,), 7.0))


def test_frozen_statistics_are_kept_and_used_in_the_last_part(tiny_dataset):
    one = trainer(tiny_dataset, frozen_statistics=0.5, statistics="running")
    snapshots = []
    for _ in range(4):
        one.run_epoch()
        snapshots.append(batch_norms(one.net)[3].running_mean.clone())
    assert not torch.equal(snapshots[0], snapshots[1])
    assert torch.equal(snapshots[1], snapshots[2])
    assert torch.equal(snapshots[1], snapshots[3])
    one.net.train()
    one.progress.epoch = 3
    images, labels = next(iter(one.batches()))
    one.net.eval()
    evaluated = one.forward(images)
    one.net.train()
    _, trained = one.step(images, labels, 0)
    assert torch.equal(trained, evaluated)


def test_precise_statistics_are_those_of_all_images_together(tiny_dataset):
    one = trainer(tiny_dataset, depth=8, epochs=1)
    one.run_epoch()
    first = one.net.stem
    batches = [images for images, _ in one.batches()]
    found = estimate(one.net, batches, one.forward)[0]
    with torch.no_grad():
        variance, mean = torch.var_mean(first.conv(torch.cat(batches)), (0, 2, 3), correction=0)
    torch.testing.assert_close(found, (mean, variance), atol=1e-5, rtol=1e-4)


def test_statistics_of_one_batch_are_those_of_each_layer_above_layers_that_have_theirs(tiny_dataset):
    one = trainer(tiny_dataset, depth=14, epochs=2)
    one.run_epoch()
    one.net.eval()
    (images,) = (images for images, _ in one.dataset.train.in_order(96))
    images = one.normalise(images)
    found = estimate(one.net, [images], one.forward)
    # Layer by layer: what a layer sees when all below it normalise with what they were given.
    for norm, expected in zip(batch_norms(one.net), found, strict=True):
        seen = []
        handle = norm.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            one.forward(images)
        handle.remove()
        variance, mean = torch.var_mean(seen[0], (0, 2, 3), correction=0)
        torch.testing.assert_close(expected, (mean, variance), atol=1e-4, rtol=1e-3)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def test_precise_statistics_come_once_after_the_last_epoch(tiny_dataset):
    plain, precise = (trainer(tiny_dataset, epochs=2, statistics="running", precise_batches=num) for num in (0, 4))
    for epoch in range(2):
        plain.run_epoch()
        precise.run_epoch()
        same = torch.equal(batch_norms(plain.net)[0].running_var, batch_norms(precise.net)[0].running_var)
        assert same == (epoch == 0)
    for one, other in zip(plain.net.parameters(), precise.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_net_without_batch_norm_has_no_statistics_to_set():
    layer = ConvBN(1, 2, norm=NONE)
    StatisticsSchedule(layer, resolve({"norm": "none"})).at(1.0)
    assert estimate(layer, [torch.zeros(2, 1, 4, 4)], lambda x: layer(x, None, None)) == []
    assert "running_mean" not in str(layer.state_dict().keys())


def test_bfloat16_computes_activations_in_bfloat16_and_the_rest_in_float32(tiny_dataset):
    one = trainer(tiny_dataset, precision="bfloat16", regularizer="orthonormal", modulation="anchor")
    seen = []
    conv = one.net.blocks[0].first.conv
    conv.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    images, labels = next(iter(one.batches()))
    loss, logits = one.step(images, labels, 0)
    assert seen == [torch.bfloat16]
    assert loss.dtype == logits.dtype == torch.float32
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in one.net.parameters())
    grams = []
    matmul = torch.bmm

    def spy(*operands):
        grams.append(matmul(*operands))
        return grams[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bmm", spy)
        one.regularizer.add_gradient(Moment(step=0, progress=0.0, lr=0.1))
    assert grams
    assert all(gram.dtype == torch.float32 for gram in grams)


def test_modulation_levels_the_errors_in_bfloat16_too(tiny_dataset):
    one = trainer(tiny_dataset, precision="bfloat16", modulation="anchor", modulation_form="backward", depth=20)
    modulate = one.modulation.begin()
    q = []

    def below(x, token, site="conv"):
        if site == "conv":
            x = x.clone()
            x.register_hook(lambda error: q.append(error.float().square().mean().item()))
        return modulate(x, token, site)

    images, labels = next(iter(one.batches()))
    F.cross_entropy(one.forward(images, below), labels).backward()
    assert len(q) == 19
    assert max(q) / min(q) < 1.1


@pytest.mark.parametrize("norm", names("norm"))
@pytest.mark.parametrize("model", ["cifar", "dirac"])
def test_every_model_trains_with_every_norm_it_allows(tiny_dataset, model, norm):
    settings = {"model": model, "norm": norm, "epochs": 1, "lr": 0.01}
    if (model, norm) == ("dirac", "weight"):
        with pytest.raises(ConfigError, match="norm must not be weight"):
            resolve(settings)
        return
    record = train(dataclasses.replace(tiny_dataset), **settings)
    assert record.state == "complete", record.message
    assert math.isfinite(record.curves["train_loss"][0])


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm": "batch_renorm"}, {"precision": "bfloat16"}, {"augment": "crop_flip"}, {"shortcut": "identity"}],
    ids=str,
)
def test_estimated_statistics_leave_training_as_it_is_bit_for_bit(tiny_dataset, settings):
    running, estimated = (train(tiny_dataset, statistics=name, **settings) for name in ("running", "estimated"))
    assert estimated.weights_digest == running.weights_digest
    for curve in ("train_loss", "train_accuracy", "lr"):
        assert estimated.curves[curve] == running.curves[curve]
    assert estimated.curves["val_loss"] != running.curves["val_loss"]
    for split in ("val", "test"):
        for name in ("running", "estimated", "batch"):
            metric = f"{split}_accuracy_{name}_statistics"
            assert estimated.metrics[metric] == running.metrics[metric]
    for record in (running, estimated):
        for split in ("val", "test"):
            of = record.metrics[f"{split}_accuracy_{record.settings['statistics']}_statistics"]
            assert record.metrics[f"{split}_accuracy"] == of


def test_every_evaluation_estimates_the_statistics_of_the_weights_that_it_evaluates(tiny_dataset):
    one = trainer(tiny_dataset)
    found = []
    for epoch in range(2):
        one.run_epoch()
        kept = [tensor.clone() for pair in running_statistics(one.net) for tensor in pair]
        found.append(one.statistics_of("estimated"))
        assert one.evaluate(tiny_dataset.val) == (one.progress.curves["val_loss"][epoch],
                                                  one.progress.curves["val_accuracy"][epoch])  # fmt: skip
        for tensor, now in zip(kept, (t for pair in running_statistics(one.net) for t in pair), strict=True):
            assert torch.equal(tensor, now)
    # As many images as there are: all of them, in one batch.
    images = torch.cat([images for images, _ in tiny_dataset.train.in_order(96)])
    with torch.no_grad():
        first = one.net.stem.conv(one.normalise(images))
    torch.testing.assert_close(found[1][0][0], first.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not torch.equal(found[0][0][0], found[1][0][0])


def test_statistics_are_estimated_from_as_many_training_images_as_asked_for(tiny_dataset, monkeypatch):
    sizes = []

    def images(num, max_pixels):
        monkeypatch.setattr("ablate.tasks.image_classification.training.trainer.MAX_PIXELS", max_pixels)
        one = trainer(tiny_dataset, statistics_images=num, batch_size=16)
        one.net.stem.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        one.statistics_of("estimated")
        found = list(sizes)
        sizes.clear()
        return found

    assert images(50, 2**20) == [50]
    assert images(5_000, 2**20) == [96]
    assert images(90, 64 * 20) == [20] * 4  # 20 images of 8×8 fit; what is left over is dropped.
    assert images(90, 1) == [16] * 5  # A batch of training always fits.
    assert images(8, 1) == [8]


def test_kept_weights_have_the_statistics_that_they_were_evaluated_with(tiny_dataset, tmp_path):
    config = resolve(BASE)
    task = Request(key="k", fingerprint="f", seed=1, phase="confirm", settings=config.settings(), data_digest="d")
    (record,) = packed([task], tiny_dataset, CPU, weights=Checkpoints(tmp_path)).run()
    one = trainer(tiny_dataset, statistics="running")
    one.net.load_state_dict(tensors(Checkpoints(tmp_path).load("k"))["net"])
    assert one.evaluate(tiny_dataset.test) == (record.metrics["test_loss"], record.metrics["test_accuracy"])
