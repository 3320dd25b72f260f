import numpy as np

from mdkd_auto.preprocessing.lesions import POINTS_A_LESION, sample_lesions


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
