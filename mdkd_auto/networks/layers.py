"""Layers by number of spatial axes, and the normalisation and activation all our networks share."""

from typing import Any

from torch import nn

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE_NORM: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}
NORM_SETTINGS: dict[str, Any] = {"eps": 1e-5, "affine": True}
ACTIVATION = nn.LeakyReLU
ACTIVATION_SETTINGS: dict[str, Any] = {"negative_slope": 0.01, "inplace": True}
