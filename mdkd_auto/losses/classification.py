"""Classification losses: cross-entropy, eq. (7), class-weighted, eq. (14), and logit distillation, eq. (15)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.precision import at_least_float32


def class_weights(counts: Sequence[int]) -> Tensor:
    """Eq. (14): inverse-frequency weights (K,), n / (K n_k). A class without cases has weight 1.

    Averaged over the cases of the training split, the weights are 1.
    """
    numbers = torch.tensor(counts, dtype=torch.float32)
    present = numbers > 0
    weights = torch.ones_like(numbers)
    weights[present] = numbers.sum() / (present.sum() * numbers[present])
    return weights


def cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Eq. (7); with ``weights`` (K,), eq. (14): the mean over images of w_y times the cross-entropy.

    Logits (B, K), classes (B,). The sum is divided by the number of images, not by the sum of weights, so every batch
    counts the same whatever its classes.
    """
    losses = F.cross_entropy(at_least_float32(logits), classes, reduction="none")  # (B,)
    return losses.mean() if weights is None else (weights.to(losses.device)[classes] * losses).mean()


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Eq. (15): T^2 times the mean over images of KL(softmax(z_T / T) || softmax(z_S / T)).

    Both logits are (B, K). No gradient reaches the teacher.
    """
    log_student = F.log_softmax(at_least_float32(student) / temperature, dim=1)
    log_teacher = F.log_softmax(at_least_float32(teacher.detach()) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
