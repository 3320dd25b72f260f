"""Classification data sets as users have them: tables, folders a class, stray and broken files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.records import Dataset
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.datasets.raw_folder import inspect_dataset
from mdkd_auto.datasets.splits import make_splits
from mdkd_auto.formats.read_write import read_image

NAME = "Dataset021_Chests"
Kinds = set[tuple[str, str]]


def save(path: Path, pixels: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) if pixels is None else pixels
    Pillow.fromarray(grey).save(path)


@pytest.fixture
def described(tmp_path: Path) -> Callable[..., Path]:
    def make(**changes: object) -> Path:
        content = {"task": "classification", "channel_names": {"0": "CXR"}, **changes}
        (tmp_path / NAME).mkdir(exist_ok=True)
        (tmp_path / NAME / "dataset.json").write_text(json.dumps(content))
        return tmp_path / NAME

    return make


def read(folder: Path) -> tuple[Dataset, list[Problem], Kinds]:
    dataset, problems = inspect_dataset(folder)
    assert dataset is not None
    return dataset, problems, {(one.kind, one.case_id) for one in problems}


def test_classes_in_a_table(described: Callable[..., Path]) -> None:
    folder = described(labels={"sick": 1, "well": 0}, file_ending=".png", numTraining=4)
    for case in "abcd":
        save(folder / "imagesTr" / f"{case}_0000.png")
    table = "case_id,label,patient_id,split\na,well,p1,train\nb,sick,p1,train\nc,well,p2,test\nd,,p3,\n"
    (folder / "cases.csv").write_text(table)
    dataset, problems, kinds = read(folder)
    assert dataset.labels == {"well": (0,), "sick": (1,)}  # by number
    assert [(case.case_id, case.class_name, case.patient_id, case.split) for case in dataset.cases] == [
        ("a", "well", "p1", "train"),
        ("b", "sick", "p1", "train"),
        ("c", "well", "p2", "test"),
    ]
    assert kinds == {("class-missing", "d")}
    assert "no class is given for d" in problems[0].found


def test_a_folder_a_class(described: Callable[..., Path]) -> None:
    """As they come from a colleague: any endings, a Thumbs.db, colour, 16 bits, one empty folder."""
    folder = described()
    save(folder / "sick" / "x.png")
    save(folder / "sick" / "y.jpg", np.zeros((6, 9, 3), dtype=np.uint8))
    save(folder / "well" / "x.png", np.arange(64, dtype=np.uint16).reshape(8, 8) * 900)
    (folder / "well" / "Thumbs.db").write_bytes(b"\0")
    (folder / "well" / ".DS_Store").write_bytes(b"\0")
    (folder / "unsure").mkdir()
    dataset, _, kinds = read(folder)
    assert dataset.labels == {"sick": (0,), "well": (1,)}
    assert {case.case_id: case.class_name for case in dataset.cases} == {
        "sick_x": "sick",
        "sick_y": "sick",
        "well_x": "well",
    }
    assert kinds == {("class-empty", "")}


def test_images_in_subfolders_are_not_lost_without_a_word(described: Callable[..., Path]) -> None:
    folder = described()
    for name in ("N/a.png", "N/pat1/b.png", "N/pat1/c.png", "N/.thumbs/c.png", "P/x.png", "P/pat2/deep/y.png"):
        save(folder / name)
    (folder / "P" / "notes").mkdir()
    dataset, problems, _ = read(folder)
    assert [case.case_id for case in dataset.cases] == ["N_a", "P_x"]
    assert [(one.kind, Path(one.file).name, one.found) for one in problems] == [
        ("images-deeper", "N", "has images in subfolders, which are not read: pat1 (2 in all)"),
        ("images-deeper", "P", "has images in subfolders, which are not read: pat2/deep (1 in all)"),
    ]
    assert all(one.remedy == "put them into the class's folder itself; patients go to cases.csv" for one in problems)


def test_folders_of_splits_above_those_of_classes(described: Callable[..., Path]) -> None:
    """As Kaggle gives them: the same names in each."""
    folder = described(numTraining=8)
    for part in ("Train", "val", "TEST"):  # in any case
        for name in ("NORMAL", "PNEUMONIA"):
            save(folder / part / name / "a.png")
    save(folder / "Train" / "NORMAL" / "b.png")
    save(folder / "Train" / "PNEUMONIA" / "b.png")
    dataset, (one,), _ = read(folder)
    assert [(case.case_id, case.class_name, case.split) for case in dataset.cases] == [
        ("TEST_NORMAL_a", "NORMAL", "test"),
        ("TEST_PNEUMONIA_a", "PNEUMONIA", "test"),
        ("Train_NORMAL_a", "NORMAL", "train"),
        ("Train_NORMAL_b", "NORMAL", "train"),
        ("Train_PNEUMONIA_a", "PNEUMONIA", "train"),
        ("Train_PNEUMONIA_b", "PNEUMONIA", "train"),
        ("val_NORMAL_a", "NORMAL", "val"),
        ("val_PNEUMONIA_a", "PNEUMONIA", "val"),
    ]
    assert (one.kind, one.found) == (
        "splits-by-folders",
        "has folders that are read as splits, with images: TEST 2, Train 4, val 2",
    )
    assert make_splits(dataset, 0).folds[0].val == ("val_NORMAL_a", "val_PNEUMONIA_a")
    (folder / "cases.csv").write_text("case_id,split\nTEST_NORMAL_a,train\nval_NORMAL_a,val\n")
    dataset, problems, _ = read(folder)
    assert [(one.case_id, one.found) for one in problems if one.kind == "cases-csv"] == [
        ("TEST_NORMAL_a", "says split 'train' of TEST_NORMAL_a, its folder says 'test'")
    ]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("train/a.png", "test/b.png"), "is named for a split and holds images itself (1)"),
        (("train/N/a.png", "train/P/b.png", "test/c.png"), "is named for a split and holds images itself (1)"),
        (("train/N/a.png", "train/P/b.png", "test/N/c.png"), "with other classes: test holds N; train holds N, P"),
        (("train/N/a.png", "train/P/b.png", "P/c.png"), "lies beside folders of splits (train); images in it: 1"),
        (("imagesTr/train/a.png", "imagesTr/valid/b.png"), "is named for a split and holds images itself (1)"),
    ],
)
def test_folders_of_splits_that_say_no_class_are_refused(
    described: Callable[..., Path], files: tuple[str, ...], found: str
) -> None:
    folder = described()
    for name in files:
        save(folder / name)
    dataset, problems, _ = read(folder)
    assert dataset.cases == ()
    refused = [one for one in problems if one.kind == "split-folder"]
    assert found in refused[0].found
    assert "cases.csv" in refused[0].remedy


def test_one_folder_of_a_split_is_none_and_labels_say_what_is_a_class(described: Callable[..., Path]) -> None:
    folder = described()
    for name in ("train_images/N/a.png", "train_images/P/b.png"):
        save(folder / name)
    (folder / "val").mkdir()
    dataset, problems, _ = read(folder)
    assert [(case.case_id, case.split) for case in dataset.cases] == [("N_a", ""), ("P_b", "")]
    assert [one.kind for one in problems] == ["class-empty", "splits-by-folders"]
    classes = described(labels={"test": 0, "control": 1})
    for name in ("test/a.png", "control/b.png"):
        save(classes / name)
    shutil.rmtree(classes / "train_images")
    assert [case.class_name for case in read(classes)[0].cases] == ["control", "test"]


def test_linked_folders_of_images_below_a_class_are_seen(described: Callable[..., Path], tmp_path: Path) -> None:
    folder = described()
    for name in ("N/a.png", "P/x.png"):
        save(folder / name)
    save(tmp_path / "elsewhere" / "b.png")
    (folder / "N" / "more").symlink_to(tmp_path / "elsewhere")
    _, problems, _ = read(folder)
    assert [(one.kind, one.found) for one in problems] == [
        ("images-deeper", "has images in subfolders, which are not read: more (1 in all)")
    ]


def test_class_folders_beside_the_images(described: Callable[..., Path]) -> None:
    folder = described()
    save(folder / "imagesTr" / "well" / "a.png")
    save(folder / "imagesTr" / "sick" / "b.png")
    save(folder / "sick" / "c.png")
    save(folder / "imagesTs" / "d.png")
    (folder / "notes").mkdir()
    dataset, (one,), _ = read(folder)
    assert len(dataset.cases) == 2
    assert (one.kind, one.severity, Path(one.file).name) == ("images-beside", "warning", "sick")


def test_every_fault_is_named_with_its_case(described: Callable[..., Path]) -> None:
    folder = described(labels={"well": 0, "sick": 1}, numTraining=7)
    save(folder / "imagesTr" / "well" / "a_0000.png")
    save(folder / "imagesTr" / "well" / "a_0000.bmp")  # twice
    save(folder / "imagesTr" / "sick" / "b_0000.png")
    save(folder / "imagesTr" / "sick" / "b_0001.png")  # a channel that is not described
    save(folder / "imagesTr" / "odd" / "c.png")  # no such class
    save(folder / "imagesTr" / "d.png")  # no class at all
    save(folder / "imagesTr" / "sick" / "e.png")
    save(folder / "imagesTr" / "well" / "f.png")
    dataset, problems, kinds = read(folder)
    assert [case.case_id for case in dataset.cases] == ["sick_e", "well_f"]
    assert kinds == {
        ("case-twice", "well_a"),
        ("image-extra", "sick_b"),
        ("class-unknown", "odd_c"),
        ("class-missing", "d"),
        ("number-of-cases", ""),
    }
    (unknown,) = [one for one in problems if one.kind == "class-unknown"]
    assert "class 'odd' of odd_c is not in dataset.json (well, sick)" in unknown.found


def test_numbers_of_names_are_no_channels(described: Callable[..., Path]) -> None:
    """As cameras and patients have them; beside channel 0 such a number is a channel that is not described."""
    folder = described()
    for name in (
        "sick/IMG_0001.png",
        "sick/patient_2023.png",
        "well/IMG_0001.png",
        "well/b_0000.png",
        "well/c.png",
        "well/c_0002.png",
    ):
        save(folder / name)
    dataset, problems, _ = read(folder)
    assert problems == []
    assert [case.case_id for case in dataset.cases] == [
        "sick_IMG_0001",
        "sick_patient_2023",
        "well_IMG_0001",
        "well_b",
        "well_c",
        "well_c_0002",
    ]
    save(folder / "well" / "b_0001.png")
    save(folder / "well" / "IMG_0001_0000.png")  # the same case by its full name
    dataset, problems, kinds = read(folder)
    assert kinds == {("image-extra", "well_b"), ("case-twice", "well_IMG_0001")}
    assert "a case of its own needs another name" in str(problems)


def test_a_channel_is_missing(described: Callable[..., Path]) -> None:
    folder = described(channel_names={"0": "PA", "1": "lateral"})
    for name in ("sick/a_0000.png", "sick/a_0001.png", "well/b_0001.png", "well/c_2023.png"):
        save(folder / name)
    dataset, _, kinds = read(folder)
    assert [case.case_id for case in dataset.cases] == ["sick_a"]
    assert kinds >= {("image-missing", "well_b"), ("image-missing", "well_c"), ("image-extra", "well_c")}


def test_names_of_classes_are_as_in_dataset_json(described: Callable[..., Path]) -> None:
    folder = described()
    for name in ("well/a.png", "sick/a.png", "@sum/a.png", "x|y/a.png"):
        save(folder / "imagesTr" / name)
    save(folder / "imagesTr" / "b.png")
    (folder / "cases.csv").write_text("case_id,label\nb,-1+1\nwell_a,sick\nsick_a,sick\n")
    dataset, problems, kinds = read(folder)
    assert list(dataset.labels) == ["sick"]
    assert [case.case_id for case in dataset.cases] == ["sick_a"]
    assert kinds >= {
        ("class-name", "b"),
        ("class-name", "x|y_a"),
        ("class-name", "@sum_a"),
        ("class-contradicted", "well_a"),
    }
    assert "says class 'sick' of well_a, its folder says 'well'" in str(problems)


def test_one_class_is_none(described: Callable[..., Path]) -> None:
    folder = described()
    save(folder / "well" / "a.png")
    _, problems, kinds = read(folder)
    assert kinds == {("one-class", "")}
    assert problems[0].severity == "error"


def test_neither_images_nor_classes(described: Callable[..., Path]) -> None:
    dataset, problems, kinds = read(described())
    assert dataset.cases == ()
    assert kinds == {("folder-missing", "")}
    assert "neither a folder imagesTr nor one folder a class" in problems[0].found


@pytest.mark.parametrize(
    "labels", [{"well": 0}, {"well": 0, "sick": 0}, {"well": 0, "sick": 2}, {"well": 0, "=sick": 1}, ["well", "sick"]]
)
def test_classes_are_numbered_from_0(described: Callable[..., Path], labels: object) -> None:
    folder = described(labels=labels)
    dataset, (one, *_) = inspect_dataset(folder)
    assert dataset is None
    assert "an object of classes and numbers from 0" in one.remedy


def test_colour_becomes_grey_where_it_may(tmp_path: Path) -> None:
    colour = np.zeros((2, 2, 3), dtype=np.uint8)
    colour[0, 0] = (255, 0, 0)
    colour[0, 1] = (0, 255, 0)
    colour[1, 0] = (0, 0, 255)
    colour[1, 1] = (7, 7, 7)
    for ending in ("png", "tif"):
        save(tmp_path / f"a.{ending}", colour)
        with pytest.raises(ImageError, match="in colour"):
            read_image(tmp_path / f"a.{ending}")
        grey = read_image(tmp_path / f"a.{ending}", colour_to_grey=True).array
        assert grey.dtype == np.uint8
        assert grey[0].tolist() == [[76, 150], [29, 7]]  # 255 x 0.299, 0.587, 0.114
