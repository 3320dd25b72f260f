"""Small data sets and fingerprints made by hand."""

import math
from collections.abc import Callable

import pytest

from mdkd_auto.core.records import (
    Case,
    CaseFingerprint,
    Dataset,
    Fingerprint,
    Intensities,
    IntTriple,
    Lesion,
    Triple,
)


def make_dataset(
    number: int, channels: tuple[str, ...] = ("CT",), modality: str = "CT", cases: tuple[Case, ...] = ()
) -> Dataset:
    return Dataset(
        name=f"Dataset{number:03d}_Toy",
        folder="/nowhere",
        task="segmentation",
        modality=modality,
        channel_names=channels,
        labels={"lesion": (1,)},
        file_ending=".nii.gz",
        cases=cases,
    )


def make_fingerprint(
    dataset: Dataset,
    shape: IntTriple,
    spacing: Triple | None,
    lesion_mm: float | None = 40.0,
    count: int = 40,
    intensities: tuple[float, float, float, float] = (-100.0, 200.0, 40.0, 50.0),
    extremes: tuple[float, float] = (-1000.0, 1500.0),
    nonzero: float = 1.0,
) -> Fingerprint:
    """``count`` equal cases; ``intensities`` are p0.5, p99.5, mean and std of the foreground."""
    lower, upper, mean, std = intensities
    foreground = Intensities(
        count=10,
        mean=mean,
        std=std,
        minimum=lower,
        maximum=upper,
        percentile_00_5=lower,
        median=mean,
        percentile_99_5=upper,
    )
    lesions = () if lesion_mm is None else (Lesion(volume_mm3=math.nan, diameter_mm=lesion_mm, voxels=50),)
    channels = len(dataset.channel_names)
    cases = tuple(
        CaseFingerprint(
            case_id=f"case_{index}",
            source_hash="",
            voxel_hash=f"{dataset.name} {index}",
            orientation="RAS",
            shape=shape,
            spacing_mm=spacing or (1.0, 1.0, 1.0),
            spacing_known=spacing is not None,
            cropped_shape=shape,
            nonzero_fraction=nonzero,
            integer_valued=True,
            image_minimum=(extremes[0],) * channels,
            image_maximum=(extremes[1],) * channels,
            image_percentiles=(extremes,) * channels,
            labelled_voxels=0 if lesion_mm is None else 50,
            foreground=(foreground,) * channels,
            lesions=lesions,
        )
        for index in range(count)
    )
    return Fingerprint(
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        is_2d=shape[0] == 1,
        spacing_known=spacing is not None,
        foreground=(foreground,) * channels,
        cases=cases,
    )


@pytest.fixture
def dataset_of() -> Callable[..., Dataset]:
    """:func:`make_dataset`."""
    return make_dataset


@pytest.fixture
def fingerprint_of() -> Callable[..., Fingerprint]:
    """:func:`make_fingerprint`."""
    return make_fingerprint
