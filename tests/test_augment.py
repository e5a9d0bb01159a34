import pytest
import torch

from ablate.tasks import registry
from ablate.tasks.image_classification.data.augment import crop_flip, identity


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct_images(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Images whose pixels all differ, so that a crop can be recognised; none is black."""
    return torch.arange(1, 1 + batch * channels * height * width).float().view(batch, channels, height, width)


def possible_views(image: torch.Tensor) -> list[torch.Tensor]:
    """Every crop and mirrored crop of one padded image, cut out the plain way."""
    channels, height, width = image.shape
    pad_y, pad_x = height // 8, width // 8
    padded = torch.zeros(channels, height + 2 * pad_y, width + 2 * pad_x)
    padded[:, pad_y : pad_y + height, pad_x : pad_x + width] = image
    crops = [padded[:, y : y + height, x : x + width] for y in range(2 * pad_y + 1) for x in range(2 * pad_x + 1)]
    return crops + [crop.flip(2) for crop in crops]


@pytest.mark.parametrize("row", registry.rows("augment"), ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_augmentation_keeps_shape_and_type_and_follows_the_generator(row, dtype):
    augment = row.load()
    images = torch.randint(1, 256, (64, 3, 16, 16), generator=generator(9)).to(dtype)
    before = images.clone()
    first = augment(images, generator(1))
    assert first.shape == images.shape
    assert first.dtype == dtype
    assert torch.equal(first, augment(images, generator(1)))
    assert torch.equal(images, before)


def test_identity_changes_nothing_and_draws_nothing():
    images = distinct_images(4, 1, 8, 8)
    stream = generator(1)
    before = stream.get_state()
    assert torch.equal(identity(images, stream), images)
    assert torch.equal(stream.get_state(), before)


@pytest.mark.parametrize("shape", [(40, 3, 16, 16), (40, 1, 8, 8), (40, 1, 28, 28), (40, 2, 16, 8), (40, 1, 4, 4)])
def test_each_output_is_a_possible_view_of_its_own_input(shape):
    images = distinct_images(*shape)
    for image, view in zip(images, crop_flip(images, generator(3)), strict=True):
        assert any(torch.equal(view, possible) for possible in possible_views(image))


def test_every_view_occurs():
    image = distinct_images(1, 1, 8, 8)
    views = crop_flip(image.expand(2000, -1, -1, -1), generator(4))
    for possible in possible_views(image[0]):
        assert (views == possible).flatten(1).all(dim=1).any()


def test_other_seeds_and_further_calls_give_other_views():
    images = distinct_images(64, 1, 16, 16)
    stream = generator(1)
    first = crop_flip(images, stream)
    assert not torch.equal(first, crop_flip(images, stream))
    assert not torch.equal(first, crop_flip(images, generator(2)))


def test_half_of_the_images_are_mirrored_and_offsets_are_uniform():
    # A column gradient tells a mirrored image; the zeros at its borders tell the offset.
    images = torch.arange(1, 17).float().expand(9000, 1, 16, 16)
    views = crop_flip(images, generator(5))
    middle = views[:, 0, 8]
    mirrored = middle[:, 7] > middle[:, 8]
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.02)
    black_above = (views[:, 0, :4, 8] == 0).sum(dim=1)
    shares = torch.bincount(black_above, minlength=3).float() / len(views)
    # Offsets 0..4 with padding 2: two, one and no black row above in a fifth, a fifth and three fifths.
    assert shares.tolist() == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    # The mirror does not depend on the offset.
    assert mirrored[black_above == 2].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_views_depend_on_the_generator_only_and_not_on_the_type_of_the_images():
    images = torch.randint(0, 256, (32, 3, 32, 32), generator=generator(6))
    as_bytes = crop_flip(images.to(torch.uint8), generator(7))
    as_floats = crop_flip(images.float(), generator(7))
    assert torch.equal(as_bytes.float(), as_floats)


def test_pinned_numbers():
    # A change here changes the numbers of trials: raise the row's version.
    image = distinct_images(1, 1, 8, 8)
    views = crop_flip(image.expand(6, -1, -1, -1), generator(0))
    assert views[:, 0, 4, 4].tolist() == [45, 28, 45, 28, 38, 30]
