"""Resampling to another spacing: cubic splines for images, linear per label for masks.

Voxel edges stay aligned: the first and the last voxel's outer edges are where they were. Interpolation is linear
in the voxel values and separable, so each axis is one small sparse matrix, the interpolation of the unit vectors,
and a volume is resampled by three matrix products: the numbers of scipy.ndimage.zoom, many times faster. The
matrices are sparse because threaded dense products stall on a busy machine.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from mdkd_auto.records import IntTriple, Triple

Kind = Literal["nearest", "linear", "cubic"]
Floats = NDArray[np.float32]

ORDERS: dict[Kind, int] = {"nearest": 0, "linear": 1, "cubic": 3}
NEGLIGIBLE = 1e-6  # a spline's weights fall by 0.27 a voxel: about 20 of them remain
SLICEWISE_ANISOTROPY = 3.0  # beyond it, the coarse axis is not interpolated (nnU-Net's rule)


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> IntTriple:
    """Voxels along each axis at the target spacing, at least one."""
    sizes = [max(1, round(size * old / new)) for size, old, new in zip(shape, spacing_mm, target_mm, strict=True)]
    return (sizes[0], sizes[1], sizes[2])


def coarse_axis(spacing_mm: Triple, target_mm: Triple) -> int | None:
    """The axis to resample by nearest neighbour: one more than 3 x coarser than the finest, before or after."""
    for spacing in (spacing_mm, target_mm):
        if max(spacing) > SLICEWISE_ANISOTROPY * min(spacing):
            return int(np.argmax(spacing))
    return None


def resample_image(image: NDArray[Any], shape: IntTriple, coarse: int | None) -> Floats:
    """Cubic splines along every axis but ``coarse``, which is nearest neighbour."""
    return resample(image.astype(np.float32, copy=False), shape, _kinds("cubic", coarse))


def resample_probabilities(channel: NDArray[Any], shape: IntTriple, coarse: int | None) -> Floats:
    """One class linearly along every axis but ``coarse``, which is nearest neighbour."""
    return resample(channel.astype(np.float32, copy=False), shape, _kinds("linear", coarse))


def resample_label(label: NDArray[Any], shape: IntTriple, coarse: int | None) -> NDArray[Any]:
    """Each label's indicator linearly (nearest along ``coarse``), then the largest; the lower label wins a tie."""
    if tuple(label.shape) == tuple(shape):
        return label.copy()
    kinds = _kinds("linear", coarse)
    values = np.unique(label)
    result = np.full(shape, values[0], dtype=label.dtype)
    if values.size == 1:
        return result
    if values.size == 2:
        result[resample((label == values[1]).astype(np.float32), shape, kinds) > 0.5] = values[1]
        return result
    best = resample((label == values[0]).astype(np.float32), shape, kinds)
    for value in values[1:]:
        share = resample((label == value).astype(np.float32), shape, kinds)
        larger = share > best
        result[larger] = value
        best[larger] = share[larger]
    return result


def resample(array: Floats, shape: IntTriple, kinds: tuple[Kind, Kind, Kind]) -> Floats:
    """Resample (z, y, x) to ``shape``, each axis in its own way; the axes that shrink most go first."""
    order = sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis])
    for axis in order:
        if array.shape[axis] != shape[axis]:
            array = _along(array, shape[axis], axis, kinds[axis])
    return np.ascontiguousarray(array)


def _along(array: Floats, size: int, axis: int, kind: Kind) -> Floats:
    before = array.shape[axis]
    if kind == "nearest":
        centres = np.floor((np.arange(size) + 0.5) * before / size).astype(np.intp)
        return np.take(array, np.minimum(centres, before - 1), axis=axis)
    moved = np.moveaxis(array, axis, 0)
    product = _matrix(before, size, kind) @ moved.reshape(before, -1)  # (size, voxels of the other axes)
    return np.moveaxis(product.reshape(size, *moved.shape[1:]), 0, axis)


@lru_cache(maxsize=256)
def _matrix(before: int, after: int, kind: Kind) -> sparse.csr_array:
    """(after, before): the interpolation of each unit vector, edges aligned, borders extended."""
    centres = ((np.arange(after) + 0.5) * (before / after) - 0.5)[None]
    order = ORDERS[kind] if before > 1 else 0
    columns = [ndimage.map_coordinates(unit, centres, order=order, mode="nearest") for unit in np.eye(before)]
    matrix = np.stack(columns, axis=1)
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    return sparse.csr_array(matrix.astype(np.float32))


def _kinds(kind: Kind, coarse: int | None) -> tuple[Kind, Kind, Kind]:
    first, second, third = ("nearest" if axis == coarse else kind for axis in range(3))
    return (first, second, third)
