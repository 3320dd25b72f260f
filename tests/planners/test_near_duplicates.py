"""Pictures that look the same, and such that do not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from mdkd_auto.planners.near_duplicates import MOST_BITS, near_pairs, picture_hash


def picture(seed: int, size: int = 128) -> np.ndarray:
    """Smooth, as an X-ray."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 5)
    return (255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


def bits(a: np.ndarray, b: np.ndarray) -> int:
    ((_, _, count),) = near_pairs([picture_hash(a), picture_hash(b)], most_bits=256)
    return count


@pytest.mark.parametrize("seed", range(3))
def test_the_same_picture_saved_anew(seed: int) -> None:
    original = picture(seed)
    assert bits(original, original) == 0
    assert bits(original, (0.7 * original + 20).astype(np.uint8)) <= 4  # darker
    assert bits(original, zoom(original, 1.6, order=1)) <= 8
    assert bits(original, original + np.random.default_rng(9).integers(0, 12, original.shape)) <= MOST_BITS


def test_other_pictures() -> None:
    hashes = [picture_hash(picture(seed)) for seed in range(20)]
    assert list(near_pairs(hashes)) == []
    assert all(len(text) == 64 for text in hashes)


def test_pairs_are_found_wherever_they_stand() -> None:
    hashes = [picture_hash(picture(seed)) for seed in range(6)]
    hashes[2] = ""  # a volume of which there is no hash
    hashes += [hashes[4], hashes[0]]
    assert [(a, b) for a, b, _ in near_pairs(hashes)] == [(0, 7), (4, 6)]
    assert list(near_pairs(["", ""])) == []


def test_tiny_and_flat_pictures_have_a_hash() -> None:
    assert len(picture_hash(np.ones((3, 5), dtype=np.uint8))) == 64
    assert picture_hash(np.full((40, 60), 7, dtype=np.uint8)) == "0" * 64  # no frequency is above the median
