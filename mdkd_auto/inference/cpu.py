"""The same network, quicker on a CPU.

PyTorch takes a slow convolution for a single small window; oneDNN rearranges every map whose channels do not lie last;
normalisation and activation each write a new map. So here each convolution goes to oneDNN with channels last, and what
follows it works in place, block by block within the cache. The numbers are the network's own but for rounding.
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
    """A network for prediction with the model's weights; the model itself where PyTorch comes without oneDNN.

    The model stays as it is. All but its float32 convolutions, and the instance norms and leaky ReLUs that follow them
    in an ``nn.Sequential``, is shared.
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
    """Each convolution in one with the instance norm, and that with the leaky ReLU, that come next."""
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
    """Whether the layer is a convolution that oneDNN computes as PyTorch does."""
    return (
        isinstance(layer, nn.Conv2d | nn.Conv3d)
        and layer.weight.dtype is torch.float32
        and layer.padding_mode == "zeros"
        and not isinstance(_padding(layer), str)
    )


def _padding(layer: nn.Conv2d | nn.Conv3d) -> tuple[int, ...] | str:
    """Zeros before and after each axis; a word where these differ."""
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    reach = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same" and not any(voxels % 2 for voxels in reach):
        return tuple(voxels // 2 for voxels in reach)
    return layer.padding


class _Convolution(nn.Module):
    """A convolution, and the instance norm and the leaky ReLU after it, if any. Maps have their channels last."""

    def __init__(self, layer: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.last = torch.channels_last if isinstance(layer, nn.Conv2d) else torch.channels_last_3d
        # A copy, even of a single channel, has the strides that ask for a result with channels last.
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
        """Norm and activation of one image's map (N, C), in place. Sums of sums of blocks keep float32 exact."""
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
