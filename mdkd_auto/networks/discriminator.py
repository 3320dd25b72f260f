"""The domain discriminator of a source teacher and its gradient reversal, eq. (2) and (4-6)."""

from math import exp
from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = 128  # our choice; the paper gives no width
REVERSAL_STEEPNESS = 10.0  # Ganin et al. 2016


class Discriminator(nn.Module):
    """A layer on each voxel of the bottleneck, global average pooling, then a small perceptron.

    Accepts any image size and has few weights. The layer comes before the pooling because instance normalisation makes
    channel means alike, but not channel correlations. Without ``voxelwise`` it comes after the pooling.
    """

    def __init__(self, channels: int, voxelwise: bool = True) -> None:
        super().__init__()
        self.voxelwise = voxelwise
        self.first = nn.Sequential(nn.Linear(channels, HIDDEN), nn.LeakyReLU(0.01))
        self.layers = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(0.01), nn.Linear(HIDDEN, 1))

    def forward(self, bottleneck: Tensor) -> Tensor:
        """(B, C, *S) -> one logit per image, (B,): positive for source, negative for target."""
        tokens = bottleneck.flatten(2).transpose(1, 2)  # (B, N, C)
        pooled = self.first(tokens).mean(1) if self.voxelwise else self.first(tokens.mean(1))  # (B, HIDDEN)
        logits: Tensor = self.layers(pooled).squeeze(1)  # (B,)
        return logits


def reverse_gradient(x: Tensor, lambda_: float) -> Tensor:
    """Return ``x`` itself; its gradient is multiplied by -lambda, eq. (4-6). Add the domain loss behind it once."""
    reversed_: Tensor = _ReverseGradient.apply(x, lambda_)
    return reversed_


def reversal_strength(progress: float) -> float:
    """lambda(p) = 2 / (1 + exp(-10 p)) - 1; ``progress`` is the fraction of training steps done, 0 to 1."""
    return 2 / (1 + exp(-REVERSAL_STEEPNESS * progress)) - 1


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lambda_: float) -> Tensor:
        ctx.lambda_ = lambda_
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.lambda_ * gradients[0], None
