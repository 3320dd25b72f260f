"""splits.json that is there and cannot be used is a problem, never as if absent."""

from pathlib import Path

import msgspec
import pytest

from mdkd_auto.core.files import ReadError
from mdkd_auto.core.records import Case, Dataset, Splits
from mdkd_auto.datasets import stored_splits
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.datasets.splits import write_splits
from mdkd_auto.datasets.stored_splits import make_or_keep


def dataset() -> Dataset:
    cases = tuple(Case(case_id=name, images=(f"{name}.png",), label=None, patient_id=name) for name in "abcdef")
    return Dataset(
        name="Dataset001_A",
        task="segmentation",
        modality="CT",
        folder="/nowhere",
        file_ending=".png",
        channel_names=("CT",),
        labels={},
        cases=cases,
    )


def problem_of(path: Path) -> Problem:
    """Why the data set has no splits."""
    made, (problem,) = make_or_keep(path, dataset(), None)
    assert made is None
    return problem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "splits.json"


def test_a_link_to_nothing_is_not_dealt_out_again(path: Path) -> None:
    path.symlink_to("gone.json")
    made = problem_of(path)
    assert made.kind == "splits"
    assert "is a link to gone.json" in made.found


def test_a_folder_in_its_place_is_a_problem_before_planning(path: Path) -> None:
    path.mkdir()
    made = problem_of(path)
    assert made.kind == "splits"
    assert "is a folder; expected a file" in made.found


def test_a_broken_stored_pattern_names_the_file_and_no_flag(path: Path) -> None:
    made, _ = make_or_keep(path, dataset(), None)
    assert made is not None
    write_splits(path, msgspec.structs.replace(made, patient_pattern="("))
    broken = problem_of(path)
    assert broken.kind == "splits"
    assert broken.file == str(path)
    assert broken.found.startswith("patient_pattern '(': not a regular expression")
    assert stored_splits.stored_pattern(path) == ""  # what is wrong is told once, with the splits


def test_a_file_that_the_system_refuses_to_read_is_not_called_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> Splits:
        raise ReadError(str(path), "too many open files")

    path.write_text("{}")
    monkeypatch.setattr(stored_splits, "read_splits", refuse)
    made = problem_of(path)
    assert made.kind == "refused"
    assert made.found == "too many open files"
    assert "delete it" not in made.remedy
