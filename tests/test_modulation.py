"""Backward error modulation: its rule, its two forms, its switches."""

import math

import pytest
import torch
from torch import nn

from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.methods.modulation_rule import Rule
from ablate.tasks.image_classification.models.cifar import CifarNet, regularized_weights
from ablate.tasks.parameters import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(settings: dict, seed: int = 0) -> tuple[CifarNet, object]:
    """Return a net in float64 and its modulation."""
    config = resolve({"init": "he", **settings})
    net = CifarNet.build(config, 3, 10).double()
    for weight in regularized_weights(net):
        config.row("init").load()(weight, generator(seed))
    return net.train(), config.row("modulation").load()(config, net)


def batch_of(seed: int = 0, size: int = 8, batch: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(batch, 3, size, size, dtype=torch.float64, generator=generator(seed + 1))
    return images, torch.randint(0, 10, (batch,), generator=generator(seed + 2))


def backward(net, modulation, data, watch="conv", errors=None):
    """Do one backward pass; note the errors at the points of a site, after their own modulation."""
    modulate = modulation.begin() if modulation is not None else None

    def below(x, token, site="conv"):
        if site == watch and errors is not None:
            x = x.clone()
            x.register_hook(lambda error: errors.append(error.square().mean().item()))
        return modulate(x, token, site) if modulate else (x, token)

    for parameter in net.parameters():
        parameter.grad = None
    nn.functional.cross_entropy(net(data[0], below), data[1]).backward()
    if modulation is not None:
        modulation.after_backward()


def net_and_errors(settings: dict, seed: int = 0, size: int = 8, batch: int = 16):
    """Return (mean square errors at the points of the site from below up, net) of one backward pass in float64."""
    net, modulation = built(settings, seed)
    errors: list[float] = []
    backward(net, modulation, batch_of(seed, size, batch), settings.get("modulation_site", "conv"), errors)
    return errors[::-1], net


def gradients(settings: dict) -> dict[str, torch.Tensor]:
    _, net = net_and_errors(settings)
    return {name: parameter.grad for name, parameter in net.named_parameters()}


BACKWARD = {"depth": 20, "width": 4, "modulation_form": "backward"}
MODULATED = {**BACKWARD, "modulation": "previous", "modulation_tolerance": 0.0}


@pytest.mark.parametrize("reference", ["previous", "anchor", "top"])
@pytest.mark.parametrize("shortcut", ["none", "identity"])
def test_tolerance_zero_makes_every_error_equal(reference, shortcut):
    q, _ = net_and_errors({**MODULATED, "modulation": reference, "shortcut": shortcut})
    unmodulated, _ = net_and_errors({"depth": 20, "width": 4, "shortcut": shortcut})
    assert len(q) == 19
    # The hooks see a layer's error after its own modulation.
    assert max(q) / min(q) == pytest.approx(1, abs=1e-9)
    assert max(unmodulated) / min(unmodulated) > 3
    assert q[-1] == pytest.approx(unmodulated[-1], rel=1e-9)


@pytest.mark.parametrize("form", ["backward", "post_hoc"])
@pytest.mark.parametrize("reference", ["previous", "anchor", "top"])
def test_infinite_tolerance_equals_no_modulation_bit_for_bit(reference, form):
    tolerance = {"modulation_tolerance": math.inf, "modulation_form": form}
    _, net = net_and_errors({**MODULATED, "modulation": reference, **tolerance})
    _, plain = net_and_errors({"depth": 20, "width": 4})
    for (name, parameter), other in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name


def test_modulation_in_a_chain_equals_scaling_each_layers_gradient_afterwards():
    _, net = net_and_errors(MODULATED)
    q, plain = net_and_errors({"depth": 20, "width": 4})
    convs = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    modulated, unmodulated = dict(net.named_parameters()), dict(plain.named_parameters())
    for name, own in zip(convs, q, strict=True):
        scale = math.sqrt(q[-1] / own)
        expected = scale * unmodulated[f"{name}.weight"].grad
        torch.testing.assert_close(modulated[f"{name}.weight"].grad, expected, rtol=1e-8, atol=1e-12)


def test_previous_lets_a_slow_drift_pass_and_anchor_does_not():
    tolerance = {**BACKWARD, "depth": 44, "modulation_tolerance": 4.0}
    drifting, _ = net_and_errors({**tolerance, "modulation": "previous"})
    anchored, _ = net_and_errors({**tolerance, "modulation": "anchor"})
    assert max(drifting) / min(drifting) > 100
    assert max(anchored) / min(anchored) < 4.0 * (1 + 1e-9)


def test_anchor_equals_top_because_a_modulated_layer_takes_the_anchors_magnitude():
    tolerance = {**BACKWARD, "modulation_tolerance": 2.0}
    anchored, _ = net_and_errors({**tolerance, "modulation": "anchor"})
    top, _ = net_and_errors({**tolerance, "modulation": "top"})
    assert anchored == pytest.approx(top, rel=1e-12)


def test_a_dead_net_is_left_alone():
    _, modulation = built({**BACKWARD, "modulation": "anchor"})
    modulate = modulation.begin()
    x = torch.ones(2, 3, requires_grad=True)
    token = torch.zeros((), requires_grad=True)
    first, token = modulate(x, token)
    second, token = modulate(first * 0, token)
    second.sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("init", ["he", "orthonormal"])
def test_the_error_of_plain_44_explodes_toward_the_input_at_initialisation(init):
    q, _ = net_and_errors({"depth": 44, "width": 16, "init": init}, size=32, batch=64)
    assert 1e5 < q[0] / q[-1] < 1e7


# Every switch on its own, and some together.
SWITCHES = [
    {},
    {"modulation_tolerance": 3.0},
    {"modulation_clamp": 1.1},
    {"modulation_side": "damp"},
    {"modulation_side": "boost"},
    {"modulation_every_k": 3},
    {"modulation_ema": 0.7},
    {"modulation_site": "norm"},
    {"modulation_tolerance": 2.0, "modulation_clamp": 1.2, "modulation_every_k": 2, "modulation_ema": 0.5},
    {"modulation_tolerance": 2.0, "modulation_site": "norm", "modulation_side": "damp", "modulation_every_k": 4},
]


@pytest.mark.parametrize("reference", ["previous", "anchor", "top"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_in_a_chain_the_post_hoc_form_equals_the_backward_form_for_all_parameters(reference, switches):
    settings = {"depth": 20, "width": 4, "modulation": reference, **switches}
    nets = [built({**settings, "modulation_form": form}) for form in ("backward", "post_hoc")]
    # Three steps: what running means have kept must agree as well.
    for step in range(3):
        for net, modulation in nets:
            backward(net, modulation, batch_of(10 * step))
        for (name, one), other in zip(nets[0][0].named_parameters(), nets[1][0].parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-14, msg=f"{name}, step {step}")
    states = [modulation.state() for _, modulation in nets]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-8, atol=1e-12)


def test_auto_is_post_hoc_in_a_chain_and_backward_elsewhere():
    def form(**settings):
        return type(built({"depth": 8, "width": 4, "modulation": "anchor", **settings})[1]).__name__

    assert form() == "PostHocModulation"
    assert form(shortcut="identity") == "BackwardModulation"
    assert form(modulation_site="block") == "BackwardModulation"
    assert form(depth=200) == "PostHocModulation"
    assert form(depth=206) == "BackwardModulation"


def test_a_chain_too_deep_for_unmodulated_errors_takes_the_backward_form():
    config = resolve({"depth": 380, "width": 4, "modulation": "anchor"})
    data = [tensor.float() if tensor.is_floating_point() else tensor for tensor in batch_of()]

    def stem_gradient(modulation) -> torch.Tensor:
        net, random = CifarNet.build(config, 3, 10), generator()
        for weight in regularized_weights(net):
            config.row("init").load()(weight, random)
        backward(net.train(), modulation(config, net), data)
        return net.stem.conv.weight.grad

    assert stem_gradient(lambda *_: None).norm() == math.inf
    assert 0.1 < stem_gradient(config.row("modulation").load()).norm() < 100


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"shortcut": "identity"}, "holds in nets without shortcuts only, .* but got shortcut 'identity'"),
        ({"modulation_site": "block"}, "knows the sites conv and norm, but got modulation_site 'block'"),
        (
            {"depth": 206},
            "up to depth 200, .* leave the range of float32 when they are squared, but got depth 206",
        ),
    ],
)
def test_the_post_hoc_form_is_refused_where_it_does_not_hold(settings, rule):
    with pytest.raises(ConfigError, match=rule + r".*Available here: auto, backward") as caught:
        resolve({"modulation": "anchor", "modulation_form": "post_hoc", **settings})
    assert caught.value.parameter == "modulation_form"


@pytest.mark.parametrize("shortcut", ["none", "identity"])
@pytest.mark.parametrize(("site", "num_points"), [("conv", 19), ("norm", 19), ("block", 9)])
def test_errors_are_equal_at_the_site_that_is_modulated(site, num_points, shortcut):
    settings = {**MODULATED, "modulation": "top", "modulation_site": site, "shortcut": shortcut}
    q, _ = net_and_errors(settings)
    assert len(q) == num_points
    assert max(q) / min(q) == pytest.approx(1, abs=1e-9)


def test_every_k_modulates_every_kth_layer_from_the_input():
    q, _ = net_and_errors({**MODULATED, "modulation_every_k": 3})
    modulated = q[::3]
    assert len(modulated) == 7
    assert max(modulated) / min(modulated) == pytest.approx(1, abs=1e-9)
    assert max(q) / min(q) > 1.1


def rule_factors(q: list[float], **switches) -> list[float]:
    """Apply a rule along a chain, from the top down; return ρ of each point."""
    rule = Rule(**{"reference": "previous", **switches})
    reference = torch.zeros((), dtype=torch.float64)
    factor, factors = 1.0, []
    for value in q:
        r = factor * torch.tensor(value, dtype=torch.float64).sqrt()
        rho, reference, _ = rule.correct(r, reference, None)
        factors.append(rho.item())
        factor *= rho.item()
    return factors


def test_rho_is_the_root_of_upper_over_lower():
    assert rule_factors([1.0, 4.0]) == pytest.approx([1.0, 0.5])
    # The second error is halved, so what reaches the third is halved too.
    assert rule_factors([1.0, 4.0, 16.0]) == pytest.approx([1.0, 0.5, 0.5])


def test_clamp_limits_a_factor_and_its_inverse():
    assert rule_factors([1.0, 100.0], clamp=2.0) == pytest.approx([1.0, 0.5])
    assert rule_factors([1.0, 0.01], clamp=2.0) == pytest.approx([1.0, 2.0])
    assert rule_factors([1.0, 1.21], clamp=2.0) == pytest.approx([1.0, 1 / 1.1])


def test_clamped_points_drift_from_the_top_but_not_from_their_own_anchor():
    # The second point can be moved from q = 100 to 25 only. The third arrives at 25: its anchor has 25, the top 1.
    assert rule_factors([1.0, 100.0, 100.0], clamp=2.0, reference="anchor")[2] == pytest.approx(1.0)
    assert rule_factors([1.0, 100.0, 100.0], clamp=2.0, reference="top")[2] == pytest.approx(0.5)


def test_damp_only_shrinks_errors_and_boost_only_enlarges_them():
    assert rule_factors([1.0, 4.0, 1.0], side="damp", reference="top") == pytest.approx([1.0, 0.5, 1.0])
    assert rule_factors([1.0, 0.25, 4.0], side="boost", reference="top") == pytest.approx([1.0, 2.0, 1.0])


def test_tolerance_is_a_ratio_of_mean_squares_to_either_side():
    for q in (3.9, 1 / 3.9):
        assert rule_factors([1.0, q], tolerance=4.0) == [1.0, 1.0]
    for q in (4.1, 1 / 4.1):
        assert rule_factors([1.0, q], tolerance=4.0) == pytest.approx([1.0, q**-0.5])


def test_the_running_mean_of_the_ratio_starts_unbiased_and_follows_slowly():
    # One point below the top; ln(ratio) is 0 in the first step and -ln 4 in the second.
    rule = Rule(reference="top", ema=0.9)
    memory, correction = torch.zeros(()), torch.zeros(())
    found = []
    for q in (1.0, 16.0):
        memory, correction = memory * 0.9, correction * 0.9 + 0.1
        rho, _, log_ratio = rule.correct(torch.tensor(q).sqrt(), torch.tensor(1.0), (memory, correction))
        memory = memory + 0.1 * log_ratio
        found.append(rho.item())
    assert found == pytest.approx([1.0, math.exp(-0.1 * math.log(4.0) / 0.19)], rel=1e-6)


@pytest.mark.parametrize("form", ["backward", "post_hoc"])
def test_running_means_go_on_from_their_state(form):
    settings = {"depth": 8, "width": 4, "modulation": "top", "modulation_ema": 0.8, "modulation_form": form}
    net, whole = built(settings)
    _, resumed = built(settings)
    for step in range(2):
        backward(net, whole, batch_of(step))
    resumed.load_state({name: value.clone() for name, value in whole.state().items()})
    backward(net, whole, batch_of(7))
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    resumed.net = net
    if form == "post_hoc":
        resumed.rescaling = whole.rescaling
    backward(net, resumed, batch_of(7))
    assert all(torch.equal(one, two.grad) for one, two in zip(expected, net.parameters(), strict=True))


@pytest.mark.parametrize("shortcut", ["none", "identity"])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"modulation_tolerance": 1.05, "modulation_clamp": 1.5, "modulation_every_k": 2},
        {"modulation_ema": 0.5, "modulation_site": "block"},
    ],
    ids=str,
)
def test_a_step_compiled_as_one_graph_agrees_with_eager(shortcut, switches):
    torch._dynamo.reset()
    settings = {"depth": 8, "width": 4, "modulation": "anchor", "modulation_form": "backward", **switches}
    net, modulation = built({**settings, "shortcut": shortcut})
    images, labels = batch_of()

    def loss_of(images, labels, modulate):
        return nn.functional.cross_entropy(net(images, modulate), labels)

    found = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        modulation.load_state({name: torch.zeros_like(value) for name, value in modulation.state().items()})
        for _ in range(2):
            net.zero_grad()
            function(images, labels, modulation.begin()).backward()
            modulation.after_backward()
        found.append([parameter.grad.clone() for parameter in net.parameters()])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-14)
    unmodulated = gradients({"depth": 8, "width": 4, "shortcut": shortcut})
    assert not torch.allclose(found[0][0], unmodulated["stem.conv.weight"], rtol=0.01)


def test_a_compiled_step_takes_the_backward_form_whole_in_bfloat16_too():
    torch._dynamo.reset()
    net, modulation = built({"depth": 8, "width": 4, "modulation": "anchor", "modulation_form": "backward"})
    net = net.float()
    images, labels = batch_of()

    def loss_of(images, labels, modulate):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(images, modulate)
        return nn.functional.cross_entropy(logits.float(), labels)

    found = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        net.zero_grad()
        function(images.float(), labels, modulation.begin()).backward()
        found.append([parameter.grad.clone() for parameter in net.parameters()])
    for eager, compiled in zip(*found, strict=True):
        assert eager.dtype == torch.float32
        torch.testing.assert_close(compiled, eager, rtol=0.02, atol=1e-3 * eager.abs().max().item())
    net.zero_grad()
    loss_of(images.float(), labels, None).backward()
    assert not torch.allclose(found[0][0], net.stem.conv.weight.grad, rtol=0.1)


def test_the_jacobian_of_batch_norm_is_an_isometry_up_to_rank_two():
    # Why one scalar a layer is enough: over a batch of m, all singular values but two are γ/σ.
    m = 64
    x = 3 * torch.randn(m, 1, dtype=torch.float64, generator=generator()) + 1
    norm = nn.BatchNorm1d(1, eps=1e-15).double()
    norm.weight.data.fill_(0.7)
    jacobian = torch.autograd.functional.jacobian(norm, x).view(m, m)
    expected = 0.7 / x.std(correction=0).item()
    singular = torch.linalg.svdvals(jacobian)
    torch.testing.assert_close(singular[:-2], torch.full((m - 2,), expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert singular[-2:].max() < 1e-9
    standard = (x - x.mean()) / x.std(correction=0)
    ones = torch.ones(m, 1, dtype=torch.float64)
    formula = expected * (torch.eye(m, dtype=torch.float64) - (ones @ ones.T + standard @ standard.T) / m)
    torch.testing.assert_close(jacobian, formula, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_a_constant_scale_of_a_layers_gradient_leaves_adam_and_rmsprop_as_they_are_up_to_eps(name):
    config = resolve({"optimizer": name, "lr": 0.01})
    steps = {}
    for scale in (1.0, 1e3, 1e-3):
        weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
        optimizer = config.row("optimizer").load()([{"params": [weight], "weight_decay": 0.0}], config)
        noise = generator()
        for _ in range(5):
            weight.grad = scale * (torch.randn(5, dtype=torch.float64, generator=noise).abs() + 0.5)
            optimizer.step()
        steps[scale] = weight.detach() - 1
    # eps is 1e-8 in both, next to gradients of about 1, 1e3 and 1e-3.
    torch.testing.assert_close(steps[1e3], steps[1.0], rtol=1e-6, atol=0)
    torch.testing.assert_close(steps[1e-3], steps[1.0], rtol=1e-4, atol=0)
    assert steps[1.0].abs().min() > 1e-3
