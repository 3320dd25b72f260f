"""Run the same network faster on a CPU.

PyTorch picks a slow convolution for a single small window; oneDNN reorders every map that is not channels-last;
normalisation and activation each write a new map. Here each convolution runs in oneDNN with channels last, and the
following layers work in place, block by block within the cache. Results equal the network's up to rounding.
"""

from collections.abc import Iterator
from copy import copy
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d)
BLOCK = 1 << 17  # numbers normalised at once: half a MiB


def quicker_on_cpu(model: nn.Module) -> nn.Module:
    """Return a network for prediction with the model's weights, or the model itself if PyTorch lacks oneDNN.

    The model is not changed. Everything is shared except its float32 convolutions and the instance norms and leaky
    ReLUs that follow them in an ``nn.Sequential``.
    """
    if not torch.backends.mkldnn.is_available():
        return model
    if type(model) is nn.Sequential:
        return nn.Sequential(*_joined(list(model)))
    if _is_plain(model):
        return _Convolution(model)
    if not model._modules:
        return model
    changed = copy(model)
    changed._modules = {name: child and quicker_on_cpu(child) for name, child in model._modules.items()}
    return changed


def _joined(layers: list[nn.Module]) -> Iterator[nn.Module]:
    """Merge each convolution with the instance norm and leaky ReLU that follow it."""
    while layers:
        layer = layers.pop(0)
        if not _is_plain(layer):
            yield quicker_on_cpu(layer)
            continue
        joined = _Convolution(layer)
        if layers and isinstance(layers[0], NORMS) and not layers[0].track_running_stats:
            joined.norm = layers.pop(0)
            if layers and isinstance(layers[0], nn.LeakyReLU):
                joined.activation = layers.pop(0)
        yield joined


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Conv3d]:
    """Whether oneDNN computes this layer as PyTorch does."""
    return (
        isinstance(layer, nn.Conv2d | nn.Conv3d)
        and layer.weight.dtype is torch.float32
        and layer.padding_mode == "zeros"
        and not isinstance(_padding(layer), str)
    )


def _padding(layer: nn.Conv2d | nn.Conv3d) -> tuple[int, ...] | str:
    """Zero padding before and after each axis, or "same" if the two differ."""
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    reach = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same" and not any(voxels % 2 for voxels in reach):
        return tuple(voxels // 2 for voxels in reach)
    return layer.padding


class _Convolution(nn.Module):
    """A convolution with optional instance norm and leaky ReLU, on channels-last maps."""

    def __init__(self, layer: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.last = torch.channels_last if isinstance(layer, nn.Conv2d) else torch.channels_last_3d
        # Even with a single channel, the copy has channels-last strides, so the result is channels-last too.
        self.weight = torch.empty_like(layer.weight, memory_format=self.last).copy_(layer.weight.detach())
        self.bias = layer.bias
        self.layout: Any = (_padding(layer), layer.stride, layer.dilation, layer.groups)
        self.norm: Any = None
        self.activation: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C, *S)."""
        maps = torch.mkldnn_convolution(x.contiguous(memory_format=self.last), self.weight, self.bias, *self.layout)
        maps = maps.contiguous(memory_format=self.last)
        if self.norm is not None:
            for image in maps:
                self._normalise(image.movedim(0, -1).view(-1, len(image)))
        return maps

    def _normalise(self, voxels: Tensor) -> None:
        """Normalise and activate one image's map (N, C) in place. Blockwise sums keep float32 accurate."""
        blocks = voxels.split(max(1, BLOCK // voxels.shape[1]))
        mean = voxels.mean(0)
        variance = torch.stack([(block - mean).square_().sum(0) for block in blocks]).sum(0) / len(voxels)
        scale = (variance + self.norm.eps).rsqrt()
        shift = -mean * scale
        if self.norm.affine:
            scale, shift = scale * self.norm.weight, shift * self.norm.weight + self.norm.bias
        for block in blocks:
            block.mul_(scale).add_(shift)
            if self.activation is not None:
                functional.leaky_relu_(block, self.activation.negative_slope)
