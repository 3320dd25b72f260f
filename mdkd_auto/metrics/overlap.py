"""Overlap of two masks in voxels, with a stated rule for empty masks.

=================  ==================  ========================================  =========
truth              prediction          Dice, IoU                                 others
=================  ==================  ========================================  =========
empty              empty               None: a true negative, not a perfect hit  None
empty              not empty           0                                         precision 0, recall None
not empty          empty               0                                         precision None, recall 0
=================  ==================  ========================================  =========

None means not evaluable: it is left out of means, and counted. An empty prediction on an empty image therefore never
raises a mean score.
"""

from collections.abc import Sequence

import numpy as np

from mdkd_auto.core.records import Record
from mdkd_auto.metrics.masks import Mask, check_masks


class Counts(Record, frozen=True, kw_only=True):
    """Voxel counts."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def count(prediction: Mask, truth: Mask, valid: Mask | None = None) -> Counts:
    """Compare boolean masks (y, x) or (z, y, x). ``valid`` is False under the ignore label; None: all voxels count.

    Raises ValueError for different shapes and non-boolean arrays.
    """
    check_masks(prediction, truth, valid)
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    voxels = prediction.size if valid is None else int(np.count_nonzero(valid))
    both = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    return Counts(
        true_positive=both,
        false_positive=predicted - both,
        false_negative=true - both,
        true_negative=voxels - predicted - true + both,
    )


def add_counts(parts: Sequence[Counts]) -> Counts:
    """Sum the counts field by field."""
    return Counts(
        true_positive=sum(part.true_positive for part in parts),
        false_positive=sum(part.false_positive for part in parts),
        false_negative=sum(part.false_negative for part in parts),
        true_negative=sum(part.true_negative for part in parts),
    )


def dice(counts: Counts) -> float | None:
    """2 TP / (2 TP + FP + FN). None if truth and prediction are both empty."""
    return _ratio(2 * counts.true_positive, counts.false_positive + counts.false_negative)


def iou(counts: Counts) -> float | None:
    """TP / (TP + FP + FN). None if truth and prediction are both empty."""
    return _ratio(counts.true_positive, counts.false_positive + counts.false_negative)


def precision(counts: Counts) -> float | None:
    """TP / (TP + FP). None if the prediction is empty."""
    return _ratio(counts.true_positive, counts.false_positive)


def recall(counts: Counts) -> float | None:
    """TP / (TP + FN). None if the truth is empty."""
    return _ratio(counts.true_positive, counts.false_negative)


def _ratio(right: int, wrong: int) -> float | None:
    return right / (right + wrong) if right + wrong else None
