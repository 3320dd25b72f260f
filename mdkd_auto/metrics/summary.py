"""All scores of one image, of one patient's images together, and their means over many."""

import math
from collections.abc import Sequence

import numpy as np

from mdkd_auto.core.records import Record
from mdkd_auto.metrics.lesions import LesionCounts, add_lesion_counts, lesion_counts, lesion_f1
from mdkd_auto.metrics.masks import Mask, check_masks, in_plane
from mdkd_auto.metrics.overlap import Counts, add_counts, count, dice, iou, precision, recall
from mdkd_auto.metrics.surface import TOLERANCE_MM, SurfaceScores, surface_scores

METRICS = ("dice", "iou", "precision", "recall", "hd95", "surface_dice", "lesion_f1")


class Scores(Record, frozen=True, kw_only=True):
    """Scores of one class in one image or patient. None: not evaluable, see ``overlap`` and ``surface``."""

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    hd95: float | None  # mm; pixels if the spacing is unknown
    surface_dice: float | None
    lesion_f1: float | None
    true_positive: int  # voxels
    false_positive: int
    false_negative: int
    true_negative: int
    false_positive_volume: float  # mm3; mm2 for a 2-D image; voxels if the spacing is unknown
    lesions_truth: int
    lesions_found: int  # in the truth
    lesions_predicted: int
    lesions_matched: int  # in the prediction

    @property
    def negative(self) -> bool:
        """Whether the truth is empty."""
        return self.true_positive + self.false_negative == 0

    @property
    def voxels(self) -> int:
        """Number of voxels that count; 0 if the ignore label covers all."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative


class MetricMean(Record, frozen=True, kw_only=True):
    """Summary of one metric over the cases in which it is evaluable."""

    mean: float | None  # None without an evaluable case
    std: float | None  # sample standard deviation (n - 1); None with fewer than two evaluable cases
    evaluable: int
    left_out: int


class Mean(Record, frozen=True, kw_only=True):
    """Means over cases, with the numbers of cases left out."""

    metrics: dict[str, MetricMean]  # one for each of METRICS
    cases: int
    negative_cases: int  # cases with empty truth
    negative_cases_with_false_positives: int


def score_masks(
    prediction: Mask,
    truth: Mask,
    spacing_mm: tuple[float, ...],
    valid: Mask | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    rectangularity: float = 1.0,
) -> Scores:
    """Score one pair of boolean masks (y, x) or (z, y, x); ``spacing_mm`` has one entry per axis, 1 if unknown.

    ``rectangularity``: the volume of a voxel as a fraction of its sides' product, below 1 for a sheared grid.
    Voxels outside ``valid`` (under the ignore label) are background in both masks and never counted. Raises ValueError
    for different shapes, non-boolean arrays, and a spacing that does not fit.
    """
    check_masks(prediction, truth, valid)
    counts = count(prediction, truth, valid)
    if valid is not None:
        prediction, truth = prediction & valid, truth & valid
    _, steps_mm = in_plane(truth, spacing_mm)
    return _scores(
        counts,
        lesion_counts(prediction, truth),
        surface_scores(prediction, truth, spacing_mm, tolerance_mm),
        false_positive_volume=counts.false_positive * math.prod(steps_mm) * rectangularity,
    )


def pool(parts: Sequence[Scores]) -> Scores:
    """Pool the images of one patient.

    Overlap metrics come from the summed voxel counts, lesion F1 from the summed lesion counts. Slices need not be
    consecutive or aligned, so they have no common surface: HD95 and surface Dice are means over the images in which
    they are evaluable. Raises ValueError without images.
    """
    if not parts:
        raise ValueError("No scores to pool: a patient has at least one image")
    surface = SurfaceScores(
        hd95=_mean([part.hd95 for part in parts]), surface_dice=_mean([part.surface_dice for part in parts])
    )
    return _scores(
        add_counts([_counts(part) for part in parts]),
        add_lesion_counts([_lesions(part) for part in parts]),
        surface,
        false_positive_volume=sum(part.false_positive_volume for part in parts),
    )


def summarise(scores: Sequence[Scores]) -> Mean:
    """Average over cases (images, or patients after ``pool``); each metric reports how many cases it leaves out."""
    negatives = [case for case in scores if case.negative]
    return Mean(
        metrics={name: _metric_mean([getattr(case, name) for case in scores]) for name in METRICS},
        cases=len(scores),
        negative_cases=len(negatives),
        negative_cases_with_false_positives=sum(case.false_positive > 0 for case in negatives),
    )


def _scores(counts: Counts, lesions: LesionCounts, surface: SurfaceScores, false_positive_volume: float) -> Scores:
    return Scores(
        dice=dice(counts),
        iou=iou(counts),
        precision=precision(counts),
        recall=recall(counts),
        hd95=surface.hd95,
        surface_dice=surface.surface_dice,
        lesion_f1=lesion_f1(lesions),
        true_positive=counts.true_positive,
        false_positive=counts.false_positive,
        false_negative=counts.false_negative,
        true_negative=counts.true_negative,
        false_positive_volume=false_positive_volume,
        lesions_truth=lesions.truth_lesions,
        lesions_found=lesions.found,
        lesions_predicted=lesions.predicted_lesions,
        lesions_matched=lesions.matched_predictions,
    )


def _counts(scores: Scores) -> Counts:
    return Counts(
        true_positive=scores.true_positive,
        false_positive=scores.false_positive,
        false_negative=scores.false_negative,
        true_negative=scores.true_negative,
    )


def _lesions(scores: Scores) -> LesionCounts:
    return LesionCounts(
        truth_lesions=scores.lesions_truth,
        predicted_lesions=scores.lesions_predicted,
        found=scores.lesions_found,
        matched_predictions=scores.lesions_matched,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    evaluable = [value for value in values if value is not None]
    return float(np.mean(evaluable)) if evaluable else None


def _metric_mean(values: Sequence[float | None]) -> MetricMean:
    evaluable = [value for value in values if value is not None]
    return MetricMean(
        mean=_mean(values),
        std=float(np.std(evaluable, ddof=1)) if len(evaluable) > 1 else None,
        evaluable=len(evaluable),
        left_out=len(values) - len(evaluable),
    )
