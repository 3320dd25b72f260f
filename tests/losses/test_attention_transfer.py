"""Eq. (19)-(21) by hand, and what must not change it."""

import pytest
import torch

from mdkd_auto.losses.attention_transfer import attention_transfer_loss


def test_two_places_by_hand() -> None:
    """Energies (9, 16) and (1, 0), unit vectors (9, 16) / sqrt(337) and (1, 0)."""
    student = torch.tensor([[[[3.0, 4.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]]]])
    length = 337**0.5
    expected = (9 / length - 1) ** 2 + (16 / length) ** 2
    assert attention_transfer_loss([student], [teacher]).item() == pytest.approx(expected)


def test_channels_and_scale_do_not_matter() -> None:
    features = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    twice = torch.cat([features, features], dim=1)
    assert attention_transfer_loss([features], [7 * twice]).item() == pytest.approx(0, abs=1e-6)


def test_the_mean_over_levels() -> None:
    same, other = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    other[..., 0, 0] = 1
    one = attention_transfer_loss([same], [other]).item()
    assert attention_transfer_loss([same, same], [other, same]).item() == pytest.approx(one / 2)


def test_gradients_reach_the_student_alone_and_zeros_are_finite() -> None:
    student, teacher = (torch.zeros(1, 2, 4, 4, requires_grad=True) for _ in range(2))
    (attention_transfer_loss([student + 1], [teacher + torch.randn(1, 2, 4, 4)])).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert torch.isfinite(attention_transfer_loss([torch.zeros(1, 2, 4, 4)], [torch.ones(1, 2, 4, 4)]))


def test_another_size_is_resized() -> None:
    assert attention_transfer_loss([torch.ones(1, 3, 4, 4)], [torch.ones(1, 2, 8, 8)]).item() == pytest.approx(0)
