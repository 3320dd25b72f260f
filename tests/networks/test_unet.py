import pytest
import torch
from torch import Tensor

from mdkd_auto.core.errors import PlanError, SettingsError
from mdkd_auto.core.records import Topology
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.unet import UNetEncoder, UNetHead, check_size, cumulative_strides, scale_width

FLAT = Topology(features=(4, 8, 16), kernel_sizes=((3, 3), (3, 3), (3, 3)), strides=((1, 1), (2, 1), (2, 2)))
THICK_SLICES = Topology(
    features=(4, 8, 8),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    convolutions_per_stage=1,
)


@pytest.mark.parametrize(("topology", "size"), [(FLAT, (16, 12)), (THICK_SLICES, (4, 8, 12))])
def test_shapes(topology: Topology, size: tuple[int, ...]) -> None:
    ndim = len(size)
    encoder, head = UNetEncoder(topology, in_channels=2, ndim=ndim), UNetHead(topology, ndim, outputs=3)
    maps = encoder(torch.randn(2, 2, *size))
    assert encoder.channels == topology.features
    for features, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert features.shape == (2, channels, *(length // step for length, step in zip(size, stride, strict=True)))
    assert head(maps).shape == (2, 3, *size)


def test_cumulative_strides() -> None:
    assert cumulative_strides(FLAT) == ((1, 1), (2, 1), (4, 2))
    assert cumulative_strides(THICK_SLICES) == ((1, 1, 1), (1, 2, 2), (2, 4, 4))


def test_head_holds_no_encoder() -> None:
    encoder, head = UNetEncoder(FLAT), UNetHead(FLAT, ndim=2, outputs=1)
    assert not {id(p) for p in encoder.parameters()} & {id(p) for p in head.parameters()}
    assert not any("encoder" in name for name in head.state_dict())
    up_and_blocks = sum(below * c * s + c for below, c, s in ((16, 8, 4), (8, 4, 2)))
    up_and_blocks += sum(9 * (2 * c * c + c * c) + 6 * c for c in (8, 4))  # two convolutions with bias and norm
    assert sum(p.numel() for p in head.parameters()) == up_and_blocks + 4 + 1
    UNetHead(FLAT, ndim=2, outputs=1).load_state_dict(head.state_dict())


@pytest.mark.parametrize(("topology", "size"), [(FLAT, (8, 8)), (THICK_SLICES, (4, 8, 8))])
def test_every_weight_sees_a_gradient(topology: Topology, size: tuple[int, ...]) -> None:
    model = Model(UNetEncoder(topology, ndim=len(size)), UNetHead(topology, len(size), outputs=2))
    model(torch.randn(2, 1, *size)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    model = Model(UNetEncoder(FLAT), UNetHead(FLAT, 2, 1))
    images = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_model_is_head_after_encoder() -> None:
    model = Model(UNetEncoder(FLAT), UNetHead(FLAT, 2, 1))
    x: Tensor = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(model(x), model.head(model.features(x)))


def test_wrong_size_names_the_rule_and_the_size_to_use() -> None:
    with pytest.raises(PlanError, match=r"\(3, 10, 16\) is not divisible by \(2, 4, 4\); use \(4, 12, 16\)"):
        UNetEncoder(THICK_SLICES, ndim=3)(torch.randn(1, 1, 3, 10, 16))
    with pytest.raises(PlanError, match=r"\(4, 2\) is only one voxel at stride \(4, 2\); use \(4, 4\)"):
        UNetEncoder(FLAT)(torch.randn(1, 1, 4, 2))
    with pytest.raises(PlanError, match="3 axes"):
        UNetEncoder(FLAT)(torch.randn(1, 1, 4, 4, 4))


def test_the_proposed_size_is_accepted() -> None:
    with pytest.raises(PlanError, match=r"use \(4, 4\)"):
        check_size((1, 1), (4, 2))
    check_size((4, 4), (4, 2))


@pytest.mark.parametrize(
    ("topology", "ndim", "message"),
    [
        (Topology(features=(4, 8), kernel_sizes=((3, 3),), strides=((1, 1), (2, 2))), 2, "found 2, 1 and 2"),
        (FLAT, 3, r"have \[2\] axes; a 3-D network needs 3"),
        (Topology(features=(4, 8), kernel_sizes=((3, 3),) * 2, strides=((2, 2),) * 2), 2, "use ones"),
    ],
)
def test_contradictory_topologies_are_refused(topology: Topology, ndim: int, message: str) -> None:
    for build in (lambda: UNetEncoder(topology, ndim=ndim), lambda: UNetHead(topology, ndim, 1)):
        with pytest.raises(PlanError, match=message):
            build()


def test_scale_width() -> None:
    topology = Topology(features=(32, 64, 128, 256, 320), kernel_sizes=((3, 3),) * 5, strides=((1, 1), *((2, 2),) * 4))
    half = scale_width(topology, 16)
    assert half.features == (16, 32, 64, 128, 160)
    assert (half.kernel_sizes, half.strides) == (topology.kernel_sizes, topology.strides)
    assert scale_width(topology, 64).features == (64, 128, 256, 512, 640)
    assert scale_width(topology, 32) == topology
    with pytest.raises(SettingsError, match="Width 0"):
        scale_width(topology, 0)
