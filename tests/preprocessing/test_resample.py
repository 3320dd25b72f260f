"""Resampling equals scipy's zoom, keeps edges where they are, and says which axis it leaves alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mdkd_auto.preprocessing.resample import (
    coarse_axis,
    resample,
    resample_image,
    resample_label,
    resampled_shape,
)

SIZES = st.tuples(*[st.integers(2, 20)] * 3)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, st.integers(0, 1000))
def test_cubic_equals_zoom(before: tuple[int, int, int], after: tuple[int, int, int], seed: int) -> None:
    image = np.random.default_rng(seed).normal(size=before).astype(np.float32)
    factors = [a / b for a, b in zip(after, before, strict=True)]
    expected = ndimage.zoom(image.astype(np.float64), factors, order=3, mode="nearest", grid_mode=True)
    assert expected.shape == after
    assert np.allclose(resample(image, after, ("cubic", "cubic", "cubic")), expected, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, st.integers(0, 1000))
def test_linear_equals_zoom(before: tuple[int, int, int], after: tuple[int, int, int], seed: int) -> None:
    image = np.random.default_rng(seed).normal(size=before).astype(np.float32)
    factors = [a / b for a, b in zip(after, before, strict=True)]
    expected = ndimage.zoom(image.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True)
    assert np.allclose(resample(image, after, ("linear", "linear", "linear")), expected, atol=1e-4)


def test_a_ramp_in_mm_stays_a_ramp_in_mm() -> None:
    old, new = 0.8, 1.3
    (size, _, _) = resampled_shape((130, 1, 1), (old, 1.0, 1.0), (new, 1.0, 1.0))
    assert size == 80
    ramp = ((np.arange(130) + 0.5) * old).astype(np.float32).reshape(130, 1, 1)
    found = resample_image(ramp, (size, 1, 1), None).ravel()
    assert found[5:-5] == pytest.approx(((np.arange(size) + 0.5) * new)[5:-5], abs=1e-3)


def test_a_spline_stays_within_the_range_of_the_image() -> None:
    image = np.zeros((1, 1, 12), dtype=np.float32)
    image[..., 6:] = 1000
    free = resample(image, (1, 1, 19), ("cubic", "cubic", "cubic"))
    assert free.min() < -50
    assert free.max() > 1050
    assert np.array_equal(resample_image(image, (1, 1, 19), None), np.clip(free, 0, 1000))
    two = np.concatenate([image, image / 2])  # each coarse slice by itself
    found = resample_image(two, (4, 1, 19), 0)
    assert np.array_equal(found[:2], np.clip(found[:2], 0, 1000))
    assert found[2:].max() == 500


def test_the_coarse_axis_takes_the_nearest_slice() -> None:
    assert coarse_axis((5.0, 1.0, 1.0), (1.0, 1.0, 1.0)) == 0
    assert coarse_axis((1.0, 1.0, 1.0), (1.0, 1.0, 3.5)) == 2
    assert coarse_axis((3.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is None
    image = np.arange(2, dtype=np.float32).reshape(2, 1, 1)
    assert resample_image(image, (6, 1, 1), 0).ravel().tolist() == [0, 0, 0, 1, 1, 1]


def test_labels_move_by_majority_and_none_is_invented() -> None:
    label = np.zeros((1, 4, 12), dtype=np.int16)
    label[..., 4:8] = 2
    label[..., 8:] = 5
    found = resample_label(label, (1, 4, 6), None)
    assert found[0, 0].tolist() == [0, 0, 2, 2, 5, 5]
    assert found.dtype == label.dtype
    finer = resample_label(label, (1, 8, 36), None)
    assert set(np.unique(finer)) == {0, 2, 5}
    assert np.array_equal(resample_label(label, (1, 4, 12), None), label)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.integers(0, 1000), st.integers(1, 3), st.sampled_from([None, 0, 1, 2]))
def test_labels_equal_the_slow_way(
    before: tuple[int, int, int], after: tuple[int, int, int], seed: int, count: int, coarse: int | None
) -> None:
    """The whole volume for every label, background too, though only the labelled box is resampled."""
    rng = np.random.default_rng(seed)
    label = np.zeros(before, dtype=np.int16)
    box = tuple(slice(*sorted(rng.integers(0, size + 1, 2))) for size in before)
    label[box] = rng.integers(0, count + 1, label[box].shape)
    kinds = (
        ("linear", "linear", "linear")
        if coarse is None
        else tuple("nearest" if axis == coarse else "linear" for axis in range(3))
    )
    shares = np.stack([resample((label == value).astype(np.float32), after, kinds) for value in range(count + 1)])  # type: ignore[arg-type]
    found = resample_label(label, after, coarse)
    ordered = np.sort(shares, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    assert np.array_equal(found[clear], shares.argmax(axis=0)[clear])


def test_two_labels_give_the_same_as_the_general_way() -> None:
    rng = np.random.default_rng(3)
    label = (ndimage.gaussian_filter(rng.normal(size=(12, 20, 20)), 2) > 0).astype(np.int16)
    general = label.copy()
    general[0, 0, 0] = 9  # a third value, far from the rest compared
    binary, several = (resample_label(each, (17, 13, 25), None) for each in (label, general))
    assert np.mean(binary[5:] != several[5:]) < 1e-3
