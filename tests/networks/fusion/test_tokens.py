import msgspec
import pytest
import torch

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.fusion.tokens import FusionAttentionBlock, FusionAttentionEncoder
from mdkd_auto.networks.timm_encoder import TimmEncoder
from mdkd_auto.networks.unet import UNetEncoder
from mdkd_auto.planners.topology import plan_topology


def teachers(count: int = 3) -> list[UNetEncoder]:
    topology = plan_topology((32, 32), (1.0, 1.0))
    return [UNetEncoder(topology, 1, 2) for _ in range(count)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_one_map_a_block_at_the_targets_grid() -> None:
    own = teachers()
    encoder = FusionAttentionEncoder(own, channels=16, blocks=3, heads=4)
    maps = encoder(torch.randn(2, 1, 32, 32))
    grid = 32 // own[0].strides[-1][0]
    assert [tuple(level.shape) for level in maps] == [(2, 16, grid, grid)] * 3
    assert encoder.channels == (16, 16, 16)
    assert encoder.strides == (own[0].strides[-1],) * 3


def test_what_it_is_by_default_and_in_3d() -> None:
    """joint_ch 256, three blocks, eight heads; of volumes at most 4 tokens an axis."""
    topology = plan_topology((16, 32, 32), (1.0, 1.0, 1.0))
    shallow = msgspec.structs.replace(
        topology, features=topology.features[:2], kernel_sizes=topology.kernel_sizes[:2], strides=topology.strides[:2]
    )
    encoder = FusionAttentionEncoder([UNetEncoder(shallow, 1, 3)])
    assert encoder.channels == (256, 256, 256)
    assert encoder.blocks[0].attention.num_heads == 8
    assert tuple(encoder(torch.randn(1, 1, 4, 32, 32))[0].shape[2:]) == (2, 4, 4)


def test_a_block_by_hand() -> None:
    """Tokens, plus what they find with their normalised selves as queries; plus the perceptron of that sum."""
    block = FusionAttentionBlock(8, heads=2, dropout=0.0).double()
    tokens, keys = torch.randn(1, 5, 8).double(), torch.randn(1, 7, 8).double()
    found = block.attention(block.norm(tokens), keys, keys)[0]
    assert found.abs().max() > 0.01
    torch.testing.assert_close(block(tokens, keys), tokens + found + block.perceptron(tokens + found))


def test_teachers_of_other_kinds_are_brought_to_one_grid() -> None:
    mixed = [teachers(1)[0], TimmEncoder("efficientnet_b0")]
    maps = FusionAttentionEncoder(mixed, channels=16, blocks=1, heads=4)(torch.randn(2, 1, 64, 64))
    assert tuple(maps[0].shape) == (2, 16, 8, 8)  # of the target's teacher, at most 8 x 8


def test_teachers_are_frozen_and_the_fusion_learns() -> None:
    encoder = FusionAttentionEncoder(teachers(), channels=16, blocks=2, heads=4).train()
    sum(level.square().mean() for level in encoder(torch.randn(2, 1, 32, 32))).backward()
    for name, weight in encoder.named_parameters():
        if name.startswith("teachers."):
            assert weight.grad is None
        elif "in_proj_bias" not in name:
            assert weight.grad is not None, name
            assert weight.grad.any(), name
    assert not any(teacher.training for teacher in encoder.teachers)


def test_sources_cut_off_are_told_from_the_whole() -> None:
    encoder = FusionAttentionEncoder(teachers(), channels=16, blocks=2, heads=4).eval()
    images = torch.randn(2, 1, 32, 32)
    assert not torch.allclose(encoder(images)[-1], encoder(images, silence_sources=True)[-1])
    alone = FusionAttentionEncoder(teachers(1), channels=16, blocks=2, heads=4).eval()
    torch.testing.assert_close(alone(images)[-1], alone(images, silence_sources=True)[-1])


def test_attention_is_no_constant() -> None:
    """Over one token it would be: then the keys change nothing."""
    encoder = FusionAttentionEncoder(teachers(), channels=16, blocks=1, heads=4).eval()
    images = torch.randn(2, 1, 32, 32)
    before = encoder(images)[-1]
    weights = encoder.blocks[0].attention.in_proj_weight
    with torch.no_grad():
        weights[:32] *= -3  # queries and keys
        weights[16:32] *= -1
    assert not torch.allclose(before, encoder(images)[-1])


def test_a_teacher_of_no_weight_is_not_heard() -> None:
    own = teachers(2)
    encoder = FusionAttentionEncoder(own, channels=16, blocks=2, heads=4, weights=(1.0, 0.0)).eval()
    images = torch.randn(2, 1, 32, 32)
    before = encoder(images)[-1]
    for weight in own[1].parameters():
        weight.data.normal_()
    torch.testing.assert_close(before, encoder(images)[-1])


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    encoder = FusionAttentionEncoder(teachers(), channels=16, blocks=2, heads=4).eval()
    images = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(encoder(images)[-1][1:2], encoder(images[1:2])[-1], rtol=1e-4, atol=1e-5)


def test_no_teacher() -> None:
    with pytest.raises(SettingsError, match="needs the target's teacher"):
        FusionAttentionEncoder([])
