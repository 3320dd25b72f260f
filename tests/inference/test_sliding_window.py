import math
from functools import reduce
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from torch import nn

from mdkd_auto.inference.sliding_window import _gaussian, _starts
from mdkd_auto.inference.sliding_window import sliding_window as in_slabs

pytestmark = pytest.mark.usefixtures("one_thread")


def sliding_window(*arguments: Any, **settings: Any) -> np.ndarray:
    """All slabs in one, (K, z, y, x)."""
    return np.concatenate(list(in_slabs(*arguments, **settings)), axis=1)


def weights_of(patch: tuple[int, ...]) -> torch.Tensor:
    """Of a window: (y, x) or (z, y, x)."""
    return reduce(lambda weight, size: weight[..., None] * _gaussian(size), patch, torch.ones(())).float()


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
        ((3, 16, 16), (16, 16)),
        ((2, 9, 30), (16, 16)),
        ((1, 5, 7), (16, 12)),
        ((5, 33, 47), (16, 8)),
        ((8, 16, 16), (8, 16, 16)),
        ((3, 10, 11), (8, 16, 16)),
        ((13, 9, 41), (8, 16, 16)),
        ((1, 1, 1), (4, 4, 4)),
    ],
)
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
            torch.from_numpy(image[:, None] if len(patch) == 2 else image[None, None]),
            patch,
            sw_batch_size=1,
            predictor=lambda x: torch.sigmoid(model(x)),
            overlap=0.5,
            roi_weight_map=weights_of(patch),
        ).numpy()
    theirs = theirs.swapaxes(0, 1) if len(patch) == 2 else theirs[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    rough = sliding_window(model, image, patch, step=1.0)
    assert np.abs(rough - ours).max() > 0.02  # another overlap is not within the tolerance


@pytest.mark.parametrize("patch", [(16, 16), (8, 16, 32)])
def test_weights_as_monais(patch: tuple[int, ...]) -> None:
    """Above the floors, which differ."""
    theirs = compute_importance_map(patch, "gaussian", sigma_scale=0.125)
    ours = weights_of(patch)
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
            starts = _starts((0, max(size, extent)), max(size, extent), size, step)
            assert starts[0] == 0
            assert starts[-1] == max(0, extent - size)
            gaps = [later - earlier for earlier, later in pairwise(starts)]
            assert all(0 < gap <= min(size, math.ceil(size * step)) for gap in gaps)


def test_windows_by_hand() -> None:
    assert _starts((0, 16), 16, 8, 0.5) == [0, 4, 8]
    assert _starts((0, 17), 17, 8, 1.0) == [0, 4, 9]  # spread evenly: 0, 4.5, 9
    assert _starts((0, 9), 9, 8, 0.5) == [0, 1]


@pytest.mark.parametrize("step", [0.25, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("size", [1, 4, 7, 16])
def test_windows_cover_a_part_and_share_what_is_left(size: int, step: float) -> None:
    for extent in range(size, 45, 3):
        for first in range(extent):
            for stop in range(first + 1, extent + 1):
                starts = _starts((first, stop), extent, size, step)
                assert 0 <= starts[0] <= first
                assert stop <= starts[-1] + size <= extent
                assert len(starts) == max(0, math.ceil((stop - first - size) / max(1, size * step))) + 1
                assert all(0 < after - before <= math.ceil(max(1, size * step)) for before, after in pairwise(starts))
                if starts[0] > 0 and starts[-1] + size < extent:
                    assert abs((first - starts[0]) - (starts[-1] + size - stop)) <= 2


def test_windows_around_a_part_by_hand() -> None:
    assert _starts((10, 14), 30, 8, 0.5) == [8]
    assert _starts((10, 22), 40, 8, 0.5) == [10, 14]
    assert _starts((10, 21), 40, 8, 0.5) == [10, 14]  # 12 voxels for 11
    assert _starts((1, 12), 40, 8, 1.0) == [0, 8]  # 16 voxels for 11, but the image begins at 0
    assert _starts((3, 7), 8, 8, 0.5) == [0]


def test_the_centre_counts_most() -> None:
    weight = weights_of((1, 16, 17))
    assert weight.shape == (1, 16, 17)
    assert weight.min() > 0
    assert weight[0, 8, 8] == weight.max()
    assert weight[0, 8, 8 + 3].item() == pytest.approx(
        math.exp(-0.5 * (0.5 / 2) ** 2) * math.exp(-0.5 * (3 / (17 / 8)) ** 2), rel=1e-5
    )
    assert torch.equal(weight, weight.flip(1).flip(2))


# --- air ------------------------------------------------------------------------------------------------------------

AIR = -2.0
CASES_OF_AIR = [((3, 48, 56), (16, 16)), ((9, 40, 44), (4, 16, 16)), ((20, 9, 40), (8, 12, 16))]


class Neighbours(nn.Module):
    """Two channels that depend on the whole window: convolutions and an instance norm."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolution, norm = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[axes - 2]
        self.layers = nn.Sequential(
            convolution(1, 4, 5, padding=2), norm(4), nn.LeakyReLU(), convolution(4, 2, 5, padding=2)
        )
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        result: torch.Tensor = self.layers(x)
        return result


def plain(model: nn.Module, image: np.ndarray, patch: tuple[int, ...]) -> np.ndarray:
    """The sliding window as it is in the books: every window, a volume of weights, one division at the end."""
    flat = len(patch) == 2
    size = (1, *patch) if flat else patch
    missing = [max(0, wanted - extent) for wanted, extent in zip(size, image.shape, strict=True)]
    padded = np.pad(image, [(some // 2, some - some // 2) for some in missing], constant_values=image.min())
    weight = weights_of(patch).numpy()
    total, weights = np.zeros((2, *padded.shape)), np.zeros(padded.shape)
    counts = [
        math.ceil((extent - wanted) / max(1, wanted / 2)) for extent, wanted in zip(padded.shape, size, strict=True)
    ]
    starts = [
        [round(index * (extent - wanted) / max(1, count)) for index in range(count + 1)]
        for extent, wanted, count in zip(padded.shape, size, counts, strict=True)
    ]
    for place in product(*starts):
        box = tuple(slice(start, start + wanted) for start, wanted in zip(place, size, strict=True))
        with torch.no_grad():
            x = torch.from_numpy(padded[box])
            predicted = torch.sigmoid(model(x[None] if flat else x[None, None]))[0].numpy()
        total[(slice(None), *box)] += (predicted[:, None] if flat else predicted) * weight
        weights[box] += weight
    inside = tuple(slice(some // 2, some // 2 + extent) for some, extent in zip(missing, image.shape, strict=True))
    return (total / weights)[(slice(None), *inside)]


@pytest.mark.parametrize(("shape", "patch"), [*CASES_OF_AIR, ((1, 10, 40), (16, 16)), ((3, 10, 40), (4, 16, 16))])
@pytest.mark.parametrize("air", [None, AIR])
def test_without_air_as_the_plain_window(shape: tuple[int, ...], patch: tuple[int, ...], air: float | None) -> None:
    """Noise everywhere: some voxels are as low as air, but none of the outer planes is."""
    image = np.maximum(image_of(*shape), AIR)
    assert (image == AIR).any()
    model = Neighbours(len(patch))
    found = sliding_window(model, image, patch, air=air)
    np.testing.assert_allclose(found, plain(model, image, patch), atol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), CASES_OF_AIR)
def test_air_is_left_alone_and_all_else_is_seen(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    body = np.zeros(shape, dtype=bool)
    body[1:-1, : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = True
    body[shape[0] // 2, shape[1] // 2, shape[2] // 2] = True  # and a single voxel
    image = np.where(body, image_of(*shape) + 3, AIR).astype(np.float32)
    expected = sigmoid(np.stack([image, 1 - 2 * image]))
    found = sliding_window(pointwise(len(patch)), image, patch, air=AIR)
    np.testing.assert_allclose(found[:, body], expected[:, body], atol=1e-5)
    assert not found[..., -1].any()
    np.testing.assert_allclose(sliding_window(pointwise(len(patch)), image, patch), expected, atol=1e-5)


def test_slices_of_air_are_as_if_they_were_cut_off() -> None:
    image = image_of(3, 40, 44) + 3
    wide = np.full((8, 40, 44), AIR, dtype=np.float32)
    wide[2:-3] = image
    model = Neighbours(2)
    found = sliding_window(model, wide, (16, 16), air=AIR)
    np.testing.assert_allclose(found[:, 2:-3], sliding_window(model, image, (16, 16)), atol=1e-5)
    assert not found[:, :2].any()
    assert not found[:, -3:].any()


def test_windows_of_air_are_not_predicted() -> None:
    image = np.full((8, 64, 64), AIR, dtype=np.float32)
    image[:, 20:40, 24:40] = 1.0
    for patch, all_windows, windows in (((16, 16), 8 * 7 * 7, 8 * 2), ((4, 16, 16), 3 * 7 * 7, 3 * 2)):
        model = Neighbours(len(patch))
        sliding_window(model, image, patch)
        assert sum(model.seen) == all_windows
        model.seen.clear()
        sliding_window(model, image, patch, air=AIR)
        assert sum(model.seen) == windows
    image[0, 63, 63] = 1.0  # far away: the box is the image again, most windows are air
    model.seen.clear()
    sliding_window(model, image, (4, 16, 16), air=AIR)
    assert 3 * 2 < sum(model.seen) < 3 * 7 * 7 / 2


def test_an_image_of_nothing_but_air_is_predicted_as_it_is() -> None:
    image = np.full((2, 20, 20), AIR, dtype=np.float32)
    found = sliding_window(pointwise(2), image, (16, 16), air=AIR)
    np.testing.assert_allclose(found, sigmoid(np.stack([image, 1 - 2 * image])), atol=1e-5)


@pytest.mark.parametrize("patch", [(16, 16), (8, 16, 16)])
def test_slabs_are_thin_whatever_lies_around(patch: tuple[int, ...]) -> None:
    image = np.full((100, 20, 20), AIR, dtype=np.float32)
    image[60:70] = 1.0
    slabs = list(in_slabs(pointwise(len(patch)), image, patch, air=AIR))
    assert max(slab.shape[1] for slab in slabs) <= 16
    assert sum(slab.shape[1] for slab in slabs) == 100
