import math

import pytest
import torch

from mdkd_auto.losses.domain import domain_loss


def test_by_hand() -> None:
    # D says source with probability 0.75 and 0.5 for source images, 0.75 for the target image
    source, target = torch.tensor([math.log(3), 0.0]), torch.tensor([math.log(3)])
    expected = (-math.log(0.75) - math.log(0.5)) / 2 - math.log(0.25)
    assert domain_loss(source, target).item() == pytest.approx(expected)


def test_chance_level_does_not_depend_on_batch_sizes() -> None:
    assert domain_loss(torch.zeros(7), torch.zeros(2)).item() == pytest.approx(2 * math.log(2))


def test_gradient() -> None:
    source, target = torch.randn(3, dtype=torch.double), torch.randn(2, dtype=torch.double)
    assert torch.autograd.gradcheck(domain_loss, (source.requires_grad_(), target.requires_grad_()))


def test_right_answers_lower_the_loss() -> None:
    assert domain_loss(torch.full((2,), 5.0), torch.full((2,), -5.0)) < 0.02
    assert domain_loss(torch.full((2,), -5.0), torch.full((2,), 5.0)) > 9
