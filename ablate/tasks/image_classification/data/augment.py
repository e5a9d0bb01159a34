"""Augmentation of training images, a batch at a time, on the device of the images.

Augment raw images, before normalisation, where 0 is black. The random numbers are drawn on the CPU, so that they are
the same on every device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

SCALE, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Of random resized crops: share of the area, width over height, and how often a crop that does not fit is redrawn."""


def identity(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the images as they are: (batch, channels, height, width). Draws nothing."""
    return images


def crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a random crop of each padded image, mirrored left to right with probability one half.

    images: (batch, channels, height, width), uint8 or float; the result has the same shape, dtype and device.
    generator: on the CPU. An eighth of the height and of the width is padded with zeros on each side (4 of 32 pixels);
    images under 8 pixels are only mirrored.

    Source: He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.2.
    """
    batch, channels, height, width = images.shape
    pad_y, pad_x = height // 8, width // 8
    drawn = torch.stack(
        [torch.randint(high, (batch,), generator=generator) for high in (2 * pad_y + 1, 2 * pad_x + 1, 2)]
    )
    top, left, mirrored = drawn.to(images.device).unsqueeze(-1)  # each (batch, 1)
    rows = top + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left + torch.where(mirrored == 1, columns.flip(0), columns)
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    pixels = rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)  # (batch, height, width)
    pixels = pixels.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixels).view_as(images)


def resized_crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a random part of each image, resized to the size of the images, mirrored with probability one half.

    images: (batch, channels, height, width), uint8. One image at a time, so slow for large batches. Images from files
    are cropped before they are reduced to one size, by the processes that decode them.

    Source: Szegedy et al. 2015, arXiv:1409.4842, in torchvision's form.
    """
    size = (images.shape[2], images.shape[3])
    return torch.stack([random_resized_crop(image, size, generator) for image in images])


def random_resized_crop(image: torch.Tensor, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Return a random part of one image, (channels, height, width), resized to `size`, mirrored half of the times.

    It has 8% to 100% of the area and a ratio of width to height from 3/4 to 4/3, log-uniform; if ten drawn parts do not
    fit it is the largest centre part that fits.
    """
    # More than a second to import, and most data sets do not need it.
    from torchvision.transforms.v2.functional import resized_crop

    top, left, height, width = _part(image.shape[1], image.shape[2], generator)
    crop: torch.Tensor = resized_crop(image, top, left, height, width, list(size), antialias=True)
    return crop.flip(2) if _uniform(0, 1, generator) < 0.5 else crop


def _part(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random part."""
    for _ in range(ATTEMPTS):
        area = height * width * _uniform(*SCALE, generator)
        ratio = math.exp(_uniform(math.log(RATIO[0]), math.log(RATIO[1]), generator))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(_uniform(0, free + 1, generator)) for free in (height - h, width - w))
            return top, left, h, w
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(w / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
