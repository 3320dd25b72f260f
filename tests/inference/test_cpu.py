import copy

import pytest
import torch
from torch import nn

from mdkd_auto.core.records import Topology
from mdkd_auto.inference.cpu import quicker_on_cpu
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.unet import UNetEncoder, UNetHead

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN"),
]

FLAT = Topology(features=(4, 6, 8), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)))
THICK = Topology(
    features=(4, 6, 8), kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))
)


def alike(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The quicker network, after a look at its numbers and at the model, which must not change."""
    model.eval()
    before = copy.deepcopy(model.state_dict())
    quicker = quicker_on_cpu(model)
    with torch.inference_mode():
        expected, given = model(x), x.clone()
        torch.testing.assert_close(quicker(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x, given, rtol=0, atol=0)
    for name, values in model.state_dict().items():
        assert torch.equal(values, before[name])
        assert values.is_contiguous()
    return quicker


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(("topology", "size"), [(FLAT, (24, 32)), (THICK, (6, 16, 24))])
def test_networks_give_the_same(topology: Topology, size: tuple[int, ...], images: int) -> None:
    torch.manual_seed(0)
    axes = len(size)
    x = torch.randn(images, 1, *size)
    teachers = [UNetEncoder(topology, 1, axes) for _ in range(2)]
    alike(Model(teachers[0], UNetHead(topology, axes, 3)), x)
    alike(Model(JointEncoder(teachers), UNetHead(topology, axes, 1)), x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, 3, padding="valid"),
        nn.Conv2d(2, 4, (3, 5), padding="same", dilation=2),
        nn.Conv2d(2, 4, (1, 3), stride=(1, 2), padding=(0, 1), bias=False),
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "rest",
    [
        [],
        [nn.InstanceNorm2d(4)],
        [nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2)],
        [nn.LeakyReLU(0.3)],
        [nn.InstanceNorm2d(4), nn.ReLU()],
        [nn.BatchNorm2d(4), nn.LeakyReLU()],
        [nn.Dropout(0.5), nn.InstanceNorm2d(4)],
    ],
    ids=str,
)
def test_layers_give_the_same(layer: nn.Module, rest: list[nn.Module]) -> None:
    torch.manual_seed(0)
    for module in rest:
        if isinstance(module, nn.InstanceNorm2d) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    quicker = alike(nn.Sequential(layer, *rest), torch.randn(2, 2, 11, 12))
    assert "mkldnn" not in str(type(quicker))
    assert not any(module is layer for module in quicker.modules())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 2, 2, padding="same"),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(1, 2, 1).double(),
    ],
    ids=str,
)
def test_what_onednn_does_otherwise_is_left_alone(layer: nn.Module) -> None:
    x = torch.randn(1, 1, 8, 8, dtype=next(layer.parameters()).dtype)
    assert layer in list(alike(nn.Sequential(layer, nn.InstanceNorm2d(2)), x))


def test_norms_with_running_statistics_are_left_alone() -> None:
    norm = nn.InstanceNorm2d(2, track_running_stats=True)
    norm.running_mean = torch.tensor([3.0, -1.0])
    assert norm in list(alike(nn.Sequential(nn.Conv2d(1, 2, 3), norm), torch.randn(1, 1, 8, 8)))


def test_statistics_of_large_maps_are_exact() -> None:
    """A plain float32 sum over two million voxels is not."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 1024, 2048) + 5
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2)).eval()
    with torch.inference_mode():
        expected = copy.deepcopy(model).double()(x.double())
        torch.testing.assert_close(quicker_on_cpu(model)(x).double(), expected, rtol=0, atol=2e-5)
