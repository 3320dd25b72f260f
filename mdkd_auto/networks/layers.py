"""Layers by number of spatial axes, and the normalisation and activation that all our networks share."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm2d(nn.InstanceNorm2d):
    """torch's instance normalisation, faster on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        return _normalised_on_cpu(self, input) if _in_full_precision_on_cpu(input) else super().forward(input)


class InstanceNorm3d(nn.InstanceNorm3d):
    """torch's instance normalisation, faster on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        return _normalised_on_cpu(self, input) if _in_full_precision_on_cpu(input) else super().forward(input)


def _in_full_precision_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _normalised_on_cpu(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> Tensor:
    """Group normalisation with one channel per group, which is equivalent.

    PyTorch's instance normalisation returns a view: an in-place activation behind it makes autograd copy gradients.
    """
    return F.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps)


def resized_linearly(features: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *S) -> (B, C, *size), linear as in ``F.interpolate``, corners not aligned, no antialiasing.

    Multiplies by one small matrix per axis. From a coarse to a fine map this is several times faster than
    ``F.interpolate``, whose gradient on a GPU uses atomic additions, in bfloat16 and in arbitrary order.
    """
    *others, last = size
    for axis, length in enumerate(others, start=2):
        rows = _linear_weights(length, features.shape[axis], features)
        features = (rows @ features.flatten(axis + 1)).unflatten(-1, features.shape[axis + 1 :])
    return features @ _linear_weights(last, features.shape[-1], features).T


def _linear_weights(length: int, from_length: int, like: Tensor) -> Tensor:
    """Weight of each input voxel in each output voxel, (length, from_length); rows sum to 1."""
    before = torch.arange(from_length, device=like.device)
    places = (torch.arange(length, device=like.device) + 0.5) * (from_length / length) - 0.5
    distances = (places.clamp(0, from_length - 1)[:, None] - before).abs()
    return F.relu(1 - distances).to(like.dtype)


CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE_NORM: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}
NORM_SETTINGS: dict[str, Any] = {"eps": 1e-5, "affine": True}
ACTIVATION = nn.LeakyReLU
ACTIVATION_SETTINGS: dict[str, Any] = {"negative_slope": 0.01, "inplace": True}
