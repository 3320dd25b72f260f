import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdkd_auto.networks.layers import ACTIVATION, ACTIVATION_SETTINGS, INSTANCE_NORM, NORM_SETTINGS, resized_linearly

PEERS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@pytest.mark.parametrize("size", [(5, 6), (1, 2), (3, 4, 5)])
@pytest.mark.parametrize("bf16", [False, True])
def test_instance_norm_is_that_of_the_library(size: tuple[int, ...], bf16: bool) -> None:
    """Values and gradients, also with an activation in place behind it."""
    torch.manual_seed(0)
    results = []
    for kind in (INSTANCE_NORM[len(size)], PEERS[len(size)]):
        norm = kind(4, **NORM_SETTINGS).double()
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.2)
        x = torch.linspace(-1, 3, 8 * torch.Size(size).numel()).sin().double().view(2, 4, *size).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = ACTIVATION(**ACTIVATION_SETTINGS)(norm(x * 1))
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, norm.weight, norm.bias])))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_state_and_name_are_the_library_s() -> None:
    norm = INSTANCE_NORM[2](4, **NORM_SETTINGS)
    assert repr(norm) == repr(nn.InstanceNorm2d(4, **NORM_SETTINGS))
    assert set(norm.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("before", "after"),
    [((4, 4), (16, 16)), ((5, 7), (13, 9)), ((1, 3), (8, 3)), ((9, 6), (4, 5)), ((2, 3, 4), (7, 12, 9))],
)
def test_resizing_is_linear_interpolation(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """Values and gradients are the library's; also to fewer voxels."""
    torch.manual_seed(0)
    mode = {2: "bilinear", 3: "trilinear"}[len(before)]
    x = torch.randn(2, 3, *before, requires_grad=True)
    upstream = torch.randn(2, 3, *after)
    ours, theirs = resized_linearly(x, after), F.interpolate(x, after, mode=mode, align_corners=False)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(made, x, upstream)[0] for made in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_resizing_keeps_the_precision() -> None:
    x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    made = resized_linearly(x.bfloat16(), (32, 24))
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), resized_linearly(x, (32, 24)), atol=0.01, rtol=0)
