"""Attention transfer, eq. (19)-(21), after Zagoruyko and Komodakis, 2017."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.features import resized
from mdkd_auto.losses.precision import at_least_float32


def attention_transfer_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared distance between attention maps over levels and images, 0 to 4.

    One map (B, C, *S) per level. Channels may differ; a student's map of another size is resized to the teacher's.
    No gradient reaches the teacher.
    """
    levels = [
        (unit_attention(ours, theirs) - unit_attention(theirs, theirs).detach()).square().sum(1).mean()
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(levels).mean()


def unit_attention(features: Tensor, like: Tensor) -> Tensor:
    """Sum squared channels, (B, C, *S) -> (B, voxels of ``like``), at unit norm; an all-zero map stays zero."""
    energy = at_least_float32(features).square().sum(1, keepdim=True)
    return F.normalize(resized(energy, like[:, :1]).flatten(1), dim=1)
