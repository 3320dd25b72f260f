import math

import pytest
import torch

from mdkd_auto.losses.classification import class_weights, cross_entropy, logit_loss


def test_weights_by_inverse_frequency() -> None:
    assert class_weights((6, 2, 1)).tolist() == pytest.approx([0.5, 1.5, 3.0])
    assert class_weights((4, 0, 4)).tolist() == [1.0, 1.0, 1.0]  # a class without a case
    counts = torch.tensor([6.0, 2.0, 1.0])
    assert (class_weights((6, 2, 1)) * counts).sum() / 9 == pytest.approx(1)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.double)
    classes = torch.tensor([0, 1])
    assert cross_entropy(logits, classes).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    weighted = cross_entropy(logits, classes, torch.tensor([2.0, 10.0]))
    assert weighted.item() == pytest.approx((2 * math.log(4 / 3) + 10 * math.log(2)) / 2)


def test_logit_loss_by_hand() -> None:
    teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.double)  # 3/4, 1/4
    student = torch.zeros(1, 2, dtype=torch.double)  # 1/2, 1/2
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert logit_loss(student, teacher, 1.0).item() == pytest.approx(expected)
    assert logit_loss(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected)
    other = torch.tensor([[0.0, math.log(9.0)]], dtype=torch.double)  # at a temperature of 2: 1/4, 3/4
    expected = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    assert logit_loss(other, 2 * teacher, 2.0).item() == pytest.approx(4 * expected)
    assert logit_loss(teacher + 5, teacher, 1.0).item() == pytest.approx(0, abs=1e-12)


def test_gradient_reaches_the_student_only() -> None:
    student = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: logit_loss(logits, teacher, 1.7), (student,))
    logit_loss(student, teacher, 1.7).backward()
    assert teacher.grad is None


def test_half_precision_is_computed_in_single() -> None:
    logits = torch.randn(2, 3, dtype=torch.bfloat16)
    assert cross_entropy(logits, torch.tensor([0, 2])).dtype == torch.float32
    assert logit_loss(logits, logits, 1.0).dtype == torch.float32
