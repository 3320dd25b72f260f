"""Canonical space -> transposed -> cropped to non-zero, and back. Arrays are (z, y, x)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.records import CaseGeometry, IntTriple, Triple

Array = NDArray[Any]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # start, stop of each axis


def nonzero_box(channels: Sequence[Array]) -> Box:
    """Smallest box that holds every non-zero voxel of the channels; everything where all are zero."""
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
    """The box of the whole array."""
    return ((0, int(shape[0])), (0, int(shape[1])), (0, int(shape[2])))


def box_shape(box: Box) -> IntTriple:
    """Voxels along each axis of a box."""
    return (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0])


def box_slices(box: Box) -> tuple[slice, slice, slice]:
    """The box as an index."""
    return (slice(*box[0]), slice(*box[1]), slice(*box[2]))


def permute(values: Sequence[float], transpose: IntTriple) -> Triple:
    """Per-axis values (a spacing) in transposed order."""
    return (float(values[transpose[0]]), float(values[transpose[1]]), float(values[transpose[2]]))


def inverse_transpose(transpose: IntTriple) -> IntTriple:
    """The permutation that undoes ``transpose``."""
    inverse = [int(axis) for axis in np.argsort(transpose)]
    return (inverse[0], inverse[1], inverse[2])


def uncrop_and_untranspose(array: Array, geometry: CaseGeometry, outside: float) -> Array:
    """Paste a cropped, transposed (z, y, x) array back into the case's canonical, original shape.

    Voxels outside the crop become ``outside``.
    """
    transposed_shape = tuple(geometry.original_shape[axis] for axis in geometry.transpose)
    if tuple(array.shape) != box_shape(geometry.crop):
        raise ValueError(f"Array {array.shape} does not fit the crop {box_shape(geometry.crop)}")
    full = np.full(transposed_shape, outside, dtype=array.dtype)
    full[box_slices(geometry.crop)] = array
    return np.ascontiguousarray(full.transpose(inverse_transpose(geometry.transpose)))
