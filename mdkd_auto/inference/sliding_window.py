"""Predict a whole image from overlapping patches, weighted by a Gaussian (as in nnU-Net), slab by slab.

Only planes that later windows still add to are kept in memory: one patch depth plus one step or batch. Weights need no
volume of their own: over a full grid, the normalised weights are products of three one-dimensional rows.

If the plan clips intensities (CT), air is constant. Windows then cover only the bounding box of everything but air, and
windows that contain nothing but air are skipped; uncovered air gets probability 0. This is safe because every voxel
with contrast is covered, and because the clip is a foreground percentile: voxels at it are hardly ever foreground.
It is not safe for a class that is itself clipped away and reaches the image border. If the field of view is filled (by
a table or by noise above the clip), nothing is skipped.
"""

from collections.abc import Iterator
from itertools import product
from math import ceil, floor, prod
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mdkd_auto.preprocessing.crop import nonzero_box, whole_box

GAUSSIAN_SIGMA = 1 / 8  # fraction of the patch
VOXELS_A_BATCH = {"cpu": 1 << 16, "gpu": 1 << 21}  # voxels per batch; small maps suit a CPU's cache and allocator
ROUNDING = 1e-6  # tolerance for the product of a size and a step
PLANES = 16  # planes yielded at once; at least a patch depth
AIR_TOLERANCE = 0.01  # above air, in standard deviations: ringing that resampling leaves beside an edge


class Window(NamedTuple):
    """A patch position and its weights there, a product of one row per axis. The weights of a voxel sum to 1."""

    box: tuple[slice, ...]  # (z, y, x)
    rows: tuple[torch.Tensor, ...]


@torch.inference_mode()
def sliding_window(
    model: nn.Module,
    image: np.ndarray,
    patch_size: tuple[int, ...],
    *,
    step: float = 0.5,
    mirror: bool = False,
    device: torch.device | None = None,
    low_precision: bool = False,
    air: float | None = None,
) -> Iterator[np.ndarray]:
    """Yield sigmoid probabilities of an image (z, y, x) in slabs (K, n, y, x) float32, first planes first.

    A 2-D patch is applied slice by slice. ``step`` is the stride as a fraction of the patch; ``mirror`` averages over
    all flips; ``air`` is the constant value of air, or None. An image smaller than the patch is padded with its
    minimum, as in training.
    """
    device = device or torch.device("cpu")
    flat = len(patch_size) == 2
    patch = (1, *patch_size) if flat else tuple(patch_size)
    margins = [_margin(size, extent) for size, extent in zip(patch, image.shape, strict=True)]
    inside = tuple(slice(before, before + extent) for (before, _), extent in zip(margins, image.shape, strict=True))
    if any(before + after for before, after in margins):
        image = np.pad(image, margins, constant_values=image.min())
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    windows = _windows(tensor, patch, step, air)
    model.eval()
    count = max(1, VOXELS_A_BATCH["cpu" if device.type == "cpu" else "gpu"] // prod(patch))
    slab: _Slab | None = None
    for first in range(0, len(windows), count):
        chosen = windows[first : first + count]
        batch = torch.stack([tensor[window.box] for window in chosen])[:, None].to(device)  # (b, 1, z, y, x)
        with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
            predicted = _predict(model, batch[:, :, 0] if flat else batch, mirror).cpu()
        if flat:
            predicted = predicted[:, :, None]  # (b, K, 1, y, x)
        slab = slab or _Slab(torch.zeros(predicted.shape[1], 0, *tensor.shape[1:]), inside, max(patch[0], PLANES))
        yield from slab.finish(chosen[0].box[0].start)
        for window, probabilities in zip(chosen, predicted, strict=True):
            slab.add(window, probabilities)
    if slab is not None:
        yield from slab.finish(len(tensor))


class _Slab:
    """The planes that windows still add to. Windows arrive in the order of their first planes."""

    def __init__(self, planes: torch.Tensor, inside: tuple[slice, ...], most: int) -> None:
        self.planes = planes  # (K, n, y, x)
        self.inside = inside  # the image without its padding
        self.most = most  # planes yielded at once
        self.first = 0  # index of the first plane in the image

    def add(self, window: Window, probabilities: torch.Tensor) -> None:
        """Add a window's probabilities (K, z, y, x), weighted."""
        planes, rows, columns = window.box
        self._reach(planes.stop)
        weight = window.rows[0][:, None, None] * window.rows[1][:, None] * window.rows[2]  # (z, y, x)
        for channel, values in zip(self.planes, probabilities, strict=True):
            channel[planes.start - self.first : planes.stop - self.first, rows, columns] += values * weight

    def finish(self, stop: int) -> Iterator[np.ndarray]:
        """Yield the planes before ``stop``, (K, n, y, x), without padding. Plane padding lies within one slab."""
        while self.first < stop:
            count = min(self.most, stop - self.first)
            self._reach(self.first + count)
            done, self.planes = self.planes[:, :count], self.planes[:, count:]
            self.first += count
            yield done[:, self.inside[0], self.inside[1], self.inside[2]].numpy()

    def _reach(self, stop: int) -> None:
        missing = stop - self.first - self.planes.shape[1]
        if missing > 0:
            channels, _, *plane = self.planes.shape
            self.planes = torch.cat([self.planes, torch.zeros(channels, missing, *plane)], dim=1)


def _margin(size: int, extent: int) -> tuple[int, int]:
    """Voxels to pad before and after an axis shorter than the patch."""
    missing = max(0, size - extent)
    return missing // 2, missing - missing // 2


def _predict(model: nn.Module, batch: torch.Tensor, mirror: bool) -> torch.Tensor:
    """Probabilities of a batch, averaged over all combinations of flips if ``mirror``."""
    axes = range(2, batch.ndim)
    flips = (
        [
            [axis for axis, flip in zip(axes, chosen, strict=True) if flip]
            for chosen in product((False, True), repeat=len(axes))
        ]
        if mirror
        else [[]]
    )
    turned = (torch.sigmoid(model(batch.flip(flip)).float()).flip(flip) for flip in flips)
    return sum(turned, torch.zeros((), device=batch.device)) / len(flips)


def _windows(image: torch.Tensor, patch: tuple[int, ...], step: float, air: float | None) -> list[Window]:
    """The windows over everything but air, or over the whole image if there is no air or nothing else."""
    content = None if air is None else (image > air + AIR_TOLERANCE).numpy()
    box = whole_box(image.shape) if content is None else nonzero_box([content])
    axes = [_axis(ends, extent, size, step) for ends, extent, size in zip(box, image.shape, patch, strict=True)]
    windows = [Window(*zip(*chosen, strict=True)) for chosen in product(*axes)]
    if content is None:
        return windows
    return [window for window in windows if content[window.box].any()] or windows


def _axis(ends: tuple[int, int], extent: int, size: int, step: float) -> list[tuple[slice, torch.Tensor]]:
    """Position and weights of each window along one axis."""
    places = [slice(start, start + size) for start in _starts(ends, extent, size, step)]
    weight, total = _gaussian(size), torch.zeros(extent, dtype=torch.float64)
    for place in places:
        total[place] += weight
    return [(place, (weight / total[place]).float()) for place in places]


def _starts(ends: tuple[int, int], extent: int, size: int, step: float) -> list[int]:
    """Return evenly spaced window starts that cover ``ends`` (first, stop) of an axis of ``extent`` voxels.

    Starts are at most ``step * size`` (or one voxel) apart. Overhang beyond the ends is split between both sides.
    """
    first, stop = ends
    stride = max(1.0, size * step)
    count = max(0, ceil((stop - first - size) / stride)) + 1
    reach = (count - 1) * stride  # from the first to the last window
    lowest = min(max(0, round(first - (size + reach - (stop - first)) / 2)), extent - size)
    highest = min(floor(lowest + reach + ROUNDING), extent - size)
    return [round(lowest + index * (highest - lowest) / max(1, count - 1)) for index in range(count)]


def _gaussian(size: int) -> torch.Tensor:
    """Weight of each voxel of a window along an axis: 1 at the centre, never 0."""
    offsets = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / max(1.0, size * GAUSSIAN_SIGMA)
    return torch.exp(-0.5 * offsets**2)
