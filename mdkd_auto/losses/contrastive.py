"""Contrastive distillation, eq. (11): the student keeps the teacher's similarities between images of a batch."""

import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.precision import at_least_float32

FEWEST_SAMPLES = 3  # with two, each row has one entry: its softmax is a constant 1


def contrastive_loss(student: Tensor, teacher: Tensor, tau: float, centre: bool = False) -> Tensor | None:
    """Eq. (11): mean_i KL(Q_teacher || Q_student).

    Row i of Q is the softmax over j != i of cos(z_i, z_j) / tau. ``student`` (B, C_s) and ``teacher`` (B, C_t) are
    pooled embeddings; their widths may differ. No gradient reaches the teacher. None for a batch of fewer than 3.

    Pooled maps of instance normalisation differ little between images: all cosines are near 1 and the loss near 0.
    ``centre`` takes the embeddings' mean over the batch off first. The loss then sees every difference, but its
    gradient grows with one over what is left of the embedding and drowns the task's.
    """
    if len(student) < FEWEST_SAMPLES:
        return None
    log_student = _log_similarities(student, tau, centre)  # (B, B - 1)
    log_teacher = _log_similarities(teacher.detach(), tau, centre)  # (B, B - 1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _log_similarities(embeddings: Tensor, tau: float, centre: bool) -> Tensor:
    """log Q, (B, C) -> (B, B - 1): the diagonal is left out, not filled, so that KL never meets -inf.

    It is every (B + 1)-th of the flattened entries; to choose the others by a mask would wait for the device.
    """
    z = at_least_float32(embeddings)
    if centre:
        z = z - z.mean(0)
    cosine = F.cosine_similarity(z[:, None], z[None], dim=-1)  # (B, B); elementwise, so that autocast leaves it alone
    others = cosine.flatten()[1:].view(len(z) - 1, len(z) + 1)[:, :-1].reshape(len(z), len(z) - 1)
    return F.log_softmax(others / tau, dim=1)
