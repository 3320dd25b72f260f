"""Map boxes between a file's pixels and the voxels of the preprocessed image.

A box is x1, y1, x2, y2, edge to edge: the first voxel spans 0 to 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import Box, CaseGeometry, StoredBox
from mdkd_auto.preprocessing.crop import box_shape

Floats = NDArray[np.float64]


def stored_boxes(
    boxes: Sequence[Box], labels: dict[str, tuple[int, ...]], geometry: CaseGeometry
) -> tuple[StoredBox, ...]:
    """Map a file's boxes into its preprocessed image. Boxes outside the crop are dropped."""
    corners = np.array([(box.x, box.y, box.x + box.width, box.y + box.height) for box in boxes]).reshape(-1, 4)
    moved = _corners(corners, geometry, back=False)
    size = geometry.resampled_shape[:0:-1]  # x, y
    moved = moved.clip(0, (*size, *size))
    return tuple(
        StoredBox(label=labels[box.class_name][0], corners=(float(row[0]), float(row[1]), float(row[2]), float(row[3])))
        for box, row in zip(boxes, moved, strict=True)
        if row[2] > row[0] and row[3] > row[1]
    )


def file_boxes(corners: Floats, geometry: CaseGeometry) -> Floats:
    """Map boxes (N, 4) of the preprocessed image to pixels of the file, clipped to it."""
    moved = _corners(corners, geometry, back=True)
    size = geometry.original_shape[:0:-1]  # x, y
    return moved.clip(0, (*size, *size))


def _corners(corners: Floats, geometry: CaseGeometry, back: bool) -> Floats:
    """Apply transpose, crop and resampling of the last two axes, or their inverse. The slice axis stays first."""
    before, after = box_shape(geometry.crop), geometry.resampled_shape
    turned = geometry.transpose[1:] == (2, 1)  # swaps y and x
    points = corners.reshape(-1, 2, 2)[..., ::-1]  # corner, (y, x)
    start = np.array([geometry.crop[axis][0] for axis in (1, 2)], dtype=np.float64)
    scale = np.array([after[axis] / before[axis] for axis in (1, 2)])
    if back:
        points = points / scale + start
        points = points[..., ::-1] if turned else points
    else:
        points = points[..., ::-1] if turned else points
        points = (points - start) * scale
    return np.ascontiguousarray(points[..., ::-1]).reshape(-1, 4)
