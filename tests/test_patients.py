"""Patients told by names, from the command to the splits and the scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mdkd_auto.cli import plan_and_preprocess, train_all_permutations
from mdkd_auto.core.files import read_json
from mdkd_auto.core.paths import Root

NAME = "Dataset001_Visits"
PATTERN = r"^(?P<patient>v\d+)"
Command = Callable[..., Any]


def write_dataset(root: Root, names: list[str], folder_name: str = NAME) -> Path:
    folder = root.raw / folder_name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    seed = int(folder_name[7:10])
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        image = rng.integers(0, 100, (8, 8, 4)).astype(np.int16)
        mask = np.zeros((8, 8, 4), np.uint8)
        mask[2:5, 2:5, 1:3] = 1
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"{name}_0000.nii.gz")
        nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / "labelsTr" / f"{name}.nii.gz")
    fields = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(fields))
    return folder


def parts_of(root: Root, letters: int, name: str = NAME) -> dict[str, int]:
    """In how many of the test part and the validation parts each patient is, by the first letters of the cases."""
    splits = read_json(root.splits(name))
    parts: dict[str, set[int]] = {}
    for number, part in enumerate([splits["test"], *(fold["val"] for fold in splits["folds"])]):
        for case in part:
            parts.setdefault(case[:letters], set()).add(number)
    return {patient: len(places) for patient, places in parts.items()}


@pytest.fixture
def plan(tmp_path: Path, command: Command) -> Callable[..., Any]:
    def run(*more: object) -> Any:
        return command(plan_and_preprocess.main, "--root", tmp_path, "-j", 1, "--plan-only", *more)

    return run


def test_visits_of_bids_stay_together(tmp_path: Path, plan: Command) -> None:
    root = Root(tmp_path)
    write_dataset(root, [f"sub-{subject}_ses-{visit}" for subject in range(4) for visit in range(2)])
    assert plan().status == 0
    assert set(parts_of(root, 5).values()) == {1}
    assert read_json(root.integrity) == []
    assert "patient_pattern" not in read_json(root.splits(NAME))


def test_a_pattern_keeps_visits_together_and_is_stored(tmp_path: Path, plan: Command) -> None:
    root = Root(tmp_path)
    folder = write_dataset(root, [f"v{subject}x{visit}q" for subject in range(4) for visit in range(2)])
    assert plan("--patient-pattern", PATTERN).status == 0
    assert set(parts_of(root, 2).values()) == {1}
    assert read_json(root.splits(NAME))["patient_pattern"] == PATTERN
    before = root.splits(NAME).read_bytes()
    assert plan().status == 0  # without the flag: as stored
    assert root.splits(NAME).read_bytes() == before
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / part / f"v0x0q{ending}").rename(folder / part / f"else{ending}")
    said = plan()
    assert said.status == 1
    assert "else: --patient-pattern ^(?P<patient>v\\d+) finds no patient in its name" in said.err
    assert root.splits(NAME).read_bytes() == before
    (folder / "cases.csv").write_text("case_id,patient_id\nelse,v0\n")
    assert plan().status == 0


def test_stored_splits_that_tear_patients_are_made_again_by_replan_alone(tmp_path: Path, plan: Command) -> None:
    """Those of the other data set, which tear nobody, stay as they are."""
    root = Root(tmp_path)
    names = [f"v{subject}_visit{visit}" for subject in range(4) for visit in range(2)]
    write_dataset(root, names)
    write_dataset(root, [f"IMG_{number:04}" for number in range(5)], "Dataset002_Other")
    assert plan().status == 0
    torn = sum(count > 1 for count in parts_of(root, 2).values())
    (warned,) = read_json(root.integrity)
    assert (warned["kind"], warned["dataset"]) == ("subjects-torn", NAME)
    assert warned["found"] == (
        f"{torn} of 4 subjects, going by names like v0_visit0, v0_visit1, have cases in several of test, validation "
        "and training"
    )
    before, other = root.splits(NAME).read_bytes(), root.splits("Dataset002_Other").read_bytes()
    said = plan("--patient-pattern", PATTERN)
    assert said.status == 1
    assert f"tears {torn} of 4 patients apart" in said.err
    assert "--replan deals its patients out again" in said.err
    assert root.splits(NAME).read_bytes() == before
    assert plan("--patient-pattern", PATTERN, "--replan").status == 0
    assert set(parts_of(root, 2).values()) == {1}
    assert root.splits("Dataset002_Other").read_bytes() == other
    assert [one["kind"] for one in read_json(root.integrity)] == ["pattern-unused"]


def test_training_refuses_stored_splits_that_tear_patients(tmp_path: Path, plan: Command, command: Command) -> None:
    """As of a plan before visits were told to be one subject's."""
    root = Root(tmp_path)
    write_dataset(root, [f"sub-{subject}_ses-{visit}" for subject in range(4) for visit in range(2)])
    write_dataset(root, [f"IMG_{number:04}" for number in range(5)], "Dataset002_Other")
    assert plan().status == 0
    splits = read_json(root.splits(NAME))
    splits["test"].remove(case := splits["test"][0])
    splits["folds"][0]["val"].append(case)
    root.splits(NAME).write_text(json.dumps(splits))
    said = command(train_all_permutations.main, "--root", tmp_path, "--dry-run")
    assert said.status == 1
    assert f"{root.splits(NAME)}: has cases of one patient in several parts ({case[:5]}); run" in said.err
    assert "mdkd_plan_and_preprocess --replan" in said.err


@pytest.mark.parametrize(
    ("pattern", "words"), [("(?P<patient>", "not a regular expression"), ("", "--patient-pattern is empty")]
)
def test_a_pattern_that_is_none_plans_nothing(tmp_path: Path, plan: Command, pattern: str, words: str) -> None:
    write_dataset(Root(tmp_path), ["a", "b", "c"])
    said = plan("--patient-pattern", pattern)
    assert said.status == 1
    assert words in said.err
    assert "Traceback" not in said.err
    assert not Root(tmp_path).integrity.exists()
