"""The domain discriminator's loss, the last two terms of eq. (2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.precision import at_least_float32


def domain_loss(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Eq. (2): mean BCE(D(E(x_s)), 1) + mean BCE(D(E(x_t)), 0).

    One logit per image, (B_s,) and (B_t,). Add it once: the gradient-reversal layer makes the encoder maximise it.
    """
    source_logits, target_logits = at_least_float32(source_logits), at_least_float32(target_logits)
    source = F.binary_cross_entropy_with_logits(source_logits, torch.ones_like(source_logits))
    target = F.binary_cross_entropy_with_logits(target_logits, torch.zeros_like(target_logits))
    return source + target
