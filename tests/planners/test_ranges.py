"""What training images span, and which images lie outside, in numbers worked out by hand."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest

from mdkd_auto.core.records import CaseFingerprint, Dataset, DatasetPlan, Fingerprint, Normalisation, Triple
from mdkd_auto.formats.image import Header, Image
from mdkd_auto.planners.intensities import image_percentiles
from mdkd_auto.planners.ranges import Range, TrainingRanges, training_ranges, unlike_training, widened

RANGES = TrainingRanges(
    spacing_mm=((3.0, 0.6, 0.6), (5.0, 0.9, 0.9)),
    shape=((10, 40, 40), (20, 64, 60)),
    percentile_00_5=Range(-1000.0, -900.0),
    percentile_99_5=Range(300.0, 500.0),
)


def plan_for(dataset: str, channel: int = 0, assumed: Triple | None = None) -> DatasetPlan:
    return DatasetPlan(
        dataset=dataset,
        channel=channel,
        channel_name="CT",
        transpose=(0, 1, 2),
        assumed_spacing_mm=assumed,
        normalisation=Normalisation(scheme="zscore"),
    )


def image_of(
    lower: float = -950, upper: float = 400, shape: Sequence[int] = (15, 50, 50), spacing: Triple | None = (4, 0.8, 0.8)
) -> Image:
    """Half of the voxels are ``lower``, half ``upper``."""
    array = np.full(shape, lower, dtype=np.float32)
    array[:, : shape[1] // 2] = upper
    z, y, x = shape
    header = Header(ending=".nii.gz", shape=(z, y, x))
    return Image(array, spacing or (1.0, 1.0, 1.0), spacing is not None, header)


def fields(image: Image, ranges: TrainingRanges | None = RANGES) -> list[str]:
    return [one.field for one in unlike_training(image, ranges)]


def cases_of(fingerprint: Fingerprint, *percentiles: tuple[tuple[float, float], ...]) -> list[CaseFingerprint]:
    return [
        msgspec.structs.replace(case, image_percentiles=some)
        for case, some in zip(fingerprint.cases, percentiles, strict=True)
    ]


def test_ranges_are_of_the_channel_that_is_read(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]
) -> None:
    dataset = dataset_of(1, ("T1", "T2"))
    made = fingerprint_of(dataset, (10, 40, 60), (3.0, 0.5, 0.5), count=3)
    first, second, third = cases_of(made, ((0, 1), (5, 90)), ((0, 2), (-3, 70)), ((9, 9), (4, 80)))
    second = msgspec.structs.replace(second, shape=(30, 20, 60), spacing_mm=(1.0, 0.75, 0.5))
    assert training_ranges([first, second, third], plan_for(dataset.name, 1)) == TrainingRanges(
        spacing_mm=((1.0, 0.5, 0.5), (3.0, 0.75, 0.5)),
        shape=((10, 20, 60), (30, 40, 60)),
        percentile_00_5=Range(-3, 5),
        percentile_99_5=Range(70, 90),
    )
    assert training_ranges([], plan_for(dataset.name)) is None


@pytest.mark.parametrize(("assumed", "expected"), [(None, None), ((1.0, 0.4, 0.4), ((1.0, 0.4, 0.4), (1.0, 0.4, 0.4)))])
def test_pictures_have_the_spacing_that_the_plan_assumes(
    assumed: Triple | None,
    expected: object,
    dataset_of: Callable[..., Dataset],
    fingerprint_of: Callable[..., Fingerprint],
) -> None:
    made = fingerprint_of(dataset_of(1), (1, 40, 60), None, count=1)
    ranges = training_ranges(cases_of(made, ((0, 255),)), plan_for(made.dataset, assumed=assumed))
    assert ranges is not None
    assert ranges.spacing_mm == expected


@pytest.mark.parametrize(
    ("spans", "margin", "expected"),
    [
        ((300, 500), 10, (100, 1500)),  # a third of the one, three times the other
        ((-900, -300), 10, (-2700, -100)),
        ((-100, 200), 10, (-300, 600)),
        ((0, 0), 25, (-25, 25)),  # three times 0 is 0
        ((30, 30), 25, (5, 90)),
    ],
)
def test_the_tolerance_of_intensities(spans: tuple[float, float], margin: float, expected: tuple[float, float]) -> None:
    assert widened(Range(*spans), margin) == pytest.approx(expected)


def test_an_image_like_the_others_is_not_named() -> None:
    assert fields(image_of()) == []
    assert fields(image_of(spacing=(2.01, 0.401, 1.349))) == []  # 3 / 1.5, 0.6 / 1.5, 0.9 * 1.5
    assert fields(image_of(shape=(40, 20, 120))) == []  # twice 20, half of 40, twice 60
    assert fields(image_of(lower=-2900, upper=1490)) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"spacing": (0.001, 0.001, 0.001)}, ["spacing z (mm)", "spacing y (mm)", "spacing x (mm)"]),
        ({"spacing": (7.6, 0.8, 0.8)}, ["spacing z (mm)"]),
        ({"spacing": None}, []),  # what a file does not state is not compared
        ({"shape": (41, 50, 50)}, ["size z (voxels)"]),
        ({"shape": (15, 19, 121)}, ["size y (voxels)", "size x (voxels)"]),
        ({"shape": (1, 50, 50), "spacing": (99.0, 0.8, 0.8)}, ["size z (voxels)"]),  # no thickness of a single slice
        ({"lower": 0, "upper": 800}, ["intensity p0.5"]),  # magnetic resonance, say
        ({"lower": 0, "upper": 65535}, ["intensity p0.5", "intensity p99.5"]),
        ({"upper": 99}, ["intensity p99.5"]),
        ({"lower": -950, "upper": -950}, ["standard deviation", "intensity p99.5"]),
    ],
)
def test_what_lies_outside_is_named(changed: dict[str, object], expected: list[str]) -> None:
    assert fields(image_of(**changed)) == expected  # type: ignore[arg-type]


def test_a_difference_gives_its_numbers() -> None:
    (found,) = unlike_training(image_of(spacing=(4, 0.8, 0.1)), RANGES)
    assert (found.found, found.training) == (0.1, (0.6, 0.9))
    assert found.allowed == pytest.approx((0.4, 1.35))
    assert str(found) == "spacing x (mm) 0.1 (training images: 0.6 to 0.9)"


def test_without_ranges_only_a_single_value_is_named() -> None:
    assert fields(image_of(upper=60000, spacing=(0.001,) * 3), None) == []
    (found,) = unlike_training(image_of(7, 7), None)
    assert str(found) == "standard deviation 0"


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int64, np.float32])
def test_percentiles_of_an_image_are_numpys(kind: type) -> None:
    array = np.random.default_rng(0).integers(-128, 128, (5, 30, 31)).astype(kind)
    assert image_percentiles(array) == pytest.approx(np.percentile(array.astype(np.float64), (0.5, 99.5)))
