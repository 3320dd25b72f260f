"""Canonical space -> transposed -> cropped to non-zero, and back. Arrays are (z, y, x)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import CaseGeometry, IntTriple, Triple

Array = NDArray[Any]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # start, stop of each axis


def nonzero_box(channels: Sequence[Array]) -> Box:
    """Return the smallest box around all non-zero voxels of the channels; the whole array if all are zero."""
    bounds = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.zeros(channels[0].shape[axis], dtype=bool)
        for channel in channels:
            occupied |= np.any(channel, axis=others)  # NaN counts as non-zero
        hits = np.flatnonzero(occupied)
        if hits.size == 0:
            return whole_box(channels[0].shape)
        bounds.append((int(hits[0]), int(hits[-1]) + 1))
    return (bounds[0], bounds[1], bounds[2])


def whole_box(shape: Sequence[int]) -> Box:
    """Return the box of the whole array."""
    return ((0, int(shape[0])), (0, int(shape[1])), (0, int(shape[2])))


def box_shape(box: Box) -> IntTriple:
    """Voxels along each axis of a box."""
    return (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0])


def box_slices(box: Box) -> tuple[slice, slice, slice]:
    """Convert a box to slices."""
    return (slice(*box[0]), slice(*box[1]), slice(*box[2]))


def permute(values: Sequence[float], transpose: IntTriple) -> Triple:
    """Reorder per-axis values (a spacing) to transposed axes."""
    return (float(values[transpose[0]]), float(values[transpose[1]]), float(values[transpose[2]]))


def cropped(array: Array, geometry: CaseGeometry) -> Array:
    """View of a canonical array of the case's original shape: the crop in transposed axes.

    Writing to the view changes the array.
    """
    if tuple(array.shape) != geometry.original_shape:
        raise ValueError(f"Array {array.shape} does not have the case's shape {geometry.original_shape}")
    return array.transpose(geometry.transpose)[box_slices(geometry.crop)]
