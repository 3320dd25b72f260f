import numpy as np
import pytest

from mdkd_auto.metrics.masks import check_masks, in_plane

MASK = np.zeros((2, 3, 4), dtype=bool)


def test_masks_of_one_shape_pass() -> None:
    check_masks(MASK, MASK, MASK)
    check_masks(MASK[0], MASK[0])


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ((MASK[0, 0], MASK[0, 0]), r"shape \(4,\)"),
        ((MASK, MASK[:1]), r"the truth has shape \(1, 3, 4\)"),
        ((MASK, MASK, MASK[0]), "the valid mask has shape"),
        ((MASK.astype(np.uint8), MASK), "The prediction is uint8, not bool"),
        ((MASK, MASK.astype(float)), "The truth is float64, not bool"),
    ],
)
def test_what_is_wrong_is_named(masks: tuple[np.ndarray, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_masks(*masks)


def test_one_slice_is_a_plane() -> None:
    mask, spacing_mm = in_plane(MASK[:1], (9.0, 2.0, 3.0))
    assert (mask.shape, spacing_mm) == ((3, 4), (2.0, 3.0))
    mask, spacing_mm = in_plane(MASK, (9.0, 2.0, 3.0))
    assert (mask.shape, spacing_mm) == ((2, 3, 4), (9.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "spacing_mm", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, -1.0), (1.0, np.nan, 1.0), (1.0, np.inf, 1.0)]
)
def test_spacings_that_are_none(spacing_mm: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="needs 3 positive spacings"):
        in_plane(MASK, spacing_mm)
