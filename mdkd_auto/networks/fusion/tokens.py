"""Stage 2 of classification: adapters to one width, concatenation, then attention over all teachers' tokens.

A token is a position in a teacher's last map, so attention selects teachers *and* positions. With a single pooled token
the attention would be a constant 1 and learn nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mdkd_auto.networks.fusion.joint import FusedEncoder, pooled_to
from mdkd_auto.networks.layers import CONVOLUTION
from mdkd_auto.networks.model import Encoder

GRID = {2: 8, 3: 4}  # most tokens per axis
MLP_RATIO = 2


class FusionAttentionBlock(nn.Module):
    """Fused tokens attend to all teachers' tokens, then a perceptron; both on normalised input, both residual."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, MLP_RATIO * channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(MLP_RATIO * channels, channels),
        )

    def forward(self, x: Tensor, teachers: Tensor) -> Tensor:
        """(B, N, C) and (B, teachers * N, C) -> (B, N, C)."""
        attended, _ = self.attention(self.norm(x), teachers, teachers, need_weights=False)
        x = x + attended
        result: Tensor = x + self.perceptron(x)
        return result


class FusionAttentionEncoder(FusedEncoder):
    """Fuse the last maps of frozen teachers of any kind at the grid of the target's; one level per block.

    Every level has ``channels`` (joint_ch); the first step reduces the concatenation to it. Raises SettingsError
    without a teacher.
    """

    def __init__(
        self,
        teachers: Sequence[Encoder],
        channels: int = 256,
        blocks: int = 3,
        heads: int = 8,
        weights: Sequence[float] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(teachers, weights)
        ndim = len(teachers[0].strides[-1])
        self.ndim = ndim
        self.channels = (channels,) * blocks
        self.strides = (teachers[0].strides[-1],) * blocks
        self.kernel_sizes = ((1,) * ndim,) * blocks
        self.adapters = nn.ModuleList(CONVOLUTION[ndim](teacher.channels[-1], channels, 1) for teacher in teachers)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in teachers)
        self.teacher_embedding = nn.Parameter(0.02 * torch.randn(len(teachers), channels))
        self.reduce = nn.Linear(len(teachers) * channels, channels)
        self.blocks = nn.ModuleList(FusionAttentionBlock(channels, heads, dropout) for _ in range(blocks))

    def fused(self, by_teacher: list[list[Tensor]]) -> list[Tensor]:
        """Each teacher's maps, target first -> (B, channels, *grid) per block."""
        grid = tuple(min(length, GRID[self.ndim]) for length in by_teacher[0][-1].shape[2:])
        tokens = []
        for number, (maps, adapter, norm) in enumerate(zip(by_teacher, self.adapters, self.norms, strict=True)):
            adapted = pooled_to(adapter(maps[-1]), grid).flatten(2).transpose(1, 2)  # (B, N, C)
            tokens.append(self.weights[number] * norm(adapted))
        x = self.reduce(torch.cat(tokens, dim=2))  # (B, N, C)
        keys = torch.cat(
            [teacher_tokens + self.teacher_embedding[number] for number, teacher_tokens in enumerate(tokens)], dim=1
        )
        fused = []
        for block in self.blocks:
            x = block(x, keys)
            fused.append(x.transpose(1, 2).unflatten(2, grid))
        return fused
