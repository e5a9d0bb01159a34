"""Relatives of modulation: per-layer gradients rescaled before the optimizer, and layer-wise optimizers."""

import pytest
import torch
from torch import nn

from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.methods.layer_groups import gradients_below_points, layers
from ablate.tasks.image_classification.models.cifar import CifarNet
from ablate.tasks.image_classification.training.layerwise_optimizers import flattened
from ablate.tasks.image_classification.training.trainer import Trainer

CPU = torch.device("cpu")
BASE = {"depth": 8, "width": 4, "batch_size": 16, "epochs": 2, "lr": 0.05}


def trainer_of(dataset, **settings) -> Trainer:
    return Trainer(resolve({**BASE, **settings}), dataset, 1, CPU)


def first_step_gradients(dataset, monkeypatch, **settings) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """Return the gradients that the optimizer sees in the first step."""
    trainer = trainer_of(dataset, **settings)
    seen: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(
        trainer.optimizer,
        "step",
        lambda: seen.update({name: p.grad.clone() for name, p in trainer.net.named_parameters()}),
    )
    trainer.step(*next(trainer.batches()), 0)
    return trainer, seen


def test_a_layer_is_a_convolution_with_its_norm_or_the_fully_connected_layer():
    net = CifarNet.build(resolve({"depth": 8, "width": 4}), 3, 10)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = [[names[id(parameter)] for parameter in layer] for layer in layers(net)]
    assert len(found) == 8
    assert found[0] == ["stem.conv.weight", "stem.bn.weight", "stem.bn.bias"]
    assert found[-1] == ["fc.weight", "fc.bias"]
    below = [[names[id(parameter)] for parameter in group] for group in gradients_below_points(net, "conv", 1)]
    assert len(below) == 7
    assert below[0] == ["stem.conv.weight"]
    assert below[1] == ["stem.bn.weight", "stem.bn.bias", "blocks.0.first.conv.weight"]


def norm_of(net: nn.Module, layer: list[nn.Parameter], gradients: dict[str, torch.Tensor]) -> float:
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return torch.cat([gradients[names[id(parameter)]].flatten() for parameter in layer]).norm().item()


def test_layer_clip_limits_each_layer_and_leaves_small_ones(tiny_dataset, monkeypatch):
    trainer, plain = first_step_gradients(tiny_dataset, monkeypatch)
    norms = [norm_of(trainer.net, layer, plain) for layer in layers(trainer.net)]
    limit = sorted(norms)[3]
    trainer, clipped = first_step_gradients(tiny_dataset, monkeypatch, modulation="layer_clip", clip_norm=limit)
    after = [norm_of(trainer.net, layer, clipped) for layer in layers(trainer.net)]
    assert after == pytest.approx([min(norm, limit) for norm in norms], rel=1e-5)


def test_layer_normalize_gives_every_layer_a_gradient_of_norm_one(tiny_dataset, monkeypatch):
    trainer, found = first_step_gradients(tiny_dataset, monkeypatch, modulation="layer_normalize")
    assert [norm_of(trainer.net, layer, found) for layer in layers(trainer.net)] == pytest.approx([1.0] * 8, rel=1e-5)
    _, plain = first_step_gradients(tiny_dataset, monkeypatch)
    cosine = nn.functional.cosine_similarity(plain["fc.weight"].flatten(), found["fc.weight"].flatten(), dim=0)
    assert cosine.item() == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_layer_normalize_holds_over_the_range_of_errors_in_deep_plain_nets(scale):
    config = resolve({"depth": 8, "width": 4, "modulation": "layer_normalize"})
    net = CifarNet.build(config, 1, 3)
    modulation = config.row("modulation").load()(config, net)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, scale)
    modulation.after_backward()
    for layer in layers(net):
        assert torch.cat([p.grad.flatten() for p in layer]).norm().item() == pytest.approx(1.0, rel=1e-5)


def test_layer_profile_is_modulation_in_the_first_step_and_fixed_afterwards(tiny_dataset, monkeypatch):
    _, modulated = first_step_gradients(tiny_dataset, monkeypatch, modulation="top")
    trainer, profiled = first_step_gradients(tiny_dataset, monkeypatch, modulation="layer_profile")
    for name, gradient in modulated.items():
        torch.testing.assert_close(profiled[name], gradient)
    factors = trainer.modulation.state()["factors"]
    monkeypatch.undo()
    assert trainer.modulation.begin() is None
    trainer.run_epoch()
    assert trainer.modulation.state()["factors"] is factors
    assert factors.max() / factors.min() > 1.2


@pytest.mark.parametrize(
    "settings",
    [
        {"modulation": "layer_profile"},
        {"modulation": "anchor", "modulation_ema": 0.9},
        {"modulation": "anchor", "modulation_ema": 0.9, "shortcut": "identity"},
        {"regularizer": "srip"},
        {"regularizer": "retraction", "retraction_every": 4},
        {"optimizer": "lars"},
        {"optimizer": "novograd", "lr": 0.01},
        {"optimizer": "muon", "lr": 0.01},
    ],
    ids=str,
)
def test_what_keeps_a_state_goes_on_from_it(tiny_dataset, settings):
    whole, first = trainer_of(tiny_dataset, **settings), trainer_of(tiny_dataset, **settings)
    for trainer in (whole, first):
        assert trainer.run_epoch() is None
    resumed = trainer_of(tiny_dataset, **settings)
    resumed.load_state(first.state())
    for trainer in (whole, resumed):
        assert trainer.run_epoch() is None
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name


def optimizer_on(weights: list[torch.Tensor], weight_decay: float = 0.0, **settings) -> torch.optim.Optimizer:
    config = resolve(settings)
    return config.row("optimizer").load()([{"params": weights, "weight_decay": weight_decay}], config)


def test_lars_moves_each_weight_by_a_fixed_share_of_its_norm_whatever_the_gradient():
    weights = [torch.randn(3, 5, requires_grad=True), torch.randn(2, 2, 3, 3, requires_grad=True)]
    bias = torch.ones(3, requires_grad=True)
    before = [weight.detach().clone() for weight in weights]
    optimizer = optimizer_on([*weights, bias], optimizer="lars", lr=2.0, lars_eta=0.01, momentum=0.5)
    for weight, scale in zip(weights, (1e-6, 1e6), strict=True):
        weight.grad = scale * torch.randn(weight.shape)
    bias.grad = torch.ones(3)
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        assert (weight.detach() - old).norm() / old.norm() == pytest.approx(2.0 * 0.01, rel=1e-4)
    assert torch.equal(bias.detach(), torch.full((3,), -1.0))


def test_lars_follows_its_formula_with_weight_decay_and_momentum():
    weight = torch.tensor([[3.0, 4.0]], requires_grad=True)
    optimizer = optimizer_on([weight], 0.1, optimizer="lars", lr=1.0, lars_eta=0.5, momentum=0.9)
    w, velocity = weight.detach().clone(), torch.zeros(1, 2)
    for gradient in (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])):
        weight.grad = gradient.clone()
        optimizer.step()
        rate = 0.5 * w.norm() / (gradient.norm() + 0.1 * w.norm())
        velocity = 0.9 * velocity + rate * (gradient + 0.1 * w)
        w = w - velocity
        torch.testing.assert_close(weight.detach(), w)


def test_novograd_follows_its_formula():
    weight = torch.tensor([[3.0, 4.0]], requires_grad=True)
    optimizer = optimizer_on([weight], 0.1, optimizer="novograd", lr=0.1, novograd_beta1=0.9, novograd_beta2=0.5)
    w, moment, v = weight.detach().clone(), torch.zeros(1, 2), None
    for gradient in (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])):
        weight.grad = gradient.clone()
        optimizer.step()
        square = gradient.square().sum()
        v = square if v is None else 0.5 * v + 0.5 * square
        moment = 0.9 * moment + (gradient / (v.sqrt() + 1e-8) + 0.1 * w)
        w = w - 0.1 * moment
        torch.testing.assert_close(weight.detach(), w)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_an_orthogonal_step_on_flattened_kernels_and_adamw_on_the_rest(layout):
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(8, 4, 3, 3, generator=generator).contiguous(memory_format=layout).requires_grad_()
    rest = [torch.randn(5, 8, generator=generator).requires_grad_(), torch.ones(8, requires_grad=True)]
    before = [parameter.detach().clone() for parameter in (kernel, *rest)]
    optimizer = optimizer_on([kernel, *rest], optimizer="muon", lr=0.01)
    for parameter in (kernel, *rest):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    step = (before[0] - kernel.detach()).flatten(1)
    singular = torch.linalg.svdvals(step) / (0.01 * 0.2 * 36**0.5)
    # Five iterations in bfloat16 bring singular values near 1, not to it.
    assert singular.min() > 0.5
    assert singular.max() < 1.4
    for parameter, old in zip(rest, before[1:], strict=True):
        # Adam's first step is the sign of the gradient; AdamW's own decay is switched off by the group.
        torch.testing.assert_close(parameter.detach(), old - 0.01 * parameter.grad.sign(), rtol=1e-4, atol=1e-6)


def test_the_two_layouts_of_a_kernel_get_the_same_muon_step():
    steps = []
    for layout in (torch.contiguous_format, torch.channels_last):
        generator = torch.Generator().manual_seed(0)
        kernel = torch.randn(8, 4, 3, 3, generator=generator).contiguous(memory_format=layout).requires_grad_()
        optimizer = optimizer_on([kernel, torch.ones(3, requires_grad=True)], optimizer="muon", lr=1.0)
        kernel.grad = torch.randn(8, 4, 3, 3, generator=generator)
        before = kernel.detach().clone()
        optimizer.step()
        steps.append(kernel.detach() - before)
        assert flattened(kernel.detach()).data_ptr() == kernel.data_ptr()
    # The columns are in another order, so bfloat16 sums round otherwise.
    torch.testing.assert_close(steps[0], steps[1], atol=0.02, rtol=0.02)


def test_the_learning_rate_that_the_trainer_sets_reaches_both_parts_of_muon(tiny_dataset):
    trainer = trainer_of(tiny_dataset, optimizer="muon", lr=0.01, lr_schedule="constant")
    trainer.step(*next(trainer.batches()), 0)
    rates = {group["lr"] for part in (trainer.optimizer.muon, trainer.optimizer.adamw) for group in part.param_groups}
    assert rates == {0.01}
    trainer.load_state(trainer.state())
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.5
    assert trainer.optimizer.muon.param_groups[0]["lr"] == 0.5
