import math

import pytest
import torch
from torch import Tensor

from mdkd_auto.losses.contrastive import contrastive_loss


def embeddings(batch: int, channels: int, seed: int) -> Tensor:
    return torch.randn(batch, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def slow_similarities(z: Tensor, tau: float) -> list[dict[int, float]]:
    """Q of eq. (11), entry by entry."""
    rows = []
    for i in range(len(z)):
        weights = {}
        for j in range(len(z)):
            if j != i:
                weights[j] = math.exp(float(z[i] @ z[j] / (z[i].norm() * z[j].norm())) / tau)
        rows.append({j: weight / sum(weights.values()) for j, weight in weights.items()})
    return rows


def slow_loss(student: Tensor, teacher: Tensor, tau: float) -> float:
    total = 0.0
    for ours, theirs in zip(slow_similarities(student, tau), slow_similarities(teacher, tau), strict=True):
        total += sum(theirs[j] * math.log(theirs[j] / ours[j]) for j in theirs)
    return total / len(student)


def test_by_hand() -> None:
    # Teacher: images 0 and 1 agree, 2 is orthogonal. Student: all orthogonal, so each of its rows is (1/2, 1/2).
    teacher = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    p = math.e / (math.e + 1)
    one_row = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    loss = contrastive_loss(torch.eye(3), teacher, tau=1.0)
    assert loss is not None
    assert loss.item() == pytest.approx(2 / 3 * one_row)  # row 2 of the teacher is even too


def test_centred_by_hand() -> None:
    # Teacher: 0 and 1 lie on one side of the mean, 2 on the other: cosines 1 and -1. Student: three orthogonal images,
    # so that each sees the two others alike and its rows are (1/2, 1/2). All share an offset, which does not count.
    teacher = 50 + torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    p = math.e / (math.e + 1 / math.e)
    one_row = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    loss = contrastive_loss(7 + torch.eye(3), teacher, tau=1.0, centre=True)
    assert loss is not None
    assert loss.item() == pytest.approx(2 / 3 * one_row, rel=1e-4)  # row 2 of the teacher is even too


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_against_slow_reference(tau: float) -> None:
    student, teacher = embeddings(5, 4, seed=0), embeddings(5, 7, seed=1)
    loss = contrastive_loss(student, teacher, tau)
    assert loss is not None
    assert loss.item() == pytest.approx(slow_loss(student, teacher, tau))


def test_gradient_reaches_the_student_only() -> None:
    student, teacher = embeddings(4, 3, seed=0).requires_grad_(), embeddings(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: contrastive_loss(z, teacher, 0.5), student)
    loss = contrastive_loss(student, teacher, 0.5)
    assert loss is not None
    loss.backward()
    assert teacher.grad is None


def test_same_geometry_costs_nothing() -> None:
    z = embeddings(6, 4, seed=2)
    rotation = torch.linalg.qr(embeddings(4, 4, seed=3)).Q
    loss = contrastive_loss(3 * z @ rotation, z, 0.1)
    assert loss is not None
    assert loss.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches_are_skipped(batch: int) -> None:
    assert contrastive_loss(torch.randn(batch, 4), torch.randn(batch, 4), 1.0) is None


def test_zero_embeddings_stay_finite() -> None:
    student = torch.zeros(4, 3, requires_grad=True)
    loss = contrastive_loss(student, torch.randn(4, 3), 0.1)
    assert loss is not None
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_without_centring_a_shared_offset_hides_the_differences() -> None:
    student, teacher = 50 + embeddings(5, 4, seed=0), 50 + embeddings(5, 4, seed=1)
    hidden, seen = (contrastive_loss(student, teacher, 0.5, centre) for centre in (False, True))
    assert hidden is not None
    assert seen is not None
    assert hidden < 1e-4
    assert seen > 0.1


def test_nothing_waits_for_the_device() -> None:
    """Tensors of the meta device hold no values: whoever asked for one would fail."""
    student, teacher = torch.zeros(5, 4, device="meta"), torch.zeros(5, 6, device="meta")
    loss = contrastive_loss(student, teacher, tau=0.5)
    assert loss is not None
    assert loss.device.type == "meta"
