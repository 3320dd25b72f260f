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
    patch = (1, *patch_size) if len(patch_size) == 2 else tuple(patch_size)
    shape = image.shape
    margins = [((size - extent) // 2, size - extent - (size - extent) // 2) if size > extent else (0, 0)
               for size, extent in zip(patch, shape, strict=True)]  # fmt: skip
    padded = np.pad(image, margins, constant_values=image.min())
    tensor = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))
    weight = _gaussian(patch)
    total: torch.Tensor | None = None
    weights = torch.zeros(padded.shape)
    windows = list(product(*(_starts(extent, size, step) for extent, size in zip(padded.shape, patch, strict=True))))
    count = WINDOWS_A_BATCH_2D if len(patch_size) == 2 else WINDOWS_A_BATCH_3D
    model.eval()
    for first in range(0, len(windows), count):
        boxes = [
            tuple(slice(start, start + size) for start, size in zip(window, patch, strict=True))
            for window in windows[first : first + count]
        ]
        batch = torch.stack([tensor[box] for box in boxes])[:, None].to(device)  # (b, 1, z, y, x)
        if len(patch_size) == 2:
            batch = batch[:, :, 0]
        with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
            predicted = _predict(model, batch, mirror).float().cpu()
        if len(patch_size) == 2:
            predicted = predicted[:, :, None]
        if total is None:
            total = torch.zeros((predicted.shape[1], *padded.shape))
        for box, probabilities in zip(boxes, predicted, strict=True):
            total[(slice(None), *box)] += probabilities * weight
            weights[box] += weight
    assert total is not None  # an image has at least one window
    inside = tuple(slice(before, before + extent) for (before, _), extent in zip(margins, shape, strict=True))
    result: np.ndarray = (total / weights)[(slice(None), *inside)].numpy()
    return result


def _predict(model: nn.Module, batch: torch.Tensor, mirror: bool) -> torch.Tensor:
    """Probabilities of a batch, averaged over every combination of flips if ``mirror``."""
    axes = range(2, batch.ndim)
    flips = [[axis for axis, flip in zip(axes, chosen, strict=True) if flip]
             for chosen in product((False, True), repeat=len(axes))] if mirror else [[]]  # fmt: skip
    return torch.stack([torch.sigmoid(model(batch.flip(flip))).flip(flip) for flip in flips]).mean(0)


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
