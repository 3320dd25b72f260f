import math

import pytest
import torch
from torch import Tensor

from mdkd_auto.losses.overlap import bce_loss, dice_bce_loss, dice_loss

EVEN = math.log(1)  # logit of probability 0.5
THREE_QUARTERS = math.log(3)  # logit of probability 0.75


def random_case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.double)
    target = (torch.rand(2, 3, 4, 5, generator=generator) < 0.4).double()
    valid = (torch.rand(2, 1, 4, 5, generator=generator) < 0.7).double()
    return logits, target, valid


def slow_dice(logits: Tensor, target: Tensor, valid: Tensor, smooth: float) -> float:
    """Eq. (1), voxel by voxel."""
    scores = []
    for image in range(logits.shape[0]):
        for label in range(logits.shape[1]):
            overlap = volume = 0.0
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    if valid[image, 0, y, x]:
                        p = 1 / (1 + math.exp(-float(logits[image, label, y, x])))
                        g = float(target[image, label, y, x])
                        overlap += p * g
                        volume += p + g
            scores.append((2 * overlap + smooth) / (volume + smooth))
    return 1 - sum(scores) / len(scores)


def test_dice_by_hand() -> None:
    logits = torch.tensor([[[EVEN, THREE_QUARTERS]]])
    target = torch.tensor([[[1.0, 0.0]]])
    # overlap 0.5, volume 0.5 + 0.75 + 1: 1 - (2 * 0.5 + 1) / (2.25 + 1)
    assert dice_loss(logits, target).item() == pytest.approx(1 - 2 / 3.25)


def test_bce_by_hand() -> None:
    logits = torch.tensor([[[EVEN, THREE_QUARTERS]]])
    target = torch.tensor([[[1.0, 0.0]]])
    assert bce_loss(logits, target).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert bce_loss(logits, target, torch.tensor([[[0.0, 1.0]]])).item() == pytest.approx(math.log(4))


def test_dice_against_slow_reference() -> None:
    logits, target, valid = random_case()
    assert dice_loss(logits, target, valid, 0.5).item() == pytest.approx(slow_dice(logits, target, valid, 0.5))
    assert dice_loss(logits, target).item() == pytest.approx(slow_dice(logits, target, torch.ones_like(valid), 1.0))


def test_bce_is_the_mean_over_valid_voxels() -> None:
    logits, target, valid = random_case()
    chosen = valid.expand_as(logits).bool()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[chosen], target[chosen])
    assert bce_loss(logits, target, valid).item() == pytest.approx(expected.item())


def test_gradients() -> None:
    logits, target, valid = random_case()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, target, valid), logits)
    assert torch.autograd.gradcheck(lambda x: bce_loss(x, target, valid), logits)


def test_ignored_voxels_have_no_say() -> None:
    logits, target, valid = random_case()
    hidden = valid.expand_as(logits) == 0
    changed, other_target = logits.clone(), target.clone()
    changed[hidden], other_target[hidden] = 50.0, 1 - target[hidden]
    before, after = dice_bce_loss(logits, target, valid), dice_bce_loss(changed, other_target, valid)
    assert [term.item() for term in after] == pytest.approx([term.item() for term in before])


def test_all_ignored_gives_zero_loss_and_gradient() -> None:
    logits, target, valid = random_case()
    logits.requires_grad_()
    dice, bce = dice_bce_loss(logits, target, torch.zeros_like(valid))
    (dice + bce).backward()
    assert dice.item() == bce.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize(("logit", "expected"), [(-50.0, 0.0), (50.0, 1 - 1 / 1001)])
def test_empty_mask(logit: float, expected: float) -> None:
    logits, target = torch.full((1, 1, 10, 10, 10), logit), torch.zeros(1, 1, 10, 10, 10)
    assert dice_loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_half_precision_does_not_overflow() -> None:
    logits = torch.full((1, 1, 300, 300), 20.0, dtype=torch.half)  # 90 000 voxels: past the largest half
    dice, bce = dice_bce_loss(logits, torch.ones(1, 1, 300, 300))
    assert dice.dtype == bce.dtype == torch.float32
    assert dice.item() == pytest.approx(0, abs=1e-5)
    assert bce.item() == pytest.approx(0, abs=1e-5)
