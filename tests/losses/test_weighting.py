import pytest
import torch

from mdkd_auto.losses.weighting import DistillationWeights, distillation_total

TASK, CONTRASTIVE, FEATURE, SIMILARITY = (torch.tensor(value, dtype=torch.double) for value in (2.0, 3.0, 5.0, 7.0))


def test_by_hand() -> None:
    total = distillation_total(TASK, CONTRASTIVE, FEATURE, SIMILARITY, DistillationWeights(), 0.4, 0.25)
    assert total.item() == pytest.approx(2 + 0.25 * (0.5 * 0.4 * 3 + 0.5 * 5 + 0.1 * 7))


def test_every_weight_has_its_term() -> None:
    weights = DistillationWeights(alpha=10, beta=20, gamma=30, delta=40)
    total = distillation_total(TASK, CONTRASTIVE, FEATURE, SIMILARITY, weights, 1, 1)
    assert total.item() == pytest.approx(10 * 2 + 20 * 3 + 30 * 5 + 40 * 7)


def test_a_skipped_contrastive_term_counts_nothing() -> None:
    total = distillation_total(TASK, None, FEATURE, SIMILARITY, DistillationWeights(), 1, 1)
    assert total.item() == pytest.approx(2 + 0.5 * 5 + 0.1 * 7)


def test_before_the_curriculum_only_the_task_counts() -> None:
    assert distillation_total(TASK, CONTRASTIVE, FEATURE, SIMILARITY, DistillationWeights(), 1, 0) == TASK


def test_gradient() -> None:
    terms = [torch.rand((), dtype=torch.double, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda *t: distillation_total(*t, DistillationWeights(), 0.3, 0.6), terms)
