"""Whole images as a network takes them: what classification and detection predict from."""

from collections.abc import Sequence

import numpy as np
import torch

from mdkd_auto.core.errors import PlanError, PredictionError
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan
from mdkd_auto.formats.read_write import Image
from mdkd_auto.preprocessing.case import Prepared, prepare_image


def prepare_whole(image: Image, dataset_plan: DatasetPlan, plan: ConfigurationPlan) -> Prepared:
    """One image in network space.

    Raises PredictionError for a volume where the plan is of slices, and the other way round.
    """
    _check_axes(image.array.shape, dataset_plan, plan)
    return prepare_image(image, dataset_plan, plan)


def batch_of(prepared: Prepared, plan: ConfigurationPlan, device: torch.device) -> torch.Tensor:
    """A prepared image padded, (1, 1, *patch_size)."""
    return torch.from_numpy(into_patch(prepared.voxels, plan.patch_size))[None, None].to(device)


def _check_axes(shape_zyx: tuple[int, ...], dataset_plan: DatasetPlan, plan: ConfigurationPlan) -> None:
    slices = shape_zyx[dataset_plan.transpose[0]]
    if (slices == 1) == (len(plan.patch_size) == 2):
        return
    shape = " x ".join(map(str, shape_zyx))
    if slices == 1:
        raise PredictionError(f"the image is one slice ({shape} voxels); the model takes volumes")
    raise PredictionError(
        f"the image has {slices} slices or pages ({shape} voxels); the model takes 2-D images: save them one by one"
    )


def into_patch(image: np.ndarray, patch_size: tuple[int, ...]) -> np.ndarray:
    """An image (z, y, x) in the middle of a patch of its lowest value, as in training: (*patch_size).

    Raises PlanError for one that does not fit: plans of whole images resize them, others do not.
    """
    values = image[0] if len(patch_size) == 2 else image
    if any(length > room for room, length in zip(patch_size, values.shape, strict=True)):
        sizes = [" x ".join(map(str, shape)) for shape in (values.shape, patch_size)]
        raise PlanError(f"the image has {sizes[0]} voxels for an input of {sizes[1]}: the plan is not of whole images")
    patch = np.full(patch_size, values.min(), dtype=np.float32)
    starts = patch_starts(values.shape, patch_size)
    patch[tuple(slice(start, start + length) for start, length in zip(starts, values.shape, strict=True))] = values
    return patch


def patch_starts(shape: Sequence[int], patch_size: Sequence[int]) -> list[int]:
    """Where in its patch an image of this shape begins, the same axes."""
    return [(room - length) // 2 for room, length in zip(patch_size, shape, strict=True)]
