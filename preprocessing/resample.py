"""Resample to another spacing: cubic splines for images, linear per label for masks.

Voxel edges stay aligned: the outer edges of the first and last voxel do not move. Interpolation is linear in the
voxel values and separable, so each axis is one small sparse matrix and a volume takes three matrix products: the
numbers of scipy.ndimage.zoom, many times faster. The matrices are sparse because threaded dense products stall on a
busy machine.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mdkd_auto.core.records import IntTriple, Triple
from mdkd_auto.preprocessing.crop import box_slices, nonzero_box

Kind = Literal["nearest", "linear", "cubic"]
Floats = NDArray[np.float32]

NEGLIGIBLE = 1e-6  # spline weights fall by a factor of 0.27 per voxel: about 20 remain
POLE = math.sqrt(3) - 2  # pole of the filter from voxels to cubic B-spline coefficients (Unser 1999)
POLE_REACH = 11  # voxels per side until that filter is negligible
SLICEWISE_ANISOTROPY = 3.0  # above this ratio the coarse axis is not interpolated (nnU-Net's rule)


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> IntTriple:
    """Voxels along each axis at the target spacing, at least one."""
    sizes = [max(1, round(size * old / new)) for size, old, new in zip(shape, spacing_mm, target_mm, strict=True)]
    return (sizes[0], sizes[1], sizes[2])


def coarse_axis(spacing_mm: Triple, target_mm: Triple) -> int | None:
    """Return the axis to resample by nearest neighbour: more than 3 x coarser than the finest, before or after."""
    for spacing in (spacing_mm, target_mm):
        if max(spacing) > SLICEWISE_ANISOTROPY * min(spacing):
            return int(np.argmax(spacing))
    return None


def resample_image(image: NDArray[Any], shape: IntTriple, coarse: int | None) -> Floats:
    """Resample with cubic splines, nearest neighbour along ``coarse``, clipped to the range of the joined values.

    A spline overshoots beside bone and air; true values do not. The joined values are the image, or one coarse slice.
    """
    values, kinds = image.astype(np.float32, copy=False), axis_kinds("cubic", coarse)
    resampled = resample(values, shape, kinds)
    if tuple(values.shape) != tuple(shape):
        joined = tuple(axis for axis in range(3) if axis != coarse)
        slices = tuple(size if axis == coarse else 1 for axis, size in enumerate(shape))
        low, high = (
            resample(extreme(values, axis=joined, keepdims=True), slices, kinds)  # type: ignore[arg-type]
            for extreme in (np.min, np.max)
        )
        np.clip(resampled, low, high, out=resampled)
    return resampled


def resample_label(label: NDArray[Any], shape: IntTriple, coarse: int | None) -> NDArray[Any]:
    """Resample each label's indicator linearly (nearest along ``coarse``) and take the argmax; ties: the lower label.

    Only the bounding box of labels above the lowest is resampled: everything around it keeps the lowest label.
    """
    if tuple(label.shape) == tuple(shape):
        return label.copy()
    lowest = label.min()
    result = np.full(shape, lowest, dtype=label.dtype)
    if lowest == label.max():
        return result
    box = nonzero_box([label != lowest])
    kinds = axis_kinds("linear", coarse)
    cuts = [
        _cut(interpolation(before, after, kind), first, stop)
        for before, after, kind, (first, stop) in zip(label.shape, shape, kinds, box, strict=True)
    ]
    inside = label[box_slices(box)]
    decided = result[tuple(rows for _, rows in cuts)]  # a view
    if decided.size == 0:
        return result
    matrices = [matrix for matrix, _ in cuts]
    labels = np.unique(inside)
    others = labels[labels != lowest]
    shares = (multiply_axes((inside == value).astype(np.float32), matrices) for value in others)
    if others.size == 1:
        decided[next(shares) > 0.5] = others[0]
        return result
    best = 1 - multiply_axes((inside != lowest).astype(np.float32), matrices)  # share of the lowest label
    for value, share in zip(others, shares, strict=True):
        larger = share > best
        decided[larger] = value
        best[larger] = share[larger]
    return result


def resample(array: Floats, shape: IntTriple, kinds: tuple[Kind, Kind, Kind]) -> Floats:
    """Resample (z, y, x) to ``shape`` with one kind of interpolation per axis."""
    sizes = zip(array.shape, shape, kinds, strict=True)
    matrices = [None if before == after else interpolation(before, after, kind) for before, after, kind in sizes]
    return multiply_axes(array, matrices)


def multiply_axes(array: Floats, matrices: Sequence[sparse.csr_array | None]) -> Floats:
    """Multiply each axis by its matrix (None: skip); axes that shrink most come first."""
    shrinking = [1.0 if matrix is None else matrix.shape[0] / matrix.shape[1] for matrix in matrices]
    for axis in sorted(range(3), key=lambda axis: shrinking[axis]):
        matrix = matrices[axis]
        if matrix is not None:
            moved = np.moveaxis(array, axis, 0)
            product = matrix @ moved.reshape(len(moved), -1)  # (size, voxels of the other axes)
            array = np.moveaxis(product.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(array)


def _cut(matrix: sparse.csr_array, first: int, stop: int) -> tuple[sparse.csr_array, slice]:
    """The part of a matrix that depends on columns first..stop-1, and its rows."""
    columns = matrix[:, first:stop]
    rows = np.flatnonzero(np.diff(columns.indptr))
    kept = slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
    return columns[kept], kept


@lru_cache(maxsize=256)
def interpolation(before: int, after: int, kind: Kind) -> sparse.csr_array:
    """(after, before): the weight of each old voxel in each new one, edges aligned, borders replicated."""
    positions = (np.arange(after) + 0.5) * before / after  # centres of the new voxels, in old voxels from the edge
    if kind == "nearest":
        first, weights = np.floor(positions), np.ones((after, 1))
    else:
        first = np.floor(positions - 0.5)
        weights = (_linear if kind == "linear" else _cubic)(positions - 0.5 - first)
        first -= weights.shape[1] // 2 - 1
    columns = np.clip(first[:, None] + np.arange(weights.shape[1]), 0, before - 1).astype(np.intp)
    rows = np.broadcast_to(np.arange(after)[:, None], columns.shape)
    kept = np.abs(weights) > NEGLIGIBLE
    return sparse.csr_array((weights[kept].astype(np.float32), (rows[kept], columns[kept])), shape=(after, before))


def _linear(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2): weights of the two voxels around positions at ``part`` (N,) voxels after the first."""
    return np.stack([1 - fraction, fraction], axis=1)


def _cubic(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 26): weights of a cubic spline: four B-spline coefficients, each a sum over filtered voxels."""
    rest = 1 - fraction
    splines = [rest**3, 4 - 6 * fraction**2 + 3 * fraction**3, 4 - 6 * rest**2 + 3 * rest**3, fraction**3]
    reach = np.abs(np.arange(-POLE_REACH, POLE_REACH + 1))
    weights = np.zeros((len(fraction), len(reach) + 3))
    for offset, spline in enumerate(splines):
        weights[:, offset : offset + len(reach)] += spline[:, None] / 6 * math.sqrt(3) * POLE**reach
    return weights / weights.sum(axis=1, keepdims=True)


def axis_kinds(kind: Kind, coarse: int | None) -> tuple[Kind, Kind, Kind]:
    first, second, third = ("nearest" if axis == coarse else kind for axis in range(3))
    return (first, second, third)
