import msgspec
import numpy as np
import pytest

from mdkd_auto.metrics.summary import METRICS, Scores, pool, score_masks, summarise


def image(*rows):
    return np.array([[int(c) for c in row] for row in rows], bool)


EMPTY = image("0000", "0000", "0000")
LEFT = image("1100", "0000", "0000")
RIGHT = image("0000", "0000", "0011")
ONES = (1.0, 1.0)


def test_hand_worked():
    scores = score_masks(LEFT | RIGHT, LEFT, (2.0, 0.5))
    assert (scores.dice, scores.precision, scores.recall) == (pytest.approx(2 / 3), 0.5, 1)
    assert scores.iou == 0.5
    assert scores.false_positive_volume == 2 * 2.0 * 0.5  # two pixels
    assert (scores.true_positive, scores.false_positive, scores.false_negative, scores.true_negative) == (2, 2, 0, 8)
    assert (scores.lesions_truth, scores.lesions_found) == (1, 1)
    assert (scores.lesions_predicted, scores.lesions_matched) == (2, 1)
    assert scores.lesion_f1 == pytest.approx(2 / 3)
    assert not scores.negative


def test_flat_volume_scores_as_image():
    flat = score_masks((LEFT | RIGHT)[None], LEFT[None], (9.0, 2.0, 0.5))
    assert flat == score_masks(LEFT | RIGHT, LEFT, (2.0, 0.5))


def test_perfect_and_true_negative():
    perfect = score_masks(LEFT, LEFT, ONES)
    assert (perfect.dice, perfect.iou, perfect.precision, perfect.recall) == (1, 1, 1, 1)
    assert (perfect.hd95, perfect.surface_dice, perfect.lesion_f1) == (0, 1, 1)
    nothing = score_masks(EMPTY, EMPTY, ONES)
    assert all(getattr(nothing, name) is None for name in METRICS)
    assert nothing.negative


def test_ignored_voxels_count_in_no_metric():
    scores = score_masks(LEFT | RIGHT, LEFT, ONES, valid=~RIGHT)
    perfect = score_masks(LEFT, LEFT, ONES)
    assert all(getattr(scores, name) == getattr(perfect, name) for name in METRICS)
    assert scores.true_negative == perfect.true_negative - 2


def test_pool_sums_counts_and_averages_surfaces():
    far = score_masks(RIGHT, LEFT, ONES)
    slices = [score_masks(LEFT, LEFT, ONES), far, score_masks(EMPTY, EMPTY, ONES)]
    patient = pool(slices)
    stack = score_masks(np.stack([LEFT, RIGHT, EMPTY]), np.stack([LEFT, LEFT, EMPTY]), (1.0, 1.0, 1.0))
    for name in ("dice", "iou", "precision", "recall", "true_positive", "true_negative", "false_positive_volume"):
        assert getattr(patient, name) == getattr(stack, name)
    assert (patient.lesions_truth, patient.lesions_found) == (2, 1)
    assert patient.lesion_f1 == pytest.approx(2 / (2 + 1 + 1))
    assert patient.hd95 == pytest.approx((0 + far.hd95) / 2)  # the empty slice is left out
    assert patient.surface_dice == pytest.approx((1 + far.surface_dice) / 2)


def test_pool_of_one_is_itself():
    scores = score_masks(LEFT | RIGHT, LEFT, ONES)
    assert pool([scores]) == scores


def test_pool_of_negative_slices_is_not_evaluable():
    patient = pool([score_masks(EMPTY, EMPTY, ONES)] * 2)
    assert patient.negative
    assert all(getattr(patient, name) is None for name in METRICS)


def test_pool_needs_an_image():
    with pytest.raises(ValueError, match="at least one"):
        pool([])


def test_summarise():
    cases = [
        score_masks(LEFT, LEFT, ONES),  # Dice 1
        score_masks(LEFT | RIGHT, LEFT, ONES),  # Dice 2/3
        score_masks(EMPTY, EMPTY, ONES),  # left out
        score_masks(LEFT, EMPTY, ONES),  # Dice 0, recall not evaluable
    ]
    mean = summarise(cases)
    assert set(mean.metrics) == set(METRICS)
    assert mean.metrics["dice"].mean == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert mean.metrics["dice"].std == pytest.approx(np.std([1, 2 / 3, 0], ddof=1))
    assert (mean.metrics["dice"].evaluable, mean.metrics["dice"].left_out) == (3, 1)
    assert (mean.metrics["recall"].mean, mean.metrics["recall"].evaluable) == (1, 2)
    assert (mean.cases, mean.negative_cases, mean.negative_cases_with_false_positives) == (4, 2, 1)


def test_summarise_without_evaluable_cases():
    one = summarise([score_masks(LEFT, LEFT, ONES)]).metrics["dice"]
    assert (one.mean, one.std) == (1, None)
    none = summarise([]).metrics["dice"]
    assert (none.mean, none.std, none.evaluable, none.left_out) == (None, None, 0, 0)


def test_scores_survive_json():
    scores = score_masks(EMPTY, LEFT, ONES)
    assert msgspec.json.decode(msgspec.json.encode(scores), type=Scores) == scores


def test_unfit_masks():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4, 3\)"):
        score_masks(LEFT, LEFT.T, ONES)
