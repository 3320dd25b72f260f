"""Supervised segmentation losses: soft Dice, eq. (1), and its sum with cross-entropy, eq. (10).

Classes are independent sigmoid channels, so regions may overlap.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.precision import at_least_float32


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """Eq. (1): 1 - mean of (2 sum(p g) + smooth) / (sum p + sum g + smooth) over images and classes.

    ``logits`` and ``target`` (0 or 1) are (B, K, *S); ``valid`` (B, 1, *S) is 0 at ignored voxels. ``smooth`` must be
    positive, so that an image without foreground or without valid voxels has a finite loss.
    """
    probability = torch.sigmoid(at_least_float32(logits))
    target = target.to(probability.dtype)
    if valid is not None:
        mask = valid.to(probability.dtype)
        probability, target = probability * mask, target * mask
    overlap = (probability * target).flatten(2).sum(2)  # (B, K)
    volume = probability.flatten(2).sum(2) + target.flatten(2).sum(2)  # (B, K)
    return 1 - ((2 * overlap + smooth) / (volume + smooth)).mean()


def bce_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Binary cross-entropy averaged over valid voxels and classes; 0 without valid voxels. Shapes as in dice_loss."""
    logits = at_least_float32(logits)
    per_voxel = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")  # (B, K, *S)
    if valid is None:
        return per_voxel.mean()
    mask = valid.to(logits.dtype).expand_as(per_voxel)
    return (per_voxel * mask).sum() / mask.sum().clamp(min=1)


def dice_bce_loss(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, smooth: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The two terms of eq. (10), L_task = Dice + BCE, returned separately for logging. Shapes as in dice_loss."""
    return dice_loss(logits, target, valid, smooth), bce_loss(logits, target, valid)
