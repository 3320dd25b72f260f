"""A data set whose cases are all broken: the problems of the cases are named, and nothing that follows from them."""

import csv
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.files import read_json, write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.demo.phantoms import PICTURES, SCENES, Look, write_datasets, write_detection_datasets, write_pictures
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import verify

CASES = 5
Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, looks: tuple[Look, ...]) -> Path:
    """One data set of each task, and one of folders of classes, each in a raw folder of its own."""
    made = tmp_path_factory.mktemp("sound")
    write_datasets(made / "masks" / "raw", looks[:1], cases=CASES)
    write_pictures(made / "table" / "raw", PICTURES[:1], cases=CASES)
    write_detection_datasets(made / "boxes" / "raw", SCENES[:1], cases=CASES)
    shutil.copytree(made / "table", made / "folders")
    folder = made / "folders" / "raw" / PICTURES[0].name
    for row in csv.DictReader((folder / "cases.csv").open()):
        (folder / row["label"]).mkdir(exist_ok=True)
        image = folder / "imagesTr" / f"{row['case_id']}_0000.png"
        image.rename(folder / row["label"] / f"{row['case_id']}.png")
    (folder / "imagesTr").rmdir()
    (folder / "cases.csv").unlink()
    return made


def images_of(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.name.endswith((".png", ".nii.gz")) and path.parent.name != "labelsTr"
    )


def break_off(folder: Path) -> None:
    for path in images_of(folder):
        path.write_bytes(path.read_bytes()[:40])


def link_to_nothing(folder: Path) -> None:
    for path in images_of(folder):
        path.unlink()
        path.symlink_to(f"gone_{path.name}")


def remove_labels(folder: Path) -> None:
    for path in (folder / "labelsTr").iterdir():
        path.unlink()


def with_label(label: str) -> Break:
    def change(folder: Path) -> None:
        rows = list(csv.DictReader((folder / "cases.csv").open()))
        lines = [",".join(rows[0]), *(",".join((row | {"label": label}).values()) for row in rows)]
        (folder / "cases.csv").write_text("\n".join(lines) + "\n")

    return change


def with_boxes(**fields: Any) -> Break:
    def change(folder: Path) -> None:
        content = read_json(folder / "annotations.json")
        for one in content["annotations"]:
            one.update(fields)
        listed = {one["image_id"] for one in content["annotations"]}
        content["images"] = [one for one in content["images"] if one["id"] in listed]
        for path in images_of(folder):
            if not any(one["file_name"] == path.name for one in content["images"]):
                path.unlink()
        content["annotations"] += [one | {"id": 100 + one["id"]} for one in content["annotations"]]
        (folder / "dataset.json").write_text((folder / "dataset.json").read_text().replace("numTraining", "x_number"))
        write_json(folder / "annotations.json", content)

    return change


@pytest.mark.parametrize(
    ("kind_of_data", "spoil", "kinds"),
    [
        *(
            ("masks", spoil, kinds)
            for spoil, kinds in (
                (break_off, ["truncated"]),
                (link_to_nothing, ["link-dangling"]),
                (remove_labels, ["label-missing"]),
            )
        ),
        *(
            (data, spoil, kinds)
            for data in ("table", "folders", "boxes")
            for spoil, kinds in ((break_off, ["unreadable"]), (link_to_nothing, ["link-dangling"]))
        ),
        ("table", with_label(""), ["class-missing"]),
        ("table", with_label("another"), ["class-unknown"]),
        ("boxes", with_boxes(iscrowd=1), ["annotations-crowd"]),
        ("boxes", with_boxes(bbox=[9.0, 9.0, -4.0, 5.0]), ["box-empty"]),
        ("boxes", with_boxes(category_id=77), ["class-unknown"]),
    ],
)
def test_nothing_is_added_to_the_problems_of_cases(
    sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind_of_data: str, spoil: Break, kinds: Sequence[str]
) -> None:
    root = Root(Path(shutil.copytree(sound / kind_of_data, tmp_path / "root")))
    (folder,) = root.raw.iterdir()
    spoil(folder)
    caplog.set_level(logging.WARNING)
    with pytest.raises(DatasetError):
        verify(root)
    assert {one["kind"] for one in read_json(root.integrity)} == {*kinds}
    assert "no test part" not in caplog.text


def test_a_row_of_a_case_whose_image_is_a_link_to_nothing_is_no_unknown_case(sound: Path, tmp_path: Path) -> None:
    """Nor is its label one without an image: to remove either would lose the case."""
    root = Root(Path(shutil.copytree(sound / "masks", tmp_path / "root")))
    (folder,) = root.raw.iterdir()
    image, *_ = images_of(folder)
    case = image.name.removesuffix("_0000.nii.gz")
    image.unlink()
    image.symlink_to("annexed.nii.gz")
    (folder / "cases.csv").write_text(f"case_id,split\n{case},test\n")
    with pytest.raises(DatasetError):
        verify(root)
    (problem,) = read_json(root.integrity)
    assert (problem["kind"], problem["case_id"]) == ("link-dangling", case)
    verified = verify(root, request=PlanRequest(exclude_broken=True))
    assert [len(dataset.cases) for datasets in verified.groups.values() for dataset in datasets] == [CASES - 1]
