"""Stage 2 of detection: concatenate the teachers' maps per level, then 1x1 convolution, normalisation, activation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.fusion.joint import FusedEncoder
from mdkd_auto.networks.model import Encoder

GROUPS = 8  # groups of group normalisation


class LevelFusionEncoder(FusedEncoder):
    """Fuse the maps of frozen teachers of one detector family level by level to the target teacher's widths.

    Raises SettingsError if a teacher's strides differ from the target's.
    """

    def __init__(self, teachers: Sequence[Encoder], weights: Sequence[float] | None = None) -> None:
        super().__init__(teachers, weights)
        first = teachers[0]
        if any(teacher.strides != first.strides for teacher in teachers):
            shown = "; ".join(str(teacher.strides) for teacher in teachers)
            raise SettingsError(f"teachers of one detector family have the same levels; their strides are {shown}")
        self.channels, self.strides, self.kernel_sizes = first.channels, first.strides, first.kernel_sizes
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(sum(teacher.channels[level] for teacher in teachers), width, 1, bias=False),
                nn.GroupNorm(GROUPS, width),
                nn.ReLU(),
            )
            for level, width in enumerate(self.channels)
        )

    def fused(self, by_teacher: list[list[Tensor]]) -> list[Tensor]:
        """Each teacher's maps, target first -> (B, channels[i], y / stride, x / stride) per level."""
        return [
            fuse(torch.cat([self.weights[number] * maps[level] for number, maps in enumerate(by_teacher)], dim=1))
            for level, fuse in enumerate(self.levels)
        ]
