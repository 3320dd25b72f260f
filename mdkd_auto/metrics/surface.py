"""Distances between the surfaces of two masks: HD95 and surface Dice.

Definition of Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
radiotherapy", 2018, section "Surface DSC", as DeepMind's surface-distance library computes it: surface elements lie at
the corners between voxels, each is weighted by the area of the surface through it (``surfels``), and its distance is to
the nearest surface element of the other mask. The tests compare this module with that library.

The library is not used at run time: its only release needs names that numpy 2 removed. A k-d tree of surface elements
replaces its distance transform: the same distances, computed only on the surface. A distance equal to the tolerance is
within it, regardless of rounding.
"""

from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from mdkd_auto.core.records import Record
from mdkd_auto.metrics.masks import Mask, check_masks, in_plane
from mdkd_auto.metrics.surfels import Floats, surfel_sizes

HAUSDORFF_FRACTION = 0.95  # fraction of the surface, for HD95
TOLERANCE_MM = 2.0  # default of the surface Dice; two pixels if the spacing is unknown
ROUNDING = 1e-6  # relative to the tolerance: NIfTI stores spacings in float32, 0.4 mm as 0.4000000059604645


class SurfaceScores(Record, frozen=True, kw_only=True):
    """Surface scores of one pair of masks; both are None if both masks are empty."""

    hd95: float | None  # mm (pixels if the spacing is unknown, i.e. all ones)
    surface_dice: float | None


def surface_scores(
    prediction: Mask, truth: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float = TOLERANCE_MM
) -> SurfaceScores:
    """HD95 and surface Dice of boolean masks (y, x) or (z, y, x), with one spacing per axis; (1, y, x) counts as 2-D.

    HD95: the larger of the two directed distances that 95 % of a surface does not exceed. Surface Dice: the fraction of
    both surfaces within the tolerance of the other.

    If exactly one mask is empty, surface Dice is 0 and HD95 is the image diagonal, the worst possible value. No
    distance can be measured, but leaving the case out would reward a model for predicting nothing.

    Raises ValueError for different shapes, non-boolean arrays, a spacing that does not fit, and a negative tolerance.
    """
    check_masks(prediction, truth)
    if not tolerance_mm >= 0:
        raise ValueError(f"The tolerance is a distance of at least 0 mm, not {tolerance_mm}")
    prediction, _ = in_plane(prediction, spacing_mm)
    truth, spacing_mm = in_plane(truth, spacing_mm)
    predicted, true = bool(prediction.any()), bool(truth.any())
    if not predicted and not true:
        return SurfaceScores(hd95=None, surface_dice=None)
    if predicted != true:
        diagonal_mm = float(np.linalg.norm(np.multiply(truth.shape, spacing_mm)))
        return SurfaceScores(hd95=diagonal_mm, surface_dice=0.0)

    box = _bounding_box(prediction | truth)
    points_a, sizes_a = _surface(prediction[box], spacing_mm)
    points_b, sizes_b = _surface(truth[box], spacing_mm)
    distances_a = _distances_mm(points_a, points_b, spacing_mm)
    distances_b = _distances_mm(points_b, points_a, spacing_mm)
    within_mm = tolerance_mm * (1 + ROUNDING)
    near = sizes_a[distances_a <= within_mm].sum() + sizes_b[distances_b <= within_mm].sum()
    return SurfaceScores(
        hd95=max(_weighted_quantile(distances_a, sizes_a), _weighted_quantile(distances_b, sizes_b)),
        surface_dice=float(near / (sizes_a.sum() + sizes_b.sum())),
    )


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Bounding box of a non-empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def _surface(mask: Mask, spacing_mm: tuple[float, ...]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Surface elements of a mask, closed at the border: corner indices (n, dimensions) and sizes (n,)."""
    padded = np.pad(mask, 1).view(np.uint8)
    cases = np.zeros([length + 1 for length in mask.shape], dtype=np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        window = tuple(slice(start, start + length) for start, length in zip(corner, cases.shape, strict=True))
        cases |= padded[window] << np.uint8(bit)
    full = 2 ** (2**mask.ndim) - 1
    at_surface = (cases != 0) & (cases != full)
    return np.argwhere(at_surface), surfel_sizes(spacing_mm)[cases[at_surface]]


def _distances_mm(
    points: npt.NDArray[np.int64], others: npt.NDArray[np.int64], spacing_mm: tuple[float, ...]
) -> Floats:
    """Distance (n,) from each of ``points`` (n, dimensions) to the nearest of ``others`` (m, dimensions)."""
    spacing = np.asarray(spacing_mm)
    _, nearest = cKDTree(others * spacing, balanced_tree=False, compact_nodes=False).query(points * spacing)
    steps = (points - others[nearest]) * spacing  # computed from whole steps, so that 5 x 0.4 mm is exactly 2 mm
    return np.asarray(np.sqrt((steps**2).sum(axis=1)), dtype=np.float64)


def _weighted_quantile(distances_mm: Floats, sizes: Floats) -> float:
    """Return the distance at which the surface, sorted by distance, reaches 95 % of its size."""
    order = np.lexsort((sizes, distances_mm))
    reached = np.cumsum(sizes[order]) / sizes.sum()
    index = min(int(np.searchsorted(reached, HAUSDORFF_FRACTION)), len(order) - 1)
    return float(distances_mm[order[index]])
