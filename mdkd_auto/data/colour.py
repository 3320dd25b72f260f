"""Colours and few-bit samples as grey values."""

import numpy as np

from mdkd_auto.data.orientation import Array
from mdkd_auto.errors import ImageError

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R BT.601
COLOUR = "it is in colour; convert it to grey, or save one file a channel (case_0000, case_0001, ...)"
COLOUR_MASK = (
    "it is a mask in colour; save the number of each pixel's class as its value, as 8-bit grey "
    "(converting the colours to grey gives other numbers)"
)
STEPS = {1: 255, 2: 85, 4: 17}  # bits a sample -> 8-bit grey value of sample 1, as viewers show it


def grey_of_channels(pixels: Array, colour_to_grey: bool, as_mask: bool = False) -> Array:
    """(..., 3) -> (...): the one channel where the three are equal, else their luminance.

    Raises ImageError for colours that are not to become grey.
    """
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return pixels[..., 0]
    if not colour_to_grey:
        raise ImageError(COLOUR_MASK if as_mask else COLOUR)
    luminance = pixels @ np.array(LUMINANCE, dtype=np.float32)
    return np.rint(luminance).astype(pixels.dtype) if pixels.dtype.kind in "iu" else luminance


def widened(samples: Array, bits: int) -> Array:
    """Samples of fewer than 8 bits -> 0 to 255; all others as they are. Raises ImageError for 3, 5, 6 and 7 bits."""
    if bits >= 8:
        return samples
    if bits not in STEPS:
        raise ImageError(f"it has {bits} bits a sample; save it with 8 or 16")
    return samples.astype(np.uint8) * np.uint8(STEPS[bits])
