"""Links to nothing and names that are almost read: never as if absent."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.datasets.links import dangling
from mdkd_auto.datasets.raw_folder import find_datasets, inspect_dataset

NAME = "Dataset001_A"
Make = Callable[[Path], Path]


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)


def describe(raw: Path, **fields: object) -> Path:
    folder = raw / NAME
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, **fields}))
    return folder


def segmented(raw: Path) -> Path:
    folder = describe(raw, labels={"background": 0, "x": 1}, file_ending=".png")
    for case in "abcd":
        save(folder / "imagesTr" / f"{case}_0000.png")
        save(folder / "labelsTr" / f"{case}.png")
    return folder


def classified(raw: Path) -> Path:
    folder = describe(raw, task="classification")
    for case in "abcd":
        for name in ("sick", "well"):
            save(folder / name / f"{case}_0000.png")
    return folder


def boxed(raw: Path) -> Path:
    folder = describe(raw, task="detection")
    for case in "abcd":
        save(folder / "imagesTr" / f"{case}.png")
    coco = {
        "images": [{"id": number, "file_name": f"{case}.png"} for number, case in enumerate("abcd")],
        "annotations": [{"image_id": number, "category_id": 1, "bbox": [1, 1, 3, 3]} for number in range(4)],
        "categories": [{"id": 1, "name": "nodule"}],
    }
    (folder / "annotations.json").write_text(json.dumps(coco))
    return folder


def cut(path: Path, target: str = "../.git/annex/objects/XX/YY") -> None:
    """In place of a file or folder, a link to nothing."""
    if path.is_dir():
        path.rename(path.parent / ".before")
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def links(folder: Path) -> dict[str, tuple[str, str]]:
    """File of each link to nothing -> case and words."""
    _, problems = inspect_dataset(folder)
    return {
        Path(one.file).relative_to(folder).as_posix(): (one.case_id, one.found)
        for one in problems
        if one.kind == "link-dangling"
    }


@pytest.mark.parametrize(
    ("make", "place", "case"),
    [
        (segmented, "imagesTr/b_0000.png", "b"),
        (segmented, "labelsTr/b.png", "b"),
        (segmented, "dataset.json", ""),
        (segmented, "cases.csv", ""),
        (segmented, "splits_final.json", ""),
        (segmented, "labelsTr", ""),
        (classified, "sick/b_0000.png", "sick_b"),
        (classified, "sick", ""),
        (classified, "unsure", ""),
        (classified, "cases.csv", ""),
        (boxed, "imagesTr/b.png", "b"),
        (boxed, "imagesTr", ""),
        (boxed, "annotations.json", ""),
    ],
)
def test_a_link_to_nothing_is_an_error(tmp_path: Path, make: Make, place: str, case: str) -> None:
    folder = make(tmp_path)
    cut(folder / place)
    assert links(folder) == {place: (case, "is a link to ../.git/annex/objects/XX/YY, which does not exist")}


def test_image_and_label_gone_together_are_one_case_of_the_problems(tmp_path: Path) -> None:
    folder = segmented(tmp_path)
    cut(folder / "imagesTr" / "b_0000.png")
    cut(folder / "labelsTr" / "b.png")
    dataset, problems = inspect_dataset(folder)
    assert dataset is not None
    assert [case.case_id for case in dataset.cases] == ["a", "c", "d"]
    assert [(one.kind, one.case_id) for one in problems] == [("link-dangling", "b")] * 2


def test_links_that_lead_somewhere_and_those_that_are_not_read_are_sound(tmp_path: Path) -> None:
    folder = segmented(tmp_path)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).rename(tmp_path / part)
        (folder / part).symlink_to(tmp_path / part)
    (folder / "README.md").symlink_to("/nowhere")
    (folder / "imagesTs").symlink_to("/nowhere")
    (folder / "imagesTr" / ".cache").symlink_to("/nowhere")
    assert inspect_dataset(folder)[1] == []


def test_circles_and_links_through_files(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert dangling(tmp_path / "a") == "is a link to b, which leads back to itself"
    (tmp_path / "file").touch()
    (tmp_path / "through").symlink_to("file/below")
    assert dangling(tmp_path / "through") == "is a link to file/below, which does not exist"
    (tmp_path / "chain").symlink_to("through")
    assert dangling(tmp_path / "chain") == "is a link to through, which does not exist"
    assert dangling(tmp_path / "file") is None
    assert dangling(tmp_path / "absent") is None
    folder = classified(tmp_path / "raw")
    (folder / "sick" / "again").symlink_to(folder / "sick")
    assert links(folder) == {}


def test_a_data_set_or_the_raw_folder_itself(tmp_path: Path) -> None:
    segmented(tmp_path / "raw")
    (tmp_path / "raw" / "Dataset009_Gone").symlink_to("/mnt/unmounted/Dataset009")
    (tmp_path / "raw" / "notes").symlink_to("/mnt/unmounted/notes")
    datasets, (problem,) = find_datasets(tmp_path / "raw")
    assert [one.name for one in datasets] == [NAME]
    assert (problem.kind, problem.dataset) == ("link-dangling", "Dataset009_Gone")
    assert problem.found == "is a link to /mnt/unmounted/Dataset009, which does not exist"
    (tmp_path / "else").symlink_to("/mnt/unmounted")
    with pytest.raises(DatasetError, match="else: is a link to /mnt/unmounted, which does not exist; mount the drive"):
        find_datasets(tmp_path / "else")


def test_a_folder_of_another_name_is_a_data_set_by_a_link_to_its_description(tmp_path: Path) -> None:
    (tmp_path / "Lungs").mkdir()
    (tmp_path / "Lungs" / "dataset.json").symlink_to("/nowhere/dataset.json")
    assert [one.kind for one in find_datasets(tmp_path)[1]] == ["folder-name"]


@pytest.mark.parametrize(
    ("make", "written", "name"),
    [
        (segmented, "Cases.csv", "cases.csv"),
        (segmented, "cases.xlsx", "cases.csv"),
        (segmented, "cases.csv.txt", "cases.csv"),
        (segmented, "Splits_Final.json", "splits_final.json"),
        (classified, "ImagesTr", "imagesTr"),
    ],
)
def test_a_name_that_is_almost_read_is_an_error(tmp_path: Path, make: Make, written: str, name: str) -> None:
    folder = make(tmp_path)
    (folder / written).touch()
    if (folder / name).exists():
        pytest.skip("the file system does not tell cases apart")
    assert [(one.kind, one.found) for one in inspect_dataset(folder)[1]] == [
        ("name-almost", f"is not read; {name} would be")
    ]
    (folder / name).mkdir() if name == "imagesTr" else (folder / name).write_text("case_id\n")
    assert "name-almost" not in {one.kind for one in inspect_dataset(folder)[1]}


def test_a_folder_in_place_of_the_splits_is_not_absent(tmp_path: Path) -> None:
    from mdkd_auto.datasets.splits import read_raw_splits

    folder = segmented(tmp_path)
    (folder / "splits_final.json").mkdir()
    dataset, _ = inspect_dataset(folder)
    assert dataset is not None
    with pytest.raises(DatasetError, match="is a folder"):
        read_raw_splits(dataset)
