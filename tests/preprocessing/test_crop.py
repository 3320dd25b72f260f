"""Crop and transpose, there and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdkd_auto.core.records import CaseGeometry
from mdkd_auto.preprocessing.crop import box_shape, box_slices, cropped, nonzero_box, permute


def test_box_holds_the_non_zero_voxels_of_every_channel() -> None:
    first, second = np.zeros((4, 5, 6)), np.zeros((4, 5, 6))
    first[1, 2, 3] = 7
    second[3, 2, 1] = -1
    assert nonzero_box([first, second]) == ((1, 4), (2, 3), (1, 4))
    assert box_shape(nonzero_box([first, second])) == (3, 1, 3)


def test_an_image_of_zeros_is_not_cropped() -> None:
    assert nonzero_box([np.zeros((2, 3, 4))]) == ((0, 2), (0, 3), (0, 4))


def test_permute_follows_the_transpose() -> None:
    assert permute((1.0, 2.0, 3.0), (2, 0, 1)) == (3.0, 1.0, 2.0)


@given(st.permutations((0, 1, 2)), st.tuples(*[st.integers(2, 6)] * 3), st.integers(0, 1000))
def test_what_is_written_into_the_crop_lands_in_the_array(
    order: list[int], shape: tuple[int, int, int], seed: int
) -> None:
    transpose = (order[0], order[1], order[2])
    image = np.random.default_rng(seed).integers(0, 2, shape)
    transposed = image.transpose(transpose)
    box = nonzero_box([transposed])
    geometry = CaseGeometry(
        original_shape=shape,
        transpose=transpose,
        crop=box,
        spacing_mm=(1.0, 1.0, 1.0),
        resampled_shape=box_shape(box),
        resampled_spacing_mm=(1.0, 1.0, 1.0),
    )
    inside = cropped(image, geometry)
    assert np.array_equal(inside, transposed[box_slices(box)])
    back = np.zeros_like(image)
    cropped(back, geometry)[:] = inside
    assert np.array_equal(back, image)
    with pytest.raises(ValueError, match="does not have the case's shape"):
        cropped(image[:-1], geometry)
