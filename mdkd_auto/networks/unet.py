"""The plan's UNet: encoder and head, both from the dynamic-network-architectures library."""

from math import ceil, prod
from types import SimpleNamespace
from typing import Any

import msgspec
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from mdkd_auto.core.errors import PlanError, SettingsError
from mdkd_auto.core.records import Topology
from mdkd_auto.networks.layers import ACTIVATION, ACTIVATION_SETTINGS, CONVOLUTION, INSTANCE_NORM, NORM_SETTINGS
from mdkd_auto.networks.model import Encoder

# Logit of the foreground before training, i.e. probability 0.05: most voxels are background, and a network that starts
# at 0.5 spends its first hundreds of updates unlearning that (the prior of Lin et al., 2017, focal loss, section 4.1).
OUTPUT_BIAS = -3.0


class UNetEncoder(Encoder):
    """Convolutions with instance normalisation and leaky ReLU; a stage's first convolution has its stride."""

    def __init__(self, topology: Topology, in_channels: int = 1, ndim: int = 2) -> None:
        super().__init__()
        _check_topology(topology, ndim)
        self.channels = topology.features
        self.strides = cumulative_strides(topology)
        self.kernel_sizes = topology.kernel_sizes
        self.body = PlainConvEncoder(
            in_channels,
            n_stages=len(topology.features),
            features_per_stage=topology.features,
            n_conv_per_stage=topology.convolutions_per_stage,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            return_skips=True,
            **_shared_layers(ndim),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> one map per level, (B, channels[i], *S / strides[i]). Raises PlanError for an invalid size."""
        check_size(tuple(x.shape[2:]), self.strides[-1])
        maps: list[Tensor] = self.body(x)
        return maps


class UNetHead(nn.Module):
    """The decoder: transposed convolution, concatenation of the skip, convolutions; then a 1x1 convolution."""

    def __init__(self, topology: Topology, ndim: int, outputs: int) -> None:
        super().__init__()
        _check_topology(topology, ndim)
        # The library's decoder reads its layout from an encoder and keeps that encoder as a submodule. It gets the bare
        # layout, so neither the head's weights nor its state hold an encoder.
        layout = SimpleNamespace(
            output_channels=topology.features,
            strides=topology.strides,
            kernel_sizes=topology.kernel_sizes,
            **_shared_layers(ndim),
        )
        decoder = UNetDecoder(layout, outputs, topology.convolutions_per_stage, deep_supervision=False)
        nn.init.constant_(decoder.seg_layers[-1].bias, OUTPUT_BIAS)
        decoder.seg_layers = decoder.seg_layers[-1:]  # the others serve deep supervision and would never get a gradient
        self.body = decoder

    def forward(self, maps: list[Tensor]) -> Tensor:
        """One map per level, the bottleneck last -> logits (B, outputs, *S) at the first map's size."""
        logits: Tensor = self.body(maps)
        return logits


def cumulative_strides(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """The cumulative stride of each stage, one entry per spatial axis."""
    stages = range(1, len(topology.strides) + 1)
    return tuple(tuple(prod(axis) for axis in zip(*topology.strides[:stage], strict=True)) for stage in stages)


def scale_width(topology: Topology, base_width: int) -> Topology:
    """Scale a topology to ``base_width`` features in its first stage, the others in proportion.

    (32, 64, 128, 256, 320) at width 16 is (16, 32, 64, 128, 160). Raises SettingsError for a width below 1.
    """
    if base_width < 1:
        raise SettingsError(f"Width {base_width} is not possible; use 1 or more features in the first stage")
    features = tuple(max(1, round(count * base_width / topology.features[0])) for count in topology.features)
    return msgspec.structs.replace(topology, features=features)


def check_size(size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Raise PlanError unless ``size`` is a multiple of ``stride`` on each axis and at least two voxels remain.

    Instance normalisation of a single voxel is undefined.
    """
    if len(size) != len(stride):
        raise PlanError(f"An image of {len(size)} axes {size} does not fit a network of {len(stride)} axes")
    usable = tuple(max(1, ceil(length / step)) * step for length, step in zip(size, stride, strict=True))
    if usable == stride:
        usable = (*usable[:-1], 2 * usable[-1])
    if size != usable:
        divisible = all(length % step == 0 for length, step in zip(size, stride, strict=True))
        rule = "only one voxel at stride" if divisible else "not divisible by"
        raise PlanError(f"Image or patch {size} is {rule} {stride}; use {usable}")


def _check_topology(topology: Topology, ndim: int) -> None:
    """Raise PlanError if lengths or numbers of axes contradict each other."""
    stages = len(topology.features)
    if not stages == len(topology.kernel_sizes) == len(topology.strides) or stages < 2:
        raise PlanError(
            f"A UNet needs features, kernel sizes and strides of two stages or more, as many of each; found "
            f"{stages}, {len(topology.kernel_sizes)} and {len(topology.strides)}"
        )
    axes = {len(entry) for entry in (*topology.kernel_sizes, *topology.strides)}
    if axes != {ndim}:
        raise PlanError(f"Kernel sizes and strides have {sorted(axes)} axes; a {ndim}-D network needs {ndim}")
    if set(topology.strides[0]) != {1}:
        raise PlanError(f"The first stage has stride {topology.strides[0]}; use ones: the output is at full resolution")


def _shared_layers(ndim: int) -> dict[str, Any]:
    """The library's arguments shared by encoder and head."""
    return {
        "conv_op": CONVOLUTION[ndim],
        "conv_bias": True,
        "norm_op": INSTANCE_NORM[ndim],
        "norm_op_kwargs": NORM_SETTINGS,
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": ACTIVATION,
        "nonlin_kwargs": ACTIVATION_SETTINGS,
    }
