"""Pictures that look the same, by the parts that they lie in, and values; other faults: tests/test_integrity.py."""

from collections.abc import Callable

import msgspec
import pytest

from mdkd_auto.planners.integrity import check_dataset, check_likeness
from mdkd_auto.records import Case, Dataset, Fingerprint, Fold, Splits

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
    return Fold(train=tuple(f"case_{number}" for number in range(4) if number not in val),
                val=tuple(f"case_{number}" for number in val))  # fmt: skip


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
    dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint], extremes: list[tuple[float, float]],
    unusual: list[str],
) -> None:  # fmt: skip
    cases = tuple(Case(case_id=f"case_{number}", images=("a.png",), patient_id=f"p{number}") for number in range(4))
    dataset = dataset_of(1, cases=cases)
    made = fingerprint_of(dataset, (1, 32, 32), None, count=4)
    seen = tuple(
        msgspec.structs.replace(case, image_minimum=(low,), image_maximum=(high,))
        for case, (low, high) in zip(made.cases, extremes, strict=True)
    )
    problems = check_dataset(dataset, msgspec.structs.replace(made, cases=seen))
    assert [(one.kind, one.case_id) for one in problems] == [("unusual-values", case_id) for case_id in unusual]
