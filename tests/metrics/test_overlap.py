import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import DiceMetric, MeanIoU

from mdkd_auto.metrics.overlap import Counts, add_counts, count, dice, iou, precision, recall

masks = arrays(bool, (4, 5))


def test_hand_worked():
    truth = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    prediction = np.array([[0, 1, 1, 1], [1, 0, 0, 0]], bool)
    counts = count(prediction, truth)
    assert counts == Counts(true_positive=2, false_positive=2, false_negative=1, true_negative=3)
    assert dice(counts) == pytest.approx(4 / 7)
    assert iou(counts) == pytest.approx(2 / 5)
    assert precision(counts) == pytest.approx(2 / 4)
    assert recall(counts) == pytest.approx(2 / 3)


def test_ignored_voxels_count_nowhere():
    truth = np.array([[1, 1, 0, 0]], bool)
    prediction = np.array([[1, 0, 1, 0]], bool)
    valid = np.array([[1, 0, 0, 1]], bool)
    counts = count(prediction, truth, valid)
    assert counts == Counts(true_positive=1, false_positive=0, false_negative=0, true_negative=1)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (False, False, (None, None, None, None)),
        (True, False, (0, 0, 0, None)),
        (False, True, (0, 0, None, 0)),
    ],
)
def test_empty_masks(predicted, true, expected):
    counts = count(np.full((3, 3), predicted), np.full((3, 3), true))
    assert (dice(counts), iou(counts), precision(counts), recall(counts)) == expected


def test_sum_of_parts_is_the_count_of_the_whole():
    generator = np.random.default_rng(0)
    prediction, truth = generator.random((2, 6, 7, 8)) < 0.4
    parts = [count(p, t) for p, t in zip(prediction, truth, strict=True)]
    assert add_counts(parts) == count(prediction, truth)


@pytest.mark.parametrize("shape", [(12, 9), (5, 8, 7)])
def test_equals_monai(shape):
    prediction, truth = np.random.default_rng(1).random((2, *shape)) < 0.3
    batch = [torch.from_numpy(mask[None, None]).float() for mask in (prediction, truth)]
    counts = count(prediction, truth)
    assert dice(counts) == pytest.approx(DiceMetric()(*batch).item(), rel=1e-6)
    assert iou(counts) == pytest.approx(MeanIoU()(*batch).item(), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(masks, masks)
def test_symmetry_and_order(a, b):
    forth, back = count(a, b), count(b, a)
    assert dice(forth) == dice(back)
    assert iou(forth) == iou(back)
    assert precision(forth) == recall(back)
    if (d := dice(forth)) is not None and (j := iou(forth)) is not None:
        assert 0 <= j <= d <= 1
        assert d == pytest.approx(2 * j / (1 + j))


@settings(max_examples=50, deadline=None)
@given(masks, masks, st.integers(0, 19))
def test_mending_a_voxel_never_lowers_dice(prediction, truth, voxel):
    mended = prediction.copy()
    mended.flat[voxel] = truth.flat[voxel]
    before, after = dice(count(prediction, truth)), dice(count(mended, truth))
    assert before is None or after is None or after >= before


def test_unfit_masks():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match=r"valid mask has shape \(1, 3\)"):
        count(np.zeros((2, 3), bool), np.zeros((2, 3), bool), np.zeros((1, 3), bool))
    with pytest.raises(ValueError, match="uint8, not bool"):
        count(np.zeros((2, 3), np.uint8), np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\)"):
        count(np.zeros((1, 2, 3, 4), bool), np.zeros((1, 2, 3, 4), bool))
