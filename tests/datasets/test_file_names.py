"""Names of files: bytes that are no UTF-8 are told and never crash; endings may be in capitals."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.cli import doctor, plan_and_preprocess
from mdkd_auto.core.errors import PredictionError
from mdkd_auto.core.files import read_json, write_json
from mdkd_auto.core.text import escaped, is_utf8
from mdkd_auto.datasets.new_cases import find_cases
from mdkd_auto.datasets.raw_folder import inspect_dataset, read_dataset

BAD = os.fsdecode(b"M\xfcller")  # latin-1
SHOWN = "M\\xfcller"


def save_volume(path: Path, seed: int = 0, label: bool = False) -> None:
    values = np.random.default_rng(seed).integers(0, 2 if label else 99, (6, 5, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path.with_name("new.nii.gz"))  # type: ignore[attr-defined]
    path.with_name("new.nii.gz").rename(path)


def save_picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, "wb") as file:
        Pillow.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 8)).astype(np.uint8)).save(file, "png")


def describe(folder: Path, **fields: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, **fields}))
    return folder


def segmented(folder: Path, cases: Sequence[str], ending: str = ".nii.gz") -> Path:
    describe(folder, labels={"background": 0, "lesion": 1}, file_ending=".nii.gz")
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    for number, name in enumerate(cases):
        save_volume(folder / "imagesTr" / f"{name}_0000{ending}", number)
        save_volume(folder / "labelsTr" / f"{name}{ending}", number, label=True)
    return folder


def classified(folder: Path, names: Sequence[str] = ("a", "b", "c"), classes: Sequence[str] = ("sick", "well")) -> Path:
    describe(folder, task="classification")
    for number, (one, name) in enumerate((one, name) for one in classes for name in names):
        save_picture(folder / one / f"{name}.png", number)
    return folder


def boxed(folder: Path, names: Sequence[str], listed: Sequence[str]) -> Path:
    describe(folder, task="detection", labels={"nodule": 1})
    for number, name in enumerate(names):
        save_picture(folder / "imagesTr" / name, number)
    images = [{"id": number, "file_name": name} for number, name in enumerate(listed)]
    boxes = [{"image_id": number, "category_id": 1, "bbox": [1, 1, 3, 2]} for number in range(len(listed))]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "nodule"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_text() -> None:
    assert not is_utf8(BAD)
    assert is_utf8("Größe \N{GRINNING FACE}")
    assert escaped(f"{BAD}.png") == "M\\xfcller.png"


def test_what_is_written_holds_the_escaped_name(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": BAD})
    assert read_json(tmp_path / "a.json") == {"name": SHOWN}


MAKERS: dict[str, tuple[Callable[[Path], object], str, str]] = {  # what is made of a data set's folder, kind, case
    "a case": (lambda folder: segmented(folder, ["a", "b", "c", BAD]), "case-name", SHOWN),
    "a label alone": (
        lambda folder: save_volume(segmented(folder, ["a", "b", "c"]) / "labelsTr" / f"{BAD}.nii.gz", 0, True),
        "case-name",
        SHOWN,
    ),
    "a stray file": (
        lambda folder: (segmented(folder, ["a", "b", "c"]) / "imagesTr" / f"{BAD}.txt").touch(),
        "file-unknown",
        "",
    ),
    "a picture": (lambda folder: classified(folder, ["a", "b", BAD]), "case-name", f"sick_{SHOWN}"),
    "a class": (lambda folder: classified(folder, classes=("sick", "well", BAD)), "class-name", ""),
    "an image with boxes": (
        lambda folder: boxed(folder, ["a.png", "b.png", f"{BAD}.png"], ["a.png", "b.png"]),
        "case-name",
        SHOWN,
    ),
    "a folder below a class": (
        lambda folder: save_picture(classified(folder) / "sick" / BAD / "a.png"),
        "images-deeper",
        "",
    ),
}


@pytest.mark.parametrize("what", MAKERS)
def test_a_name_that_is_no_utf8_is_a_problem(tmp_path: Path, what: str, command: Callable[..., Any]) -> None:
    make, kind, case_id = MAKERS[what]
    make(tmp_path / "raw" / "Dataset001_Mine")
    said = command(plan_and_preprocess.main, "--root", tmp_path, "--verify-only", "-j", 1)
    assert "Traceback" not in said.out + said.err
    found = read_json(tmp_path / "preprocessed" / "integrity.json")
    assert [one for one in found if one["kind"] == kind and one["case_id"] == case_id]
    assert SHOWN in (tmp_path / "preprocessed" / "integrity.txt").read_text(encoding="utf-8")
    assert SHOWN in said.out + said.err
    assert said.status == int(kind != "file-unknown")


def test_a_data_sets_folder_and_the_root_itself(tmp_path: Path, command: Callable[..., Any]) -> None:
    segmented(tmp_path / "raw" / "Dataset001_Mine", ["a", "b", "c"])
    segmented(tmp_path / "raw" / f"Dataset002_{BAD}", ["a", "b", "c"])
    said = command(plan_and_preprocess.main, "--root", tmp_path, "--verify-only", "-j", 1)
    assert said.status == 1
    assert f"Dataset002_{SHOWN}: the name is not UTF-8" in said.err
    for name, options in ((doctor, ("-o", tmp_path / "report.txt")), (plan_and_preprocess, ())):
        said = command(name.main, "--root", tmp_path, *options)
        assert "Traceback" not in said.out + said.err
    (tmp_path / BAD).mkdir()
    said = command(plan_and_preprocess.main, "--root", tmp_path / BAD, "-j", 1)
    assert said.status == 1
    assert f"{SHOWN}: the path is not UTF-8" in said.err


def test_images_to_predict(tmp_path: Path) -> None:
    save_picture(tmp_path / f"{BAD}.png")
    save_picture(tmp_path / "a.png")
    (tmp_path / f"{BAD}.txt").touch()
    cases, refused = find_cases(tmp_path, None, 1, 0)
    assert [case.case_id for case in cases] == ["a"]
    (problem,) = refused
    assert problem.startswith(f"the name {SHOWN} is not UTF-8")
    (tmp_path / "a.png").unlink()
    with pytest.raises(PredictionError, match=r"no image can be predicted:\n  the name M\\xfcller is not UTF-8"):
        find_cases(tmp_path, None, 1, 0)


# --- endings in capitals ----------------------------------------------------------------------------------------------


def test_volumes_in_capitals(tmp_path: Path) -> None:
    folder = segmented(tmp_path / "Dataset001_Mine", ["a", "b", "c"])
    for part, name in (("imagesTr", "b_0000"), ("labelsTr", "b")):
        (folder / part / f"{name}.nii.gz").rename(folder / part / f"{name}.NII.GZ")
    dataset, problems = inspect_dataset(folder)
    assert problems == []
    assert dataset is not None
    assert [case.case_id for case in dataset.cases] == ["a", "b", "c"]
    assert dataset.cases[1].images == (str(folder / "imagesTr" / "b_0000.NII.GZ"),)
    assert dataset.cases[1].label == str(folder / "labelsTr" / "b.NII.GZ")
    save_volume(folder / "imagesTr" / "a_0000.NII.gz")
    save_volume(folder / "labelsTr" / "c.Nii.gz")
    _, problems = inspect_dataset(folder)
    assert [(one.kind, one.case_id) for one in problems] == [("case-twice", "a"), ("case-twice", "c")]


def test_an_ending_of_dataset_json_in_capitals(tmp_path: Path) -> None:
    folder = classified(tmp_path / "Dataset001_Mine")
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".PNG"}))
    (folder / "sick" / "b.png").rename(folder / "sick" / "b.Png")
    assert len(read_dataset(folder).cases) == 6


def test_boxes_of_images_in_capitals(tmp_path: Path) -> None:
    names = ["a.PNG", "b.png", "c_0000.PNG"]
    dataset = read_dataset(boxed(tmp_path / "Dataset001_Mine", names, ["a.png", "b.PNG", "c.png"]))
    assert [len(case.boxes or ()) for case in dataset.cases] == [1, 1, 1]


def test_images_to_predict_in_capitals(tmp_path: Path) -> None:
    save_picture(tmp_path / "a_0000.PNG")
    save_picture(tmp_path / "b.Png")
    assert [case.case_id for case in find_cases(tmp_path, ".png", 1, 0).cases] == ["a", "b"]
