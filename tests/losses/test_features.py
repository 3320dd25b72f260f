import math

import pytest
import torch
from torch import Tensor

from mdkd_auto.losses.features import feature_loss, pooled, similarity_loss, unit_scale


def maps(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes]


def test_feature_loss_by_hand() -> None:
    teacher = [torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[5.0]]]])]
    student = [torch.tensor([[[[0.0, 4.0]]]]), torch.tensor([[[[6.0]]]])]
    assert feature_loss(student, teacher).item() == pytest.approx(((1 + 4) / 2 + 1) / 2)


def test_feature_loss_resizes_the_student() -> None:
    teacher = [torch.tensor([[[[1.0]]]])]
    student = [torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])]  # halving an axis linearly is the mean of pairs: 4
    assert feature_loss(student, teacher).item() == pytest.approx(9)
    assert feature_loss([torch.ones(1, 2, 2, 2, 2)], [torch.ones(1, 2, 4, 4, 4)]).item() == pytest.approx(0)


def test_feature_loss_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match=r"3 channels, the teacher's 4; project"):
        feature_loss([torch.ones(1, 3, 2, 2)], [torch.ones(1, 4, 2, 2)])


def test_similarity_loss_by_hand() -> None:
    # pooled: student (3, 4), teacher (4, 3) -> cos 24 / 25; second level opposite -> cos -1
    student = [torch.tensor([[[2.0, 4.0], [4.0, 4.0]]]), torch.tensor([[[1.0], [1.0]]])]
    teacher = [torch.tensor([[[4.0], [3.0]]]), torch.tensor([[[-2.0], [-2.0]]])]
    assert similarity_loss(student, teacher).item() == pytest.approx((1 / 25 + 2) / 2)


def test_similarity_against_slow_reference() -> None:
    shapes = ((2, 3, 4, 5), (2, 6, 2, 2))
    student, teacher = maps(0, *shapes), maps(1, *shapes)
    expected = []
    for ours, theirs in zip(student, teacher, strict=True):
        for image in range(2):
            a = [float(channel.sum() / channel.numel()) for channel in ours[image]]
            b = [float(channel.sum() / channel.numel()) for channel in theirs[image]]
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            expected.append(1 - dot / math.hypot(*a) / math.hypot(*b))
    assert similarity_loss(student, teacher).item() == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("loss", [feature_loss, similarity_loss])
def test_gradient_reaches_the_student_only(loss) -> None:  # type: ignore[no-untyped-def]
    student, teacher = maps(0, (2, 3, 4, 4), (2, 2, 2, 2)), maps(1, (2, 3, 2, 2), (2, 2, 2, 2))
    for level in (*student, *teacher):
        level.requires_grad_()
    assert torch.autograd.gradcheck(lambda *levels: loss(levels, teacher), tuple(student))
    loss(student, teacher).backward()
    assert all(level.grad is None for level in teacher)


def test_levels_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        feature_loss(maps(0, (1, 1, 2, 2)), [])


def test_zero_maps_stay_finite() -> None:
    student = [torch.zeros(1, 2, 3, 3, requires_grad=True)]
    loss = similarity_loss(student, [torch.ones(1, 2, 3, 3)])
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert student[0].grad is not None
    assert student[0].grad.isfinite().all()


def test_pooled_keeps_the_order_of_channels() -> None:
    assert pooled(torch.arange(8.0).view(1, 2, 2, 2)).tolist() == [[1.5, 5.5]]


def test_unit_scale_keeps_what_a_map_says_and_drops_its_scale() -> None:
    features = torch.tensor([[[[3.0, -4.0]]], [[[30.0, -40.0]]]])  # (2, 1, 1, 2), root mean squares 3.5355, 35.355
    scaled = unit_scale([features])[0]
    assert torch.allclose(scaled[0], features[0] / 12.5**0.5)
    assert torch.allclose(scaled[0], scaled[1])
    assert torch.equal(unit_scale([torch.zeros(1, 2, 3, 3, 3)])[0], torch.zeros(1, 2, 3, 3, 3))


def test_unit_scale_is_exact_for_large_maps() -> None:
    """A sum of millions of squares in single precision, one after the other, loses the third digit."""
    torch.manual_seed(0)
    (scaled,) = unit_scale([3 * torch.randn(1, 16, 32, 128, 128)])
    assert float(scaled.double().square().mean()) == pytest.approx(1, abs=1e-5)
