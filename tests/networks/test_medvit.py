import pytest
import torch

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.classifier import ClassifierHead
from mdkd_auto.networks.medvit import SIZES, MedViTEncoder, exchange_moments


@pytest.mark.parametrize(("size", "millions"), [("small", 32), ("base", 45), ("large", 59)])
def test_weights_as_published(size: str, millions: int) -> None:
    """With 1000 classes and three channels (Manzari et al., 2023)."""
    with torch.device("meta"):
        parts = (MedViTEncoder(size, in_channels=3), ClassifierHead(1024, 1000))
    assert round(sum(weight.numel() for part in parts for weight in part.parameters()) / 1e6) == millions


def test_shapes_of_the_paper() -> None:
    encoder = MedViTEncoder().eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 1, 224, 224))
    assert [tuple(level.shape[1:]) for level in maps] == [(96, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7)]
    assert encoder.channels == (96, 256, 512, 1024)
    assert encoder.strides == ((4, 4), (8, 8), (16, 16), (32, 32))


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    encoder = MedViTEncoder(moment_exchange=True).eval()
    images = torch.randn(3, 1, 64, 96)
    with torch.no_grad():
        together, alone = encoder(images), encoder(images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4)


def test_every_weight_gets_a_gradient() -> None:
    torch.manual_seed(0)
    encoder = MedViTEncoder()
    for block in encoder.modules():  # a block that stochastic depth leaves out has none
        if hasattr(block, "drop_prob"):
            block.drop_prob = 0.0
    sum(level.square().mean() for level in encoder(torch.randn(2, 1, 64, 64))).backward()
    without = [name for name, weight in encoder.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in without if "key.bias" not in name] == []  # a key's bias shifts all scores alike


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_dropout_is_applied_in_training_alone(changes: dict[str, float]) -> None:
    torch.manual_seed(0)
    encoder = MedViTEncoder(**changes)  # type: ignore[arg-type]
    for block in encoder.modules():
        if hasattr(block, "drop_prob"):
            block.drop_prob = 0.0
    images = torch.randn(2, 1, 64, 64)
    first, second = encoder(images)[-1], encoder(images)[-1]
    assert not torch.allclose(first, second)
    encoder.eval()
    torch.testing.assert_close(encoder(images)[-1], encoder(images)[-1])


def test_moments_are_another_images() -> None:
    torch.manual_seed(1)
    maps = torch.randn(4, 3, 5, 5) * torch.arange(1, 5).view(4, 1, 1, 1) + torch.arange(4).view(4, 1, 1, 1)
    changed = [exchange_moments(maps) for _ in range(20)]
    assert any(torch.equal(one, maps) for one in changed)  # not in every update
    moved = next(one for one in changed if not torch.equal(one, maps))
    means = maps.mean((2, 3))
    places = [int((means - mean).abs().sum(1).argmin()) for mean in moved.mean((2, 3))]
    assert sorted(places) == [0, 1, 2, 3]
    correlation = torch.corrcoef(torch.stack([maps[0, 0].flatten(), moved[0, 0].flatten()]))[0, 1]
    assert correlation.item() == pytest.approx(1, abs=1e-4)  # the pattern stays


def test_an_unknown_size() -> None:
    with pytest.raises(SettingsError, match="there are small, base, large"):
        MedViTEncoder("huge")
    assert set(SIZES) == {"small", "base", "large"}
