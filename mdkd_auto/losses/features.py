"""Feature distillation: map values, eq. (12), and the direction of pooled maps, eq. (13).

Both take one map (B, C, *S) per level. The student's maps are already projected to the teacher's channels
(projecting the teacher instead has the trivial minimum "all zero"). No gradient reaches the teacher.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.precision import at_least_float32, summed_in

SMALLEST_SQUARE = 1e-12  # keeps an all-zero map zero
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # interpolation mode by number of spatial axes


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Eq. (12): the mean over levels of the mean squared difference.

    A student's map of another size is resized linearly to the teacher's.
    """
    levels = [
        F.mse_loss(resized(at_least_float32(ours), theirs), at_least_float32(theirs.detach()))
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(levels).mean()


def unit_scale(features: Sequence[Tensor]) -> list[Tensor]:
    """Divide each map (B, C, *S) by its root mean square, per image.

    A joint teacher's maps have arbitrary scale: after a hundred updates their squares can be a thousand times those of
    another teacher, and eq. (12) would outweigh the task loss. Scale carries no information.
    """
    scaled = []
    for level in features:  # per row: the norm of a whole map is inexact on a CPU
        rows = torch.linalg.vector_norm(level, dim=-1, keepdim=True, dtype=summed_in(level))
        mean_square = rows.square().mean(tuple(range(1, level.ndim)), keepdim=True) / level.shape[-1]
        scaled.append(level * torch.rsqrt(mean_square + SMALLEST_SQUARE))
    return scaled


def similarity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Eq. (13): the mean over levels and images of 1 - cos(pooled F_S, pooled F_T)."""
    levels = [
        1 - F.cosine_similarity(pooled(ours), pooled(theirs.detach()), dim=1).mean()
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(levels).mean()


def pooled(features: Tensor) -> Tensor:
    """Average each channel over space, (B, C, *S) -> (B, C)."""
    return features.flatten(2).mean(2, dtype=summed_in(features))


def resized(features: Tensor, like: Tensor) -> Tensor:
    """Resize ``features`` to the size of ``like``, (B, C, *S_like). Raises ValueError if channels differ."""
    if features.shape[1] != like.shape[1]:
        raise ValueError(
            f"The student's map has {features.shape[1]} channels, the teacher's {like.shape[1]}; "
            "project the student's with a 1x1 convolution first"
        )
    size = like.shape[2:]
    if features.shape[2:] == size:
        return features
    return F.interpolate(features, size=size, mode=LINEAR[len(size)], align_corners=False)
