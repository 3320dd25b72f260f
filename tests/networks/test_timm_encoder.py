"""Networks of timm at the plan's size; random weights, nothing is fetched."""

import pytest
import torch

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.classifier import ClassifierHead
from mdkd_auto.networks.timm_encoder import TimmEncoder, check_size


@pytest.fixture(autouse=True)
def _looked_at_anew() -> None:
    """A size that was found to be good is not looked at again."""
    check_size.cache_clear()


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_050", "resnet18", "convnext_atto", "pvt_v2_b0"])
def test_networks_for_any_size(name: str) -> None:
    check_size(name, (64, 64))


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "maxvit_tiny_tf_224",
        "mixer_s32_224",
        "efficientformerv2_s0",
    ],
)
def test_networks_of_one_size_are_refused_for_others(name: str) -> None:
    words = rf"network '{name}': made for 224 x 224 pixels, fails for the plan's 64 x 64 \(.*; plan with --input-size"
    with pytest.raises(SettingsError, match=words):
        check_size(name, (64, 64))


def test_a_size_that_no_plan_has_is_not_advised() -> None:
    with pytest.raises(SettingsError, match=r"made for 299 x 299 pixels.*\); take another network"):
        check_size("inception_v3", (64, 64))


def test_maps_with_channels_last_are_turned() -> None:
    check_size("swin_tiny_patch4_window7_224", (224, 224))
    encoder = TimmEncoder("swin_tiny_patch4_window7_224").eval()
    maps = encoder(torch.zeros(2, 1, 224, 224))
    assert [tuple(one.shape) for one in maps] == [(2, 96, 56, 56), (2, 192, 28, 28), (2, 384, 14, 14), (2, 768, 7, 7)]
    assert ClassifierHead(encoder.channels[-1], 3)(maps).shape == (2, 3)


def test_other_maps_than_said_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimmEncoder, "forward", lambda self, x: self.body(x)[1:])
    with pytest.raises(SettingsError, match=r"its maps have channels \[64, 128, 256, 512\], expected \[64, 64, 128"):
        check_size("resnet18", (64, 64))


def test_a_check_draws_no_random_number() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_size("mobilenetv3_small_050", (64, 64))
    assert torch.equal(torch.rand(3), expected)


def test_efficientnet_of_timm() -> None:
    encoder = TimmEncoder("efficientnet_b0").eval()
    assert encoder.channels == (16, 24, 40, 112, 320)
    assert encoder.strides == tuple((step, step) for step in (2, 4, 8, 16, 32))
    with torch.no_grad():
        maps = encoder(torch.randn(1, 1, 64, 96))
    sizes = [(64 // step, 96 // step) for step, _ in encoder.strides]
    assert [tuple(level.shape[1:]) for level in maps] == [
        (channels, *size) for channels, size in zip(encoder.channels, sizes, strict=True)
    ]


def test_a_name_that_timm_does_not_know() -> None:
    with pytest.raises(SettingsError, match=r"'efficientnet_b00': neither ours nor timm's; close: efficientnet_b0"):
        TimmEncoder("efficientnet_b00")
