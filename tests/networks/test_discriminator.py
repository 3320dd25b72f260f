import math
from collections.abc import Callable

import pytest
import torch

from mdkd_auto.losses.domain import domain_loss
from mdkd_auto.networks.discriminator import Discriminator, reversal_strength, reverse_gradient


def test_reversal_passes_forward_and_turns_the_gradient() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.25)
    assert y.tolist() == x.tolist()
    (y * torch.tensor([3.0, 8.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-0.75, -2.0]


def test_one_descent_trains_discriminator_and_confuses_encoder() -> None:
    encoder, discriminator = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    (discriminator * reverse_gradient(encoder, 1.0)).backward()
    assert discriminator.grad is not None
    assert encoder.grad is not None
    assert (discriminator.grad.item(), encoder.grad.item()) == (1.0, -2.0)


@pytest.mark.parametrize(("progress", "strength"), [(0.0, 0.0), (0.1, (math.e - 1) / (math.e + 1)), (1.0, 0.9999092)])
def test_reversal_schedule(progress: float, strength: float) -> None:
    assert reversal_strength(progress) == pytest.approx(strength)


@pytest.mark.parametrize("size", [(4, 6), (9, 3), (2, 4, 4), (1, 1)])
def test_one_logit_an_image_at_any_size(size: tuple[int, ...]) -> None:
    assert Discriminator(8)(torch.randn(3, 8, *size)).shape == (3,)


def test_place_does_not_matter() -> None:
    discriminator, x = Discriminator(8), torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(discriminator(x), discriminator(x.flip(2, 3)))


def test_tells_maps_of_equal_means_and_deviations_apart(learn: Callable[..., None]) -> None:
    # Both images have channels of mean 0 and deviation 1, as instance normalisation leaves them; they differ in how
    # the channels go together.
    a = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
    together, opposed = torch.cat([a, a], dim=1), torch.cat([a, -a], dim=1)
    torch.manual_seed(0)
    discriminator = Discriminator(2)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=0.01)

    def loss() -> torch.Tensor:
        return domain_loss(discriminator(together), discriminator(opposed))

    def update() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    learn(update, lambda: loss().item() < 0.1, 400)  # 2 log 2 where nothing is told apart
