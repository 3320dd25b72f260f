"""What one data set says to the shared decisions, by hand."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from mdkd_auto.core.records import Dataset, DatasetPlan, Fingerprint, IntTriple, Lesion, Normalisation, Triple
from mdkd_auto.planners.group_member import make_member


def plan_of(
    dataset: Dataset, assumed_spacing_mm: Triple | None = None, transpose: IntTriple = (0, 1, 2)
) -> DatasetPlan:
    return DatasetPlan(
        dataset=dataset.name,
        channel=0,
        channel_name="CT",
        transpose=transpose,
        assumed_spacing_mm=assumed_spacing_mm,
        normalisation=Normalisation(scheme="zscore"),
    )


def lesions(*voxels: int) -> tuple[Lesion, ...]:
    """Each with its number of voxels as diameter."""
    return tuple(Lesion(volume_mm3=1.0, diameter_mm=float(count), voxels=count) for count in voxels)


def with_lesions(fingerprint: Fingerprint, *voxels: int) -> Fingerprint:
    cases = tuple(msgspec.structs.replace(case, lesions=lesions(*voxels)) for case in fingerprint.cases)
    return msgspec.structs.replace(fingerprint, cases=cases)


@pytest.mark.parametrize(("shape", "factor"), [((8, 40, 40), 24 ** (1 / 3)), ((1, 40, 40), 12**0.5)])
def test_lesions_of_three_voxels_or_more_have_a_vote(
    shape: IntTriple, factor: float, dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]
) -> None:
    """Without a spacing diameters are in pixels: of the assumed 2 x 3 x 4 mm a voxel is as a cube of 24 mm3."""
    dataset = dataset_of(1)
    fingerprint = with_lesions(fingerprint_of(dataset, shape, None, count=1), 1, 2, 3, 4)
    member = make_member(fingerprint, plan_of(dataset, (2.0, 3.0, 4.0)))
    assert member.diameters_mm == pytest.approx([3 * factor, 4 * factor])
    assert member.specks == 2
    assert member.spacing_mm == pytest.approx([2, 3, 4])
    known = with_lesions(fingerprint_of(dataset, shape, (1.0, 0.5, 0.5), count=1), 3)
    assert make_member(known, plan_of(dataset, (2.0, 3.0, 4.0))).diameters_mm == pytest.approx([3])


def test_sizes_are_in_transposed_axes(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]
) -> None:
    dataset = dataset_of(1)
    fingerprint = fingerprint_of(dataset, (10, 20, 30), (1.0, 2.0, 3.0), count=1)
    member = make_member(fingerprint, plan_of(dataset, None, (2, 0, 1)))
    assert member.shapes.tolist() == [[30, 10, 20]]
    assert member.spacings_mm.tolist() == [[3, 1, 2]]
    assert member.resampled_shapes(np.array([1.0, np.nan, 4.0])).tolist() == [[90, 10, 10]]
