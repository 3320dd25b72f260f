"""TResUNet: ResNet-50 levels, a bottleneck of attention beside dilated convolutions, a residual decoder; 2-D and 3-D.

After Tomar et al. 2022, "TransResU-Net" (arXiv 2206.08985). It has the interface of the UNet, and the strides and
kernels of the plan's first five stages. 256 x 256 at width 64 is the published network except for these choices:

- Group normalisation instead of batch normalisation: an image's output never depends on its neighbours in the batch,
even in training; batches may be small, and a single-voxel map is valid. ImageNet weights with the same
normalisation exist (timm's resnet50_gn).
- Tokens are the positions of one image with a position code. The published code attends across the batch. Layers
normalise first, which needs no warm-up; there is no dropout.
- The last skip is a thin learned convolution of the image instead of the image: joint teacher and student fuse and
distil every level, and the image itself, which all of them share, would teach nothing. It has no normalisation, so
absolute intensities reach the decoder.
- The 1024 maps below the bottleneck are not a level: no head reads them, so their fusion would learn nothing.
"""

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdkd_auto.core.errors import PlanError, SettingsError
from mdkd_auto.core.records import Topology
from mdkd_auto.networks.layers import ACTIVATION, ACTIVATION_SETTINGS, CONVOLUTION
from mdkd_auto.networks.model import Encoder
from mdkd_auto.networks.unet import OUTPUT_BIAS, cumulative_strides

FULL_WIDTH = 64  # features at stride 2, as in ResNet-50; other widths scale with it
LEAST = 4  # lower bound of width and features per map
MOST_LEVELS = 5  # stem, ResNet stages 0 to 3; its stage 4 is not used
BLOCKS = (3, 4, 6)  # residual blocks of the ResNet's stages 1 to 3
FIRST_KERNEL = 7  # kernel of stage 0, on axes that are convolved
GROUPS = 32  # groups of group normalisation at full width (Wu and He 2018); fewer below keep the group size
DILATIONS = {2: (1, 3, 6, 9), 3: (1, 2, 3, 4)}  # 2-D as published; in 3-D a bottleneck has about 8 voxels per axis
TRANSFORMER_LAYERS, HEADS, MLP_RATIO = 2, 8, 8  # as published: 256 features, 2048 hidden
MOST_KEYS = 4096  # above this, keys and values are pooled
KEY_GRID = {2: 64, 3: 16}  # largest pooled grid per axis
LONGEST_PERIOD = 100.0  # position code, in units of 2 pi voxels of the bottleneck
LINEAR = {2: "bilinear", 3: "trilinear"}
MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
ADAPTIVE_POOL: dict[int, type[nn.Module]] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def tresunet_topology(plan: Topology, width: int = FULL_WIDTH) -> Topology:
    """Return the first five stages of a plan's topology with TResUNet's features: at width 64, 16 64 256 512 512.

    Raises SettingsError for a width below 4, PlanError for a single-stage plan.
    """
    if width < LEAST:
        raise SettingsError(f"Width {width} is too narrow for a TResUNet; use {LEAST} or more")
    levels = min(MOST_LEVELS, len(plan.strides))
    if levels < 2:
        raise PlanError("A TResUNet needs a topology of two stages or more; found one")
    features = (max(LEAST, width // 4), width, 4 * width, 8 * width)[: levels - 1]
    return Topology(
        features=(*features, 8 * width), kernel_sizes=plan.kernel_sizes[:levels], strides=plan.strides[:levels]
    )


class TResUNetEncoder(Encoder):
    """Stem, ResNet-50's stages 0 to 3, and the bottleneck in place of the last map. Accepts any size, odd ones too."""

    def __init__(self, topology: Topology, in_channels: int = 1, ndim: int = 2) -> None:
        super().__init__()
        width = _checked_width(topology, ndim)
        groups = _groups(width)
        self.channels = topology.features
        self.strides = cumulative_strides(topology)
        self.kernel_sizes = kernels = topology.kernel_sizes
        self.stem = nn.Sequential(
            _convolution(in_channels, self.channels[0], kernels[0]), ACTIVATION(**ACTIVATION_SETTINGS)
        )
        first = tuple(FIRST_KERNEL if length > 1 else 1 for length in kernels[1])
        self.stages = nn.ModuleList([_unit(groups, in_channels, width, first, topology.strides[1])])
        features = width
        for level, count in zip(range(2, len(kernels)), BLOCKS, strict=False):
            kernel, stride, middle = kernels[level], topology.strides[level], width * 2 ** (level - 2)
            pools = level == 2  # the ResNet pools here and strides elsewhere
            self.stages.append(
                nn.Sequential(
                    _max_pool(stride) if pools else nn.Identity(),
                    _bottleneck_block(groups, features, middle, kernel, _ones(kernel) if pools else stride),
                    *(_bottleneck_block(groups, 4 * middle, middle, kernel) for _ in range(count - 1)),
                )
            )
            features = 4 * middle
        self.transformer = TransformerBlock(groups, features, 4 * width, kernels[-1])
        self.dilated = DilatedBlock(groups, features, 4 * width, kernels[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> one map per level, (B, channels[i], *S / strides[i]), sizes rounded up."""
        maps = [self.stem(x)]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps[-1] = torch.cat([self.transformer(x), self.dilated(x)], dim=1)  # (B, 8 * width, *S / strides[-1])
        return maps


class TResUNetHead(nn.Module):
    """The decoder: linear upsampling, concatenation of the skip, two residual blocks; then a 1x1 convolution."""

    def __init__(self, topology: Topology, ndim: int, outputs: int) -> None:
        super().__init__()
        width = _checked_width(topology, ndim)
        groups = _groups(width)
        self.strides = topology.strides
        self.blocks = nn.ModuleList()  # from the deepest skip up
        below = topology.features[-1]
        for level in reversed(range(len(topology.features) - 1)):
            kernel = topology.kernel_sizes[level]
            features = max(LEAST, width * 2**level // 2)  # at width 64: 256, 128, 64, 32
            joined = below + topology.features[level]
            self.blocks.append(
                nn.Sequential(
                    _basic_block(groups, joined, features, kernel), _basic_block(groups, features, features, kernel)
                )
            )
            below = features
        self.output = CONVOLUTION[ndim](below, outputs, 1)
        assert self.output.bias is not None
        nn.init.constant_(self.output.bias, OUTPUT_BIAS)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """One map per level, the bottleneck last -> logits (B, outputs, *S) at the first map's size."""
        x = maps[-1]
        for block, skip, stride in zip(self.blocks, reversed(maps[:-1]), reversed(self.strides), strict=False):
            x = block(torch.cat([_enlarged(x, stride, skip.shape[2:]), skip], dim=1))
        logits: Tensor = self.output(x)
        return logits


# --- bottleneck -----------------------------------------------------------------------------------------------------


class TransformerBlock(nn.Module):
    """1x1 convolution, attention among the positions of each image, convolution; (B, C, *S) -> (B, features, *S)."""

    def __init__(self, groups: int, channels: int, features: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.enter = _unit(groups, channels, features, _ones(kernel))
        self.layers = nn.ModuleList(TransformerLayer(features) for _ in range(TRANSFORMER_LAYERS))
        self.leave = _unit(groups, features, features, kernel)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.leave(self.attend(self.enter(x)))
        return result

    def attend(self, x: Tensor) -> Tensor:
        """(B, features, *S) -> the same shape."""
        size = tuple(x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, features)
        tokens = tokens + position_code(size, tokens.shape[2], tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, size)
        return tokens.transpose(1, 2).unflatten(2, size)  # (B, features, *S)


class TransformerLayer(nn.Module):
    """Self-attention and perceptron, each added to its normalised input (Xiong et al. 2020: normalise first).

    Above 4096 tokens, keys and values come from a pooled map, which keeps the cost linear.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.heads = gcd(HEADS, features)
        self.attention_norm = nn.LayerNorm(features)
        self.query = nn.Linear(features, features)
        self.key_value = nn.Linear(features, 2 * features)
        self.output = nn.Linear(features, features)
        self.perceptron_norm = nn.LayerNorm(features)
        self.perceptron = nn.Sequential(
            nn.Linear(features, MLP_RATIO * features), nn.ReLU(inplace=True), nn.Linear(MLP_RATIO * features, features)
        )

    def forward(self, tokens: Tensor, size: tuple[int, ...]) -> Tensor:
        """Tokens (B, N, features) of a map of ``size`` -> the same shape."""
        normed = self.attention_norm(tokens)
        keys, values = self.key_value(_pooled_tokens(normed, size)).chunk(2, dim=2)  # (B, M, features) each
        attended = F.scaled_dot_product_attention(
            self._split(self.query(normed)), self._split(keys), self._split(values)
        )  # (B, heads, N, features / heads)
        tokens = tokens + self.output(attended.transpose(1, 2).flatten(2))  # (B, N, features)
        result: Tensor = tokens + self.perceptron(self.perceptron_norm(tokens))
        return result

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, features) -> (B, heads, N, features / heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class DilatedBlock(nn.Module):
    """Four dilated convolutions side by side, joined by a 1x1 convolution; (B, C, *S) -> (B, features, *S)."""

    def __init__(self, groups: int, channels: int, features: int, kernel: Sequence[int]) -> None:
        super().__init__()
        dilations = DILATIONS[len(kernel)]
        self.branches = nn.ModuleList(_unit(groups, channels, features, kernel, dilation=step) for step in dilations)
        self.join = _unit(groups, len(dilations) * features, features, _ones(kernel))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.join(torch.cat([branch(x) for branch in self.branches], dim=1))
        return result


def position_code(size: tuple[int, ...], features: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of each axis' voxel indices (Vaswani et al. 2017, 3.5), (N, features), zero-padded."""
    count = features // (2 * len(size))  # frequencies per axis
    frequencies = LONGEST_PERIOD ** -(torch.arange(count, device=device) / max(1, count))
    grids = torch.meshgrid(*(torch.arange(length, device=device) for length in size), indexing="ij")  # (*S) each
    angles = torch.cat([grid.flatten()[:, None] * frequencies for grid in grids], dim=1)  # (N, axes * count)
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(code, (0, features - code.shape[1]))


def _pooled_tokens(tokens: Tensor, size: tuple[int, ...]) -> Tensor:
    """Tokens (B, N, C) of a map of ``size``, average-pooled to (B, M, C) above MOST_KEYS."""
    if prod(size) <= MOST_KEYS:
        return tokens
    features = tokens.transpose(1, 2).unflatten(2, size)  # (B, C, *S)
    grid = tuple(min(length, KEY_GRID[len(size)]) for length in size)
    return ADAPTIVE_POOL[len(size)](grid)(features).flatten(2).transpose(1, 2)  # (B, M, C)


# --- convolutions ---------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """The sum of ``layers`` and a shortcut, then the activation."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.layers, self.shortcut = layers, shortcut
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.layers(x) + self.shortcut(x))
        return result


def _bottleneck_block(
    groups: int, inputs: int, middle: int, kernel: Sequence[int], stride: Sequence[int] | None = None
) -> Residual:
    """ResNet-50's block: reduce to ``middle`` features, convolve with the stride, expand to 4 x ``middle``."""
    layers = nn.Sequential(
        _unit(groups, inputs, middle, _ones(kernel)),
        _unit(groups, middle, middle, kernel, stride),
        _unit(groups, middle, 4 * middle, _ones(kernel), active=False),
    )
    return Residual(layers, _shortcut(groups, inputs, 4 * middle, stride or _ones(kernel)))


def _basic_block(groups: int, inputs: int, outputs: int, kernel: Sequence[int]) -> Residual:
    """Two convolutions."""
    layers = nn.Sequential(
        _unit(groups, inputs, outputs, kernel), _unit(groups, outputs, outputs, kernel, active=False)
    )
    return Residual(layers, _shortcut(groups, inputs, outputs, _ones(kernel)))


def _shortcut(groups: int, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """The identity if shapes match, else a strided 1x1 convolution."""
    if inputs == outputs and set(stride) == {1}:
        return nn.Identity()
    return _unit(groups, inputs, outputs, _ones(stride), stride, active=False)


def _unit(
    groups: int,
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    dilation: int = 1,
    active: bool = True,
) -> nn.Sequential:
    """Convolution, group normalisation (at least two features per group), ReLU."""
    norm = nn.GroupNorm(gcd(groups, outputs // 2, outputs), outputs)
    layers = [_convolution(inputs, outputs, kernel, stride, dilation, bias=False), norm]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if active else nn.Sequential(*layers)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Module:
    """Convolution padded so that size n becomes n / stride, rounded up."""
    padding = tuple(dilation * (length // 2) for length in kernel)
    stride = tuple(stride or _ones(kernel))
    convolution: Any = CONVOLUTION[len(kernel)]  # its stubs want tuples of a known length
    layer: nn.Module = convolution(inputs, outputs, tuple(kernel), stride, padding, dilation, bias=bias)
    return layer


def _max_pool(stride: Sequence[int]) -> nn.Module:
    """Max-pool over 3 voxels on each axis with a stride."""
    kernel = tuple(3 if step > 1 else 1 for step in stride)
    padding = tuple(length // 2 for length in kernel)
    return MAX_POOL[len(kernel)](kernel, tuple(stride), padding)


def _groups(width: int) -> int:
    return min(GROUPS, GROUPS * width // FULL_WIDTH)


def _enlarged(x: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """Upsample ``x`` by ``stride`` and crop to ``size``: a map's last voxel may reach beyond an odd edge."""
    x = F.interpolate(x, scale_factor=[float(step) for step in stride], mode=LINEAR[len(stride)], align_corners=False)
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return x


def _ones(like: Sequence[int]) -> tuple[int, ...]:
    return (1,) * len(like)


def _checked_width(topology: Topology, ndim: int) -> int:
    """Raise PlanError unless ``topology`` comes from tresunet_topology, has ``ndim`` axes and full resolution first."""
    width = topology.features[-1] // 8
    if width < LEAST or topology != tresunet_topology(topology, width):
        raise PlanError(f"Features {topology.features} are not a TResUNet's; make its topology by tresunet_topology")
    axes = {len(entry) for entry in (*topology.kernel_sizes, *topology.strides)}
    if axes != {ndim}:
        raise PlanError(f"Kernel sizes and strides have {sorted(axes)} axes; a {ndim}-D network needs {ndim}")
    if set(topology.strides[0]) != {1}:
        raise PlanError(f"The first stage has stride {topology.strides[0]}; use ones: the output is at full resolution")
    return width
