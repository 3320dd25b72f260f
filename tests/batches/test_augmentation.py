import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from mdkd_auto.batches.augmentation import Draw, Source, affine_maps, apply, draw, largest_degrees, upright


def nothing(batch: int, dimensions: int) -> Draw:
    """A draw that applies no transform."""
    absent = np.full(batch, np.nan)
    planes = 1 if dimensions == 2 else 3
    return Draw(
        turns=np.full((batch, planes), np.nan),
        scale=absent,
        mirror=np.zeros((batch, dimensions), dtype=bool),
        noise_std=absent,
        blur_sigma=np.full((batch, dimensions), np.nan),
        brightness=absent,
        contrast=absent,
        zoom=absent,
        gamma=absent,
        inverted_gamma=absent,
        noise_seed=0,
    )


def scene(*size: int, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images with a bright blob off the centre, and the blob as label."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, count) for count in size], indexing="ij"))
    images, labels = [], []
    for _ in range(batch):
        centre = (rng.uniform(0.2, 0.3, len(size)) * rng.choice([-1, 1], len(size))).reshape(-1, *[1] * len(size))
        distance = np.sqrt((((grid - centre) / 0.45) ** 2).sum(0))
        images.append(1 / (1 + np.exp(8 * (distance - 1))))  # 0.5 at the border
        labels.append((distance < 1).astype(np.int16))
    return torch.tensor(np.stack(images), dtype=torch.float32)[:, None], torch.tensor(np.stack(labels))


def dice(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("size", [(16, 20), (6, 8, 10)])
def test_nothing_drawn_changes_nothing(size: tuple[int, ...]) -> None:
    images, labels = scene(*size)
    changed, moved = apply(images, labels, nothing(2, len(size)), (1.0,) * len(size))
    assert torch.equal(changed, images)
    assert torch.equal(moved, labels)
    assert changed is not images


@pytest.mark.parametrize(("size", "spacing"), [((24, 20), (1.0, 2.0)), ((6, 12, 16), (5.0, 1.0, 1.0))])
def test_whatever_is_drawn(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    images, labels = scene(*size, batch=16)
    labels[:, :2] = -1
    labels[labels == 1] = 7
    before = images.clone(), labels.clone()
    for seed in range(6):
        drawn = draw(np.random.default_rng(seed), 16, len(size))
        changed, moved = apply(images, labels, drawn, spacing)
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert changed.isfinite().all()
        assert moved.dtype == torch.int16
        assert set(moved.unique().tolist()) <= {-1, 0, 7}
        again, moved_again = apply(images, labels, draw(np.random.default_rng(seed), 16, len(size)), spacing)
        assert torch.equal(changed, again)
        assert torch.equal(moved, moved_again)
    assert torch.equal(images, before[0])  # the input is left alone
    assert torch.equal(labels, before[1])


def test_probabilities_and_ranges_of_a_draw() -> None:
    drawn = draw(np.random.default_rng(0), 20_000, 3)
    expected = {
        "turns": (0.2, -1, 1),
        "scale": (0.2, 1 / 1.4, 1 / 0.7),
        "noise_std": (0.1, 0, 0.1),
        "blur_sigma": (0.1, 0.5, 1),
        "brightness": (0.15, 0.75, 1.25),
        "contrast": (0.15, 0.75, 1.25),
        "zoom": (0.125, 0.5, 1),
        "gamma": (0.3, 0.7, 1.5),
        "inverted_gamma": (0.1, 0.7, 1.5),
    }
    for name, (share, low, high) in expected.items():
        values = getattr(drawn, name).reshape(20_000, -1)
        assert np.mean(~np.isnan(values)) == pytest.approx(share, abs=0.015), name
        assert (np.isnan(values).all(1) | ~np.isnan(values).any(1)).all(), name  # all axes or none
        assert (np.nanmin(values), np.nanmax(values)) == pytest.approx((low, high), abs=0.01), name
        assert low <= np.nanmin(values) <= np.nanmax(values) <= high, name
    assert drawn.mirror.mean() == pytest.approx(0.5, abs=0.01)
    assert np.nanmean(drawn.gamma < 1) == pytest.approx(0.3 * 0.5, abs=0.01)  # darker as often as brighter


def test_how_far_a_patch_is_turned() -> None:
    assert largest_degrees((96, 128, 160), in_plane=False) == 30
    assert largest_degrees((16, 128, 160), in_plane=True) == 180
    assert largest_degrees((160, 120), in_plane=False) == 180
    assert largest_degrees((160, 100), in_plane=False) == 15


def test_mirroring_by_hand() -> None:
    images, labels = scene(8, 6, batch=4)
    mirror = np.array([[False, False], [True, False], [False, True], [True, True]])
    changed, moved = apply(images, labels, nothing(4, 2)._replace(mirror=mirror), (1.0, 1.0))
    for index, axes in enumerate([(), (0,), (1,), (0, 1)]):
        np.testing.assert_array_equal(changed[index, 0], np.flip(images[index, 0].numpy(), axes))
        np.testing.assert_array_equal(moved[index], np.flip(labels[index].numpy(), axes))


def test_a_centred_square_twice_as_large() -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.int16)
    labels[:, 6:10, 6:10] = 1
    scale = np.array([2.0, np.nan])
    changed, moved = apply(labels[:, None].float(), labels, nothing(2, 2)._replace(scale=scale), (1.0, 3.0))
    expected = torch.zeros(16, 16, dtype=torch.int16)
    expected[4:12, 4:12] = 1
    assert torch.equal(moved[0], expected)
    assert torch.equal(moved[1], labels[1])
    assert torch.equal(changed[0, 0] > 0.5, expected > 0)


def test_what_comes_from_outside_is_invalid() -> None:
    labels = torch.ones(1, 16, 16, dtype=torch.int16)
    changed, moved = apply(
        torch.full((1, 1, 16, 16), 3.0), labels, nothing(1, 2)._replace(scale=np.array([0.5])), (1.0, 1.0)
    )
    expected = torch.full((16, 16), -1, dtype=torch.int16)
    expected[4:12, 4:12] = 1
    assert torch.equal(moved[0], expected)
    assert changed.eq(3).all()  # the border goes on


def test_a_quarter_turn_is_exact() -> None:
    images, labels = scene(16, 16, batch=1)
    turns = np.array([[0.5]])  # of 180 degrees
    changed, moved = apply(images, labels, nothing(1, 2)._replace(turns=turns), (1.0, 1.0))
    quarters = [k for k in (1, 3) if torch.equal(moved[0], torch.rot90(labels[0], k))]
    assert len(quarters) == 1
    torch.testing.assert_close(changed[0, 0], torch.rot90(images[0, 0], quarters[0]), atol=1e-4, rtol=0)


def test_rotation_and_scale_against_a_slow_reference() -> None:
    """In millimetres about the centre: the value at p comes from R p / scale."""
    images, labels = scene(25, 17, batch=1, seed=3)
    spacing, degrees, scale = np.array([1.0, 1.6]), 25.0, 1.2
    drawn = nothing(1, 2)._replace(turns=np.array([[degrees / 180]]), scale=np.array([scale]))
    changed, moved = apply(images, labels, drawn, tuple(spacing))
    turn = np.deg2rad(degrees)
    centre = np.array([12.0, 8.0])
    sources = []
    for voxel in np.ndindex(25, 17):
        y, x = (np.array(voxel) - centre) * spacing
        from_y, from_x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
        sources.append(np.array([from_y, from_x]) / scale / spacing + centre)
    expected = ndimage.map_coordinates(images[0, 0].numpy(), np.array(sources).T, order=1, mode="nearest")
    np.testing.assert_allclose(changed[0, 0].numpy().ravel(), expected, atol=1e-4)
    share = ndimage.map_coordinates(labels[0].numpy().astype(float), np.array(sources).T, order=1, mode="nearest")
    outside = (np.abs(np.array(sources) - centre) > [12.5, 8.5]).any(1)
    expected_label = np.where(outside, -1, share > 0.5)
    clear = np.abs(share - 0.5) > 1e-4
    assert (moved[0].numpy().ravel() == expected_label)[clear].all()


@pytest.mark.parametrize(("size", "spacing"), [((48, 40), (1.0, 1.3)), ((30, 44, 40), (1.5, 1.0, 1.0))])
def test_image_and_label_move_together(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    images, labels = scene(*size, batch=4)
    planes = 1 if len(size) == 2 else 3
    rng = np.random.default_rng(1)
    drawn = nothing(4, len(size))._replace(
        turns=rng.uniform(-1, 1, (4, planes)),
        scale=rng.uniform(0.7, 1.4, 4),
        mirror=rng.random((4, len(size))) < 0.5,
    )
    changed, moved = apply(images, labels, drawn, spacing)
    for index in range(4):
        inside = moved[index] >= 0
        assert dice((changed[index, 0] > 0.5) & inside, moved[index] == 1) > 0.95  # of a label on whole voxels
        assert dice(moved[index] == 1, labels[index] == 1) < 0.9  # it did move


def test_thick_slices_are_not_mixed() -> None:
    """Each slice of an anisotropic patch is turned and blurred by pixels in its own plane."""
    images = torch.arange(1.0, 7.0).reshape(1, 1, 6, 1, 1).expand(1, 1, 6, 16, 16).contiguous()
    labels = images[:, 0].to(torch.int16)
    drawn = nothing(1, 3)._replace(turns=np.array([[0.2, 0.7, 0.3]]), zoom=np.array([0.5]))
    changed, moved = apply(images, labels, drawn, (5.0, 1.0, 1.0))
    torch.testing.assert_close(changed, images)
    assert all(set(moved[0, z].unique().tolist()) <= {-1, z + 1} for z in range(6))
    mixed, _ = apply(images, labels, drawn, (1.0, 1.0, 1.0))
    assert not torch.allclose(mixed, images, atol=0.1)


def test_gamma_keeps_mean_and_deviation() -> None:
    images, labels = scene(16, 16)
    images = 40 * images - 13
    gamma = np.array([0.7, 1.5])
    for name in ("gamma", "inverted_gamma"):
        changed, _ = apply(images, labels, nothing(2, 2)._replace(**{name: gamma}), (1.0, 1.0))
        torch.testing.assert_close(changed.mean((1, 2, 3)), images.mean((1, 2, 3)), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(changed.std((1, 2, 3)), images.std((1, 2, 3)), rtol=1e-3, atol=1e-3)
        assert (changed - images).abs().amax((1, 2, 3)).gt(1).all()
        order = images[0].flatten().argsort()
        assert changed[0].flatten()[order].diff().min() > -1e-3  # a power law keeps the order


def test_brightness_contrast_blur_and_noise() -> None:
    images, labels = scene(32, 32, batch=1)
    one = (1.0, 1.0)
    changed, _ = apply(images, labels, nothing(1, 2)._replace(brightness=np.array([1.25])), one)
    torch.testing.assert_close(changed, 1.25 * images)
    changed, _ = apply(images, labels, nothing(1, 2)._replace(contrast=np.array([0.75])), one)
    torch.testing.assert_close(changed, (images - images.mean()) * 0.75 + images.mean())
    changed, _ = apply(images, labels, nothing(1, 2)._replace(contrast=np.array([1.25])), one)
    assert (changed.min(), changed.max()) == (images.min(), images.max())
    changed, _ = apply(images, labels, nothing(1, 2)._replace(blur_sigma=np.array([[1.0, 0.6]])), one)
    expected = ndimage.gaussian_filter(images[0, 0].numpy(), (1.0, 0.6), mode="nearest", radius=3)
    np.testing.assert_allclose(changed[0, 0], expected, atol=1e-5)
    changed, moved = apply(images, labels, nothing(1, 2)._replace(noise_std=np.array([0.2])), one)
    assert (changed - images).std().item() == pytest.approx(0.2, rel=0.1)
    assert torch.equal(moved, labels)


def test_a_sample_with_its_surroundings_has_no_empty_corners() -> None:
    """Made from more than its patch, a turned sample is the same inside and holds the image, not its border."""
    images, labels = scene(40, 40, batch=1)
    patch, patch_label = images[:, :, 8:32, 10:34].clone(), labels[:, 8:32, 10:34].clone()
    drawn = nothing(1, 2)._replace(turns=np.array([[0.25]]), scale=np.array([1.1]))
    alone, alone_label = apply(patch, patch_label, drawn, (1.0, 1.0))
    source = Source(0, images[0, 0], labels[0], (0, 1), (0.0, 2.0))
    wide, wide_label = apply(torch.zeros_like(patch), patch_label, drawn, (1.0, 1.0), [source])
    inside = alone_label != -1
    assert 0.1 < (~inside).float().mean() < 0.4
    assert not wide_label.eq(-1).any()
    assert torch.equal(wide_label[inside], alone_label[inside])
    well_inside = F.max_pool2d((~inside).float(), 3, stride=1, padding=1) == 0
    torch.testing.assert_close(wide[:, 0][well_inside], alone[:, 0][well_inside])


def test_several_labels_move_as_each_alone() -> None:
    images, labels = scene(30, 30, batch=1)
    labels[0, :18, 15:] += 2
    labels[0, 18:] += 4  # 0 and 1, 2 and 3, 4 and 5
    drawn = nothing(1, 2)._replace(turns=np.array([[0.1]]))
    _, moved = apply(images, labels, drawn, (1.0, 1.0))
    for value in labels.unique().tolist():
        _, alone = apply(images, (labels == value).short(), drawn, (1.0, 1.0))
        assert dice(alone == 1, moved == value) > 0.95, value  # where three meet, alone none may exceed a half


def test_maps_are_in_voxels() -> None:
    drawn = nothing(2, 3)._replace(scale=np.array([np.nan, 2.0]))
    assert affine_maps(drawn, (8, 8, 8), (1.0, 1.0, 1.0))[0] is None
    for spacing, expected in (((1.0, 1.0, 1.0), [0.5, 0.5, 0.5]), ((5.0, 1.0, 1.0), [1.0, 0.5, 0.5])):
        (_, matrix) = affine_maps(drawn, (8, 8, 8), spacing)
        np.testing.assert_allclose(matrix, np.diag(expected))
    quarter = nothing(1, 2)._replace(turns=np.array([[0.5]]))
    (matrix,) = affine_maps(quarter, (8, 8), (1.0, 2.0))
    np.testing.assert_allclose(matrix, [[0, -2], [0.5, 0]], atol=1e-12)


@pytest.mark.parametrize("size", [(16, 20), (6, 8, 10)])
def test_nothing_waits_for_the_device(size: tuple[int, ...]) -> None:
    """Tensors of the meta device hold no values: whoever asked for one would fail."""
    drawn = draw(np.random.default_rng(0), 32, len(size))._replace(noise_std=np.full(32, np.nan))
    for name in ("turns", "scale", "blur_sigma", "brightness", "contrast", "zoom", "gamma", "inverted_gamma"):
        assert not np.isnan(getattr(drawn, name)).all(), name
    images = torch.zeros(32, 1, *size, device="meta")
    labels = torch.zeros(32, *size, dtype=torch.int16, device="meta")
    sources = [Source(sample, images[0, 0], labels[0], (0, 2), (0.0,) * len(size)) for sample in range(32)]
    changed, moved = apply(images, labels, drawn, (1.0,) * len(size), sources)
    assert changed.shape == images.shape
    assert moved.dtype == torch.int16


def test_whole_pictures_stay_upright() -> None:
    drawn = draw(np.random.default_rng(0), 200, 2)
    kept = upright(drawn)
    assert not kept.mirror[:, 0].any()
    assert kept.mirror[:, 1].any()
    np.testing.assert_array_equal(kept.mirror[:, 1], drawn.mirror[:, 1])
    matrices = [matrix for matrix in affine_maps(kept, (64, 64), (1.0, 1.0)) if matrix is not None]
    angles = [abs(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))) for matrix in matrices]
    assert 10 < max(angles) <= 15
    np.testing.assert_array_equal(kept.scale, drawn.scale)
