"""Attention transfer, eq. (19)-(21), after Zagoruyko and Komodakis, 2017."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.features import resized
from mdkd_auto.losses.precision import at_least_float32


def attention_transfer_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over levels and images of the squared distance of two attention maps, 0 to 4.

    Maps (B, C, *S), one a level; channels may differ, and a student's map of another size is resized to the teacher's.
    No gradient reaches the teacher.
    """
    levels = [
        (unit_attention(ours, theirs) - unit_attention(theirs, theirs).detach()).square().sum(1).mean()
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(levels).mean()


def unit_attention(features: Tensor, like: Tensor) -> Tensor:
    """The sum over channels of the squares, (B, C, *S) -> (B, places of ``like``), of length 1; 0 stays 0."""
    energy = at_least_float32(features).square().sum(1, keepdim=True)
    return F.normalize(resized(energy, like[:, :1]).flatten(1), dim=1)
