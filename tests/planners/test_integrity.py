"""Pictures that look the same, by the parts that they lie in, and values; other faults: tests/test_integrity.py."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from mdkd_auto.core.records import Case, Dataset, Fingerprint, Fold, Splits, Triple
from mdkd_auto.planners.integrity import check_dataset, check_group, check_likeness, check_thumbnails

ALIKE = ("case_0", "case_1")
Found = list[tuple[str, str, str]]  # kind, case, what was found


@pytest.fixture
def found_in(dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]) -> Callable[..., Found]:
    """What is said of one data set of four cases, of which the first two look the same."""
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(4))
    dataset = dataset_of(1, cases=cases)
    made = fingerprint_of(dataset, (1, 32, 32), None, count=4)
    pictures = tuple(
        msgspec.structs.replace(case, picture_hash=("0" if case.case_id in ALIKE else f"{number}") * 64)
        for number, case in enumerate(made.cases, start=6)
    )
    fingerprint = msgspec.structs.replace(made, cases=pictures)

    def make(splits: Splits, allowed: bool = False) -> Found:
        problems = check_likeness([dataset], {dataset.name: fingerprint}, {dataset.name: splits}, allowed)
        return [(one.kind, one.case_id, one.found) for one in problems]

    return make


def fold(*val: int) -> Fold:
    return Fold(
        train=tuple(f"case_{number}" for number in range(4) if number not in val),
        val=tuple(f"case_{number}" for number in val),
    )


def test_without_a_test_part_validation_is_what_is_scored(found_in: Callable[..., Found]) -> None:
    apart, together = Splits(test=(), folds=(fold(0), fold(1))), Splits(test=(), folds=(fold(0, 1), fold(2, 3)))
    words = "looks the same as case case_0 (0 of 256 bits differ)"
    assert found_in(apart) == [
        ("near-duplicate-train-test", "case_1", f"{words}, which is validated on, as there is no test part")
    ]
    assert found_in(apart, allowed=True) == found_in(together) == [("near-duplicate", "case_1", words)]


def test_the_training_picture_is_the_one_to_leave_out(found_in: Callable[..., Found]) -> None:
    (one,) = found_in(Splits(test=(), folds=(fold(1, 2),)))
    assert one[:2] == ("near-duplicate-train-test", "case_0")
    (one,) = found_in(Splits(test=("case_1",), folds=(fold(2),)))
    assert one[:2] == ("near-duplicate-train-test", "case_0")
    (one,) = found_in(Splits(test=("case_3",), folds=(fold(0), fold(1))))  # validation scores nothing then
    assert one[0] == "near-duplicate"


@pytest.fixture
def thumbnails_checked(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]
) -> Callable[..., tuple[Found, list[str]]]:
    """What is said of four cases with hashes of thumbnails alike, 0 and 1 the same; and whose thumbnails were read."""

    def make(patients: str = "abcd", voxels: str = "0123") -> tuple[Found, list[str]]:
        cases = tuple(
            Case(case_id=f"case_{number}", images=("a.png",), patient_id=name) for number, name in enumerate(patients)
        )
        dataset = dataset_of(1, cases=cases)
        made = fingerprint_of(dataset, (1, 32, 32), None, count=4)
        hashes = ("0" * 64, "0" * 64, "0" * 63 + "1", "f" * 64)
        seen = tuple(
            msgspec.structs.replace(case, thumbnail_hash=text, voxel_hash=voxel)
            for case, text, voxel in zip(made.cases, hashes, voxels, strict=True)
        )
        read: list[str] = []

        def thumbnail_of(_: Dataset, case: Case) -> np.ndarray:
            read.append(case.case_id)
            seed = 0 if case.case_id in ALIKE else 1
            return np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)

        fingerprints = {dataset.name: msgspec.structs.replace(made, cases=seen)}
        splits = {dataset.name: Splits(test=("case_0",), folds=(fold(3),))}
        problems = check_thumbnails([dataset], fingerprints, splits, thumbnail_of)
        return [(one.kind, one.case_id, one.found) for one in problems], read

    return make


def test_thumbnails_decide_between_cases_whose_hashes_are_alike(thumbnails_checked: Callable[..., Any]) -> None:
    found, read = thumbnails_checked()
    words = "looks the same as case case_0 (similarity 1.00), which is tested on"
    assert found == [("near-duplicate-image", "case_1", words)]
    assert "case_3" not in read


def test_thumbnails_of_one_patient_and_of_the_same_voxels_are_not_compared(
    thumbnails_checked: Callable[..., Any],
) -> None:
    assert thumbnails_checked(patients="aabc")[0] == []
    assert thumbnails_checked(voxels="0012")[0] == []


HU, SHIFTED = (-1000.0, 1500.0), (31768.0, 34268.0)  # the same and 32768, as DeepLesion's 16-bit PNG


@pytest.mark.parametrize(
    ("extremes", "unusual"),
    [
        ([SHIFTED] * 4, []),
        ([HU] * 4, []),
        ([(28672.0, 65535.0)] * 4, []),
        ([(28671.0, 40000.0)] * 4, ["case_0", "case_1", "case_2", "case_3"]),
        ([SHIFTED, SHIFTED, HU, SHIFTED], ["case_2"]),
        ([HU, SHIFTED, HU, HU], ["case_1"]),
    ],
)
def test_hounsfield_units_with_an_offset(
    dataset_of: Callable[..., Dataset],
    fingerprint_of: Callable[..., Fingerprint],
    extremes: list[tuple[float, float]],
    unusual: list[str],
) -> None:
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(4))
    dataset = dataset_of(1, cases=cases)
    made = fingerprint_of(dataset, (1, 32, 32), None, count=4)
    seen = tuple(
        msgspec.structs.replace(case, image_minimum=(low,), image_maximum=(high,))
        for case, (low, high) in zip(made.cases, extremes, strict=True)
    )
    problems = check_dataset(dataset, msgspec.structs.replace(made, cases=seen))
    assert [(one.kind, one.case_id) for one in problems] == [("unusual-values", case_id) for case_id in unusual]
    if len(unusual) == 1:
        words = "no offset of 32768 as most" if extremes.count(SHIFTED) > 2 else "an offset of 32768 as most"
        assert words in problems[0].found


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0.0, 1e6, None),
        (-1e6, 0.0, None),
        (0.0, 1.0001e6, "unusual-values"),
        (0.0, 1e8, "unusual-values"),
        (-1.0001e8, 0.0, "absurd-values"),
        (5.0, 5.0, "constant-image"),
    ],
)
def test_values_up_to_the_limit(
    dataset_of: Callable[..., Dataset],
    fingerprint_of: Callable[..., Fingerprint],
    low: float,
    high: float,
    kind: str | None,
) -> None:
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(2))
    dataset = dataset_of(1, ("T1",), "MRI", cases)
    made = fingerprint_of(dataset, (1, 32, 32), None, count=2, extremes=(low, high))
    kinds = {one.kind for one in check_dataset(dataset, made)}
    assert kinds & {"unusual-values", "absurd-values", "constant-image"} == ({kind} if kind else set())


@pytest.mark.parametrize(("factor", "said"), [(3.0, False), (3.01, True), (1 / 3, False), (0.332, True)])
def test_spacings_up_to_three_times_the_median_are_usual(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint], factor: float, said: bool
) -> None:
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(5))
    dataset = dataset_of(1, cases=cases)
    made = fingerprint_of(dataset, (8, 32, 32), (3.0, 3.0, 3.0), count=5)
    odd = msgspec.structs.replace(made.cases[0], spacing_mm=(3.0, 3.0, 3.0 * factor))
    found = check_dataset(dataset, msgspec.structs.replace(made, cases=(odd, *made.cases[1:])))
    assert [one.case_id for one in found if one.kind == "spacing-unusual"] == (["case_0"] if said else [])


@pytest.mark.parametrize("patient", ["a patient", "zz"])  # before and after the case's name
def test_patients_that_two_data_sets_share(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint], patient: str
) -> None:
    datasets = []
    for number in (1, 2):
        names = [f"case_{index}" for index in range(2)]
        cases = [Case(case_id=name, images=("a.png",), patient_id=name) for name in names]
        cases[1] = msgspec.structs.replace(cases[1], patient_id=patient)
        datasets.append(dataset_of(number, cases=tuple(cases)))
    fingerprints = {dataset.name: fingerprint_of(dataset, (1, 32, 32), None, count=2) for dataset in datasets}
    found = [one for one in check_group(datasets, fingerprints) if one.kind == "same-patient-other-dataset"]
    assert [f"patient_id {patient!r} " in one.found for one in found] == [True]


def test_axes_unlike_most_cases_are_told(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]
) -> None:
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(3))
    dataset = dataset_of(1, cases=cases)
    made = fingerprint_of(dataset, (8, 32, 32), (1.0, 1.0, 1.0), count=3)
    odd = msgspec.structs.replace(made.cases[1], orientation="LPS")
    found = check_dataset(dataset, msgspec.structs.replace(made, cases=(made.cases[0], odd, made.cases[2])))
    assert [(one.case_id, one.found) for one in found if one.kind == "orientation"] == [
        ("case_1", "its axes point to LPS, those of 2 other cases to RAS")
    ]


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ((2.0, 1.0, 1.0), False),
        ((2.0, 1.0, 1.0001), False),
        ((2.0, 1.0, 1.1), True),
        ((2.2, 1.0, 1.0), True),
        ((2.0, 1.1, 1.0), True),
    ],
)
def test_a_stated_spacing_that_is_the_files_own_is_no_contradiction(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint], stated: Triple, said: bool
) -> None:
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(3))
    dataset = msgspec.structs.replace(dataset_of(1, cases=cases), spacing_mm=stated)
    found = check_dataset(dataset, fingerprint_of(dataset, (8, 32, 32), (2.0, 1.0, 1.0), count=3))
    assert any(one.kind == "spacing-stated" for one in found) == said


@pytest.mark.parametrize(("slices", "said"), [(1, False), (2, True), (8, True)])
def test_a_single_slice_has_no_spacing_along_z(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint], slices: int, said: bool
) -> None:
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(5))
    dataset = dataset_of(1, cases=cases)
    made = fingerprint_of(dataset, (slices, 32, 32), (1.0, 1.0, 1.0), count=5)
    odd = msgspec.structs.replace(made.cases[0], spacing_mm=(15.0, 1.0, 1.0))
    found = check_dataset(dataset, msgspec.structs.replace(made, cases=(odd, *made.cases[1:])))
    assert any(one.kind == "spacing-unusual" for one in found) == said


@pytest.mark.parametrize(("other", "said"), [("covid", False), ("Covid", True), ("co vid", True), ("normal", False)])
def test_classes_that_are_almost_one(
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint], other: str, said: bool
) -> None:
    """Equal names are one class, whichever file they were read from."""
    datasets = []
    for number, name in ((1, "covid"), (2, "".join(list(other)))):
        case = Case(case_id="case_0", images=("a.png",), patient_id=f"{number}", class_name=name)
        made = dataset_of(number, cases=(case,))
        datasets.append(msgspec.structs.replace(made, task="classification", labels={name: (0,)}))
    fingerprints = {one.name: fingerprint_of(one, (1, 32, 32), None, count=1) for one in datasets}
    assert any(one.kind == "class-names-alike" for one in check_group(datasets, fingerprints)) == said
