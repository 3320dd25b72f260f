"""Pictures that look the same, by the parts that they lie in; every other fault is in tests/test_integrity.py."""

from collections.abc import Callable

import msgspec
import pytest

from mdkd_auto.planners.integrity import check_likeness
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
