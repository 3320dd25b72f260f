"""Layers by number of spatial axes, and the normalisation and activation all our networks share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm2d(nn.InstanceNorm2d):
    """As the library's, but quicker on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *S) -> the same."""
        return _normalised_on_cpu(self, input) if _in_full_precision_on_cpu(input) else super().forward(input)


class InstanceNorm3d(nn.InstanceNorm3d):
    """As the library's, but quicker on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *S) -> the same."""
        return _normalised_on_cpu(self, input) if _in_full_precision_on_cpu(input) else super().forward(input)


def _in_full_precision_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _normalised_on_cpu(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> Tensor:
    """Group normalisation with one channel a group, which is the same.

    PyTorch's instance normalisation returns a view: behind an activation that works in place, gradients are copied.
    """
    return F.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps)


CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE_NORM: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}
NORM_SETTINGS: dict[str, Any] = {"eps": 1e-5, "affine": True}
ACTIVATION = nn.LeakyReLU
ACTIVATION_SETTINGS: dict[str, Any] = {"negative_slope": 0.01, "inplace": True}
