"""Patches of stored cases with their truth, as a network saw them in training: what its features are looked at on."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.records import Dataset
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.formats.file_endings import is_planar
from mdkd_auto.preprocessing.case_store import open_image, open_label

Bools = NDArray[np.bool_]


def row_step(dataset: Dataset, case_id: str) -> int:
    """The step between rows (y) that draws a case upright: pictures hold the top row first, volumes the posterior.

    Raises MdkdError where the case is gone.
    """
    case = next((case for case in dataset.cases if case.case_id == case_id), None)
    if case is None:
        raise MdkdError(f"{dataset.name}: case {case_id} is gone from the raw folder")
    return 1 if is_planar(case.images[0]) else -1


class Patch(NamedTuple):
    """A part of a case. S is (y, x) in 2d and (z, y, x) in 3d_fullres."""

    case_id: str
    image: NDArray[np.float32]  # S, normalised
    truth: Bools  # S, any foreground class
    counted: Bools  # S, False outside the image, where the label is to be ignored, and where another patch counts


def read_stored(experiment: Experiment, dataset: str, case_id: str) -> Patch:
    """A whole preprocessed case, S = (z, y, x). Raises MdkdError where it is not stored or damaged."""
    folder = experiment.root.cases(dataset, experiment.configuration)
    image = np.asarray(open_image(folder, case_id)[0], dtype=np.float32)
    label = np.asarray(open_label(folder, case_id)[:])
    classes = experiment.classes(dataset)
    values = [value for channel in classes.channels for value in channel.values]
    counted = np.ones(label.shape, dtype=bool) if classes.ignore is None else label != classes.ignore
    return Patch(case_id, image, np.isin(label, values), counted)


def tiles(case: Patch, size: tuple[int, ...]) -> Iterator[Patch]:
    """Patches of ``size`` that cover a case; no voxel is counted twice. Slices of the case for a size of two axes."""
    whole = _as_volume(size)
    axes = [_starts(extent, length) for extent, length in zip(case.image.shape, whole, strict=True)]
    for chosen in product(*axes):
        patch = cut(case, tuple(start for start, _ in chosen), whole)
        for axis, (_, seen) in enumerate(chosen):
            np.moveaxis(patch.counted, axis, 0)[:seen] = False
        yield _as_size(patch, size)


def lesion_patch(case: Patch, size: tuple[int, ...]) -> tuple[Patch, int]:
    """The patch around the slice with most truth, and which of its slices that is (0 for a size of two axes).

    The middle of that slice's foreground, and of the case where it has none, is the patch's middle, as far as the
    case reaches.
    """
    plane = busiest_slice(case.truth)
    whole = _as_volume(size)
    found = np.argwhere(case.truth[plane])
    middle = (plane, *(found.min(0) + found.max(0)) // 2) if len(found) else tuple(n // 2 for n in case.truth.shape)
    start = tuple(
        _clamped(int(point) - length // 2, extent, length)
        for point, extent, length in zip(middle, case.image.shape, whole, strict=True)
    )
    return _as_size(cut(case, start, whole), size), int(middle[0]) - start[0]


def busiest_slice(mask: Bools) -> int:
    """The slice of a volume (z, y, x) with most foreground; the first of several."""
    return int(mask.sum((1, 2)).argmax())


def cut(case: Patch, start: tuple[int, ...], size: tuple[int, ...]) -> Patch:
    """A copy of the part of ``size`` voxels (z, y, x) that begins at ``start``, filled with the case's minimum outside.

    ``start`` may be negative, where the case is smaller than the patch.
    """
    inside = tuple(
        slice(max(0, first), min(extent, first + length))
        for first, length, extent in zip(start, size, case.image.shape, strict=True)
    )
    margins = [
        (max(0, -first), max(0, first + length - extent))
        for first, length, extent in zip(start, size, case.image.shape, strict=True)
    ]
    return Patch(
        case.case_id,
        np.pad(case.image[inside], margins, constant_values=float(case.image.min())),
        np.pad(case.truth[inside], margins),
        np.pad(case.counted[inside], margins),
    )


def _as_volume(size: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *size) if len(size) == 2 else size


def _as_size(patch: Patch, size: tuple[int, ...]) -> Patch:
    """Without the axis of slices for a size of two axes."""
    if len(size) == 3:
        return patch
    return Patch(patch.case_id, patch.image[0], patch.truth[0], patch.counted[0])


def _starts(extent: int, length: int) -> list[tuple[int, int]]:
    """First voxels of patches that cover an axis, each with how many of its voxels an earlier one covered."""
    if extent <= length:
        return [(_clamped(0, extent, length), 0)]
    regular = [(start, 0) for start in range(0, extent - length + 1, length)]
    covered = regular[-1][0] + length
    return regular if covered == extent else [*regular, (extent - length, covered - (extent - length))]


def _clamped(start: int, extent: int, length: int) -> int:
    """Inside the case; a smaller case is centred in the patch."""
    if extent <= length:
        return -((length - extent) // 2)
    return min(max(start, 0), extent - length)
