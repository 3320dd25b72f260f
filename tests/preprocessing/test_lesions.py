"""Points of lesions to centre patches on, and the extent of lesions."""

import cc3d
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from skimage.measure import regionprops_table

from mdkd_auto.planners.fingerprint import find_lesions
from mdkd_auto.preprocessing.lesions import POINTS_A_LESION, largest_diameters_mm, sample_lesions

SPACING = (3.0, 0.5, 0.8)  # mm, (z, y, x)


def test_each_component_of_each_value_is_a_lesion() -> None:
    label = np.zeros((3, 6, 6), dtype=np.uint8)
    label[0, 0, 0] = 1
    label[1, 1, 1] = 1  # touches the first by a corner: one lesion with 26 neighbours
    label[1, 1, 2] = 2  # touches, but of another value
    label[2, 5, 5] = 1
    lesions = sample_lesions(label)
    assert sorted((lesion.label, lesion.points) for lesion in lesions) == [
        (1, ((0, 0, 0), (1, 1, 1))),
        (1, ((2, 5, 5),)),
        (2, ((1, 1, 2),)),
    ]


def test_points_are_drawn_evenly_from_a_large_lesion() -> None:
    label = np.zeros((1, 20, 20), dtype=np.uint8)
    label[0, 5:15, 5:15] = 3  # 100 voxels
    (lesion,) = sample_lesions(label)
    assert len(lesion.points) == POINTS_A_LESION == len(set(lesion.points))
    assert all(label[point] == 3 for point in lesion.points)
    assert lesion.points == sample_lesions(label)[0].points


def test_the_ignore_label_is_no_lesion() -> None:
    label = np.array([[[0, 1, 9, 9]]], dtype=np.uint8)
    assert [lesion.label for lesion in sample_lesions(label, ignore_label=9)] == [1]
    assert sample_lesions(np.zeros((2, 2, 2), dtype=np.uint8)) == ()


def masks() -> dict[str, np.ndarray]:
    empty = np.zeros((12, 40, 30), dtype=bool)
    z, y, x = np.ogrid[:12, :40, :30]
    ball = (z - 6) ** 2 * 9 + (y - 20) ** 2 * 0.25 + (x - 15) ** 2 * 0.64 <= 81
    plane, line, cluster = empty.copy(), empty.copy(), np.random.default_rng(0).random(empty.shape) < 0.2
    plane[4, 5:35, 3:28] = True
    line[:, 20, 10] = True
    return {"ball": ball, "plane": plane, "line": line, "cluster": cluster}


@pytest.mark.parametrize("name", list(masks()))
def test_the_largest_diameter_is_the_longest_of_all_distances(name: str) -> None:
    components = cc3d.connected_components(masks()[name], connectivity=26)
    sizes = np.bincount(components.ravel())
    found = largest_diameters_mm(components, SPACING)
    assert set(found) == {number for number in range(1, len(sizes)) if sizes[number] >= 3}
    for number, diameter in found.items():
        assert diameter == pytest.approx(pdist(np.argwhere(components == number) * SPACING).max())


def test_diameters_worked_by_hand() -> None:
    mask = np.zeros((4, 8, 8), dtype=bool)
    mask[1, 1, 1:4] = True  # a row of three
    mask[3, 6, 6] = True  # a speck
    row, speck = find_lesions(mask, (2.0, 1.0, 1.5))
    assert (row.voxels, row.volume_mm3, row.largest_diameter_mm) == (3, 9.0, 3.0)
    assert (speck.voxels, speck.largest_diameter_mm) == (1, None)
    assert largest_diameters_mm(np.zeros((2, 3, 4), dtype=np.uint16), (1.0, 1.0, 1.0)) == {}


@pytest.mark.parametrize("name", list(masks()))
def test_sizes_are_those_of_scikit_image(name: str) -> None:
    mask = masks()[name]
    table = regionprops_table(
        cc3d.connected_components(mask, connectivity=26),
        properties=("num_pixels", "area", "equivalent_diameter_area"),
        spacing=SPACING,
    )
    lesions = find_lesions(mask, SPACING)
    assert [lesion.voxels for lesion in lesions] == table["num_pixels"].tolist()
    np.testing.assert_allclose([lesion.volume_mm3 for lesion in lesions], table["area"])
    np.testing.assert_allclose([lesion.diameter_mm for lesion in lesions], table["equivalent_diameter_area"])
