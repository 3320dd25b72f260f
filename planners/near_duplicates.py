"""Find near-duplicate images, i.e. equal content in different files: saved again, resized, brightened.

The perceptual hash of Zauner (2010, the variant known as pHash) takes the lowest frequencies of the cosine transform of
a small copy, each above or below their median. Classification compares images by hash alone. Slices and volumes of the
other tasks also keep a thumbnail: hashes select candidates, and the structural similarity of Wang et al. (2004)
decides.
"""

import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import shift, zoom

SMALL_COPY = 64  # pixels per side
FREQUENCIES = 16  # per side, so 256 bits
MOST_BITS = 28  # most differing bits of near-duplicates; docs/integrity.md gives measurements
CANDIDATE_BITS = 48  # most differing bits of thumbnails that are then compared
LEAST_SIMILARITY = 0.9  # between near-duplicate thumbnails; docs/integrity.md gives measurements
SLICE_THUMBNAIL = (64, 64)
VOLUME_THUMBNAIL = (32, 32, 32)
_CONTRAST = (1, 99)  # percentiles of a thumbnail, mapped to 0 and 255
_MOST_SHIFT = 0.1  # fraction of a thumbnail's side, when aligning two
_PARTS_OF_A_PIXEL = 10  # precision of a shift
_BLOCK = 512  # hashes per block of comparisons
_DIGITS = FREQUENCIES * FREQUENCIES // 4  # hexadecimal


def picture_hash(picture: NDArray[np.generic]) -> str:
    """Hash an image (y, x) to 256 bits, as 64 hexadecimal digits."""
    low = dctn(_small(picture, (SMALL_COPY, SMALL_COPY)), norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()
    return _bits(low[1:])  # without the mean


def _small(image: NDArray[np.generic], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Average over blocks, then interpolate linearly to ``size``."""
    values = image.astype(np.float32)
    steps = [max(1, side // (2 * small)) for side, small in zip(values.shape, size, strict=True)]
    whole = values[tuple(slice(side // step * step) for side, step in zip(values.shape, steps, strict=True))]
    split = [length for side, step in zip(whole.shape, steps, strict=True) for length in (side // step, step)]
    blocks = whole.reshape(split).mean(tuple(range(1, 2 * values.ndim, 2)))
    factors = [small / side for small, side in zip(size, blocks.shape, strict=True)]
    result: NDArray[np.float32] = zoom(blocks, factors, order=1, grid_mode=True, mode="nearest")
    return result


def _bits(frequencies: NDArray[np.float32]) -> str:
    """One bit per frequency, set above the median, plus a last bit 0, as hexadecimal digits."""
    return np.packbits(np.append(frequencies > np.median(frequencies), False)).tobytes().hex()


def is_picture_hash(text: str) -> bool:
    """Whether :func:`near_pairs` can compare the text: "" or 256 bits."""
    return not text or re.fullmatch(rf"[0-9a-f]{{{_DIGITS}}}", text) is not None


def thumbnail(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Shrink (z, y, x) and stretch its contrast: (32, 32, 32), or (64, 64) for a single slice."""
    small = _small(image[0], SLICE_THUMBNAIL) if image.shape[0] == 1 else _small(image, VOLUME_THUMBNAIL)
    low, high = np.percentile(small, _CONTRAST)
    if low == high:
        return np.zeros(small.shape, np.uint8)
    return np.rint(255 * np.clip((small - low) / (high - low), 0, 1)).astype(np.uint8)


def thumbnail_hash(small: NDArray[np.uint8]) -> str:
    """Hash a thumbnail's lowest frequencies to 256 bits, as 64 hexadecimal digits; "" for a blank thumbnail."""
    if small.min() == small.max():
        return ""
    frequencies = dctn(small.astype(np.float32), norm="ortho")
    return _bits(frequencies.ravel()[_lowest(small.shape)])


@functools.cache
def _lowest(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Indices of the lowest frequencies of a cosine transform, without the mean."""
    squared = sum(axis**2 for axis in np.indices(shape)).ravel()
    return np.argsort(squared, kind="stable")[1 : FREQUENCIES * FREQUENCIES]


def similarity(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of two aligned thumbnails, at most 1; 0 for a slice and a volume."""
    from skimage.metrics import structural_similarity
    from skimage.registration import phase_cross_correlation

    if a.shape != b.shape:
        return 0.0
    moved_by = phase_cross_correlation(a, b, upsample_factor=_PARTS_OF_A_PIXEL, normalization=None)[0]
    if np.abs(moved_by).max() > _MOST_SHIFT * a.shape[0]:
        moved_by = np.zeros_like(moved_by)
    aligned = shift(b.astype(np.float32), moved_by, order=1, mode="nearest")
    edges = np.ceil(np.abs(moved_by)).astype(int)
    inside = tuple(slice(edge, side - edge) for edge, side in zip(edges, a.shape, strict=True))
    return float(structural_similarity(a[inside].astype(np.float32), aligned[inside], data_range=255))


def near_pairs(hashes: Sequence[str], most_bits: int = MOST_BITS) -> Iterator[tuple[int, int, int]]:
    """Yield indices i < j of images with similar hashes, and the number of differing bits; "" is skipped."""
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
