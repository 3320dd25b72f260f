import numpy as np
import pytest
import surface_distance as deepmind
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_surface_dice
from scipy.ndimage import gaussian_filter
from surface_distance import lookup_tables

from mdkd_auto.metrics.surface import surface_scores
from mdkd_auto.metrics.surfels import surfel_sizes

pytestmark = [  # the libraries' own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (2.5, 0.9, 1.3), (0.4, 0.4, 3.0)]


def blobs(seed, shape, share=0.3, sigma=1.0):
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return noise > np.quantile(noise, 1 - share)


def assert_equals_deepmind(prediction, truth, spacing_mm, tolerance_mm):
    scores = surface_scores(prediction, truth, spacing_mm, tolerance_mm)
    distances = deepmind.compute_surface_distances(truth, prediction, spacing_mm)
    assert scores.hd95 == pytest.approx(deepmind.compute_robust_hausdorff(distances, 95), abs=1e-12)
    oracle = deepmind.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    assert scores.surface_dice == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_surfel_tables_equal_deepmind(spacing_mm):
    def reverse(case, bits):  # the library counts corners from the highest bit
        return int(f"{case:0{bits}b}"[::-1], 2)

    areas = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    np.testing.assert_allclose(surfel_sizes(spacing_mm), areas[[reverse(case, 8) for case in range(256)]])
    lengths = lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm[1:])
    np.testing.assert_allclose(surfel_sizes(spacing_mm[1:]), lengths[[reverse(case, 4) for case in range(16)]])


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
def test_random_volumes_equal_deepmind(spacing_mm, sigma):
    for seed in range(3):
        prediction, truth = blobs(seed, (9, 14, 11), 0.2, sigma), blobs(seed + 100, (9, 14, 11), 0.35, sigma)
        for tolerance_mm in (0.0, 1.0, 2.0):
            assert_equals_deepmind(prediction, truth, spacing_mm, tolerance_mm)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_random_images_equal_deepmind(spacing_mm, sigma):
    for seed in range(5):
        prediction, truth = blobs(seed, (31, 24), 0.2, sigma), blobs(seed + 100, (31, 24), 0.3, sigma)
        assert_equals_deepmind(prediction, truth, spacing_mm[1:], 2.0)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_edge_cases_equal_deepmind(shape):
    spacing_mm = (2.0, 1.5, 0.5)[: len(shape)]
    full = np.ones(shape, bool)
    corner, other, inner = np.zeros((3, *shape), bool)
    corner.flat[0] = other.flat[-1] = True
    inner[(slice(1, 3),) * len(shape)] = True
    cases = [full, corner, other, inner, corner | other, full & ~inner]
    for prediction in cases:
        for truth in cases:
            assert_equals_deepmind(prediction, truth, spacing_mm, 1.0)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("shape", [(16, 18), (8, 10, 9)])
def test_surface_dice_equals_monai(spacing_mm, shape):
    spacing_mm = spacing_mm[-len(shape) :]
    prediction, truth = blobs(1, shape), blobs(2, shape)
    batch = [torch.from_numpy(mask[None, None]) for mask in (prediction, truth)]
    monai = compute_surface_dice(*batch, [1.0], include_background=True, spacing=spacing_mm, use_subvoxels=True)
    assert surface_scores(prediction, truth, spacing_mm, 1.0).surface_dice == pytest.approx(monai.item(), abs=1e-5)


def test_hand_worked_pixels():
    """Two pixels, three apart: each has four corners, two of them 2 and two 3 from the nearest of the other."""
    prediction, truth = np.zeros((2, 3, 8), bool)
    prediction[1, 2] = truth[1, 5] = True
    assert surface_scores(prediction, truth, (1.0, 1.0), 2.0).surface_dice == pytest.approx(0.5)
    assert surface_scores(prediction, truth, (1.0, 1.0), 1.9).surface_dice == 0
    assert surface_scores(prediction, truth, (1.0, 1.0)).hd95 == 3
    assert surface_scores(prediction, truth, (1.0, 0.5)).hd95 == 1.5


def test_hand_worked_surfels():
    sizes = surfel_sizes((1.0, 1.0, 1.0))
    assert sizes[1] == pytest.approx(np.sqrt(3) / 8)  # a corner cut off: triangle with three sides of sqrt(1/2)
    assert sizes[0b1111] == pytest.approx(1)  # a flat face
    assert sizes[0] == sizes[255] == 0


def test_flat_volume_counts_as_image():
    prediction, truth = blobs(3, (12, 15)), blobs(4, (12, 15))
    flat = surface_scores(prediction[None], truth[None], (7.0, 0.8, 0.6))
    assert flat == surface_scores(prediction, truth, (0.8, 0.6))


def test_empty_masks():
    empty, full = np.zeros((3, 4, 12), bool), np.ones((3, 4, 12), bool)
    nothing = surface_scores(empty, empty, (1.0, 1.0, 1.0))
    assert (nothing.hd95, nothing.surface_dice) == (None, None)
    for prediction, truth in ((empty, full), (full, empty)):
        scores = surface_scores(prediction, truth, (2.0, 1.0, 1.0))
        assert scores.hd95 == pytest.approx(np.sqrt(6**2 + 4**2 + 12**2))  # the diagonal: 14 mm
        assert scores.surface_dice == 0
    assert surface_scores(empty[:1], full[:1], (9.0, 3.0, 1.0)).hd95 == pytest.approx(np.sqrt(12**2 + 12**2))


@pytest.mark.parametrize("spacing_mm", [0.4, float(np.float32(0.4))])  # as stated, and as a NIfTI holds it
def test_distance_of_exactly_the_tolerance_is_near(spacing_mm):
    prediction, truth = np.zeros((2, 4, 12), bool)
    prediction[:, :3] = truth[:, :8] = True
    assert surface_scores(prediction, truth, (spacing_mm,) * 2, 2.0).surface_dice == pytest.approx(1)
    assert surface_scores(prediction, truth, (spacing_mm,) * 2, 1.999).surface_dice < 0.9


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (3, 4, 4)), arrays(bool, (3, 4, 4)))
def test_symmetry_and_bounds(a, b):
    spacing_mm = (2.0, 1.0, 0.5)
    forth, back = surface_scores(a, b, spacing_mm, 1.0), surface_scores(b, a, spacing_mm, 1.0)
    assert forth.hd95 == back.hd95
    assert forth.surface_dice == pytest.approx(back.surface_dice)
    if forth.surface_dice is not None:
        assert 0 <= forth.surface_dice <= 1 + 1e-12
        assert 0 <= forth.hd95 <= np.sqrt(6**2 + 4**2 + 2**2)
        wider = surface_scores(a, b, spacing_mm, 2.0)
        assert wider.surface_dice >= forth.surface_dice
    if a.any():
        same = surface_scores(a, a, spacing_mm, 0.0)
        assert (same.hd95, same.surface_dice) == (0, pytest.approx(1))


def test_unfit_input():
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
        surface_scores(mask, mask.T, (1.0, 1.0))
    with pytest.raises(ValueError, match="2 positive spacings"):
        surface_scores(mask, mask, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="2 positive spacings"):
        surface_scores(mask, mask, (1.0, 0.0))
    with pytest.raises(ValueError, match="tolerance"):
        surface_scores(mask, mask, (1.0, 1.0), -1.0)
