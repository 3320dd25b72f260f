"""Whole images as a network takes them: what classification and detection predict from."""

from collections.abc import Sequence

import numpy as np
import torch

from mdkd_auto.data.images import Image
from mdkd_auto.errors import PredictionError
from mdkd_auto.preprocessing.case import preprocess_case
from mdkd_auto.records import CaseGeometry, ConfigurationPlan, DatasetPlan


def as_batch(
    image: Image, dataset_plan: DatasetPlan, plan: ConfigurationPlan, device: torch.device
) -> tuple[torch.Tensor, CaseGeometry]:
    """One image preprocessed and padded, (1, 1, *patch_size), and the way back from it.

    Raises PredictionError for a volume where the plan is of slices, and the other way round.
    """
    _check_axes(image, dataset_plan, plan)
    spacing = image.spacing_mm if image.spacing_known else None
    prepared, _, geometry = preprocess_case(image.array, spacing, None, dataset_plan, plan)
    return torch.from_numpy(into_patch(prepared[0], plan.patch_size))[None, None].to(device), geometry


def _check_axes(image: Image, dataset_plan: DatasetPlan, plan: ConfigurationPlan) -> None:
    slices = image.array.transpose(dataset_plan.transpose).shape[0]
    if (slices == 1) == (len(plan.patch_size) == 2):
        return
    shape = " x ".join(map(str, image.array.shape))
    if slices == 1:
        raise PredictionError(f"the image is one slice ({shape} voxels); the model takes volumes")
    raise PredictionError(
        f"the image has {slices} slices or pages ({shape} voxels); the model takes 2-D images: save them one by one"
    )


def into_patch(image: np.ndarray, patch_size: tuple[int, ...]) -> np.ndarray:
    """An image (z, y, x) that fits, in the middle of a patch of its lowest value, as in training: (*patch_size)."""
    values = image[0] if len(patch_size) == 2 else image
    patch = np.full(patch_size, values.min(), dtype=np.float32)
    starts = patch_starts(values.shape, patch_size)
    patch[tuple(slice(start, start + length) for start, length in zip(starts, values.shape, strict=True))] = values
    return patch


def patch_starts(shape: Sequence[int], patch_size: Sequence[int]) -> list[int]:
    """Where in its patch an image of this shape begins, the same axes."""
    return [(room - length) // 2 for room, length in zip(patch_size, shape, strict=True)]
