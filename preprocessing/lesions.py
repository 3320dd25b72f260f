"""Lesions: voxels to centre patches on (sampling draws lesions, not voxels), and lesion extent."""

from functools import partial
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from mdkd_auto.core.records import LesionSample, Triple
from mdkd_auto.preprocessing.crop import box_slices, nonzero_box

POINTS_A_LESION = 64
SPECK_VOXELS = 3  # smaller components are annotation noise, without a vote or a diameter
_MOST_COMPARED = 500  # above this number of points, only those on the convex hull


def sample_lesions(label: NDArray[Any], ignore_label: int | None = None) -> tuple[LesionSample, ...]:
    """Connected components (26-neighbourhood) of each label value of (z, y, x), with up to 64 points each.

    The points are every n-th voxel in raster order, identical on every run.
    """
    box = nonzero_box([label])
    inside = label[box_slices(box)]
    lesions = inside if ignore_label is None else np.where(inside == ignore_label, 0, inside)
    components = cc3d.connected_components(np.ascontiguousarray(lesions), connectivity=26)  # never joins two labels
    flat = components.ravel()
    voxels = np.flatnonzero(flat)
    if voxels.size == 0:
        return ()
    corner = [first for first, _ in box]
    voxels = voxels[np.argsort(flat[voxels], kind="stable")]
    ends = np.cumsum(np.bincount(flat[voxels])[1:])
    samples = []
    for members in np.split(voxels, ends[:-1]):
        count = min(POINTS_A_LESION, members.size)
        chosen = members[((np.arange(count) + 0.5) * members.size / count).astype(np.intp)]
        points = (np.stack(np.unravel_index(chosen, lesions.shape), axis=1) + corner).tolist()
        value = int(lesions.ravel()[members[0]])
        samples.append(LesionSample(label=value, points=tuple((z, y, x) for z, y, x in points)))
    return tuple(samples)


def largest_diameters_mm(components: NDArray[np.integer[Any]], spacing_mm: Triple) -> dict[int, float]:
    """Component of (z, y, x) -> the largest distance between its voxel centres; specks are left out.

    scikit-image's ``feret_diameter_max`` raises ValueError for components of one slice.
    """
    from skimage.measure import regionprops_table

    if not components.any():
        return {}
    specks = np.bincount(components.ravel()) < SPECK_VOXELS
    large = np.where(specks[components], 0, components)
    farthest = partial(_farthest, spacing_mm=spacing_mm)
    farthest.__name__ = "largest_diameter"  # type: ignore[attr-defined]  # the column's name
    table = regionprops_table(large, properties=("label",), extra_properties=(farthest,))
    return dict(zip(table["label"].tolist(), table["largest_diameter"].tolist(), strict=True))


def _farthest(region: NDArray[np.bool_], spacing_mm: Triple) -> float:
    """Largest distance between voxel centres of a cropped region, mm."""
    ends = region & ~(_shifted(region, 1) & _shifted(region, -1))  # the farthest points are ends of runs along x
    points = np.argwhere(ends) * spacing_mm
    if len(points) > _MOST_COMPARED:
        points = points[ConvexHull(points, qhull_options="QJ").vertices]  # joggled: a region may lie in one plane
    return float(pdist(points).max(initial=0.0))  # regionprops probes it with a single voxel first


def _shifted(region: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Shift along x, padded with background."""
    moved = np.zeros_like(region)
    if by > 0:
        moved[..., by:] = region[..., :-by]
    else:
        moved[..., :by] = region[..., -by:]
    return moved
