"""Map one case into network space, and a prediction back."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import Case, CaseGeometry, ConfigurationPlan, Dataset, DatasetPlan, IntTriple, Triple
from mdkd_auto.datasets.case_reading import read_case_arrays
from mdkd_auto.formats.read_write import Image
from mdkd_auto.formats.size_guard import check_resampling
from mdkd_auto.preprocessing.case_store import compact_label
from mdkd_auto.preprocessing.crop import box_shape, cropped, nonzero_box, permute
from mdkd_auto.preprocessing.normalise import normalise
from mdkd_auto.preprocessing.resample import (
    coarse_axis,
    resample_image,
    resample_label,
    resampled_shape,
)
from mdkd_auto.preprocessing.slabs import resample_slabs

Array = NDArray[Any]


class RawCase(NamedTuple):
    """The channel a plan uses, in canonical axes (z, y, x)."""

    image: Array
    spacing_mm: Triple | None  # None if neither the file nor dataset.json gives one
    label: Array | None


def read_case(case: Case, dataset: Dataset, channel: int) -> RawCase:
    """Read and check one channel and the label. Raises ImageError naming the file."""
    arrays = read_case_arrays(case, dataset, channels=[channel])
    return RawCase(arrays.channels[0], arrays.spacing_mm, arrays.label)


def preprocess_case(
    image: Array,
    spacing_mm: Triple | None,
    label: Array | None,
    dataset_plan: DatasetPlan,
    configuration_plan: ConfigurationPlan,
) -> tuple[NDArray[np.float32], Array | None, CaseGeometry]:
    """Transpose, crop to non-zero, normalise, resample: image (1, z, y, x), label (z, y, x), and the geometry."""
    geometry = plan_geometry(image, spacing_mm, dataset_plan, configuration_plan)
    coarse = coarse_axis(geometry.spacing_mm, geometry.resampled_spacing_mm)
    normalised = normalise(cropped(image, geometry), dataset_plan.normalisation)
    if configuration_plan.whole_images:
        normalised, coarse = smoothed(normalised, geometry.resampled_shape), None
    resampled = resample_image(normalised, geometry.resampled_shape, coarse)
    if label is None:
        return resampled[None], None, geometry
    mask = np.ascontiguousarray(cropped(label, geometry))
    return resampled[None], compact_label(resample_label(mask, geometry.resampled_shape, coarse)), geometry


class Prepared(NamedTuple):
    """An image in network space."""

    voxels: NDArray[np.float32]  # (z, y, x)
    geometry: CaseGeometry


def prepare_image(image: Image, dataset_plan: DatasetPlan, configuration_plan: ConfigurationPlan) -> Prepared:
    """Prepare an image for prediction. If its file has no spacing, the plan's assumed spacing is used."""
    spacing_mm = image.spacing_mm if image.spacing_known else None
    prepared, _, geometry = preprocess_case(image.array, spacing_mm, None, dataset_plan, configuration_plan)
    return Prepared(prepared[0], geometry)


def plan_geometry(
    image: Array, spacing_mm: Triple | None, dataset_plan: DatasetPlan, configuration_plan: ConfigurationPlan
) -> CaseGeometry:
    """Compute the case's geometry in network space.

    Raises PlanError if its spacing is neither known nor assumed, ImageError if the result does not fit into memory.
    """
    canonical = spacing_mm if spacing_mm is not None else dataset_plan.assumed_spacing_mm
    if canonical is None and configuration_plan.whole_images:
        canonical = (1.0, 1.0, 1.0)
    if canonical is None:
        raise PlanError(
            f"{dataset_plan.dataset}: the image has no physical spacing and the plan assumes none; "
            "state spacing_mm in dataset.json and plan again"
        )
    spacing = permute(canonical, dataset_plan.transpose)
    transposed = image.transpose(dataset_plan.transpose)
    crop = nonzero_box([transposed])
    size = box_shape(crop)
    if configuration_plan.whole_images:
        shape = fitted_shape(size, spacing, configuration_plan.patch_size)
    else:
        target = _target_spacing(spacing, configuration_plan)
        shape = resampled_shape(size, spacing, target)
        check_resampling(shape, spacing, target)
    return CaseGeometry(
        original_shape=_triple(image.shape),
        transpose=dataset_plan.transpose,
        crop=crop,
        spacing_mm=spacing,
        resampled_shape=shape,
        resampled_spacing_mm=_exact_spacing(spacing, size, shape),
    )


def restore(slabs: Iterable[NDArray[np.float32]], geometry: CaseGeometry) -> Iterator[NDArray[np.float32]]:
    """Resample probability slabs (K, n, y, x) from network space to the voxels of the case's crop, again as slabs.

    Their position in the case is ``geometry.cropped``. Interpolation is linear except along a coarse axis:
    preprocessing took the nearest slice there, and so does this, which inverts it exactly unless slices were dropped.
    """
    coarse = coarse_axis(geometry.spacing_mm, geometry.resampled_spacing_mm)
    return resample_slabs(slabs, geometry.resampled_shape, box_shape(geometry.crop), coarse)


def smoothed(image: NDArray[np.float32], shape: IntTriple) -> NDArray[np.float32]:
    """Low-pass filter an image before downsampling it to ``shape``.

    Gaussian sigma: half the new voxel size minus half the old one, as in scikit-image's rescale.
    """
    sigma = [max(0.0, (before / after - 1) / 2) for before, after in zip(image.shape, shape, strict=True)]
    result: NDArray[np.float32] = gaussian_filter(image, sigma) if max(sigma) > 0 else image
    return result


def fitted_shape(size: IntTriple, spacing: Triple, patch_size: tuple[int, ...]) -> IntTriple:
    """Shape (z, y, x) of a whole image that just fits the patch, with the aspect ratio it has in mm."""
    axes = range(3 - len(patch_size), 3)  # a slice keeps its z
    lengths = [size[axis] * spacing[axis] for axis in axes]
    scale = min(room / length for room, length in zip(patch_size, lengths, strict=True))
    fitted = [max(1, min(room, round(length * scale))) for room, length in zip(patch_size, lengths, strict=True)]
    return _triple((*size[: 3 - len(patch_size)], *fitted))


def _target_spacing(spacing: Triple, plan: ConfigurationPlan) -> Triple:
    """Target spacing in transposed axes; in 2d each slice keeps its z."""
    target = plan.spacing_mm
    return (spacing[0], target[0], target[1]) if len(target) == 2 else (target[0], target[1], target[2])


def _exact_spacing(spacing: Triple, size: IntTriple, shape: IntTriple) -> Triple:
    """The spacing after rounding to whole voxels; the extent in mm is unchanged."""
    exact = [old * (before / after) for old, before, after in zip(spacing, size, shape, strict=True)]
    return (exact[0], exact[1], exact[2])


def _triple(shape: tuple[int, ...]) -> IntTriple:
    return (int(shape[0]), int(shape[1]), int(shape[2]))
