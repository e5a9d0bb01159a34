"""Encoded images as 8-bit RGB, whatever their files hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

WIDE_GREY = {"PNG": ("I;16", "I"), "PPM": ("I;16", "I"), "JPEG2000": ("I;16",), "TIFF": ("I;16", "I;16B")}
"""The modes, by format, of grey levels from 0 to 65,535 (of some TIFFs to 4,095); older Pillows call a PNG's I."""
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF files


def check_range(image: Image.Image) -> None:
    """Refuse an opened image whose pixels have no defined black and white; decodes nothing.

    Raises:
        ValueError: They are signed, floats, or integers of more than 16 bits.
    """
    signed_or_float = any(kind != 1 for kind in _tag(image, _SAMPLE_FORMAT, (1,)))
    if signed_or_float or (image.mode[0] in "IF" and not _is_wide_grey(image)):
        raise ValueError(
            f"its pixels (mode {image.mode}, {image.format}) have no defined black and white; save it with 8 bits, or "
            "with 16 bits unsigned"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image to 8-bit RGB; of wider levels the high byte is taken, as Pillow does for colours.

    Raises:
        ValueError: See `check_range`.
        Exception: Pillow raises what its decoders raise, and its own error for images too large.
    """
    check_range(image)
    if not _is_wide_grey(image):
        return image.convert("RGB")
    bits = _tag(image, _BITS, (16,))[0]
    # Pillow does not turn round wide levels in which 0 is white.
    turned = 255 if _tag(image, _PHOTOMETRIC, 1) == 0 else 0
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8) ^ np.uint8(turned)
    return Image.fromarray(grey).convert("RGB")


def _is_wide_grey(image: Image.Image) -> bool:
    return image.mode in WIDE_GREY.get(image.format or "", ())


def _tag(image: Image.Image, number: int, default: Any) -> Any:
    return getattr(image, "tag_v2", {}).get(number, default)
