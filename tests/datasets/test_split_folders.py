"""Folders of splits of segmentation and detection data sets, which are not read: said, never as if absent."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.datasets.raw_folder import inspect_dataset

NAME = "Dataset001_A"


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)


def described(folder: Path, **fields: object) -> Path:
    folder.mkdir()
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".png", **fields}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def found(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Folder -> kind, words and remedy of what is wrong with it."""
    _, problems = inspect_dataset(folder)
    return {Path(one.file).name: (one.kind, one.found, one.remedy) for one in problems if Path(one.file) != folder}


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_folders_of_splits_in_place_of_images_tr_are_refused(tmp_path: Path, task: str) -> None:
    folder = described(tmp_path / NAME, task=task)
    for part in ("train", "Valid", "test"):
        save(folder / part / "a.png")
        (folder / part / "_annotations.coco.json").write_text("{}")
    problems = found(folder)
    assert set(problems) == {"train", "Valid", "test"}
    kind, words, remedy = problems["Valid"]
    assert (kind, words) == ("split-folder", "holds 1 images, and _annotations.coco.json; only imagesTr is read")
    assert "one annotations.json" in remedy
    assert "cases.csv" in remedy


def test_images_ts_of_nnunet_and_splits_beside_images_tr_are_said_to_be_unread(tmp_path: Path) -> None:
    folder = described(tmp_path / NAME)
    for case in "abc":
        save(folder / "imagesTr" / f"{case}_0000.png")
        save(folder / "labelsTr" / f"{case}.png")
    save(folder / "imagesTs" / "d_0000.png")
    save(folder / "labelsTs" / "d.png")
    save(folder / "test" / "deep" / "e.png")
    (folder / "val").mkdir()
    (folder / "VALID").symlink_to("unmounted")
    problems = found(folder)
    assert {name: (kind, words) for name, (kind, words, _) in problems.items()} == {
        "imagesTs": ("images-beside", "is not read; files in it: 1"),
        "labelsTs": ("images-beside", "is not read; files in it: 1"),
        "test": ("images-beside", "is not read beside imagesTr; images in it: 1"),
        "VALID": ("images-beside", "is not read, and is a link to unmounted, which does not exist"),
    }
    assert "split test in cases.csv; or use mdkd_predict" in problems["imagesTs"][2]


def test_files_that_dataset_json_lists_may_lie_anywhere(tmp_path: Path) -> None:
    entries = {case: {"images": [f"train/{case}.png"], "label": f"truth/{case}.png"} for case in "abc"}
    folder = described(tmp_path / NAME, dataset=entries)
    for case in "abc":
        save(folder / "train" / f"{case}.png")
        save(folder / "truth" / f"{case}.png")
    assert inspect_dataset(folder)[1] == []
