"""Boxes of a patch, and where augmentation moves them: rows of x1, y1, x2, y2 in voxels and the label."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mdkd_auto.core.records import StoredBox

LEAST_VISIBLE = 0.3  # of a box's area; what augmentation pushed further out of the patch is no longer an object
NO_BOXES = torch.zeros(0, 5)


def boxes_in_patch(boxes: Sequence[StoredBox], start: tuple[int, ...], patch_size: tuple[int, ...]) -> torch.Tensor:
    """Rows (N, 5) of a patch that begins at voxel ``start`` (y, x), clipped to it."""
    if not boxes:
        return NO_BOXES
    rows = torch.tensor([(*box.corners, box.label) for box in boxes], dtype=torch.float32)
    rows[:, :4] -= torch.tensor([start[1], start[0]] * 2, dtype=torch.float32)
    return clipped(rows, patch_size)


def moved_boxes(
    boxes: torch.Tensor, matrix: NDArray[np.float64] | None, mirror: Sequence[bool], patch_size: tuple[int, ...]
) -> torch.Tensor:
    """Rows (N, 5) of a patch (y, x) after augmentation has turned, scaled and mirrored it, clipped to the patch.

    ``matrix``: augmentation.affine_maps'. A box becomes the box around its turned inscribed ellipse, which suits
    lesions; the box around its turned corners would grow.
    """
    if not len(boxes):
        return boxes
    middle = torch.tensor([patch_size[1] / 2, patch_size[0] / 2], dtype=boxes.dtype, device=boxes.device)  # x, y
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2 - middle
    half = (boxes[:, 2:4] - boxes[:, :2]) / 2
    if matrix is not None:
        forward = np.linalg.inv(matrix)[::-1, ::-1].copy()  # to places after, x first
        onwards = torch.from_numpy(forward).to(boxes)
        centre, half = centre @ onwards.T, (half.square() @ onwards.T.square()).sqrt()
    signs = torch.tensor([-1.0 if mirror[1] else 1.0, -1.0 if mirror[0] else 1.0]).to(boxes)
    centre = centre * signs + middle
    return clipped(torch.cat([centre - half, centre + half, boxes[:, 4:]], dim=1), patch_size)


def clipped(rows: torch.Tensor, patch_size: tuple[int, ...]) -> torch.Tensor:
    """Rows (N, 5) cut to the patch (y, x), without those of which less than LEAST_VISIBLE is left."""
    area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    limits = torch.tensor([patch_size[1], patch_size[0]] * 2).to(rows)
    inside = rows.clone()
    inside[:, :4] = torch.minimum(rows[:, :4].clamp_min(0), limits)
    left = (inside[:, 2] - inside[:, 0]).clamp_min(0) * (inside[:, 3] - inside[:, 1]).clamp_min(0)
    return inside[(left > 0) & (left >= LEAST_VISIBLE * area)]
