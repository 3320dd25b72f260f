"""Prediction of a whole image from overlapping patches, weighted by a Gaussian (as in nnU-Net)."""

from itertools import product
from math import ceil

import numpy as np
import torch
from torch import nn

GAUSSIAN_SIGMA = 1 / 8  # of the patch
WINDOWS_A_BATCH_2D, WINDOWS_A_BATCH_3D = 8, 1


@torch.no_grad()
def sliding_window(
    model: nn.Module,
    image: np.ndarray,
    patch_size: tuple[int, ...],
    *,
    step: float = 0.5,
    mirror: bool = False,
    device: torch.device | None = None,
    low_precision: bool = False,
) -> np.ndarray:
    """Sigmoid probabilities (K, z, y, x) float32 of an image (z, y, x).

    A patch of two axes goes through slice by slice. ``step`` is the stride in patches; ``mirror`` averages over all
    flips. An image smaller than the patch is padded with its minimum, as in training.
    """
    device = device or torch.device("cpu")
    flat = len(patch_size) == 2
    patch = (1, *patch_size) if flat else tuple(patch_size)
    margins = [_margin(size, extent) for size, extent in zip(patch, image.shape, strict=True)]
    padded = np.pad(image, margins, constant_values=image.min())
    tensor = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))
    weight, weights = _gaussian(patch), torch.zeros(padded.shape)
    total = torch.zeros((0, *padded.shape))
    count = WINDOWS_A_BATCH_2D if flat else WINDOWS_A_BATCH_3D
    windows = list(product(*(_starts(extent, size, step) for extent, size in zip(padded.shape, patch, strict=True))))
    model.eval()
    for first in range(0, len(windows), count):
        boxes = [
            tuple(slice(start, start + size) for start, size in zip(window, patch, strict=True))
            for window in windows[first : first + count]
        ]
        batch = torch.stack([tensor[box] for box in boxes])[:, None].to(device)  # (b, 1, z, y, x)
        with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
            predicted = _predict(model, batch[:, :, 0] if flat else batch, mirror).float().cpu()
        if flat:
            predicted = predicted[:, :, None]  # (b, K, 1, y, x)
        if not len(total):
            total = torch.zeros((predicted.shape[1], *padded.shape))
        for box, probabilities in zip(boxes, predicted, strict=True):
            for channel, values in zip(total, probabilities, strict=True):
                channel[box] += values * weight
            weights[box] += weight
    total /= weights
    inside = [slice(before, before + extent) for (before, _), extent in zip(margins, image.shape, strict=True)]
    result: np.ndarray = total[:, inside[0], inside[1], inside[2]].numpy()
    return result


def _margin(size: int, extent: int) -> tuple[int, int]:
    """Voxels to add before and after an axis that is shorter than the patch."""
    missing = max(0, size - extent)
    return missing // 2, missing - missing // 2


def _predict(model: nn.Module, batch: torch.Tensor, mirror: bool) -> torch.Tensor:
    """Probabilities of a batch, averaged over every combination of flips if ``mirror``."""
    axes = range(2, batch.ndim)
    flips = [[axis for axis, flip in zip(axes, chosen, strict=True) if flip]
             for chosen in product((False, True), repeat=len(axes))] if mirror else [[]]  # fmt: skip
    return torch.stack([torch.sigmoid(model(batch.flip(flip)).float()).flip(flip) for flip in flips]).mean(0)


def _starts(extent: int, size: int, step: float) -> list[int]:
    """Evenly spread first voxels of windows that cover 0..extent, at most ``step * size`` apart."""
    if extent <= size:
        return [0]
    count = ceil((extent - size) / (size * step)) + 1
    return [round(index * (extent - size) / (count - 1)) for index in range(count)]


def _gaussian(patch: tuple[int, ...]) -> torch.Tensor:
    """Importance of each voxel of a window, 1 at the centre and never 0."""
    weight = torch.ones(())
    for size in patch:
        offsets = (torch.arange(size) - (size - 1) / 2) / max(1.0, size * GAUSSIAN_SIGMA)
        weight = weight[..., None] * torch.exp(-0.5 * offsets**2)
    return weight.clamp_min(1e-4)
