"""Lesion-wise detection: lesions count equally, whatever their size."""

from collections.abc import Sequence

import cc3d
import numpy as np
import numpy.typing as npt

from mdkd_auto.core.records import Record
from mdkd_auto.metrics.masks import Mask, check_masks

MINIMUM_OVERLAP = 0.1  # fraction of a component's own voxels; low, since small lesions are rarely outlined exactly


class LesionCounts(Record, frozen=True, kw_only=True):
    """Connected components of truth and prediction, and how many of each have a counterpart."""

    truth_lesions: int
    predicted_lesions: int
    found: int  # truth lesions that were detected
    matched_predictions: int  # predicted lesions that match a true one


def lesion_counts(prediction: Mask, truth: Mask, minimum_overlap: float = MINIMUM_OVERLAP) -> LesionCounts:
    """Compare the connected components (26-neighbourhood; 8 in 2-D) of boolean masks (y, x) or (z, y, x).

    A truth lesion is detected if at least ``minimum_overlap`` of its voxels are predicted; a predicted lesion matches
    if at least ``minimum_overlap`` of its own voxels are true. Several predictions may share one lesion, and vice
    versa. Raises ValueError for different shapes, non-boolean arrays, and an overlap outside (0, 1].
    """
    check_masks(prediction, truth)
    if not 0 < minimum_overlap <= 1:
        raise ValueError(f"The minimum overlap is a share in (0, 1], not {minimum_overlap}")
    of_truth = _overlaps(truth, prediction)
    of_prediction = _overlaps(prediction, truth)
    return LesionCounts(
        truth_lesions=len(of_truth),
        predicted_lesions=len(of_prediction),
        found=int(np.count_nonzero(of_truth >= minimum_overlap)),
        matched_predictions=int(np.count_nonzero(of_prediction >= minimum_overlap)),
    )


def add_lesion_counts(parts: Sequence[LesionCounts]) -> LesionCounts:
    """Sum the counts field by field."""
    return LesionCounts(
        truth_lesions=sum(part.truth_lesions for part in parts),
        predicted_lesions=sum(part.predicted_lesions for part in parts),
        found=sum(part.found for part in parts),
        matched_predictions=sum(part.matched_predictions for part in parts),
    )


def lesion_f1(counts: LesionCounts) -> float | None:
    """2 TP / (2 TP + FP + FN): TP detected lesions, FN missed lesions, FP predicted lesions without a match.

    None if neither mask has a lesion.
    """
    missed = counts.truth_lesions - counts.found
    spurious = counts.predicted_lesions - counts.matched_predictions
    total = 2 * counts.found + spurious + missed
    return 2 * counts.found / total if total else None


def _overlaps(mask: Mask, other: Mask) -> npt.NDArray[np.float64]:
    """For each component of ``mask`` (n,), the fraction of its voxels that ``other`` covers."""
    if not mask.any():
        return np.zeros(0)
    components = cc3d.connected_components(mask, connectivity=26 if mask.ndim == 3 else 8)
    sizes = np.bincount(components[mask])[1:]
    covered = np.bincount(components[mask & other], minlength=len(sizes) + 1)[1:]
    return np.asarray(covered / sizes, dtype=np.float64)
