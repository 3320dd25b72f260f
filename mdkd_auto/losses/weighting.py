"""The weighted sum of the student's losses, eq. (9)."""

from torch import Tensor

from mdkd_auto.core.records import Record


class DistillationWeights(Record, frozen=True, kw_only=True):
    """The weights of eq. (9); ``beta`` is the final value of its schedule."""

    alpha: float = 1.0  # task
    beta: float = 0.5  # contrastive
    gamma: float = 0.5  # features
    delta: float = 0.1  # similarity


def distillation_total(
    task: Tensor,
    contrastive: Tensor | None,
    feature: Tensor,
    similarity: Tensor,
    weights: DistillationWeights,
    beta_factor: float,
    curriculum: float,
) -> Tensor:
    """Eq. (9): alpha L_task + w(e) (beta(e) L_con + gamma L_feat + delta L_sim).

    ``curriculum`` is w(e), ``beta_factor`` is beta(e) / beta, both 0 to 1. ``contrastive`` is None if the batch was too
    small for it; the term is then omitted.
    """
    distilled = weights.gamma * feature + weights.delta * similarity
    if contrastive is not None:
        distilled = distilled + weights.beta * beta_factor * contrastive
    return weights.alpha * task + curriculum * distilled
