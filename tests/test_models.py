"""The nets for small and for large images."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.models

from ablate.errors import SpecError
from ablate.run.plan import make_plan
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.methods.modulation import anchor
from ablate.tasks.image_classification.models.cifar import CifarNet
from ablate.tasks.image_classification.models.imagenet import BASIC, BOTTLENECK, ImageNetNet
from ablate.tasks.image_classification.models.layers import ConvBN
from ablate.tasks.image_classification.models.norms import NONE
from ablate.tasks.image_classification.rows import IMAGENET_DEPTHS
from ablate.tasks.parameters import ConfigError


def count(**settings) -> int:
    net = CifarNet.build(resolve(settings), 3, 10)
    return sum(parameter.numel() for parameter in net.parameters())


# He et al. 2016, arXiv:1512.03385, table 6, in millions.
@pytest.mark.parametrize(("depth", "published"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameter_counts_are_those_published(depth, published):
    digits = 1 if depth == 110 else 2
    assert round(count(depth=depth, width=16, shortcut="identity") / 1e6, digits) == published
    assert count(depth=depth, width=16, shortcut="none") == count(depth=depth, width=16, shortcut="identity")


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_the_parametric_layers(depth):
    net = CifarNet.build(resolve({"depth": depth, "width": 4}), 1, 10)
    assert sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in net.modules()) == depth


@pytest.mark.parametrize("shortcut", ["none", "identity"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (1, 14)])
def test_nets_take_any_image_of_their_channels(shortcut, channels, size):
    net = CifarNet.build(resolve({"depth": 14, "width": 4, "shortcut": shortcut}), channels, 7)
    assert net(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_shortcut_pads_new_channels_with_zeros_and_strides():
    block = CifarNet.build(resolve({"depth": 8, "width": 4, "shortcut": "identity"}), 1, 10).blocks[1]
    x = torch.arange(4 * 4 * 4.0).reshape(1, 4, 4, 4)
    shortcut = block.shortcut(x)
    assert shortcut.shape == (1, 8, 2, 2)
    assert torch.equal(shortcut[:, 2:6], x[:, :, ::2, ::2])
    assert shortcut[:, :2].abs().sum() == 0
    assert shortcut[:, 6:].abs().sum() == 0


@pytest.mark.parametrize(("depth", "nearest"), [(21, "20 and 26"), (110 + 1, "110 and 116"), (3, "8 and 14")])
def test_a_wrong_depth_names_the_nearest(depth, nearest):
    with pytest.raises(ConfigError, match=rf"depth must be 6n\+2 .*, but got {depth}\. Nearest: {nearest}"):
        resolve({"depth": depth})


def imagenet(depth: int, shortcut: str = "projection", width: int = 64) -> ImageNetNet:
    return ImageNetNet(3, 1000, depth, width, shortcut)


# In millions, as torchvision documents them.
@pytest.mark.parametrize(("depth", "published"), [(18, 11.7), (34, 21.8), (50, 25.6), (101, 44.5), (152, 60.2)])
def test_imagenet_parameter_counts_are_those_published_and_of_torchvision(depth, published):
    with torch.device("meta"):
        ours = sum(parameter.numel() for parameter in imagenet(depth).parameters())
        theirs = sum(p.numel() for p in getattr(torchvision.models, f"resnet{depth}")().parameters())
    assert ours == theirs
    assert round(ours / 1e6, 1) == published


@pytest.mark.parametrize("depth", [34, 44, 50, 101])
def test_plain_and_parameter_free_residual_nets_have_equal_parameters(depth):
    with torch.device("meta"):
        plain, residual = (sum(p.numel() for p in imagenet(depth, s).parameters()) for s in ("none", "identity"))
        projected = sum(p.numel() for p in imagenet(depth).parameters())
    assert plain == residual < projected


@pytest.mark.parametrize("depth", [18, 50])
def test_imagenet_nets_compute_what_torchvisions_compute(depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=1000)
    ours = imagenet(depth)
    pairs = list(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(dict(pairs))
    images = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [*BASIC, *BOTTLENECK])
def test_imagenet_depth_counts_the_layers_on_the_longest_path(depth):
    with torch.device("meta"):
        net = imagenet(depth, "none")
    assert sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in net.modules()) == depth


def test_the_checked_depths_are_those_that_can_be_built():
    assert set(IMAGENET_DEPTHS) == {*BASIC, *BOTTLENECK}


@pytest.mark.parametrize(("depth", "shortcut"), [(34, "none"), (34, "identity"), (50, "projection"), (44, "none")])
def test_modulation_levels_every_convolution_of_an_imagenet_net(depth, shortcut):
    torch.manual_seed(0)
    net = imagenet(depth, shortcut, width=4)
    config = resolve({"modulation": "anchor", "modulation_form": "backward"})
    modulate = anchor(config, net).begin()
    q = []

    def below(x, token, site="conv"):
        if site == "conv":
            x = x.clone()
            x.register_hook(lambda error: q.append(error.square().mean().item()))
        return modulate(x, token, site)

    net(torch.randn(8, 3, 64, 64), below).logsumexp(1).sum().backward()
    assert len(q) == sum(isinstance(module, torch.nn.Conv2d) for module in net.modules())
    assert max(q) / min(q) == pytest.approx(1, rel=1e-3)


def test_on_plain_imagenet_nets_the_post_hoc_form_of_modulation_equals_the_backward_form():
    torch.manual_seed(0)
    net = imagenet(34, "none", width=4).double()
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    found = []
    for form in ("backward", "post_hoc"):
        modulation = anchor(resolve({"modulation": "anchor", "modulation_form": form}), net)
        net.zero_grad()
        net(images, modulation.begin()).logsumexp(1).sum().backward()
        modulation.after_backward()
        found.append([parameter.grad.clone() for parameter in net.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 56}, "depth must be 18, 34, 44 .* for the model 'imagenet', but got 56. Nearest: 50"),
        ({"depth": 34}, "divides images by 32, so they must be at least 64×64, but those of digits are 8×8"),
        ({"depth": 34, "dataset": "cifar10"}, "but those of cifar10 are 32×32. Nets for small images: cifar, dirac"),
    ],
)
def test_an_imagenet_net_refuses_what_it_cannot_take(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve({"model": "imagenet", **settings})


def test_an_imagenet_net_on_small_images_is_refused_at_plan_time_with_its_place(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: x\nfixed: {dataset: digits, depth: 44}\naxes:\n  model: [cifar, imagenet]\n"
        "budget: {trials_per_cell: 1}\nconfirm: {seeds: 2}\n"
    )
    with pytest.raises(SpecError, match=r"sweep\.yaml:4:18: the model 'imagenet' divides images by 32.*digits are 8×8"):
        make_plan(file, None, [], tmp_path)


def test_a_strided_projection_of_few_channels_has_the_right_gradients():
    """oneDNN corrupts the heap here if the convolution itself has the stride."""
    layer = ConvBN(4, 8, 2, kernel_size=1, norm=NONE).to(memory_format=torch.channels_last)
    images = torch.randn(8, 4, 16, 16).contiguous(memory_format=torch.channels_last)
    reference = layer.conv.weight.detach().double().requires_grad_()
    for _ in range(20):
        layer.zero_grad()
        out, _ = layer(images, None, None)
        out.square().sum().backward()
    expected = F.conv2d(images.double(), reference, stride=2)
    expected.square().sum().backward()
    torch.testing.assert_close(out, expected.float())
    torch.testing.assert_close(layer.conv.weight.grad, reference.grad.float(), rtol=1e-4, atol=1e-3)
