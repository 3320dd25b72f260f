"""MedViT (Manzari et al., 2023): convolution blocks, interleaved with blocks that also attend over the whole image.

Stem 64 @ 4; stages 96 @ 4, 256 @ 8, 512 @ 16, 1024 @ 32. Written after the paper, with the widths, depths and ratios of
its three sizes. Batch normalisation couples the images of a training batch; a trained network treats each alone.
"""

from typing import NamedTuple

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.model import Encoder

STEM = (64, 32, 64)
WIDTHS = ((96, 96), (192, 256), (384, 512), (768, 1024))  # per stage: convolution and transformer blocks
POOLING = (8, 4, 2, 1)  # keys and values are pooled by this factor per side, per stage
HEAD_WIDTH = 32  # channels per head, and per group of the convolution attention
ATTENTION_SHARE = 0.75  # fraction of a transformer block's channels; convolution yields the rest
CONVOLUTION_EXPANSION, TRANSFORMER_EXPANSION = 3, 2
BLOCKS_A_TRANSFORMER = 5  # the third stage attends in every fifth block, other stages in their last
EXCHANGE_PROBABILITY = 0.5  # fraction of updates with moment exchange


class Size(NamedTuple):
    """One of the published sizes."""

    depths: tuple[int, int, int, int]  # blocks of the four stages
    drop_path: float  # drop rate of the last block; it grows linearly from 0


SIZES = {"small": Size((3, 4, 10, 3), 0.1), "base": Size((3, 4, 20, 3), 0.2), "large": Size((3, 4, 30, 3), 0.2)}


class MedViTEncoder(Encoder):
    """(B, in_channels, y, x) -> 96 @ 4, 256 @ 8, 512 @ 16 and 1024 @ 32. Sides are multiples of 32.

    With ``moment_exchange``, half of the training updates replace each image's channel means and deviations after the
    stem by those of another image of the batch, so that shapes count more than intensities.
    """

    def __init__(
        self,
        size: str = "small",
        in_channels: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        moment_exchange: bool = False,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise SettingsError(f"MedViT {size!r}: there are {', '.join(SIZES)}")
        depths, largest_drop = SIZES[size]
        self.channels = tuple(last for _, last in WIDTHS)
        self.strides = ((4, 4), (8, 8), (16, 16), (32, 32))
        self.kernel_sizes = ((3, 3),) * 4
        self.moment_exchange = moment_exchange
        self.stem = nn.Sequential(
            _convolution(in_channels, STEM[0], 3, 2),
            _convolution(STEM[0], STEM[1], 3, 1),
            _convolution(STEM[1], STEM[2], 3, 1),
            _convolution(STEM[2], STEM[2], 3, 2),
        )
        drops = [largest_drop * block / (sum(depths) - 1) for block in range(sum(depths))]
        self.stages = nn.ModuleList()
        width = STEM[-1]
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                drop = drops.pop(0)
                if _attends(stage, block, depth):
                    wide = WIDTHS[stage][1]
                    blocks.append(
                        TransformerBlock(width, wide, stride, POOLING[stage], drop, dropout, attention_dropout)
                    )
                else:
                    wide = WIDTHS[stage][0]
                    blocks.append(ConvolutionBlock(width, wide, stride, drop, dropout))
                width = wide
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(width)
        self.apply(_first_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, y, x) -> one map per stage, (B, channels[i], y / stride, x / stride)."""
        x = self.stem(x)
        if self.moment_exchange and self.training:
            x = exchange_moments(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps[-1] = self.norm(x)
        return maps


class ConvolutionBlock(nn.Module):
    """Convolution attention, then the local feed-forward; both residual."""

    def __init__(self, channels_in: int, channels: int, stride: int, drop_path: float, dropout: float) -> None:
        super().__init__()
        self.embed = _embedding(channels_in, channels, stride)
        self.attention = ConvolutionAttention(channels)
        self.drop_path = DropPath(drop_path)
        self.norm = nn.BatchNorm2d(channels)
        self.feed_forward = LocalFeedForward(channels, CONVOLUTION_EXPANSION, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, y, x) -> (B, C, y / stride, x / stride)."""
        x = self.embed(x)
        x = x + self.drop_path(self.attention(x))
        result: Tensor = x + self.feed_forward(self.norm(x))
        return result


class TransformerBlock(nn.Module):
    """Attention over the image for three quarters of the channels, a convolution for the rest; then feed-forward."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        pooling: int,
        drop_path: float,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        attending = _multiple_of_head(ATTENTION_SHARE * channels)
        self.embed = _embedding(channels_in, attending, stride)
        self.attention_norm = nn.BatchNorm2d(attending)
        self.attention = PooledAttention(attending, pooling, dropout, attention_dropout)
        self.attention_drop_path = DropPath(drop_path * ATTENTION_SHARE)
        self.project = _embedding(attending, channels - attending, 1)
        self.convolution = ConvolutionAttention(channels - attending)
        self.convolution_drop_path = DropPath(drop_path * (1 - ATTENTION_SHARE))
        self.norm = nn.BatchNorm2d(channels)
        self.feed_forward = LocalFeedForward(channels, TRANSFORMER_EXPANSION, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, y, x) -> (B, C, y / stride, x / stride)."""
        x = self.embed(x)
        x = x + self.attention_drop_path(self.attention(self.attention_norm(x)))
        local = self.project(x)
        local = local + self.convolution_drop_path(self.convolution(local))
        both = torch.cat([x, local], dim=1)
        result: Tensor = both + self.feed_forward(self.norm(both))
        return result


class ConvolutionAttention(nn.Module):
    """Multi-head convolution attention: one 3x3 convolution per head, mixed by a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(channels, channels, 3, 1, groups=channels // HEAD_WIDTH),
            nn.Conv2d(channels, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, y, x) -> the same shape."""
        result: Tensor = self.layers(x)
        return result


class PooledAttention(nn.Module):
    """Self-attention over the positions of one image, keys and values pooled ``pooling`` x ``pooling``."""

    def __init__(self, channels: int, pooling: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.pool = (
            nn.Identity()
            if pooling == 1
            else nn.Sequential(nn.AvgPool2d(pooling, ceil_mode=True, count_include_pad=False), nn.BatchNorm2d(channels))
        )
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.attention_dropout = attention_dropout
        self.heads = channels // HEAD_WIDTH

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, y, x) -> the same shape."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        pooled = self.pool(x).flatten(2).transpose(1, 2)  # (B, M, C)
        attended = nn.functional.scaled_dot_product_attention(
            self._split(self.query(tokens)),
            self._split(self.key(pooled)),
            self._split(self.value(pooled)),
            dropout_p=self.attention_dropout if self.training else 0.0,
        )  # (B, heads, N, C / heads)
        mixed = self.dropout(self.output(attended.transpose(1, 2).flatten(2)))  # (B, N, C)
        result: Tensor = mixed.transpose(1, 2).reshape(x.shape)
        return result

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class LocalFeedForward(nn.Module):
    """Inverted residual: 1x1 expansion, 3x3 depthwise, squeeze and excitation, 1x1 reduction."""

    def __init__(self, channels: int, expansion: int, dropout: float) -> None:
        super().__init__()
        hidden = expansion * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.local = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish()
        )
        self.weigh = nn.Sequential(  # squeeze and excitation
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(hidden, expansion, 1),
            nn.ReLU(),
            nn.Conv2d(expansion, hidden, 1),
            nn.Hardsigmoid(),
        )
        self.reduce = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, y, x) -> the same shape."""
        hidden = self.local(self.expand(x))
        result: Tensor = x + self.dropout(self.reduce(hidden * self.weigh(hidden)))
        return result


def exchange_moments(x: Tensor) -> Tensor:
    """Swap channel means and deviations of maps (B, C, y, x) between images of a batch, or return them unchanged.

    Draws from torch's generator, which the training loop seeds per update.
    """
    if torch.rand(()).item() >= EXCHANGE_PROBABILITY:
        return x
    mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    deviation = (x.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    other = torch.randperm(len(x)).to(x.device)
    return (x - mean) / deviation * deviation[other] + mean[other]


def _convolution(channels_in: int, channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def _embedding(channels_in: int, channels: int, stride: int) -> nn.Module:
    """Change size and width: pooling, then a 1x1 convolution; the identity if neither changes."""
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
    return nn.Sequential(pool, nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels))


def _attends(stage: int, block: int, depth: int) -> bool:
    """Whether a block is a transformer: never in the first stage, every fifth of the third, else a stage's last."""
    return stage > 0 and (block + 1) % (BLOCKS_A_TRANSFORMER if stage == 2 else depth) == 0


def _multiple_of_head(channels: float) -> int:
    return max(HEAD_WIDTH, int(channels + HEAD_WIDTH / 2) // HEAD_WIDTH * HEAD_WIDTH)


def _first_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
