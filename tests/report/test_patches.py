"""Patches of a case: every voxel once, the lesion in the middle."""

import numpy as np
import pytest

from mdkd_auto.report.patches import Patch, busiest_slice, cut, lesion_patch, tiles


def case_of(*shape: int) -> Patch:
    """Every voxel its own number; no truth."""
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Patch("case", image, np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 8, 8), (4, 4)), ((3, 10, 7), (4, 4)), ((1, 3, 9), (4, 4)), ((5, 9, 6), (4, 4, 4)), ((2, 3, 3), (4, 4, 4))],
)
def test_tiles_count_every_voxel_once(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    case = case_of(*shape)
    patches = list(tiles(case, size))
    assert {patch.image.shape for patch in patches} == {size}
    seen = np.concatenate([patch.image[patch.counted] for patch in patches])
    assert sorted(seen.tolist()) == case.image.ravel().tolist()


def test_what_is_ignored_is_not_counted() -> None:
    case = case_of(1, 4, 4)
    case.counted[0, 0, 0] = False
    (patch,) = tiles(case, (4, 4))
    assert not patch.counted[0, 0]
    assert patch.counted.sum() == 15


def test_lesion_patch() -> None:
    case = case_of(4, 20, 20)
    case.truth[1, 2, 2] = True
    case.truth[2, 9:12, 9:12] = True
    patch, plane = lesion_patch(case, (8, 8))
    assert plane == 0
    assert (patch.image == case.image[2, 6:14, 6:14]).all()
    patch, plane = lesion_patch(case, (2, 8, 8))
    assert (patch.image[plane] == case.image[2, 6:14, 6:14]).all()
    assert patch.truth[plane].sum() == 9


def test_a_small_case_is_centred_and_filled_with_its_minimum() -> None:
    case = case_of(1, 2, 4)
    case.image[0, 0, 0] = -5
    patch, _ = lesion_patch(case, (4, 4))
    assert patch.image.tolist() == [[-5] * 4, [-5, 1, 2, 3], [4, 5, 6, 7], [-5] * 4]
    assert patch.counted.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


def test_cut_copies() -> None:
    case = case_of(1, 4, 4)
    cut(case, (0, 0, 0), (1, 4, 4)).image[:] = 0
    assert case.image.max() == 15


def test_busiest_slice_is_the_first_of_equals() -> None:
    mask = np.zeros((4, 2, 2), dtype=bool)
    mask[1, 0] = mask[3, 0] = True
    assert busiest_slice(mask) == 1
