"""Rivals of the orthonormality regularizer: gradients against autograd, schedules, constraints."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.methods import inits
from ablate.tasks.image_classification.methods.penalty_schedules import SCHEDULES
from ablate.tasks.image_classification.methods.regularizers import Moment, conv_stride, defect
from ablate.tasks.image_classification.models.cifar import CifarNet, regularized_weights

SHAPES = [(8, 1, 3, 3), (16, 8, 3, 3), (8, 8, 3, 3), (10, 32), (24, 2, 3, 3), (7, 5)]
MOMENT = Moment(step=3, progress=0.0, lr=0.1)
STRENGTH = 0.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_weights(layout: torch.memory_format = torch.contiguous_format, scale: float = 0.5) -> list[torch.Tensor]:
    """Two weights of each shape; the kernels that double the channels have stride 2."""
    noise = generator()
    weights = []
    for shape in SHAPES * 2:
        weight = scale * torch.randn(shape, dtype=torch.float64, generator=noise)
        if len(shape) == 4:
            weight = weight.contiguous(memory_format=layout)
            weight.conv_stride = 2 if shape[0] == 2 * shape[1] else 1
        stride = conv_stride(weight)
        weights.append(weight.requires_grad_())
        weights[-1].conv_stride = stride
    return weights


def build(name: str, weights: list[torch.Tensor], **options):
    config = resolve({"regularizer": name, "ortho_weight": STRENGTH, **options})
    return config.row("regularizer").load()(weights, config)


def gram_defect(w: torch.Tensor) -> torch.Tensor:
    return w @ w.T - torch.eye(len(w), dtype=w.dtype)


def convolutional(weight: torch.Tensor) -> torch.Tensor:
    """OCNN as it is published; a matrix is a 1×1 kernel."""
    kernel = weight if weight.dim() == 4 else weight[:, :, None, None]
    stride = conv_stride(weight)
    padding = (kernel.shape[2] - 1) // stride * stride
    out = F.conv2d(kernel, kernel, stride=stride, padding=padding)
    target = torch.zeros_like(out)
    target[:, :, out.shape[2] // 2, out.shape[3] // 2] = torch.eye(len(kernel), dtype=out.dtype)
    return 0.5 * (out - target).square().sum()


# The formulas as they are published, for one weight at λ = 1.
FORMULAS = {
    "orthonormal": lambda weight: 0.5 * gram_defect(weight.flatten(1)).square().sum(),
    "double_sided": lambda weight: (
        0.5 * (gram_defect(weight.flatten(1)).square().sum() + gram_defect(weight.flatten(1).T).square().sum())
    ),
    "diagonal": lambda weight: 0.5 * (weight.flatten(1).square().sum(1) - 1).square().sum(),
    "off_diagonal": lambda weight: (
        0.5
        * ((weight.flatten(1) @ weight.flatten(1).T) * (1 - torch.eye(len(weight), dtype=weight.dtype))).square().sum()
    ),
    "mutual_coherence": lambda weight: gram_defect(weight.flatten(1)).abs().amax(),
    "srip": lambda weight: torch.linalg.matrix_norm(gram_defect(weight.flatten(1)), 2),
    "ocnn": convolutional,
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_analytic_gradient_equals_autograd_for_all_shapes(name, layout):
    weights = random_weights(layout)
    (STRENGTH * sum(FORMULAS[name](weight) for weight in weights)).backward()
    expected = [weight.grad.clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    build(name, weights, srip_iterations=2000).add_gradient(MOMENT)
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient + 1, atol=1e-9, rtol=1e-9)
        assert (weight.grad - 1).abs().max() > 1e-3


def test_diagonal_and_off_diagonal_add_up_to_the_whole_penalty():
    parts = []
    for name in ("orthonormal", "diagonal", "off_diagonal"):
        weights = random_weights()
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        build(name, weights).add_gradient(MOMENT)
        parts.append([weight.grad for weight in weights])
    for whole, diagonal, rest in zip(*parts, strict=True):
        torch.testing.assert_close(diagonal + rest, whole, atol=1e-12, rtol=1e-12)


def test_srip_with_its_two_iterations_repeats_at_a_step_and_differs_between_steps():
    def gradient(step):
        weights = random_weights()
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        build("srip", weights).add_gradient(Moment(step=step, progress=0.0, lr=0.1))
        return weights[1].grad

    assert torch.equal(gradient(5), gradient(5))
    assert not torch.equal(gradient(5), gradient(6))


def test_srip_stays_finite_on_orthonormal_filters():
    weight = torch.eye(4, 9, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    build("srip", [weight]).add_gradient(MOMENT)
    assert torch.equal(weight.grad, torch.zeros(4, 9))


def test_a_convolution_that_passes_channels_through_has_no_ocnn_penalty():
    weight = torch.empty(6, 6, 3, 3, dtype=torch.float64)
    inits.dirac(weight, generator())
    assert convolutional(weight).item() == 0
    weight.grad = torch.zeros_like(weight)
    build("ocnn", [weight]).add_gradient(MOMENT)
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_kernels_know_the_stride_of_their_convolution():
    net = CifarNet.build(resolve({"depth": 8, "width": 4}), 3, 10)
    assert [conv_stride(weight) for weight in regularized_weights(net)] == [1, 1, 1, 2, 1, 2, 1, 1]


@pytest.mark.parametrize(("lr", "coupling"), [(0.1, "decoupled"), (0.2, "decoupled")])
def test_a_decoupled_penalty_moves_the_weights_after_the_step_and_leaves_the_gradient(lr, coupling):
    weights = random_weights()
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    coupled = build("orthonormal", weights)
    coupled.add_gradient(MOMENT)
    expected = [weight.detach() - lr * weight.grad for weight in weights]
    for weight in weights:
        weight.grad.zero_()
    decoupled = build("orthonormal", weights, ortho_coupling=coupling)
    moment = Moment(step=0, progress=0.0, lr=lr)
    coupled.after_step(moment)
    decoupled.add_gradient(moment)
    assert all(not weight.grad.any() for weight in weights)
    decoupled.after_step(moment)
    for weight, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), value, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", [1, 1, 1]), ("conv", [1, 1, 0]), ("fc", [0, 0, 1]), ("not_first", [0, 1, 1])],
)
@pytest.mark.parametrize("name", ["orthonormal", "norm_projection"])
def test_ortho_layers_says_which_layers_are_kept_orthonormal(name, layers, expected):
    weights = [torch.randn(shape, generator=generator()) for shape in [(4, 3, 3, 3), (4, 4, 3, 3), (10, 4)]]
    before = [weight.clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    regularizer = build(name, weights, ortho_layers=layers)
    regularizer.add_gradient(MOMENT)
    regularizer.after_step(MOMENT)
    touched = [
        int(bool(weight.grad.any()) or not torch.equal(weight, old))
        for weight, old in zip(weights, before, strict=True)
    ]
    assert touched == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [(0, 1), (0.99, 1)]),
        ("bansal", [(0.09, 1), (0.1, 1e-3), (0.25, 1e-4), (0.35, 1e-6), (0.6, 0)]),
        ("cosine", [(0, 1), (0.25, 0.5 * (1 + math.sqrt(0.5))), (0.5, 0.5), (1, 0)]),
        ("piecewise", [(0.49, 1), (0.5, 0.1), (0.75, 0.01)]),
    ],
)
def test_schedules_of_the_penalty(name, expected):
    for progress, factor in expected:
        assert SCHEDULES[name](progress) == pytest.approx(factor)
    weight = torch.full((2, 3), 1.0)
    for progress, factor in expected:
        weight.grad = torch.zeros_like(weight)
        build("diagonal", [weight], ortho_schedule=name).add_gradient(Moment(step=0, progress=progress, lr=0.1))
        assert weight.grad[0, 0].item() == pytest.approx(STRENGTH * factor * 2 * (3 - 1), abs=1e-7)


def test_norm_projection_gives_unit_filters_and_keeps_their_directions():
    weights = random_weights(torch.channels_last)
    before = [weight.detach().clone() for weight in weights]
    build("norm_projection", weights).after_step(MOMENT)
    for weight, old in zip(weights, before, strict=True):
        w, filters = weight.detach().flatten(1), old.flatten(1)
        torch.testing.assert_close(w, filters / filters.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_retraction_moves_to_the_nearest_orthonormal_weights(scale):
    weights = random_weights(torch.channels_last, scale)
    before = [weight.detach().clone() for weight in weights]
    build("retraction", weights, retraction_iterations=40).after_step(MOMENT)
    for weight, old in zip(weights, before, strict=True):
        u, _, vh = torch.linalg.svd(old.flatten(1), full_matrices=False)
        torch.testing.assert_close(weight.detach().flatten(1), u @ vh, atol=1e-9, rtol=0)


def test_eight_iterations_of_retraction_undo_the_drift_of_training_to_float_precision():
    weight = torch.empty(16, 8, 3, 3, dtype=torch.float64)
    inits.orthonormal(weight, generator())
    weight += 0.05 * torch.randn(weight.shape, dtype=weight.dtype, generator=generator(1))
    assert defect(weight) > 0.1
    build("retraction", [weight]).after_step(MOMENT)
    assert defect(weight) < 1e-12


def test_eight_iterations_of_retraction_leave_small_singular_values_small():
    weight = torch.diag(torch.tensor([1.0, 1e-3], dtype=torch.float64))
    build("retraction", [weight]).after_step(MOMENT)
    assert torch.linalg.svdvals(weight).tolist() == pytest.approx([1.0, 1.5**8 * 1e-3], rel=1e-3)


def test_retraction_acts_every_k_steps():
    acts = []
    for step in range(7):
        weight = torch.full((1, 4), 1.0)
        build("retraction", [weight], retraction_every=3).after_step(Moment(step=step, progress=0.0, lr=0.1))
        acts.append(weight[0, 0].item() != 1.0)
    assert acts == [False, False, True, False, False, True, False]


def test_the_semi_implicit_step_maps_singular_values_as_stated():
    weights = random_weights(torch.channels_last)
    before = [torch.linalg.svdvals(weight.detach().flatten(1)) for weight in weights]
    build("orthonormal_semi_implicit", weights).after_step(MOMENT)
    a = 2 * MOMENT.lr * STRENGTH
    for weight, sigma in zip(weights, before, strict=True):
        expected = (sigma * (1 + a) / (1 + a * sigma**2)).sort(descending=True).values
        torch.testing.assert_close(torch.linalg.svdvals(weight.detach().flatten(1)), expected)


def test_the_semi_implicit_step_is_the_decoupled_penalty_for_small_rates():
    changes = []
    for name, options in (("orthonormal_semi_implicit", {}), ("orthonormal", {"ortho_coupling": "decoupled"})):
        weights = random_weights()
        before = [weight.detach().clone() for weight in weights]
        build(name, weights, **options).after_step(Moment(step=0, progress=0.0, lr=1e-6))
        changes.append([weight.detach() - old for weight, old in zip(weights, before, strict=True)])
    for safe, plain in zip(*changes, strict=True):
        torch.testing.assert_close(safe, plain, rtol=1e-3, atol=1e-9)


def test_where_the_explicit_penalty_diverges_the_semi_implicit_one_settles():
    # σ² = 25 exceeds 1 + 1/(lr·λ) = 1 + 1/0.3.
    found = {}
    for name in ("orthonormal", "orthonormal_semi_implicit"):
        weight = nn.Parameter(5 * torch.eye(3, 6, dtype=torch.float64))
        options = {"ortho_coupling": "decoupled"} if name == "orthonormal" else {}
        regularizer = build(name, [weight], **options)
        for step in range(50):
            regularizer.after_step(Moment(step=step, progress=0.0, lr=1.0))
        found[name] = weight.detach()
    assert not torch.isfinite(found["orthonormal"]).all()
    torch.testing.assert_close(found["orthonormal_semi_implicit"], torch.eye(3, 6, dtype=torch.float64))


def test_the_explicit_penalty_diverges_beyond_the_stated_singular_value_only():
    lr, limit = 0.5, math.sqrt(1 + 1 / (0.5 * STRENGTH))
    for factor, is_finite in ((0.999, True), (1.001, False)):
        weight = nn.Parameter(factor * limit * torch.eye(1, 1, dtype=torch.float64))
        regularizer = build("orthonormal", [weight], ortho_coupling="decoupled")
        for step in range(500):
            regularizer.after_step(Moment(step=step, progress=0.0, lr=lr))
        assert bool(torch.isfinite(weight).all()) == is_finite
