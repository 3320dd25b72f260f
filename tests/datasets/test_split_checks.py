"""Stored splits that were changed by hand: each case is named with its part, and nothing is trained on a wrong one."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.records import Case, Dataset, Fold, Splits
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.datasets.split_checks import check_stored
from mdkd_auto.datasets.splits import read_splits, write_splits
from mdkd_auto.datasets.stored_splits import make_or_keep

STORED = Splits(
    test=("a", "b"),
    folds=(
        Fold(train=("e", "f", "g", "h"), val=("c", "d")),
        Fold(train=("c", "d", "g", "h"), val=("e", "f")),
        Fold(train=("c", "d", "e", "f"), val=("g", "h")),
    ),
)
Edit = Callable[[Splits], Splits]


def dataset(folder: Path, names: str = "abcdefgh", **splits: str) -> Dataset:
    """One case per letter, each of a patient of its own; ``splits`` of cases as cases.csv states them."""
    cases = tuple(
        Case(case_id=name, images=(f"{name}.png",), patient_id=name, split=splits.get(name, ""))  # type: ignore[arg-type]
        for name in names
    )
    return Dataset(
        name="Dataset001_A",
        folder=str(folder),
        task="segmentation",
        modality="CT",
        channel_names=("CT",),
        labels={},
        file_ending=".png",
        cases=cases,
    )


def fold(number: int, **parts: str) -> Edit:
    """Give a fold other lists."""

    def change(splits: Splits) -> Splits:
        changed = msgspec.structs.replace(splits.folds[number], **{part: tuple(names) for part, names in parts.items()})
        folds = (*splits.folds[:number], changed, *splits.folds[number + 1 :])
        return msgspec.structs.replace(splits, folds=folds)

    return change


def with_test(names: str) -> Edit:
    return lambda splits: msgspec.structs.replace(splits, test=tuple(names))


def plan(path: Path, data: Dataset, replan: bool = False) -> tuple[Splits | None, list[Problem]]:
    return make_or_keep(path, data, None, replan)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (
            fold(0, val=""),
            "fold 0: 'val' is empty; 'c' is in neither train nor val of fold 0; "
            "'d' is in neither train nor val of fold 0",
        ),
        (fold(2, train="cde"), "'f' is in neither train nor val of fold 2"),
        (fold(1, val="efc", train="dgh"), "'c' is in val of folds 0, 1"),
        (fold(1, train="ccdgh"), "fold 1: 'c' is listed twice in train"),
        (with_test("abb"), "'b' is listed twice in test"),
    ],
)
def test_what_no_draw_gives_is_refused_unless_dealt_out_again(tmp_path: Path, edit: Edit, found: str) -> None:
    path, data = tmp_path / "splits.json", dataset(tmp_path)
    write_splits(path, edit(STORED))
    made, (problem,) = plan(path, data)
    assert made is None
    assert (problem.kind, problem.file, problem.found) == ("splits", str(path), found)
    assert "restore it" in problem.remedy
    assert "--replan" in problem.remedy
    with pytest.raises(DatasetError, match=r"does not fit; restore it, or run mdkd_plan_and_preprocess --replan"):
        check_stored(read_splits(path), data)
    made, problems = plan(path, data, replan=True)
    assert made is not None
    assert problems == []
    check_stored(made, data)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_case_in_two_parts_is_named_with_both(tmp_path: Path, part: str) -> None:
    edits = {"train": fold(0, train="efghc"), "val": fold(0, val="cde"), "test": with_test("abc")}
    where = {"train": "c (train, val)", "val": "e (train, val)", "test": "c (val, test)"}[part]
    write_splits(tmp_path / "splits.json", edits[part](STORED))
    made, (problem,) = plan(tmp_path / "splits.json", dataset(tmp_path))
    assert made is None
    assert problem.found == f"fold 0: in two of train, val and test: {where}"


def test_cases_that_are_new_gone_or_moved_are_named(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    write_splits(path, STORED)
    data = dataset(tmp_path, "abcdefgi", b="train", c="test")
    made, problems = plan(path, data)
    assert made is not None
    assert "c" in made.test
    assert "b" not in made.test
    said = {one.case_id: one.found for one in problems}
    assert {one.kind for one in problems} == {"splits-changed"}
    assert {one.severity for one in problems} == {"warning"}
    assert list(said) == ["b", "c", "h", "i"]
    assert said["b"].startswith("b: was test, is now val of fold ")
    assert said["c"] == "c: was val of fold 0 and train of folds 1, 2, is now test"
    assert said["h"] == "h: is not in the data set any more: was val of fold 2 and train of folds 0, 1"
    assert said["i"].startswith("i: is new: now val of fold ")
    assert plan(path, dataset(tmp_path))[1] == []


def test_a_case_with_an_error_is_not_also_said_to_be_gone(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.json", STORED)
    made, problems = make_or_keep(tmp_path / "splits.json", dataset(tmp_path, "abcdefg"), None, broken={"h"})
    assert made is not None
    assert problems == []


def test_a_fold_that_gone_cases_leave_empty_is_refused_unless_dealt_out_again(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    write_splits(path, STORED)
    data = dataset(tmp_path, "abefgh")
    made, (problem,) = plan(path, data)
    assert made is None
    assert (problem.kind, problem.found) == ("splits-emptied", "fold 0: no case of 'val' is left of c, d")
    made, problems = plan(path, data, replan=True)
    assert made is not None
    assert all(part.val and part.train for part in made.folds)
    assert problems == []
    filled, _ = plan(path, dataset(tmp_path, "abefghi"))  # by a new patient
    assert filled is not None
    assert filled.folds[0].val == ("i",)


def test_training_refuses_splits_that_the_raw_folder_contradicts(tmp_path: Path) -> None:
    check_stored(STORED, dataset(tmp_path, a="test", c="train"))
    check_stored(STORED, dataset(tmp_path, "bcdefghi"))  # one is gone, one is new
    with pytest.raises(DatasetError) as caught:
        check_stored(STORED, dataset(tmp_path, b="train", c="test"))
    assert "is not what the raw folder says now; run mdkd_plan_and_preprocess" in str(caught.value)
    assert "'c': val of fold 0 and train of folds 1, 2; by the raw folder test" in str(caught.value)
    assert "'b': test; by the raw folder val of fold" in str(caught.value)
    stated = [{"train": ["c", "d", "e"], "val": ["f", "b"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(stated))
    with pytest.raises(DatasetError, match=r"'b': test; by the raw folder val of fold 0"):
        check_stored(STORED, dataset(tmp_path))
    of_raw = Splits(test=("a", "g", "h"), folds=(Fold(train=("c", "d", "e"), val=("b", "f")),))
    check_stored(of_raw, dataset(tmp_path))
    check_stored(of_raw, dataset(tmp_path, "acdefgh"))  # b is gone: told where cases are read


def test_patients_torn_by_stored_splits_are_refused_unless_the_raw_folder_says_so(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    cases = tuple(
        msgspec.structs.replace(case, patient_id="p" if case.case_id in "ac" else case.case_id) for case in whole.cases
    )
    data = msgspec.structs.replace(whole, cases=cases)
    with pytest.raises(DatasetError, match=r"several parts \(p\); run mdkd_plan_and_preprocess --replan"):
        check_stored(STORED, data)
    folds = [{"train": list(one.train), "val": list(one.val)} for one in STORED.folds]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    check_stored(STORED, data)


def test_raw_splits_whose_cases_all_have_errors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))
    data = dataset(tmp_path, "abdefgh")
    made, (problem,) = make_or_keep(tmp_path / "splits.json", data, None, broken={"c"})
    assert made is None
    assert problem.kind == "splits-emptied"
    assert problem.found == "fold 0: no case of 'val' is left"
    assert problem.file == str(tmp_path / "splits_final.json")
