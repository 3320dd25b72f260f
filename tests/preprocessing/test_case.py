"""A case into network space and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdkd_auto.core.errors import ImageError, PlanError
from mdkd_auto.core.records import (
    CaseGeometry,
    ConfigurationPlan,
    DatasetPlan,
    IntTriple,
    Normalisation,
    Topology,
    Triple,
)
from mdkd_auto.preprocessing.case import preprocess_case, restore
from mdkd_auto.preprocessing.crop import box_shape, cropped
from mdkd_auto.preprocessing.lesions import sample_lesions
from mdkd_auto.preprocessing.normalise import air_value, normalise
from mdkd_auto.preprocessing.resample import Kind, coarse_axis, resample
from mdkd_auto.preprocessing.slabs import resample_slabs

TOPOLOGY = Topology(features=(8,), kernel_sizes=((3, 3, 3),), strides=((1, 1, 1),))


def dataset_plan(transpose: IntTriple = (0, 1, 2), assumed: Triple | None = None) -> DatasetPlan:
    return DatasetPlan(
        dataset="Dataset001_Toy",
        channel=0,
        channel_name="T1",
        transpose=transpose,
        assumed_spacing_mm=assumed,
        normalisation=Normalisation(scheme="zscore"),
    )


def configuration_plan(*spacing: float) -> ConfigurationPlan:
    return ConfigurationPlan(
        configuration="2d" if len(spacing) == 2 else "3d_fullres",
        datasets=("Dataset001_Toy",),
        spacing_mm=spacing,
        patch_size=(8,) * len(spacing),
        batch_size=2,
        topology=TOPOLOGY,
        reasons=(),
    )


def ellipsoid(shape: IntTriple, spacing: Triple, radius_mm: float) -> NDArray[np.int16]:
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return (sum(axis**2 for axis in grid) < radius_mm**2).astype(np.int16)


def dice(first: NDArray[np.int16], second: NDArray[np.int16]) -> float:
    return float(2 * np.sum((first > 0) & (second > 0)) / (np.sum(first > 0) + np.sum(second > 0)))


def back(mask: NDArray[np.int16], geometry: CaseGeometry, *cuts: int) -> NDArray[np.int16]:
    """A mask of network space where it came from, by its probabilities in slabs that end at ``cuts``."""
    probabilities = np.stack([mask == 0, mask == 1]).astype(np.float32)
    slabs = list(restore(np.split(probabilities, cuts, axis=1), geometry))
    inside = np.concatenate(slabs, axis=1)
    assert inside.shape[1:] == box_shape(geometry.crop)
    assert inside.dtype == np.float32
    assert np.allclose(inside.sum(axis=0), 1, atol=1e-4)
    result = np.zeros(geometry.original_shape, dtype=np.int16)
    cropped(result, geometry)[:] = inside.argmax(axis=0)
    return result


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.floats(0.8, 5.0), st.floats(0.7, 1.4), st.floats(0.7, 1.4)),
    st.floats(0.6, 1.1),
    st.permutations((0, 1, 2)),
    st.booleans(),
    st.integers(0, 100),
)
def test_a_mask_comes_back(spacing: Triple, factor: float, order: list[int], flat: bool, seed: int) -> None:
    shape = (round(96 / spacing[0]), round(96 / spacing[1]), round(96 / spacing[2]))
    label = ellipsoid(shape, spacing, 32.0)
    image = np.random.default_rng(seed).normal(size=shape)
    image[:, :3] = 0  # something to crop
    transpose = (order[0], order[1], order[2])
    target = [spacing[axis] * factor for axis in transpose]
    configuration = configuration_plan(*(target[1:] if flat else target))
    data, mask, geometry = preprocess_case(image, spacing, label, dataset_plan(transpose), configuration)
    assert mask is not None
    assert data.shape == (1, *mask.shape) == (1, *geometry.resampled_shape)
    assert geometry.original_shape == shape
    if flat:
        assert geometry.resampled_spacing_mm[0] == spacing[order[0]]
    for have, want in zip(geometry.resampled_spacing_mm, target, strict=True):
        assert flat or have == pytest.approx(want, rel=0.05)
    winner = back(mask, geometry, len(mask) // 2)
    axis = coarse_axis(geometry.spacing_mm, geometry.resampled_spacing_mm)
    dropped = axis is not None and geometry.resampled_shape[axis] < box_shape(geometry.crop)[axis]
    assert dice(winner, label) > (0.95 if dropped else 0.99)  # a thick slice that was dropped cannot come back


@pytest.mark.parametrize("target", [1.0, 2.0, 3.0])
def test_a_mask_comes_back_from_isotropic_and_from_strongly_anisotropic_targets(target: float) -> None:
    spacing = (4.0, 0.8, 0.8)
    label = ellipsoid((30, 150, 150), spacing, 45.0)
    image = np.ones(label.shape)
    _, mask, geometry = preprocess_case(image, spacing, label, dataset_plan(), configuration_plan(target, 1.0, 1.0))
    assert mask is not None
    assert dice(back(mask, geometry), label) > 0.99
    assert geometry.resampled_shape == (round(120 / target), 120, 120)


@settings(max_examples=40, deadline=None)
@given(*[st.tuples(*[st.integers(1, 40)] * 3)] * 2, st.sampled_from([None, 0, 1, 2]), st.integers(0, 1000))
def test_in_slabs_as_in_one(before: IntTriple, after: IntTriple, coarse: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    volume = rng.random((2, *before), dtype=np.float32)
    kinds: tuple[Kind, ...] = tuple("nearest" if axis == coarse else "linear" for axis in range(3))
    expected = [resample(channel, after, (kinds[0], kinds[1], kinds[2])) for channel in volume]
    cuts = sorted(rng.integers(0, before[0] + 1, size=3))
    found = np.concatenate(list(resample_slabs(np.split(volume, cuts, axis=1), before, after, coarse)), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_slabs_that_do_not_fit_are_refused() -> None:
    slab = np.zeros((2, 1, 5, 6), dtype=np.float32)
    with pytest.raises(ValueError, match="only a part"):
        list(resample_slabs([slab], (4, 5, 6), (4, 5, 6), None))
    with pytest.raises(ValueError, match="no part of"):
        list(resample_slabs([slab], (1, 5, 7), (1, 5, 7), None))


def test_outside_the_crop_is_nothing() -> None:
    image = np.zeros((4, 6, 6))
    image[1:3, 2:5, 2:5] = 5.0
    _, _, geometry = preprocess_case(image, (1.0, 1.0, 1.0), None, dataset_plan(), configuration_plan(1.0, 1.0))
    assert geometry.crop == ((1, 3), (2, 5), (2, 5))
    assert back(np.ones((2, 3, 3), dtype=np.int16), geometry).tolist() == (image > 0).tolist()


def test_a_picture_takes_the_assumed_spacing() -> None:
    picture = np.ones((1, 20, 30))
    plan = dataset_plan(assumed=(1.0, 2.0, 2.0))
    data, _, geometry = preprocess_case(picture, None, None, plan, configuration_plan(1.0, 1.0))
    assert data.shape == (1, 1, 40, 60)
    assert np.isfinite(data).all()  # a constant picture, too
    assert geometry.spacing_mm == (1.0, 2.0, 2.0)
    with pytest.raises(PlanError, match="state spacing_mm"):
        preprocess_case(picture, None, None, dataset_plan(), configuration_plan(1.0, 1.0))


def test_normalisation_by_hand() -> None:
    image = np.array([[[-1000, 0, 0, 100, 900]]])
    plan = Normalisation(scheme="ct", lower=-50.0, upper=150.0, mean=50.0, std=100.0)
    assert normalise(image, plan).ravel().tolist() == [-1.0, -0.5, -0.5, 0.5, 1.0]
    assert air_value(plan) == -1.0
    masked = normalise(np.array([[[0, 0, 1, 3]]]), Normalisation(scheme="zscore", masked=True))
    assert masked.ravel().tolist() == [0, 0, -1, 1]
    plain = normalise(np.array([[[1, 3]]], dtype=np.uint8), Normalisation(scheme="zscore"))
    assert plain.ravel().tolist() == [-1, 1]
    assert plain.dtype == np.float32
    assert air_value(Normalisation(scheme="zscore")) is None


def test_lesions_and_their_points() -> None:
    label = np.zeros((2, 20, 20), dtype=np.int8)
    label[0, :10, :10] = 1  # 100 voxels
    label[0, :10, 10:12] = 2  # beside it, another class
    label[1, 19, 19] = 1
    label[1, 0, 19] = 3  # to be ignored
    samples = sample_lesions(label, ignore_label=3)
    assert sorted((sample.label, len(sample.points)) for sample in samples) == [(1, 1), (1, 64), (2, 20)]
    for sample in samples:
        assert len(set(sample.points)) == len(sample.points)
        assert all(label[point] == sample.label for point in sample.points)
    assert sample_lesions(label, ignore_label=3) == samples
    assert sample_lesions(np.zeros((1, 4, 4), dtype=np.int8)) == ()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0)])
def test_an_image_that_memory_cannot_hold_at_the_plan_s_spacing_is_refused_at_once(spacing: tuple[float, ...]) -> None:
    image = np.ones((64, 512, 512), dtype=np.int16)  # of 1 mm, says a header that calls its unit metre
    with pytest.raises(ImageError, match=r"from its spacing 1000 x 1000 x 1000 mm .* check its voxel size and unit"):
        preprocess_case(image, (1000.0, 1000.0, 1000.0), None, dataset_plan(), configuration_plan(*spacing))


def test_an_image_far_coarser_than_the_plan_is_refused() -> None:
    """8 x 8 x 8 voxels are made of one, no more."""
    image = np.arange(1, 25, dtype=np.int16).reshape(2, 3, 4)
    plan = configuration_plan(1.0, 1.0, 1.0)
    voxels, _, geometry = preprocess_case(image, (8.0, 8.0, 8.0), None, dataset_plan(), plan)
    assert voxels.shape[1:] == geometry.resampled_shape == (16, 24, 32)
    with pytest.raises(ImageError, match=r"9 x 8 x 8 mm .* becomes 18 x 24 x 32 voxels: 576 times as many as it has"):
        preprocess_case(image, (9.0, 8.0, 8.0), None, dataset_plan(), plan)
