"""Boxes of a patch before and after augmentation: rows of x1, y1, x2, y2 in voxels and the label."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mdkd_auto.core.records import StoredBox

LEAST_VISIBLE = 0.3  # fraction of a box's area; below it, a box that augmentation pushed out of the patch is dropped
NO_BOXES = torch.zeros(0, 5)


def boxes_in_patch(boxes: Sequence[StoredBox], start: tuple[int, ...], patch_size: tuple[int, ...]) -> torch.Tensor:
    """Return rows (N, 5) for a patch that begins at voxel ``start`` (y, x), clipped to the patch."""
    if not boxes:
        return NO_BOXES
    rows = torch.tensor([(*box.corners, box.label) for box in boxes], dtype=torch.float32)
    rows[:, :4] -= torch.tensor([start[1], start[0]] * 2, dtype=torch.float32)
    return clipped(rows, patch_size)


def moved_boxes(
    boxes: torch.Tensor, matrix: NDArray[np.float64] | None, mirror: Sequence[bool], patch_size: tuple[int, ...]
) -> torch.Tensor:
    """Rotate, scale and mirror rows (N, 5) with their patch (y, x), clipped to the patch.

    ``matrix`` comes from augmentation.affine_maps. A box becomes the bounding box of its rotated inscribed ellipse,
    which suits lesions; the bounding box of its rotated corners would grow.
    """
    if not len(boxes):
        return boxes
    middle = torch.tensor([patch_size[1] / 2, patch_size[0] / 2], dtype=boxes.dtype, device=boxes.device)  # x, y
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2 - middle
    half = (boxes[:, 2:4] - boxes[:, :2]) / 2
    if matrix is not None:
        forward = np.linalg.inv(matrix)[::-1, ::-1].copy()  # to output coordinates, x first
        onwards = torch.from_numpy(forward).to(boxes)
        centre, half = centre @ onwards.T, (half.square() @ onwards.T.square()).sqrt()
    signs = torch.tensor([-1.0 if mirror[1] else 1.0, -1.0 if mirror[0] else 1.0]).to(boxes)
    centre = centre * signs + middle
    return clipped(torch.cat([centre - half, centre + half, boxes[:, 4:]], dim=1), patch_size)


def clipped(rows: torch.Tensor, patch_size: tuple[int, ...]) -> torch.Tensor:
    """Clip rows (N, 5) to the patch (y, x); rows with less than LEAST_VISIBLE of their area left are dropped."""
    area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    limits = torch.tensor([patch_size[1], patch_size[0]] * 2).to(rows)
    inside = rows.clone()
    inside[:, :4] = torch.minimum(rows[:, :4].clamp_min(0), limits)
    left = (inside[:, 2] - inside[:, 0]).clamp_min(0) * (inside[:, 3] - inside[:, 1]).clamp_min(0)
    return inside[(left > 0) & (left >= LEAST_VISIBLE * area)]
