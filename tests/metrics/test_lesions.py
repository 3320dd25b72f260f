import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy.ndimage import generate_binary_structure, label

from mdkd_auto.metrics.lesions import LesionCounts, add_lesion_counts, lesion_counts, lesion_f1


def counts(truth_lesions, predicted_lesions, found, matched_predictions):
    return LesionCounts(
        truth_lesions=truth_lesions,
        predicted_lesions=predicted_lesions,
        found=found,
        matched_predictions=matched_predictions,
    )


def test_hand_worked():
    truth, prediction = np.zeros((2, 1, 20, 20), bool)
    truth[0, 0:4, 0:5] = True  # 20 voxels, 2 predicted: found at 10 %
    prediction[0, 0, 0:2] = True
    truth[0, 10:17, 0:3] = True  # 21 voxels, 2 predicted: missed
    prediction[0, 16, 1:3] = True
    prediction[0, 0:3, 15:18] = True  # away from everything
    result = lesion_counts(prediction, truth)
    assert result == counts(2, 3, 1, 2)
    assert lesion_f1(result) == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))


def test_share_of_exactly_the_minimum_is_found():
    for voxels in (10, 30, 70):
        truth, prediction = np.zeros((2, 1, 100), bool)
        truth[0, :voxels] = True
        prediction[0, : voxels // 10] = True
        assert lesion_counts(prediction, truth, 0.1).found == 1
        assert lesion_counts(prediction, truth, 0.11).found == 0


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    diagonal_2d, diagonal_3d = np.eye(3, dtype=bool), np.zeros((2, 2, 2), bool)
    diagonal_3d[0, 0, 0] = diagonal_3d[1, 1, 1] = True
    for mask in (diagonal_2d, diagonal_2d[None], diagonal_3d):
        assert lesion_counts(mask, mask) == counts(1, 1, 1, 1)


def test_one_prediction_may_find_two_lesions():
    truth = np.array([[1, 1, 0, 1, 1]], bool)
    assert lesion_counts(np.ones((1, 5), bool), truth) == counts(2, 1, 2, 1)


def test_empty_masks():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert lesion_f1(lesion_counts(empty, empty)) is None
    assert lesion_f1(lesion_counts(full, empty)) == 0
    assert lesion_f1(lesion_counts(empty, full)) == 0
    assert lesion_f1(lesion_counts(full, full)) == 1


@pytest.mark.parametrize("shape", [(20, 22), (8, 12, 10)])
@pytest.mark.parametrize("minimum_overlap", [0.1, 0.5, 1.0])
def test_equals_slow_reference(shape, minimum_overlap):
    prediction, truth = np.random.default_rng(5).random((2, *shape)) < (0.15 if len(shape) == 2 else 0.05)
    structure = generate_binary_structure(len(shape), len(shape))

    def components(mask, other):
        labels, number = label(mask, structure)
        return number, sum(other[labels == i].mean() >= minimum_overlap for i in range(1, number + 1))

    truth_lesions, found = components(truth, prediction)
    predicted_lesions, matched = components(prediction, truth)
    expected = counts(truth_lesions, predicted_lesions, found, matched)
    assert lesion_counts(prediction, truth, minimum_overlap) == expected


def test_sum():
    assert add_lesion_counts([counts(1, 2, 1, 1), counts(3, 0, 0, 0)]) == counts(4, 2, 1, 1)


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (4, 6)), arrays(bool, (4, 6)))
def test_exchange_and_bounds(a, b):
    forth, back = lesion_counts(a, b), lesion_counts(b, a)
    assert (forth.found, forth.truth_lesions) == (back.matched_predictions, back.predicted_lesions)
    assert forth.found <= forth.truth_lesions
    f1 = lesion_f1(forth)
    assert f1 is None or 0 <= f1 <= 1


def test_unfit_input():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        lesion_counts(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="minimum overlap"):
        lesion_counts(np.zeros((2, 3), bool), np.zeros((2, 3), bool), 0.0)
