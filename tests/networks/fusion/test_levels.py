"""The fusion of detectors: shapes, frozen teachers, sources that can be silenced, and what does not fit."""

import pytest
import torch

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.faster_rcnn import ResNetEncoder
from mdkd_auto.networks.fusion.levels import LevelFusionEncoder
from mdkd_auto.networks.rf_detr import RFDETREncoder

IMAGES = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fused() -> LevelFusionEncoder:
    torch.manual_seed(0)
    return LevelFusionEncoder([ResNetEncoder("faster_rcnn_small") for _ in range(3)])


def test_levels_are_the_targets(fused: LevelFusionEncoder) -> None:
    target = fused.teachers[0]
    assert [level.shape for level in fused(IMAGES)] == [level.shape for level in target(IMAGES)]


def test_teachers_are_frozen_and_the_fusion_is_not(fused: LevelFusionEncoder) -> None:
    fused.train()
    sum(level.sum() for level in fused(IMAGES)).backward()
    assert not any(part.training for teacher in fused.teachers for part in teacher.modules())
    assert all(parameter.grad is None for parameter in fused.teachers.parameters())
    assert all(parameter.grad is not None for parameter in fused.levels.parameters())


def test_silenced_sources_change_the_maps_and_a_teacher_of_weight_0_is_not_heard(fused: LevelFusionEncoder) -> None:
    fused.eval()
    whole, silenced = fused(IMAGES), fused(IMAGES, silence_sources=True)
    assert not torch.allclose(whole[0], silenced[0])
    fused.weights[1:] = 0
    whole, silenced = fused(IMAGES), fused(IMAGES, silence_sources=True)
    torch.testing.assert_close(whole[0], silenced[0])


def test_teachers_of_two_families_are_refused() -> None:
    with pytest.raises(SettingsError, match="strides"):
        LevelFusionEncoder([ResNetEncoder("faster_rcnn_small"), RFDETREncoder("rfdetr_tiny", 64)])
