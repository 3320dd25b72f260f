"""batchgeneratorsv2 as what trains, and as the oracle of the built-in augmentation."""

import math

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp

from mdkd_auto.batches import augmentation
from mdkd_auto.batches.augmentation import Draw, Source, draw
from mdkd_auto.batches.library_augmentation import LibraryTransforms, _blur_sigma, _grey_values, _seeded, _spatial

DRAWS = 2500
LEAST_P = 1e-3  # seeds are fixed: the tests pass or fail for good


def smooth(*size: int, seed: int = 0) -> torch.Tensor:
    values = gaussian_filter(np.random.default_rng(seed).normal(size=size), 2)
    return torch.tensor(values / values.std(), dtype=torch.float32)


def nothing(dimensions: int) -> Draw:
    """A draw of one sample that applies no transform."""
    absent = np.full(1, np.nan)
    return Draw(
        turns=np.full((1, 1 if dimensions == 2 else 3), np.nan),
        scale=absent,
        mirror=np.zeros((1, dimensions), dtype=bool),
        noise_std=absent,
        blur_sigma=np.full((1, dimensions), np.nan),
        brightness=absent,
        contrast=absent,
        zoom=absent,
        gamma=absent,
        inverted_gamma=absent,
        noise_seed=0,
    )


def built_in(image: torch.Tensor, **values: float | np.ndarray) -> torch.Tensor:
    """The image (*S) changed by the built-in transforms with the values given."""
    drawn = nothing(image.ndim)._replace(**{name: np.full((1,), value) for name, value in values.items()})
    if "blur_sigma" in values:
        drawn = drawn._replace(blur_sigma=np.full((1, image.ndim), values["blur_sigma"]))
    label = torch.zeros((1, *image.shape), dtype=torch.int16)
    return augmentation.apply(image[None, None], label, drawn, (1.0,) * image.ndim)[0][0, 0]


# --- the built-in transforms give what the library's give ---------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 30), (12, 16, 14)])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (MultiplicativeBrightnessTransform(1.2, False), {"brightness": 1.2}),
        (ContrastTransform(0.8, True, False), {"contrast": 0.8}),
        (ContrastTransform(1.25, True, False), {"contrast": 1.25}),
        (SimulateLowResolutionTransform(0.6, False, True, None), {"zoom": 0.6}),
        (GammaTransform(1.4, 0, False, 1, 1), {"gamma": 1.4}),
        (GammaTransform(0.7, 1, False, 1, 1), {"inverted_gamma": 0.7}),
    ],
)
def test_grey_values_change_alike(size: tuple[int, ...], theirs: object, ours: dict[str, float]) -> None:
    image = smooth(*size)
    expected = theirs(image=image[None].clone())["image"][0]  # type: ignore[operator]
    torch.testing.assert_close(built_in(image, **ours), expected, rtol=1e-4, atol=1e-4)


def test_blur_is_alike_but_for_the_borders_and_the_kernels_ends() -> None:
    """The library's kernel reaches 6 sigma and reflects at borders; ours reaches 3 voxels and repeats them."""
    image = smooth(30, 32, 28)
    expected = GaussianBlurTransform(0.8)(image=image[None].clone())["image"][0]
    inside = (slice(6, -6),) * 3
    torch.testing.assert_close(built_in(image, blur_sigma=0.8)[inside], expected[inside], rtol=0, atol=5e-3)


@pytest.mark.parametrize("size", [(40, 40), (20, 24, 22)])
def test_turned_and_scaled_patches_are_alike(size: tuple[int, ...]) -> None:
    """The same matrix: images equal up to rounding, labels but where two weigh the same."""
    transforms = LibraryTransforms(size, (1.0,) * len(size), False)
    image = smooth(*(2 * count for count in size))
    label = (image > 0.5).to(torch.int16) + 2 * (image < -0.5).to(torch.int16)
    source = Source(0, image, label, (0, 1, 2), (0.5,) * len(size))
    seen = 0
    for seed in range(40):
        matrix = transforms.matrix((seed,))
        if matrix is None:
            continue
        seen += 1
        theirs, their_label = transforms._turned(source, (seed,))
        ours, our_label = augmentation._moved(source, matrix, size)
        torch.testing.assert_close(theirs[0], ours, rtol=0, atol=1e-4)
        assert (their_label == our_label).float().mean() > 0.995
    assert seen > 5


# --- and they draw from the same distributions ---------------------------------------------------------------------


def drawn_by_the_library(size: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Scale (DRAWS,) and angle in degrees (of the last rotation plane), NaN where not applied."""
    transforms, rows = LibraryTransforms(size, spacing, False), []
    for seed in range(DRAWS):
        matrix = transforms.matrix((seed,))
        if matrix is None:
            rows.append((math.nan, math.nan))
            continue
        scale = np.linalg.norm(matrix[:, -1])
        turned = not np.allclose(matrix / scale, np.eye(len(size)))
        plane = matrix[-2:, -2:] / scale
        angle = math.degrees(math.atan2(plane[1, 0], plane[0, 0])) if turned else math.nan
        rows.append((1 / scale if abs(scale - 1) > 1e-9 else math.nan, angle))
    return np.array(rows).T


@pytest.mark.parametrize(("size", "largest"), [((40, 40), 180.0), ((60, 24), 15.0)])
def test_turns_and_scales_are_distributed_alike(size: tuple[int, ...], largest: float) -> None:
    scale, angle = drawn_by_the_library(size, (1.0, 1.0))
    ours = draw(np.random.default_rng(1), DRAWS, 2)
    for theirs, mine in ((scale, ours.scale), (angle, ours.turns[:, 0] * largest)):
        assert abs(np.isnan(theirs).mean() - np.isnan(mine).mean()) < 0.03
        assert ks_2samp(theirs[~np.isnan(theirs)], mine[~np.isnan(mine)]).pvalue > LEAST_P
    assert np.nanmax(np.abs(angle)) <= largest


def test_grey_values_are_drawn_alike() -> None:
    """How often each transform is applied, and the values of those that one number says."""
    image, ours = torch.zeros((1, 9, 9)), draw(np.random.default_rng(2), DRAWS, 2)
    fields = ("noise_std", "blur_sigma", "brightness", "contrast", "zoom", "inverted_gamma", "gamma")
    drawn: dict[str, list[float]] = {field: [] for field in fields}
    names = {"zoom": "scales", "brightness": "multipliers", "contrast": "multipliers", "noise_std": "sigmas"}
    for seed in range(DRAWS):
        with _seeded((seed,), 1):
            for field, transform in zip(fields, _grey_values(False), strict=True):
                applied = transform.get_parameters()["apply_transform"]  # type: ignore[attr-defined]
                parameters = transform.transform.get_parameters(image=image) if applied else {}  # type: ignore[attr-defined]
                value = parameters.get(names.get(field, "sigmas" if field == "blur_sigma" else "gamma"))
                drawn[field].append(float(np.ravel(value)[0]) if value is not None else math.nan)
    for field in fields:
        theirs, mine = np.array(drawn[field]), getattr(ours, field).reshape(DRAWS, -1)[:, 0]
        assert abs(np.isnan(theirs).mean() - np.isnan(mine).mean()) < 0.03, field
        assert ks_2samp(theirs[~np.isnan(theirs)], mine[~np.isnan(mine)]).pvalue > LEAST_P, field


# --- training with them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "spacing"), [((24, 20), (1.0, 2.0)), ((6, 12, 16), (5.0, 1.0, 1.0)), ((10, 12, 14), (1.0, 1.0, 1.0))]
)
def test_whatever_is_drawn(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    """Shapes, types and labels; the same for the same seed; global generators are left alone."""
    transforms = LibraryTransforms(size, spacing, False)
    image, label = smooth(*size), (smooth(*size, seed=1) > 0).to(torch.int16) * 7
    source = Source(0, image, label, (0, 7), (0.0,) * len(size))
    before = image.clone()
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = np.random.random(), torch.rand(1).item()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    mirrored = 0
    for seed in range(60):
        used = source if transforms.matrix((seed, 0)) is not None else None
        made, moved, mirror = transforms.apply(image[None], label, used, (seed, 0))
        assert made.shape == (1, *size)
        assert made.dtype == torch.float32
        assert made.isfinite().all()
        assert moved.dtype == torch.int16
        assert set(moved.unique().tolist()) <= {-1, 0, 7}
        again = transforms.apply(image[None], label, used, (seed, 0))
        assert torch.equal(made, again[0])
        assert torch.equal(moved, again[1])
        mirrored += int(mirror[-1])
    assert torch.equal(image, before)
    assert 15 < mirrored < 45
    assert (np.random.random(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_thick_slices_turn_in_their_plane_alone() -> None:
    transforms = LibraryTransforms((6, 12, 16), (5.0, 1.0, 1.0), False)
    matrices = [matrix for seed in range(100) if (matrix := transforms.matrix((seed,))) is not None]
    assert len(matrices) > 20
    for matrix in matrices:
        assert matrix[0].tolist() == [1.0, 0.0, 0.0]
        assert matrix[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_whole_pictures_stay_upright() -> None:
    transforms = LibraryTransforms((20, 20), (1.0, 1.0), True)
    label = torch.zeros((20, 20), dtype=torch.int16)
    for seed in range(200):
        matrix = transforms.matrix((seed,))
        if matrix is not None:
            assert abs(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))) <= 15
        *_, mirror = transforms.apply(torch.zeros((1, 20, 20)), label, None, (seed,))
        assert not mirror[0]


def test_short_axes_are_not_blurred() -> None:
    """The library pads by reflection, which is no longer than the axis."""
    assert _blur_sigma((1, 6, 30, 30), dim=1) < 0.01
    assert 0.5 <= _blur_sigma((1, 6, 30, 30), dim=2) <= 1
    image = smooth(4, 30, 30)[None]
    blurred = GaussianBlurTransform(_blur_sigma)(image=image.clone())["image"]
    assert not torch.equal(blurred, image)


def test_the_spatial_draw_does_not_depend_on_the_patch() -> None:
    """It is drawn once to know what to read, and once more to turn it."""
    found = []
    for patch in ((1, 1), (30, 40)):
        transform = _spatial(patch, 180.0)
        with _seeded((5,), 0):
            draws = [transform.get_parameters(image=torch.empty((1, *patch)))["affine"] for _ in range(20)]
        found.append([None if matrix is None else matrix.tolist() for matrix in draws])
    assert found[0] == found[1]
    assert any(found[0])
