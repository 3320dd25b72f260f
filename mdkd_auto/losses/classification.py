"""Losses of classification: cross-entropy, eq. (7), with weights by class, eq. (14), and distilled logits, eq. (15)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.precision import at_least_float32


def class_weights(counts: Sequence[int]) -> Tensor:
    """Eq. (14): weights (K,) by inverse frequency, n / (K n_k); a class without a case weighs 1.

    Over the cases of the training split their mean is 1.
    """
    numbers = torch.tensor(counts, dtype=torch.float32)
    present = numbers > 0
    weights = torch.ones_like(numbers)
    weights[present] = numbers.sum() / (present.sum() * numbers[present])
    return weights


def cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Eq. (7); with ``weights`` (K,) eq. (14): the mean over images of w_y times the cross-entropy.

    Logits (B, K), classes (B,). The mean is over images, not over weights, so that a batch counts the same whatever its
    classes are.
    """
    losses = F.cross_entropy(at_least_float32(logits), classes, reduction="none")  # (B,)
    return losses.mean() if weights is None else (weights.to(losses.device)[classes] * losses).mean()


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Eq. (15): T^2 times the mean over images of KL(softmax(z_T / T) || softmax(z_S / T)).

    Logits (B, K) of both. No gradient reaches the teacher.
    """
    log_student = F.log_softmax(at_least_float32(student) / temperature, dim=1)
    log_teacher = F.log_softmax(at_least_float32(teacher.detach()) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
