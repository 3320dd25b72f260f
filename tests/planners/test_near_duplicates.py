"""Pictures that look the same, and such that do not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from mdkd_auto.planners.near_duplicates import (
    CANDIDATE_BITS,
    LEAST_SIMILARITY,
    MOST_BITS,
    near_pairs,
    picture_hash,
    similarity,
    thumbnail,
    thumbnail_hash,
)


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


# --- slices and volumes ---------------------------------------------------------------------------------------------


def scan(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth, in Hounsfield units."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), [0 if shape[0] == 1 else 3, 5, 5])
    return (2000 * (values - values.min()) / np.ptp(values) - 1000).astype(np.int16)


def is_candidate(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(list(near_pairs([thumbnail_hash(a), thumbnail_hash(b)], CANDIDATE_BITS)))


@pytest.mark.parametrize("shape", [(1, 128, 100), (40, 64, 80)])
def test_copies_of_a_scan_are_found(shape: tuple[int, int, int]) -> None:
    original = scan(0, shape)
    factors = [1 if shape[0] == 1 else 0.7, 0.7, 0.7]
    noise = np.random.default_rng(1).normal(0, 20, shape)
    moved = np.roll(original, 2, axis=2)
    moved[..., :2] = original[..., :1]
    for copy in (original, zoom(original, factors, order=1), original + noise, 0.5 * original + 300, moved):
        a, b = thumbnail(original), thumbnail(copy)
        assert is_candidate(a, b)
        assert similarity(a, b) >= LEAST_SIMILARITY


@pytest.mark.parametrize("shape", [(1, 128, 100), (40, 64, 80)])
def test_other_scans_are_no_copies(shape: tuple[int, int, int]) -> None:
    small = [thumbnail(scan(seed, shape)) for seed in range(6)]
    assert list(near_pairs([thumbnail_hash(one) for one in small], CANDIDATE_BITS)) == []
    assert max(similarity(small[0], one) for one in small[1:]) < LEAST_SIMILARITY


def test_thumbnails_show_the_scan_with_its_contrast_stretched() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.int16) - 1000, (1, 64, 64))
    assert thumbnail(ramp).shape == (64, 64)
    assert (np.diff(thumbnail(ramp)[0].astype(int)) >= 0).all()
    assert (thumbnail(ramp).min(), thumbnail(ramp).max()) == (0, 255)
    assert thumbnail(scan(0, (9, 50, 40))).shape == (32, 32, 32)


def test_a_slice_is_no_copy_of_a_volume_and_a_flat_image_of_none() -> None:
    assert similarity(thumbnail(scan(0, (1, 64, 64))), thumbnail(scan(0, (32, 64, 64)))) == 0
    assert thumbnail_hash(thumbnail(np.full((1, 40, 60), 7, dtype=np.uint8))) == ""


def test_an_alignment_moves_no_further_than_a_tenth() -> None:
    blob = np.zeros((64, 64), np.uint8)
    blob[10:20, 10:20] = 255
    assert similarity(blob, np.roll(blob, 5, axis=1)) == pytest.approx(1)
    assert similarity(blob, np.roll(blob, 30, axis=1)) < LEAST_SIMILARITY
