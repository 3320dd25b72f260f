"""Pictures that look the same though their files differ: saved anew, resized, brightened.

The perceptual hash of Zauner (2010, the variant known as pHash): the lowest frequencies of the cosine transform of a
small copy, each above or below their median.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import zoom

SMALL_COPY = 64  # pixels a side
FREQUENCIES = 16  # a side, so 256 bits
MOST_BITS = 28  # that may differ in pictures that look the same; docs/integrity.md says what was seen
_BLOCK = 512  # hashes compared with all at a time
_DIGITS = FREQUENCIES * FREQUENCIES // 4  # hexadecimal


def picture_hash(picture: NDArray[np.generic]) -> str:
    """256 bits of a picture (y, x) as 64 hexadecimal digits."""
    values = picture.astype(np.float32)
    steps = [max(1, size // (2 * SMALL_COPY)) for size in values.shape]
    rows, columns = (size // step * step for size, step in zip(values.shape, steps, strict=True))
    blocks = values[:rows, :columns].reshape(rows // steps[0], steps[0], columns // steps[1], steps[1]).mean((1, 3))
    small = zoom(blocks, [SMALL_COPY / size for size in blocks.shape], order=1, grid_mode=True, mode="nearest")
    low = dctn(small, norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()[1:]  # without the mean
    bits = np.append(low > np.median(low), False)
    return np.packbits(bits).tobytes().hex()


def is_picture_hash(text: str) -> bool:
    """Whether :func:`near_pairs` can compare the text: "" or what :func:`picture_hash` gives."""
    return not text or re.fullmatch(rf"[0-9a-f]{{{_DIGITS}}}", text) is not None


def near_pairs(hashes: Sequence[str], most_bits: int = MOST_BITS) -> Iterator[tuple[int, int, int]]:
    """Places i < j of pictures that look the same, and how many bits differ; "" is a picture without a hash."""
    places = [place for place, text in enumerate(hashes) if text]
    if not places:
        return
    bits = np.unpackbits(np.array([list(bytes.fromhex(hashes[place])) for place in places], dtype=np.uint8), axis=1)
    signs = 1 - 2 * bits.astype(np.float32)
    for start in range(0, len(places), _BLOCK):
        differing = (signs.shape[1] - signs[start : start + _BLOCK] @ signs.T) / 2
        for row, column in zip(*np.nonzero(differing <= most_bits), strict=True):
            if start + row < column:
                yield places[start + row], places[column], int(differing[row, column])
