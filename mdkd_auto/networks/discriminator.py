"""The domain discriminator of a source teacher and the gradient reversal before it, eq. (2) and (4-6)."""

from math import exp
from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = 128  # our choice; the paper names no width
REVERSAL_STEEPNESS = 10.0  # Ganin et al. 2016


class Discriminator(nn.Module):
    """Global average pooling of the bottleneck, then a small perceptron: any image size, few weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, HIDDEN), nn.LeakyReLU(0.01), nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(0.01),
            nn.Linear(HIDDEN, 1),
        )  # fmt: skip

    def forward(self, bottleneck: Tensor) -> Tensor:
        """(B, C, *S) -> one logit an image, (B,): positive says source, negative target."""
        pooled = bottleneck.flatten(2).mean(2)  # (B, C)
        logits: Tensor = self.layers(pooled).squeeze(1)  # (B,)
        return logits


def reverse_gradient(x: Tensor, lambda_: float) -> Tensor:
    """``x`` itself; its gradient comes back times -lambda, eq. (4-6). Add the domain loss behind it, once."""
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
