"""What a changed file asks for, and which scores may stand in one table."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import file_hash
from mdkd_auto.core.records import Box, Case, Dataset
from mdkd_auto.tasks.shared.classes import classes_of
from mdkd_auto.tasks.shared.evidence import Evidence, check_comparable, evidence_of, work_of

BEFORE = Evidence(images=("i",), label="l", rules="r", prediction="p")


@pytest.mark.parametrize(
    ("changes", "stored", "do"),
    [
        ({}, "p", "keep"),
        ({"label": "other"}, "p", "rescore"),
        ({"rules": "other"}, "p", "rescore"),
        ({"images": ("other",)}, "p", "predict"),
        ({"images": ("i", "j")}, "p", "predict"),
        ({"images": ("other",), "label": "other"}, "p", "predict"),
        ({}, "altered", "predict"),
        ({}, "", "predict"),
        ({"label": "other"}, "", "predict"),
    ],
)
def test_what_a_change_asks_for(changes: dict[str, Any], stored: str, do: str) -> None:
    now = msgspec.structs.replace(BEFORE, prediction="", **changes)
    assert work_of(now, BEFORE, stored).do == do


def test_a_case_without_a_score_is_predicted() -> None:
    assert work_of(BEFORE, None, "p").do == "predict"


def test_a_case_that_failed_is_tried_again_where_its_files_changed() -> None:
    failed = msgspec.structs.replace(BEFORE, prediction="")
    assert work_of(failed, failed, "left behind").do == "keep"
    for changes in ({"label": "other"}, {"images": ("other",)}):
        assert work_of(msgspec.structs.replace(failed, **changes), failed, "").do == "predict"


def test_what_scores_follow_from(tmp_path: Path) -> None:
    """The files by their contents, what tables state, the patient, and what dataset.json declares."""
    for name in ("image", "label"):
        (tmp_path / name).write_text(name)
    case = Case(case_id="a", images=(str(tmp_path / "image"),), label=str(tmp_path / "label"), patient_id="a")
    dataset = Dataset(
        name="Dataset011_Toy",
        folder="",
        task="segmentation",
        modality="CT",
        channel_names=("CT",),
        labels={"tumour": (1,), "cyst": (2,)},
        file_ending=".nii.gz",
        cases=(case,),
    )

    def seen(one: Case = case, whole: Dataset = dataset, keep: bool = False) -> Evidence:
        return evidence_of(one, whole, classes_of(whole, keep), file_hash)

    first = seen()
    assert first.images == (file_hash(tmp_path / "image"),)
    assert first.label == file_hash(tmp_path / "label")
    others = [
        seen(msgspec.structs.replace(case, patient_id="b")),
        seen(keep=True),
        seen(whole=msgspec.structs.replace(dataset, labels={"tumour": (1,)})),
        seen(whole=msgspec.structs.replace(dataset, spacing_mm=(1.0, 2.0, 2.0))),
        seen(whole=msgspec.structs.replace(dataset, ignore_label=3)),
    ]
    assert len({one.rules for one in (first, *others)}) == 6
    assert {(one.images, one.label) for one in others} == {(first.images, first.label)}
    boxes = tuple(Box(class_name="a", x=0, y=0, width=width, height=5) for width in (5, 6))
    stated = [
        seen(msgspec.structs.replace(case, label=None, **own))
        for own in ({"class_name": "a"}, {"class_name": "b"}, {"boxes": ()}, {"boxes": boxes}, {"boxes": boxes[:1]})
    ]
    assert len({one.label for one in stated}) == 5
    (tmp_path / "image").unlink()
    (tmp_path / "label").unlink()
    assert (seen().images, seen().label) == (("",), "")


def test_runs_of_one_truth_are_compared() -> None:
    other = msgspec.structs.replace(BEFORE, prediction="of another model")
    check_comparable("Dataset011_Toy", [("one", {"a": BEFORE}), ("two", {"a": other})])
    check_comparable("Dataset011_Toy", [])


@pytest.mark.parametrize("changes", [{"label": "x"}, {"rules": "x"}, {"images": ("x",)}])
def test_runs_of_two_truths_are_not(changes: dict[str, Any]) -> None:
    others = {"a": BEFORE, "b": msgspec.structs.replace(BEFORE, **changes)}
    with pytest.raises(TrainingError, match=r"Dataset011_Toy: runs scored b from different files") as caught:
        check_comparable("Dataset011_Toy", [("one", {"a": BEFORE, "b": BEFORE}), ("two", others)])
    assert "\n  one: " in str(caught.value)
    assert "\n  two: " in str(caught.value)


def test_nor_are_runs_of_different_cases() -> None:
    with pytest.raises(TrainingError, match=r"runs scored b from different files") as caught:
        check_comparable("Dataset011_Toy", [("one", {"a": BEFORE, "b": BEFORE}), ("two", {"a": BEFORE})])
    assert "two: not scored" in str(caught.value)
