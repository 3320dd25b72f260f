import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from torch import nn

from mdkd_auto.inference.sliding_window import _gaussian, _starts, sliding_window

pytestmark = pytest.mark.usefixtures("one_thread")


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def pointwise(dimensions: int) -> nn.Module:
    """Two channels: x and 1 - 2 x, voxel by voxel."""
    layer = nn.Conv2d(1, 2, 1) if dimensions == 2 else nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0]).reshape(layer.weight.shape))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[union-attr]
    return layer


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((3, 16, 16), (16, 16)), ((2, 9, 30), (16, 16)), ((1, 5, 7), (16, 12)), ((5, 33, 47), (16, 8)),
        ((8, 16, 16), (8, 16, 16)), ((3, 10, 11), (8, 16, 16)), ((13, 9, 41), (8, 16, 16)), ((1, 1, 1), (4, 4, 4)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("mirror", [False, True])
def test_what_happens_at_a_voxel_stays_there(
    shape: tuple[int, ...], patch: tuple[int, ...], step: float, mirror: bool
) -> None:
    image = image_of(*shape)
    found = sliding_window(pointwise(len(patch)), image, patch, step=step, mirror=mirror)
    assert found.shape == (2, *shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sigmoid(np.stack([image, 1 - 2 * image])), atol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), [((2, 40, 56), (16, 16)), ((16, 24, 24), (8, 16, 16))])
def test_as_monai_does(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    """Sizes at which both place the windows alike; the weights of a window are compared below."""
    torch.manual_seed(0)
    convolution = nn.Conv2d if len(patch) == 2 else nn.Conv3d
    model = nn.Sequential(convolution(1, 4, 5, padding=2), nn.ReLU(), convolution(4, 2, 5, padding=2))
    image = image_of(*shape)
    ours = sliding_window(model, image, patch)
    with torch.no_grad():
        theirs = sliding_window_inference(
            torch.from_numpy(image[:, None] if len(patch) == 2 else image[None, None]), patch, sw_batch_size=1,
            predictor=lambda x: torch.sigmoid(model(x)), overlap=0.5, roi_weight_map=_gaussian(patch),
        ).numpy()  # fmt: skip
    theirs = theirs.swapaxes(0, 1) if len(patch) == 2 else theirs[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    rough = sliding_window(model, image, patch, step=1.0)
    assert np.abs(rough - ours).max() > 0.02  # another overlap is not within the tolerance


@pytest.mark.parametrize("patch", [(16, 16), (8, 16, 32)])
def test_weights_as_monais(patch: tuple[int, ...]) -> None:
    """Above the floors, which differ."""
    theirs = compute_importance_map(patch, "gaussian", sigma_scale=0.125)
    ours = _gaussian(patch)
    both = (theirs > 2e-3) & (ours > 2e-3)
    assert both.float().mean() > 0.2
    torch.testing.assert_close(ours[both] / ours.max(), theirs[both] / theirs.max(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), [((2, 16, 16), (16, 16)), ((8, 8, 8), (8, 8, 8))])
def test_mirroring_is_the_mean_over_flips(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = (nn.Conv2d if len(patch) == 2 else nn.Conv3d)(1, 1, 3, padding=1)
    image = image_of(*shape)
    axes = range(3 - len(patch), 3)
    flipped = []
    for chosen in product((False, True), repeat=len(patch)):
        turned = [axis for axis, flip in zip(axes, chosen, strict=True) if flip]
        once = sliding_window(model, np.flip(image, turned).copy(), patch)
        flipped.append(np.flip(once, [axis + 1 for axis in turned]))
    expected = np.mean(flipped, axis=0)
    np.testing.assert_allclose(sliding_window(model, image, patch, mirror=True), expected, atol=1e-5)
    assert np.abs(flipped[0] - expected).max() > 0.01


def test_slices_do_not_know_each_other() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(1, 1, 3, padding=1)
    image = image_of(11, 20, 20)
    whole = sliding_window(model, image, (16, 16))
    for z in (0, 4, 10):
        np.testing.assert_allclose(whole[:, z : z + 1], sliding_window(model, image[z : z + 1], (16, 16)), atol=1e-6)


def test_a_small_image_is_padded_with_its_minimum() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    sliding_window(Spy(), np.array([[[5.0, 7.0, 6.0]]]), (4, 6))
    (batch,) = seen
    expected = torch.full((4, 6), 5.0)
    expected[1, 1:4] = torch.tensor([5.0, 7.0, 6.0])
    assert torch.equal(batch[0, 0], expected)


def test_the_model_is_in_evaluation_mode_and_keeps_no_graph() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.9)).train()
    first, second = (sliding_window(model, image_of(1, 8, 8), (8, 8)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("step", [0.1, 0.5, 0.75, 1.0])
def test_windows_cover_everything(step: float) -> None:
    for size in (1, 3, 8, 16):
        for extent in range(1, 70):
            starts = _starts(extent, size, step)
            assert starts[0] == 0
            assert starts[-1] == max(0, extent - size)
            gaps = [later - earlier for earlier, later in pairwise(starts)]
            assert all(0 <= gap <= min(size, math.ceil(size * step)) for gap in gaps)


def test_windows_by_hand() -> None:
    assert _starts(5, 8, 0.5) == [0]
    assert _starts(16, 8, 0.5) == [0, 4, 8]
    assert _starts(17, 8, 1.0) == [0, 4, 9]  # spread evenly: 0, 4.5, 9
    assert _starts(9, 8, 0.5) == [0, 1]


def test_the_centre_counts_most() -> None:
    weight = _gaussian((1, 16, 17))
    assert weight.shape == (1, 16, 17)
    assert weight.min() > 0
    assert weight[0, 8, 8] == weight.max()
    assert weight[0, 8, 8 + 3].item() == pytest.approx(
        math.exp(-0.5 * (0.5 / 2) ** 2) * math.exp(-0.5 * (3 / (17 / 8)) ** 2), rel=1e-5
    )
    assert torch.equal(weight, weight.flip(1).flip(2))
