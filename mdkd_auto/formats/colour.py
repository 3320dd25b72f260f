"""Convert colours and samples of few bits to grey values."""

import numpy as np

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.image import Array

LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green, blue: ITU-R BT.601
COLOUR = "it is in colour; convert it to grey, or save one file a channel (case_0000, case_0001, ...)"
COLOUR_MASK = (
    "it is a mask in colour; save the number of each pixel's class as its value, as 8-bit grey "
    "(converting the colours to grey gives other numbers)"
)
STEPS = {1: 255, 2: 85, 4: 17}  # bits per sample -> 8-bit grey value of sample 1, as viewers show it


def grey_of_channels(pixels: Array, colour_to_grey: bool, as_mask: bool = False) -> Array:
    """(..., 3) -> (...): the single channel if all three are equal, otherwise their luminance.

    Raises ImageError for colours if ``colour_to_grey`` is not set.
    """
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return pixels[..., 0]
    if not colour_to_grey:
        raise ImageError(COLOUR_MASK if as_mask else COLOUR)
    luminance = pixels @ np.array(LUMINANCE, dtype=np.float32)
    return np.rint(luminance).astype(pixels.dtype) if pixels.dtype.kind in "iu" else luminance


def widened(samples: Array, bits: int) -> Array:
    """Scale samples of fewer than 8 bits to 0..255; others are unchanged. Raises ImageError for 3, 5, 6 and 7 bits."""
    if bits >= 8:
        return samples
    if bits not in STEPS:
        raise ImageError(f"it has {bits} bits a sample; save it with 8 or 16")
    return samples.astype(np.uint8) * np.uint8(STEPS[bits])


def class_indices(indices: Array, palette: Array) -> Array:
    """Return the palette indices of a mask, which are its classes; ``palette`` is (entries, 3).

    Raises ImageError if the palette holds greys that differ from the indices: either could be the class. A black and
    white palette only serves display and is accepted.
    """
    used = np.unique(indices)
    if used.size and used[-1] >= len(palette):
        raise ImageError(f"it names colour {used[-1]} of a palette of {len(palette)}; copy or export it anew")
    colours = palette[used]
    greys = colours[:, 0]
    in_grey = bool((colours == greys[:, None]).all())
    black_and_white = dict(zip(used.tolist(), greys.tolist(), strict=True)).items() <= {0: 0, 1: 255}.items()
    if in_grey and not black_and_white and not np.array_equal(greys, used):
        message = f"its palette gives its indices {_few(used)} the greys {_few(greys)}: either may be the classes"
        raise ImageError(f"{message}; save it as 8-bit grey with the class numbers as values")
    return indices


def _few(values: Array) -> str:
    return ", ".join(str(value) for value in values[:8]) + (", ..." if len(values) > 8 else "")
