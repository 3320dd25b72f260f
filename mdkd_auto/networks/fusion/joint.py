"""Stage 2: the encoder of the joint teacher fuses the maps of frozen teachers level by level.

Each level applies cross-attention from the target teacher to all teachers, concatenation along channels, and a
residual convolution block. Teacher 0 is the target's own.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.layers import (
    ACTIVATION,
    ACTIVATION_SETTINGS,
    CONVOLUTION,
    INSTANCE_NORM,
    NORM_SETTINGS,
    resized_linearly,
)
from mdkd_auto.networks.model import Encoder

Fuse = Literal["both", "encoder", "bottleneck"]

KEY_GRID = {2: 8, 3: 4}  # most key tokens per axis, by spatial axes: 64 keys per teacher keep the cost linear
NORM_EPS = 1e-5  # default of F.group_norm
QUERY_GRID = {2: 16, 3: 8}  # most query tokens per axis: twice the keys, as the attended map is no finer than these


class CrossAttentionFusion(nn.Module):
    """Fuse one level: the maps of all teachers, (B, teacher_channels[i], *S), become one (B, channels, *S).

    A 1x1 convolution first maps a teacher of another width to ``channels``; by default all widths are equal. Each map
    is normalised over the channels and voxels of its own image, so teachers of different scales are comparable and an
    image's result never depends on its neighbours in the batch. Keys and values come from all teachers, pooled to at
    most ``key_grid`` per axis; queries come from the target teacher, pooled to at most 16 per axis (3-D: 8), and the
    attended map is resized back. The cost is therefore linear in voxels. A ``key_grid`` of 0 disables attention: maps
    are concatenated and convolved.
    """

    def __init__(
        self,
        channels: int,
        teachers: int,
        ndim: int,
        key_grid: int | None = None,
        attention_width: int = 64,
        heads: int = 4,
        kernel_size: Sequence[int] | int = 3,
        teacher_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        widths = (channels,) * teachers if teacher_channels is None else teacher_channels
        self.adapters = nn.ModuleList(_adapter(width, channels, ndim) for width in widths)
        self.channels = channels
        self.key_grid = KEY_GRID[ndim] if key_grid is None else key_grid
        self.heads = heads
        if self.key_grid > 0:
            self._add_attention(channels, teachers, attention_width)
        self.reduce = CONVOLUTION[ndim]((teachers + (self.key_grid > 0)) * channels, channels, 1)
        self.block = ResidualBlock(channels, ndim, kernel_size)

    def _add_attention(self, channels: int, teachers: int, attention_width: int) -> None:
        self.query = nn.Linear(channels, attention_width)
        self.key = nn.Linear(channels, attention_width)
        self.value = nn.Linear(channels, attention_width)
        self.output = nn.Linear(attention_width, channels)
        self.teacher_embedding = nn.Parameter(0.02 * torch.randn(teachers, attention_width))

    def forward(self, maps: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
        """One map per teacher, (B, C_teacher, *S), target first -> (B, C, *S). ``weights``: one per teacher."""
        joined = self._joined(maps, weights)  # (B, teachers * C, *S)
        reduced = self.reduce(joined) if self.key_grid == 0 else self._reduced(self.attend(joined), joined)
        fused: Tensor = self.block(reduced)
        return fused

    def attend(self, joined: Tensor) -> Tensor:
        """Attend from the target's tokens to all teachers', (B, teachers * C, *S) -> (B, C, *S) or coarser."""
        query_size = _query_size(tuple(joined.shape[2:]))
        tokens, keys = self._tokens_and_keys(joined)
        values = self.value(tokens).flatten(1, 2)  # (B, teachers * N, width)
        attended = _attention(self._queries(joined, query_size), self._split(keys), self._split(values))
        output = self.output(attended.transpose(1, 2).flatten(2))  # (B, M, C)
        return output.transpose(1, 2).unflatten(2, query_size)  # (B, C, *query_size)

    def shares(self, maps: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
        """Return the fraction of attention each target token gives to each teacher, (B, teachers, *query_size).

        The softmax of :meth:`attend`, for the same ``maps`` and ``weights`` as :meth:`forward`, summed over a teacher's
        keys and averaged over heads; the fractions of a token sum to 1.
        """
        joined = self._joined(maps, weights)
        query_size = _query_size(tuple(joined.shape[2:]))
        queries = self._queries(joined, query_size)
        keys = self._split(self._tokens_and_keys(joined)[1])  # (B, heads, teachers * N, width / heads)
        attention = torch.softmax(queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5, dim=3)
        by_teacher = attention.unflatten(3, (len(maps), -1)).sum(4).mean(1)  # (B, M, teachers)
        return by_teacher.transpose(1, 2).unflatten(2, query_size)

    def _joined(self, maps: Sequence[Tensor], weights: Tensor | None) -> Tensor:
        """Concatenate all maps at one width, normalised and weighted, (B, teachers * C, *S)."""
        adapted = [adapter(features) for adapter, features in zip(self.adapters, maps, strict=True)]
        return _normalised(adapted, weights)

    def _tokens_and_keys(self, joined: Tensor) -> tuple[Tensor, Tensor]:
        """All teachers' pooled tokens, (B, teachers, N, C), and their keys, (B, teachers * N, width)."""
        grid = tuple(min(length, self.key_grid) for length in joined.shape[2:])
        tokens = _tokens(pooled_to(joined, grid)).unflatten(2, (-1, self.channels)).transpose(1, 2)
        return tokens, (self.key(tokens) + self.teacher_embedding[:, None]).flatten(1, 2)

    def _queries(self, joined: Tensor, size: tuple[int, ...]) -> Tensor:
        """Queries of the target's tokens at ``size``, (B, heads, M, width / heads)."""
        return self._split(self.query(_tokens(pooled_to(joined[:, : self.channels], size))))

    def _reduced(self, attended: Tensor, joined: Tensor) -> Tensor:
        """Compute ``reduce`` of both maps concatenated, -> (B, C, *S), without concatenating them.

        The attended map is resized after its part of the 1x1 convolution, which commutes with linear resizing. The
        teachers' maps, the bulk of the input, are frozen: no gradient is computed for them.
        """
        size = joined.shape[2:]
        convolve = F.conv2d if len(size) == 2 else F.conv3d
        reduced = convolve(attended, self.reduce.weight[:, : self.channels], self.reduce.bias)
        if reduced.shape[2:] != size:
            reduced = resized_linearly(reduced, size)
        return convolve(joined, self.reduce.weight[:, self.channels :]).add_(reduced)

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, heads, N, width / heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(B, heads, M, width), (B, heads, N, width) twice -> (B, heads, M, width).

    On a CPU it runs in float32 even under autocast: PyTorch's bfloat16 kernel takes about twice as long there.
    """
    if queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(queries, keys, values)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(queries.float(), keys.float(), values.float())


class ResidualBlock(nn.Module):
    """Convolution, normalisation, activation, convolution, normalisation; plus the input; activation."""

    def __init__(self, channels: int, ndim: int, kernel_size: Sequence[int] | int = 3) -> None:
        super().__init__()
        kernel = (kernel_size,) * ndim if isinstance(kernel_size, int) else tuple(kernel_size)
        convolution, norm = CONVOLUTION[ndim], INSTANCE_NORM[ndim]
        self.layers = nn.Sequential(
            convolution(channels, channels, kernel, padding="same"),  # type: ignore[arg-type]  # a tuple of ndim
            norm(channels, **NORM_SETTINGS),
            ACTIVATION(**ACTIVATION_SETTINGS),
            convolution(channels, channels, kernel, padding="same"),  # type: ignore[arg-type]
            norm(channels, **NORM_SETTINGS),
        )
        self.activation = ACTIVATION(**ACTIVATION_SETTINGS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        result: Tensor = self.activation(x + self.layers(x))
        return result


class FusedEncoder(Encoder):
    """Frozen teacher encoders whose maps are fused; the base of every fusion.

    The given encoders are frozen in place: no gradients, always in evaluation mode. ``weights`` (one per teacher,
    stored with the network) scale each teacher's maps; weight 0 mutes a teacher. A single teacher, the target's, is
    allowed: the self-distillation control. ``state_dict`` includes the teachers' weights, so a checkpoint is
    self-contained; optimise only the parameters that still require gradients.
    """

    weights: Tensor  # (teachers,)

    def __init__(self, teachers: Sequence[Encoder], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not teachers:
            raise SettingsError("A joint teacher needs the target's teacher at least; none was given")
        self.register_buffer("weights", torch.tensor(weights or (1.0,) * len(teachers)))
        self.teachers = nn.ModuleList(teachers).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FusedEncoder":
        """Set the mode, but keep the teachers in evaluation mode: their batch-norm statistics are frozen too."""
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, x: Tensor, silence_sources: bool = False) -> list[Tensor]:
        """(B, C, *S) -> one map per level, (B, channels[i], *S / strides[i]).

        ``silence_sources`` replaces each source teacher's map by its mean over batch and voxels, one number per
        channel, which carries no information about position or image (pass batches, not single images). It serves to
        check that the fusion uses the sources.
        """
        by_teacher = self._maps_of_teachers(x)
        if silence_sources:
            by_teacher = [by_teacher[0], *([_silenced(features) for features in maps] for maps in by_teacher[1:])]
        return self.fused(by_teacher)

    def fused(self, by_teacher: list[list[Tensor]]) -> list[Tensor]:
        """Fuse the teachers' maps, one fused map per level."""
        raise NotImplementedError

    def _maps_of_teachers(self, x: Tensor) -> list[list[Tensor]]:
        """The maps of each teacher, one per level."""
        with torch.no_grad():
            return [teacher(x) for teacher in self.teachers]


class JointEncoder(FusedEncoder):
    """A trained fusion for each level of the teachers; channels and strides are the target teacher's.

    ``fuse`` selects the levels: all (``both``), all but the bottleneck (``encoder``), or the ``bottleneck`` alone. Any
    other level passes the target teacher's map on. ``weights`` apply after normalisation.
    """

    def __init__(
        self,
        teachers: Sequence[Encoder],
        fuse: Fuse = "both",
        weights: Sequence[float] | None = None,
        key_grid: int | None = None,
    ) -> None:
        super().__init__(teachers, weights)
        _check_teachers(teachers, fuse)
        target = teachers[0]
        self.channels, self.strides, self.kernel_sizes = target.channels, target.strides, target.kernel_sizes
        self.fuse = fuse
        self.fusions = nn.ModuleDict()  # by level
        for level in _fused_levels(len(self.channels), fuse):
            self.fusions[str(level)] = CrossAttentionFusion(
                self.channels[level],
                len(teachers),
                ndim=len(self.strides[level]),
                key_grid=key_grid,
                kernel_size=self.kernel_sizes[level],
                teacher_channels=[teacher.channels[level] for teacher in teachers],
            )

    def fused(self, by_teacher: list[list[Tensor]]) -> list[Tensor]:
        """Fuse the teachers' maps, one fused map per level."""
        by_level = [list(maps) for maps in zip(*by_teacher, strict=True)]
        return [
            self.fusions[str(level)](maps, self.weights) if str(level) in self.fusions else maps[0]
            for level, maps in enumerate(by_level)
        ]

    def attention_shares(self, x: Tensor) -> dict[int, Tensor]:
        """Each teacher's attention per level with a cross-attention, see :meth:`CrossAttentionFusion.shares`."""
        by_level = list(zip(*self._maps_of_teachers(x), strict=True))
        return {
            int(level): fusion.shares(by_level[int(level)], self.weights)
            for level, fusion in self.fusions.items()
            if isinstance(fusion, CrossAttentionFusion) and fusion.key_grid > 0
        }


def _fused_levels(levels: int, fuse: Fuse) -> range:
    return {"both": range(levels), "encoder": range(levels - 1), "bottleneck": range(levels - 1, levels)}[fuse]


def _check_teachers(teachers: Sequence[Encoder], fuse: str) -> None:
    """Raise SettingsError unless ``fuse`` is known and all teachers agree level by level."""
    if fuse not in get_args(Fuse):
        raise SettingsError(f"fuse is {fuse!r}; use one of {', '.join(get_args(Fuse))}")
    for number, teacher in enumerate(teachers):
        if teacher.strides != teachers[0].strides:
            raise SettingsError(
                f"Teacher {number} has levels at strides {teacher.strides}, the target's at {teachers[0].strides}; "
                "train all teachers with the same group plan"
            )


def _adapter(width: int, wanted: int, ndim: int) -> nn.Module:
    """A 1x1 convolution to the target teacher's width, or the identity if widths are equal."""
    return nn.Identity() if width == wanted else CONVOLUTION[ndim](width, wanted, 1)


def _normalised(maps: Sequence[Tensor], weights: Tensor | None) -> Tensor:
    """Concatenate all maps (B, C, *S) to (B, teachers * C, *S), in their own precision.

    Each map has mean 0 over channels and voxels of an image, and its weight (or 1) as standard deviation.
    """
    joined = torch.cat(list(maps), dim=1)
    if joined.device.type != "cpu":
        return normalised_by_moments(joined, len(maps), weights)
    if weights is not None:
        weights = weights.to(joined.dtype).repeat_interleave(maps[0].shape[1])  # (teachers * C,)
    return F.group_norm(joined, len(maps), weights).to(joined.dtype)


def normalised_by_moments(joined: Tensor, teachers: int, weights: Tensor | None) -> Tensor:
    """Normalise as :func:`_normalised`, on a GPU: its group normalisation sums a group in one thread block, slowly.

    Mean and deviation are rounded to the maps' own precision, accurate if the mean is at most a few deviations.
    """
    groups = joined.unflatten(1, (teachers, -1)).flatten(2)  # (B, teachers, C * voxels)
    variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
    scale = torch.rsqrt(variance + NORM_EPS)
    if weights is not None:
        scale = scale * weights.to(scale.dtype)[:, None]
    return torch.addcmul(-mean * scale, groups, scale).view_as(joined)


def _silenced(features: Tensor) -> Tensor:
    """Replace each channel by its mean over batch and voxels, (B, C, *S) -> (B, C, *S)."""
    axes = (0, *range(2, features.ndim))
    return features.mean(axes, keepdim=True).expand_as(features)


def _tokens(features: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C)."""
    return features.flatten(2).transpose(1, 2)


def pooled_to(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average-pool to ``size``, (B, C, *S) -> (B, C, *size); values are repeated if ``size`` is larger."""
    if tuple(features.shape[2:]) == size:
        return features
    if features.device.type != "cpu" and not any(n % k for n, k in zip(features.shape[2:], size, strict=True)):
        return pooled_by_means(features, size)
    if len(size) == 2:
        return F.adaptive_avg_pool2d(features, (size[0], size[1]))
    return F.adaptive_avg_pool3d(features, (size[0], size[1], size[2]))


def pooled_by_means(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average-pool where sizes divide evenly; faster on a GPU."""
    for axis in range(len(size), 0, -1):
        features = features.unflatten(axis + 1, (size[axis - 1], -1))
    return features.mean(tuple(range(3, 3 + 2 * len(size), 2)))


def _query_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """The size of a map, at most QUERY_GRID per axis."""
    return tuple(min(length, QUERY_GRID[len(size)]) for length in size)
