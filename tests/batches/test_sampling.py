from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mdkd_auto.batches.augmentation import affine_maps, apply, draw
from mdkd_auto.batches.sampling import INVALID, Batch, PatchSampler
from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.records import CaseGeometry, IntTriple, PreprocessedCase
from mdkd_auto.preprocessing.case_store import save_case
from mdkd_auto.preprocessing.lesions import sample_lesions


def store(folder: Path, case_id: str, image: np.ndarray, label: np.ndarray, flat: bool = True) -> None:
    """Store image and label (z, y, x) as preprocessing would."""
    shape: IntTriple = image.shape
    geometry = CaseGeometry(
        original_shape=shape,
        transpose=(0, 1, 2),
        crop=((0, shape[0]), (0, shape[1]), (0, shape[2])),
        spacing_mm=(1.0, 1.0, 1.0),
        resampled_shape=shape,
        resampled_spacing_mm=(1.0, 1.0, 1.0),
    )
    record = PreprocessedCase(
        case_id=case_id, key="", plan_key="", geometry=geometry, shape=shape, lesions=sample_lesions(label)
    )
    save_case(folder, record, image[None].astype(np.float32), label.astype(np.int8), flat)


def positions(shape: IntTriple) -> np.ndarray:
    """An image whose every voxel says where it lies: its raster index."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Case a without a lesion; case b with one of 900 voxels and one of a single voxel, in slices 1 and 3."""
    label = np.zeros((5, 64, 64), dtype=np.int8)
    store(tmp_path, "a", positions((2, 64, 64)), np.zeros((2, 64, 64), dtype=np.int8))
    label[1, 10:40, 10:40] = 1
    label[3, 55, 50] = 2
    store(tmp_path, "b", positions((5, 64, 64)), label)
    return tmp_path


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.labels, second.labels)
        and first.cases == second.cases
    )


def test_a_batch_is_a_function_of_seed_and_iteration(folder: Path) -> None:
    sampler = PatchSampler(folder, ("a", "b"), (16, 16), 0.33, seed=5)
    expected = [sampler.batch(iteration, 3) for iteration in range(8)]
    other = PatchSampler(folder, ("b", "a"), (16, 16), 0.33, seed=5)  # the order of the cases does not matter
    assert all(equal(other.batch(i, 3), expected[i]) for i in (6, 2, 2, 0))
    read_ahead = list(PatchSampler(folder, ("a", "b"), (16, 16), 0.33, seed=5).batches(3, 8, 3))
    assert len(read_ahead) == 5
    assert all(map(equal, read_ahead, expected[3:]))
    assert not equal(expected[0], expected[1])
    assert not equal(PatchSampler(folder, ("a", "b"), (16, 16), 0.33, seed=6).batch(0, 3), expected[0])


def test_reading_ahead_can_be_left_at_any_time(folder: Path) -> None:
    sampler = PatchSampler(folder, ("a", "b"), (16, 16), 0.33, seed=0)
    stream = sampler.batches(0, 1000, 2)
    assert equal(next(stream), sampler.batch(0, 2))
    stream.close()  # type: ignore[attr-defined]
    assert list(sampler.batches(4, 4, 2)) == []


@pytest.mark.parametrize(("fraction", "size", "lesions"), [(0.33, 9, 3), (0.33, 2, 1), (0.5, 4, 2), (1.0, 1, 1)])
def test_a_fixed_share_of_the_batch_shows_a_lesion(folder: Path, fraction: float, size: int, lesions: int) -> None:
    sampler = PatchSampler(folder, ("a", "b"), (8, 8), fraction, seed=0)
    for iteration in range(20):
        batch = sampler.batch(iteration, size)
        assert all(patch.gt(0).any() for patch in batch.labels[size - lesions :])
        assert set(batch.cases[size - lesions :]) == {"b"}


def test_a_batch_of_one_shows_a_lesion_as_often_as_the_share_says(folder: Path) -> None:
    sampler = PatchSampler(folder, ("a", "b"), (8, 8), 0.33, seed=0)
    aimed = [sampler.batch(iteration, 1) for iteration in range(200)]
    other = PatchSampler(folder, ("a", "b"), (8, 8), 0.0, seed=0)
    chance = np.mean([other.batch(iteration, 1).labels.gt(0).any().item() for iteration in range(200)])
    assert 0.33 + 0.67 * chance == pytest.approx(np.mean([batch.labels.gt(0).any().item() for batch in aimed]), abs=0.1)


def test_no_lesion_is_sought_at_a_fraction_of_zero_or_where_there_is_none(folder: Path) -> None:
    blind = PatchSampler(folder, ("a", "b"), (8, 8), 0.0, seed=0)
    shown = np.mean([blind.batch(i, 8).labels.gt(0).flatten(1).any(1).float().mean().item() for i in range(60)])
    assert shown < 0.25
    assert set(PatchSampler(folder, ("a",), (8, 8), 1.0, seed=0).batch(0, 4).cases) == {"a"}


def test_lesions_not_voxels_are_equally_likely(folder: Path) -> None:
    sampler = PatchSampler(folder, ("b",), (8, 8), 1.0, seed=1)
    drawn: Counter[int] = Counter()
    for iteration in range(40):
        drawn.update(int(patch.max()) for patch in sampler.batch(iteration, 10).labels)
    assert drawn[1] + drawn[2] == 400
    assert abs(drawn[2] - 200) < 50  # five standard deviations of a fair coin; by voxels it would be drawn never


@pytest.mark.parametrize(("patch", "shape"), [((8, 12), (4, 1, 8, 12)), ((4, 8, 12), (4, 1, 4, 8, 12))])
def test_shapes_types_and_place(folder: Path, patch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    batch = PatchSampler(folder, ("b",), patch, 0.5, seed=0).batch(0, 4)
    assert batch.images.shape == shape
    assert batch.labels.shape == (4, *patch)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == torch.int16
    whole = positions((5, 64, 64))
    label = np.zeros((5, 64, 64))
    label[1, 10:40, 10:40], label[3, 55, 50] = 1, 2
    for image, mask in zip(batch.images, batch.labels, strict=True):
        z, y, x = np.unravel_index(int(image.min()), whole.shape)
        box = (slice(z, z + (patch[0] if len(patch) == 3 else 1)), slice(y, y + patch[-2]), slice(x, x + patch[-1]))
        np.testing.assert_array_equal(image[0].numpy(), whole[box].reshape(patch))
        np.testing.assert_array_equal(mask.numpy(), label[box].reshape(patch))


def test_patches_reach_the_border_and_never_pass_it(folder: Path) -> None:
    sampler = PatchSampler(folder, ("b",), (16, 16), 0.33, seed=0)
    corners = set()
    for iteration in range(60):
        batch = sampler.batch(iteration, 8)
        assert not batch.labels.eq(INVALID).any()
        corners |= {np.unravel_index(int(image.min()), (5, 64, 64)) for image in batch.images}
    assert {corner[0] for corner in corners} == set(range(5))
    assert {corner[1] for corner in corners} >= {0, 48}
    assert max(corner[1] for corner in corners) == max(corner[2] for corner in corners) == 48


@pytest.mark.parametrize("patch", [(16, 20), (3, 16, 20)])
def test_a_turned_sample_comes_from_around_its_patch(folder: Path, patch: tuple[int, ...]) -> None:
    """Values that rise linearly with the place stay so: each must be the value of the place it comes from."""
    sampler = PatchSampler(folder, ("b",), patch, 0.33, seed=0)
    nothing, is_2d = np.full(6, np.nan), len(patch) == 2
    drawn = draw(np.random.default_rng(0), 6, len(patch))._replace(
        turns=np.random.default_rng(1).uniform(-1, 1, (6, 1 if is_2d else 3)),
        mirror=np.zeros((6, 3), bool),
        scale=np.array([0.8, 1.0, 1.2, 1.4, np.nan, 0.9]),
        brightness=nothing,
        contrast=nothing,
        zoom=nothing,
        noise_std=nothing,
        blur_sigma=nothing,
        gamma=nothing,
        inverted_gamma=nothing,
    )
    drawn.turns[4] = np.nan  # stays where it is
    spacing = (1.0, 1.3) if is_2d else (5.0, 1.0, 1.3)
    maps = affine_maps(drawn, patch, spacing)
    places = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij"), axis=-1)
    for iteration in range(4):
        still, batch = sampler.batch(iteration, 6), sampler.batch(iteration, 6, maps)
        assert batch.cases == still.cases
        assert [source.sample for source in batch.sources] == [0, 1, 2, 3, 5]
        images, labels = apply(batch.images, batch.labels, drawn, spacing, batch.sources)
        for image, label, before, matrix in zip(images[:, 0], labels, still.images[:, 0], maps, strict=True):
            corner = np.array(np.unravel_index(int(before.min()), (5, 64, 64)))
            moves = np.eye(len(patch)) if matrix is None else matrix
            source = corner[-len(patch) :] + (np.array(patch) - 1) / 2 + places @ moves.T
            limit = np.array([4, 63, 63])[-len(patch) :]
            np.testing.assert_array_equal(label == INVALID, ((source < -0.5) | (source > limit + 0.5)).any(-1))
            inside = ((source >= 0) & (source <= limit)).all(-1)
            expected = source @ np.array([64 * 64, 64, 1.0])[-len(patch) :] + (corner[0] * 64 * 64 if is_2d else 0)
            np.testing.assert_allclose(image.numpy()[inside], expected[inside], atol=0.05)


@pytest.mark.parametrize("patch", [(8, 8), (4, 8, 8)])
def test_an_image_smaller_than_the_patch_is_centred(tmp_path: Path, patch: tuple[int, ...]) -> None:
    image, label = positions((2, 3, 20)) + 7, np.ones((2, 3, 20), dtype=np.int8)
    store(tmp_path, "small", image, label, flat=False)
    batch = PatchSampler(tmp_path, ("small",), patch, 0.5, seed=0).batch(0, 2)
    for patch_image, patch_label in zip(batch.images[:, 0], batch.labels, strict=True):
        inside = patch_label != INVALID
        assert patch_label[inside].eq(1).all()
        rows = torch.nonzero(inside.reshape(-1, *patch[-2:]).any(0).any(1)).flatten().tolist()
        assert rows == [2, 3, 4]  # two above, three below
        assert inside.reshape(-1, 8).any(0).all()  # its 20 columns are enough
        assert patch_image[~inside].eq(patch_image[inside].min()).all()
        if len(patch) == 3:
            assert torch.nonzero(inside.any(2).any(1)).flatten().tolist() == [1, 2]
            assert patch_image[inside].numel() == 2 * 3 * 8


def test_no_case_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no preprocessed case.*mdkd_plan_and_preprocess"):
        PatchSampler(tmp_path, (), (8, 8), 0.33, seed=0)
