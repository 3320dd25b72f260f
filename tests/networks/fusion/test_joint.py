import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.records import Topology
from mdkd_auto.networks.fusion.joint import (
    CrossAttentionFusion,
    Fuse,
    JointEncoder,
    ResidualBlock,
    _attention,
    normalised_by_moments,
    pooled_by_means,
    pooled_to,
)
from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.networks.unet import UNetEncoder, UNetHead

FLAT = Topology(features=(4, 8, 8), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)))
WIDER = Topology(features=(6, 8, 10), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)))
THICK_SLICES = Topology(
    features=(4, 8, 8), kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))
)


class BatchNormEncoder(Encoder):
    """One level with batch statistics and dropout: both must stay still in a frozen teacher."""

    channels, strides, kernel_sizes = (4,), ((1, 1),), ((3, 3),)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


def joint_of(*topologies: Topology, fuse: Fuse = "both") -> JointEncoder:
    torch.manual_seed(0)
    return JointEncoder([UNetEncoder(t, ndim=len(t.strides[0])) for t in topologies], fuse)


@pytest.mark.parametrize(
    ("topologies", "size"),
    [((FLAT, FLAT, FLAT), (16, 24)), ((FLAT, WIDER), (16, 16)), ((FLAT,), (8, 8)), ((THICK_SLICES,) * 2, (4, 8, 12))],
)
def test_shapes_are_those_of_the_target_teacher(topologies: tuple[Topology, ...], size: tuple[int, ...]) -> None:
    joint, x = joint_of(*topologies), torch.randn(2, 1, *size)
    target = UNetEncoder(topologies[0], ndim=len(size))
    assert (joint.channels, joint.strides, joint.kernel_sizes) == (target.channels, target.strides, target.kernel_sizes)
    maps = joint(x)
    assert [m.shape for m in maps] == [m.shape for m in target(x)]
    assert UNetHead(topologies[0], len(size), 2)(maps).shape == (2, 2, *size)


@pytest.mark.parametrize(("size", "at"), [((68, 64), (16, 16)), ((3, 40, 40), (3, 8, 8)), ((9, 16), (9, 16))])
def test_large_maps_are_attended_at_a_coarse_grid(size: tuple[int, ...], at: tuple[int, ...]) -> None:
    fusion = CrossAttentionFusion(4, teachers=2, ndim=len(size))
    maps = [torch.randn(1, 4, *size) for _ in range(2)]
    assert fusion.attend(torch.cat(maps, dim=1)).shape == (1, 4, *at)
    assert fusion(maps).shape == maps[0].shape


def test_attention_against_slow_reference() -> None:
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(3, teachers=2, ndim=2, key_grid=8, attention_width=4, heads=2)
    maps = [torch.randn(1, 3, 2, 3) for _ in range(2)]
    tokens = [m[0].flatten(1).T for m in maps]  # (6, 3) each
    keys = torch.cat([fusion.key(t) + fusion.teacher_embedding[i] for i, t in enumerate(tokens)])
    values = torch.cat([fusion.value(t) for t in tokens])
    rows = []
    for query in fusion.query(tokens[0]):
        parts = []
        for head in (slice(0, 2), slice(2, 4)):
            weights = torch.softmax(torch.stack([query[head] @ key[head] for key in keys]) / 2**0.5, 0)
            parts.append(sum(w * v[head] for w, v in zip(weights, values, strict=True)))
        rows.append(fusion.output(torch.cat(parts)))
    expected = torch.stack(rows).T.reshape(1, 3, 2, 3)
    torch.testing.assert_close(fusion.attend(torch.cat(maps, dim=1)), expected)


@pytest.mark.parametrize("size", [(68, 64), (6, 9), (3, 40, 40)])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 0.0])])
def test_fusion_against_slow_reference(size: tuple[int, ...], weights: Tensor | None) -> None:
    """Attended map at full size and all normalised maps, concatenated; 1x1 convolution; residual block."""
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(4, teachers=3, ndim=len(size)).double()
    maps = [(1 + scale) * torch.randn(2, 4, *size, dtype=torch.float64) + scale for scale in range(3)]
    normalised = []
    for number, features in enumerate(maps):
        axes = tuple(range(1, features.ndim))
        centred = features - features.mean(axes, keepdim=True)
        scaled = centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()
        normalised.append(scaled * (1.0 if weights is None else weights[number].item()))
    attended = fusion.attend(torch.cat(normalised, dim=1))
    mode = "bilinear" if len(size) == 2 else "trilinear"
    attended = nn.functional.interpolate(attended, size=size, mode=mode, align_corners=False)
    expected = fusion.block(fusion.reduce(torch.cat([attended, *normalised], dim=1)))
    torch.testing.assert_close(fusion(maps, weights), expected)
    found = torch.autograd.grad(fusion(maps, weights).square().sum(), fusion.reduce.weight)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), fusion.reduce.weight)[0])


@pytest.mark.parametrize("size", [(68, 64), (3, 40, 40)])
def test_half_precision(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    fusion, weights = CrossAttentionFusion(4, teachers=2, ndim=len(size)), torch.tensor([1.0, 0.5])
    maps = [torch.randn(1, 4, *size) for _ in range(2)]
    exact = fusion(maps, weights)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fusion([features.bfloat16() for features in maps], weights)
    assert (rounded.float() - exact).square().mean().sqrt() < 0.05 * exact.std()


def test_attention_in_half_precision_is_computed_in_single_on_a_cpu() -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(1, 2, count, 8).bfloat16() for count in (5, 7, 7))
    with torch.autocast("cpu", torch.bfloat16):
        found = _attention(queries, keys, values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.scaled_dot_product_attention(queries.float(), keys.float(), values.float()))


def test_one_key_a_teacher_is_attended_too() -> None:
    fusion = CrossAttentionFusion(4, teachers=2, ndim=2, key_grid=1)
    assert fusion([torch.randn(1, 4, 8, 8) for _ in range(2)]).shape == (1, 4, 8, 8)
    assert fusion.reduce.in_channels == 3 * 4  # the attended map and both teachers'


@pytest.mark.parametrize(
    ("size", "grid"), [((8, 12), (4, 3)), ((7, 5), (3, 4)), ((4, 6, 8), (2, 3, 4)), ((3, 3), (3, 6)), ((2, 6), (2, 3))]
)
def test_pooling_against_slow_reference(size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Place i of n takes the mean of what lies between i / n and (i + 1) / n of the axis, rounded outwards."""
    features = torch.randn(2, 3, *size)
    expected = torch.empty(2, 3, *grid)
    for place in np.ndindex(*grid):
        bins = [slice(i * m // n, -(-(i + 1) * m // n)) for i, m, n in zip(place, size, grid, strict=True)]
        expected[(..., *place)] = features[(..., *bins)].flatten(2).mean(2)
    torch.testing.assert_close(pooled_to(features, grid), expected)


def test_teachers_of_different_scale_compare() -> None:
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(4, teachers=2, ndim=2)
    target, source = torch.randn(2, 1, 4, 8, 8)
    torch.testing.assert_close(fusion([target, source]), fusion([target, 1000 * source]), rtol=1e-3, atol=1e-3)


def test_no_gradient_reaches_a_frozen_teacher() -> None:
    joint = joint_of(FLAT, WIDER)
    model = Model(joint, UNetHead(FLAT, 2, 1))
    model(torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in joint.teachers.parameters())
    assert all(p.grad is not None for p in joint.fusions.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


def test_teachers_stay_in_evaluation_mode() -> None:
    joint = JointEncoder([BatchNormEncoder(), BatchNormEncoder()])
    model = Model(joint, nn.Identity()).train()
    before = {name: value.clone() for name, value in joint.teachers.state_dict().items()}
    x = torch.randn(4, 1, 8, 8) + 5
    first, second = joint(x), joint(x)
    assert joint.training
    assert not any(module.training for module in joint.teachers.modules())
    assert all(torch.equal(value, before[name]) for name, value in joint.teachers.state_dict().items())
    assert torch.equal(first[0], second[0])  # no dropout
    assert model.eval().train().training


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    joint, images = joint_of(FLAT, FLAT), torch.randn(3, 1, 16, 16)
    for together, alone in zip(joint(images), joint(images[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-4)


def test_silenced_sources_are_missed() -> None:
    joint, images = joint_of(FLAT, FLAT), torch.randn(2, 1, 16, 16)
    for heard, silenced in zip(joint(images), joint(images, silence_sources=True), strict=True):
        assert not torch.allclose(heard, silenced, atol=1e-2)


def test_silenced_sources_say_nothing_of_the_image() -> None:
    joint = joint_of(FLAT, FLAT)
    with torch.no_grad():  # a target teacher that sees nothing either
        for parameter in joint.teachers[0].parameters():
            parameter.zero_()
    first, second = joint(torch.randn(2, 1, 16, 16), silence_sources=True)[0]
    torch.testing.assert_close(first, second)


def test_without_sources_silence_changes_nothing() -> None:
    joint, images = joint_of(FLAT), torch.randn(2, 1, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(joint(images), joint(images, silence_sources=True), strict=True))


@pytest.mark.parametrize(("fuse", "fused"), [("both", {0, 1, 2}), ("encoder", {0, 1}), ("bottleneck", {2})])
def test_levels_not_fused_are_the_targets(fuse: Fuse, fused: set[int]) -> None:
    joint, images = joint_of(FLAT, FLAT, fuse=fuse), torch.randn(2, 1, 16, 16)
    target = joint.teachers[0](images)
    changed = {i for i, (a, b) in enumerate(zip(joint(images), target, strict=True)) if not torch.equal(a, b)}
    assert changed == fused


def test_residual_block_adds_its_input() -> None:
    block = ResidualBlock(3, ndim=2)
    nn.init.zeros_(block.layers[4].weight)  # type: ignore[arg-type]
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_state_stands_by_itself() -> None:
    joint, images = joint_of(FLAT, WIDER), torch.randn(1, 1, 16, 16)
    torch.manual_seed(1)
    other = JointEncoder([UNetEncoder(FLAT), UNetEncoder(WIDER)])
    other.load_state_dict(joint.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(joint(images), other(images), strict=True))


def test_refusals() -> None:
    with pytest.raises(SettingsError, match="'all'; use one of both, encoder, bottleneck"):
        joint_of(FLAT, fuse="all")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="at least"):
        JointEncoder([])
    other = Topology(features=(4, 8, 8), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (1, 2)))
    with pytest.raises(SettingsError, match="Teacher 1 has levels at strides"):
        joint_of(FLAT, other)


def test_without_attention_the_maps_are_concatenated_and_convolved() -> None:
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(4, teachers=2, ndim=2, key_grid=0)
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)]
    normalised = torch.cat([F.group_norm(one, 1) for one in maps], dim=1)
    torch.testing.assert_close(fusion(maps), fusion.block(fusion.reduce(normalised)))
    assert not [name for name, _ in fusion.named_parameters() if name.startswith(("query", "key", "value"))]


@pytest.mark.parametrize("size", [(4, 6), (68, 64), (3, 4, 5)])
def test_shares_are_those_of_the_attention(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a teacher's number in the place of its values, the attention itself gives the shares."""
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(8, teachers=3, ndim=len(size))
    nn.init.normal_(fusion.teacher_embedding)  # so that teachers differ
    maps, weights = [torch.randn(2, 8, *size) for _ in range(3)], torch.tensor([1.0, 0.5, 0.0])
    seen = []
    attention = F.scaled_dot_product_attention

    def with_numbers(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        numbers = torch.eye(3).repeat_interleave(keys.shape[2] // 3, dim=0)  # (teachers * N, teachers)
        seen.append(attention(queries, keys, numbers.expand(*keys.shape[:2], -1, -1)))
        return attention(queries, keys, values)

    monkeypatch.setattr(F, "scaled_dot_product_attention", with_numbers)
    fusion(maps, weights)
    shares = fusion.shares(maps, weights)
    torch.testing.assert_close(shares.flatten(2), seen[0].mean(1).transpose(1, 2))
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert shares.std() > 0.01


def test_a_joint_encoder_says_its_shares_by_level() -> None:
    x = torch.randn(2, 1, 16, 16)
    joint = joint_of(FLAT, WIDER)
    shares = joint.attention_shares(x)
    assert {level: one.shape for level, one in shares.items()} == {0: (2, 2, 16, 16), 1: (2, 2, 8, 8), 2: (2, 2, 4, 4)}
    assert list(joint_of(FLAT, FLAT, fuse="bottleneck").attention_shares(x)) == [2]
    for alone in joint_of(FLAT).attention_shares(x).values():
        torch.testing.assert_close(alone, torch.ones_like(alone))


@pytest.mark.parametrize("size", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 0.0)])
def test_a_gpu_normalises_as_a_cpu(size: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    """Group normalisation, one group a teacher, each scaled by its weight; in bfloat16 to its precision."""
    torch.manual_seed(0)
    joined = 3 * torch.randn(2, 3 * 4, *size) + 2
    scales = None if weights is None else torch.tensor(weights)
    expected = F.group_norm(joined, 3, None if scales is None else scales.repeat_interleave(4))
    torch.testing.assert_close(normalised_by_moments(joined, 3, scales), expected)
    half = normalised_by_moments(joined.bfloat16(), 3, scales)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(("size", "grid"), [((8, 12), (4, 3)), ((6, 6), (6, 2)), ((4, 6, 8), (2, 3, 2))])
def test_a_gpu_pools_as_a_cpu(size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, *size)
    pool = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    torch.testing.assert_close(pooled_by_means(features, grid), pool(features, grid))
