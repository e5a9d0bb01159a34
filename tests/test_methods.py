"""The science: initialisations, the orthonormality regularizer, backward error modulation."""

import math

import pytest
import torch

from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.methods import inits
from ablate.tasks.image_classification.methods.regularizers import Moment, Orthonormal, defect
from ablate.tasks.image_classification.models.imagenet import ImageNetNet
from ablate.tasks.image_classification.models.layers import regularized_weights

MOMENT = Moment(step=0, progress=0.0, lr=0.1)
SHAPES = [(8, 1, 3, 3), (16, 8, 3, 3), (10, 32), (24, 2, 3, 3), (7, 5)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthonormal_init_has_a_unit_gram_matrix_in_each_group(shape):
    weight = torch.empty(shape, dtype=torch.float64)
    inits.orthonormal(weight, generator())
    w = weight.flatten(1)
    for group in w.split(w.shape[1]):
        torch.testing.assert_close(group @ group.T, torch.eye(len(group), dtype=w.dtype), atol=1e-12, rtol=0)


def test_every_layer_of_a_plain_net_of_bottlenecks_starts_with_orthonormal_groups():
    settings = {"model": "imagenet", "dataset": "image_folder", "image_size": 64, "depth": 50, "width": 4}
    net = ImageNetNet.build(resolve({**settings, "shortcut": "none"}), 3, 10)
    weights = [weight.detach().flatten(1) for weight in regularized_weights(net)]
    assert len(weights) == 50
    # The last convolution of a bottleneck has four times as many filters as inputs, 1×1 kernels being what it has.
    assert sum(len(w) == 4 * w.shape[1] for w in weights) == 16
    random = generator()
    for w in weights:
        inits.orthonormal(w, random)
        for group in w.split(w.shape[1]):
            torch.testing.assert_close(group @ group.T, torch.eye(len(group)), atol=1e-5, rtol=0)


def test_orthonormal_init_depends_on_the_generator_only():
    first, second, other = (torch.empty(16, 8, 3, 3) for _ in range(3))
    inits.orthonormal(first, generator(1))
    torch.randn(7)
    inits.orthonormal(second, generator(1))
    inits.orthonormal(other, generator(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_he_init_has_variance_two_over_fan_in():
    weight = torch.empty(512, 64, 3, 3)
    inits.he(weight, generator())
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)


def penalty(weights: list[torch.Tensor], ortho_weight: float) -> torch.Tensor:
    """The formula as it is published, for any shape: W has a filter in each column."""
    total = torch.zeros((), dtype=torch.float64)
    for weight in weights:
        W = weight.flatten(1).T
        total = total + (W.T @ W - torch.eye(W.shape[1], dtype=W.dtype)).square().sum()
    return 0.5 * ortho_weight * total


def test_orthonormal_gradient_equals_autograd_for_all_shapes():
    config = resolve({"regularizer": "orthonormal", "ortho_weight": 0.3})
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator()).requires_grad_() for shape in SHAPES * 2]
    penalty(weights, 0.3).backward()
    expected = [weight.grad.clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    Orthonormal(weights, config).add_gradient(MOMENT)
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient + 1, atol=1e-11, rtol=1e-11)


def test_defect_is_zero_for_orthonormal_filters_and_for_wide_layers_at_their_floor():
    tall, wide = torch.empty(4, 9, dtype=torch.float64), torch.empty(12, 5, dtype=torch.float64)
    inits.orthonormal(tall, generator())
    q, _ = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64, generator=generator()))
    wide.copy_(q)
    assert defect(tall).item() == pytest.approx(0, abs=1e-20)
    assert defect(wide).item() == pytest.approx(0, abs=1e-20)
    gram = wide @ wide.T
    assert (gram - torch.eye(12, dtype=torch.float64)).square().sum().item() == pytest.approx(12 - 5)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_the_two_defects_of_a_matrix_differ_by_the_difference_of_its_sides(shape):
    # ‖WᵀW − I_p‖² = ‖WWᵀ − I_n‖² + p − n: the regularizer's floor in wide layers, and why the smaller Gram will do.
    w = torch.randn(shape, dtype=torch.float64, generator=generator())
    filters, inputs = shape
    rows, columns = ((gram - torch.eye(len(gram), dtype=w.dtype)).square().sum().item() for gram in (w @ w.T, w.T @ w))
    assert rows == pytest.approx(columns + filters - inputs, rel=1e-12)
    assert defect(w).item() == pytest.approx(rows - max(0, filters - inputs), rel=1e-12)


def test_filters_in_orthonormal_groups_are_not_where_the_penalty_is_least():
    # 10 filters of 5 inputs, two groups: w·wᵀ has the floor's 5 zeros to make, wᵀ·w is 2·I and not I.
    weight = torch.empty(10, 5, dtype=torch.float64)
    inits.orthonormal(weight, generator())
    torch.testing.assert_close(weight.T @ weight, 2 * torch.eye(5, dtype=torch.float64))
    assert defect(weight).item() == pytest.approx(5)
    least = weight / 2**0.5
    assert defect(least).item() == pytest.approx(0, abs=1e-20)


def test_xavier_init_has_variance_two_over_the_sum_of_fans():
    weight = torch.empty(256, 64, 3, 3)
    inits.xavier(weight, generator())
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9 + 256 * 9)), rel=0.01)
    assert weight.abs().max().item() <= math.sqrt(6 / (64 * 9 + 256 * 9))


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (16, 8, 3, 3), (8, 16, 3, 3), (20, 8, 1, 1)])
def test_delta_orthogonal_kernels_have_an_orthonormal_centre_and_zeros_around_it(shape):
    weight = torch.empty(shape, dtype=torch.float64)
    inits.delta_orthogonal(weight, generator())
    centre = weight[:, :, shape[2] // 2, shape[3] // 2].clone()
    for group in centre.split(shape[1]):
        torch.testing.assert_close(group @ group.T, torch.eye(len(group), dtype=group.dtype), atol=1e-12, rtol=0)
    weight[:, :, shape[2] // 2, shape[3] // 2] = 0
    assert not weight.any()


def test_a_square_delta_orthogonal_convolution_keeps_the_norm_of_its_input():
    weight = torch.empty(6, 6, 3, 3, dtype=torch.float64)
    inits.delta_orthogonal(weight, generator())
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, generator=generator(1))
    y = torch.nn.functional.conv2d(x, weight, padding=1)
    assert y.norm().item() == pytest.approx(x.norm().item(), rel=1e-12)


def test_dirac_kernels_pass_channels_through_and_repeat_them():
    weight = torch.empty(5, 2, 3, 3)
    inits.dirac(weight, generator())
    x = torch.randn(1, 2, 4, 4, generator=generator(1))
    assert torch.equal(torch.nn.functional.conv2d(x, weight, padding=1), x[:, [0, 1, 0, 1, 0]])


@pytest.mark.parametrize("init", ["xavier", "delta_orthogonal", "dirac"])
def test_the_other_inits_fill_matrices_and_depend_on_the_generator_only(init):
    function = getattr(inits, init)
    first, second, other = (torch.full((10, 32), float("nan")) for _ in range(3))
    function(first, generator(1))
    function(second, generator(1))
    function(other, generator(2))
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, other)
