"""The lesions of a preprocessed label, with voxels to centre patches on: sampling draws lesions, not voxels."""

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import LesionSample
from mdkd_auto.preprocessing.crop import box_slices, nonzero_box

POINTS_A_LESION = 64


def sample_lesions(label: NDArray[Any], ignore_label: int | None = None) -> tuple[LesionSample, ...]:
    """Connected components (26-neighbourhood) of each label value of (z, y, x), up to 64 points drawn evenly.

    The points are every n-th voxel in raster order: the same on every run.
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
