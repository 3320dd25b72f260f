import numpy as np
import pytest

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.colour import class_indices, grey_of_channels, widened


def test_three_equal_channels_are_one() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(grey_of_channels(np.stack([grey] * 3, axis=-1), colour_to_grey=False), grey)


def test_luminance_is_that_of_bt_601() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], dtype=np.uint8)
    # 0.299 x 255 = 76.2, 0.587 x 255 = 149.7, 0.114 x 255 = 29.1; 2.99 + 11.74 + 3.42 = 18.15
    assert grey_of_channels(pixels, colour_to_grey=True).tolist() == [[76, 150, 29, 18]]


@pytest.mark.parametrize(("as_mask", "words"), [(False, "convert it to grey"), (True, "number of each pixel's class")])
def test_colours_are_refused_unless_asked_for(as_mask: bool, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        grey_of_channels(np.array([[[1, 2, 3]]], dtype=np.uint8), colour_to_grey=False, as_mask=as_mask)


@pytest.mark.parametrize(("bits", "expected"), [(1, [0, 255]), (2, [0, 85]), (4, [0, 17]), (8, [0, 1]), (16, [0, 1])])
def test_few_bits_span_the_grey_range(bits: int, expected: list[int]) -> None:
    assert widened(np.array([0, 1], dtype=np.uint8), bits).tolist() == expected


def test_odd_bits_are_refused() -> None:
    with pytest.raises(ImageError, match="5 bits"):
        widened(np.zeros(1, dtype=np.uint8), 5)


def test_indices_of_a_palette_are_classes() -> None:
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], dtype=np.uint8)
    indices = np.array([[0, 2], [1, 1]], dtype=np.uint8)
    assert np.array_equal(class_indices(indices, palette), indices)


def test_a_grey_palette_is_ambiguous_unless_it_is_black_and_white() -> None:
    greys = np.repeat(np.array([[0], [255], [128]], dtype=np.uint8), 3, axis=1)
    two = np.array([0, 1], dtype=np.uint8)
    assert np.array_equal(class_indices(two, greys), two)
    with pytest.raises(ImageError, match="either may be the classes"):
        class_indices(np.array([0, 2], dtype=np.uint8), greys)


def test_an_index_beyond_the_palette() -> None:
    with pytest.raises(ImageError, match="colour 3 of a palette of 2"):
        class_indices(np.array([3], dtype=np.uint8), np.zeros((2, 3), dtype=np.uint8))
