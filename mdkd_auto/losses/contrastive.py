"""Contrastive distillation, eq. (11): the student learns the teacher's similarities between images of a batch."""

import torch.nn.functional as F
from torch import Tensor

from mdkd_auto.losses.precision import at_least_float32

FEWEST_SAMPLES = 3  # with two, each row has a single entry, whose softmax is always 1


def contrastive_loss(student: Tensor, teacher: Tensor, tau: float, centre: bool = False) -> Tensor | None:
    """Eq. (11): mean_i KL(Q_teacher || Q_student).

    Row i of Q is the softmax over j != i of cos(z_i, z_j) / tau. ``student`` (B, C_s) and ``teacher`` (B, C_t) are
    pooled embeddings; their widths may differ. No gradient reaches the teacher. Returns None for fewer than 3 images.

    Pooled instance-normalised maps differ little between images: all cosines are near 1 and the loss is near 0.
    ``centre`` subtracts the embeddings' batch mean first. The loss then sees every difference, but its gradient grows
    with the inverse of the centred embedding's norm and outweighs the task's gradient.
    """
    if len(student) < FEWEST_SAMPLES:
        return None
    log_student = _log_similarities(student, tau, centre)  # (B, B - 1)
    log_teacher = _log_similarities(teacher.detach(), tau, centre)  # (B, B - 1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _log_similarities(embeddings: Tensor, tau: float, centre: bool) -> Tensor:
    """Compute log Q, (B, C) -> (B, B - 1). The diagonal is left out, not filled, so the KL divergence never sees -inf.

    The diagonal is every (B + 1)-th flattened entry; slicing avoids the device synchronisation a mask would need.
    """
    z = at_least_float32(embeddings)
    if centre:
        z = z - z.mean(0)
    cosine = F.cosine_similarity(z[:, None], z[None], dim=-1)  # (B, B); elementwise, so autocast keeps its precision
    others = cosine.flatten()[1:].view(len(z) - 1, len(z) + 1)[:, :-1].reshape(len(z), len(z) - 1)
    return F.log_softmax(others / tau, dim=1)
