"""Detection data sets as users have them: COCO, Pascal VOC, DeepLesion, and broken."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.core.records import Box, Case
from mdkd_auto.datasets.dataset_json import Description
from mdkd_auto.datasets.problems import KINDS, Problem, problems_text, without_broken
from mdkd_auto.datasets.raw_folder import inspect_dataset
from mdkd_auto.datasets.truth.boxes import read_boxed

Read = tuple[tuple[Case, ...], dict[str, tuple[int, ...]], list[Problem]]
DESCRIPTION = Description(
    task="detection",
    modality="CT",
    channel_names=("CT",),
    labels={},
    regions_class_order=(),
    ignore_label=None,
    file_ending="",
    spacing_mm=None,
    spacing_from=None,
    number_of_cases=None,
    entries={},
)
TUMOUR = Box(class_name="tumour", x=1, y=2, width=3, height=2)


def save(path: Path) -> None:
    """8 x 6 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path)


def write_coco(
    folder: Path, boxes: dict[str, list[list[float]]], extra: tuple[object, ...] = (), size: int = 8
) -> None:
    """File name -> boxes of class tumour."""
    images = [{"id": i, "file_name": name, "width": size, "height": 6} for i, name in enumerate(boxes)]
    annotations = [
        {"image_id": i, "category_id": 1, "bbox": box} for i, name in enumerate(boxes) for box in boxes[name]
    ]
    content = {
        "images": images,
        "annotations": [*annotations, *extra],
        "categories": [{"id": 1, "name": "tumour"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, the second without a box."""
    made = tmp_path / "Dataset031_Boxes"
    save(made / "imagesTr" / "a_0000.png")
    save(made / "imagesTr" / "b.jpg")
    write_coco(made, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": []})
    return made


def read(folder: Path, **changes: object) -> Read:
    return read_boxed(folder, DESCRIPTION._replace(**changes))


def test_a_sound_data_set(folder: Path) -> None:
    (folder / "cases.csv").write_text("case_id,patient_id,split\na,p1,test\n")
    cases, labels, problems = read(folder)
    assert problems == []
    assert labels == {"tumour": (1,)}
    assert cases == (
        Case(
            case_id="a",
            images=(str(folder / "imagesTr" / "a_0000.png"),),
            boxes=(TUMOUR,),
            patient_id="p1",
            patient_by="table",
            split="test",
        ),
        Case(case_id="b", images=(str(folder / "imagesTr" / "b.jpg"),), boxes=(), patient_id="b"),
    )


def test_through_inspect_dataset(folder: Path) -> None:
    (folder / "imagesTr" / "b.jpg").unlink()
    write_coco(folder, {"a.png": [[1, 2, 3, 2]]})  # nnU-Net's channel left out
    content = {"task": "detection", "channel_names": {"0": "CT"}, "labels": {"tumour": 1}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset, problems = inspect_dataset(folder)
    assert problems == []
    assert dataset is not None
    assert [(case.case_id, case.boxes) for case in dataset.cases] == [("a", (TUMOUR,))]


def test_pascal_voc(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    (folder / "Annotations").mkdir()
    corners = "<xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax>"
    lesion = f"<object><name>tumour</name><bndbox>{corners}</bndbox></object>"
    for name, content in (("a_0000.png", lesion), ("b.jpg", "")):
        text = f"<annotation><filename>{name}</filename>{content}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    (folder / "Annotations" / "a_0000.png.xml").rename(folder / "Annotations" / "a_0000.xml")
    cases, labels, problems = read(folder)
    assert problems == []
    assert labels == {"tumour": (1,)}
    assert [case.boxes for case in cases] == [(TUMOUR,), ()]
    text = f"<annotation>{lesion}</annotation>"  # names no image
    (folder / "Annotations" / "a_0000.xml").write_text(text)
    cases, _, problems = read(folder)
    assert problems == []
    assert cases[0].boxes == (TUMOUR,)
    (folder / "Annotations" / "b.jpg.xml").write_text("<annotation>")
    cases, _, problems = read(folder)
    assert [(one.kind, one.case_id) for one in problems] == [("annotations-syntax", "b")]
    assert [case.case_id for case in cases] == ["a"]


def test_deep_lesion(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    (folder / "imagesTr" / "b.jpg").unlink()
    rows = [
        "File_name,Patient_index,Bounding_boxes,Spacing_mm_px_,Train_Val_Test",
        'a.png,7,"2, 3, 5, 5","0.8, 0.7, 5",2',
    ]
    (folder / "DL_info.csv").write_text("\n".join(rows))
    (case,), _, problems = read(folder, labels={"tumour": (1,)})
    assert problems == []
    assert (case.boxes, case.patient_id, case.split, case.spacing_mm) == ((TUMOUR,), "7", "val", (5, 0.7, 0.8))
    (folder / "cases.csv").write_text("case_id,patient_id,split\na,p1,train\n")
    (case,), _, _ = read(folder, labels={"tumour": (1,)})
    assert (case.patient_id, case.split) == ("p1", "train")


def test_boxes_are_cut_off_at_the_edge(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[-2, 1, 5, 2], [6, 4, 3, 3], [7, 5, 1, 1], [7, 5, 1, 1]], "b.jpg": []})
    cases, _, problems = read(folder)
    assert [(box.x, box.y, box.width, box.height) for box in cases[0].boxes or ()] == [
        (0, 1, 3, 2),
        (6, 4, 2, 2),
        (7, 5, 1, 1),
    ]  # the second stood out by one pixel, which nobody mentions
    assert [(one.kind, one.severity, one.case_id) for one in problems] == [
        ("box-clipped", "warning", "a"),
        ("box-twice", "warning", "a"),
    ]
    assert "box of tumour at x -2, y 1, 5 x 2 is 2 pixels beyond the image of 8 x 6 pixels" in problems[0].found


COCO_BOX = {"category_id": 1, "bbox": [0, 0, 1, 1]}


@pytest.mark.parametrize("stray", [{"image_id": 9, **COCO_BOX}, 5])
def test_an_annotation_of_no_image_is_left_out_alone(folder: Path, stray: object) -> None:
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": []}, (stray,))
    (folder / "dataset.json").write_text(json.dumps({"task": "detection", "channel_names": {"0": "CT"}}))
    dataset, problems = inspect_dataset(folder)
    assert dataset is not None
    assert [(one.kind, one.case_id, one.severity) for one in problems][1:] == [("image-unlabelled", "b", "warning")]
    assert (problems[0].case_id, problems[0].severity) == ("annotations[1]", "error")
    (kept,) = without_broken([dataset], problems)
    assert [case.case_id for case in kept.cases] == ["a"]  # the box may be one of b, which has no other
    assert f"    {folder / 'annotations.json'}: annotations[1]: i" in problems_text(problems)


def test_a_row_of_no_image_is_left_out_alone_and_a_short_one_with_its_image(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    rows = ['a_0000.png,"2, 3, 5, 5",1', ',"2, 3, 5, 5",1', '"2, 3, 5, 5",1', 'b.jpg,"2, 3, 5, 5",1', "b.jpg,1"]
    (folder / "DL_info.csv").write_text("\n".join(["File_name,Bounding_boxes,Patient_index", *rows]))
    content = {"task": "detection", "channel_names": {"0": "CT"}, "labels": {"tumour": 1}}
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset, problems = inspect_dataset(folder)
    assert dataset is not None
    assert {one.case_id for one in problems if one.severity == "error"} == {"row 3", "row 4", "b"}
    (kept,) = without_broken([dataset], problems)
    assert [case.case_id for case in kept.cases] == ["a"]


FAULTS: dict[str, tuple[str, str, Callable[[Path], None]]] = {}  # name -> kind, case, change


def fault(kind: str, case: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(change: Callable[[Path], None]) -> Callable[[Path], None]:
        FAULTS[change.__name__] = (kind, case, change)
        return change

    return add


def boxes_of_a(folder: Path, *boxes: list[float]) -> None:
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2], *boxes], "b.jpg": []})


@fault("annotations-missing", "")
def no_annotations(folder: Path) -> None:
    (folder / "annotations.json").unlink()


@fault("annotations-several", "")
def two_formats(folder: Path) -> None:
    (folder / "DL_info.csv").touch()


@fault("annotations-syntax", "")
def half_a_file(folder: Path) -> None:
    (folder / "annotations.json").write_text("{")


@fault("annotations-syntax", "")
def a_folder_for_a_file(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    (folder / "annotations.json").mkdir()


@fault("annotations-field", "")
def no_lists(folder: Path) -> None:
    (folder / "annotations.json").write_text("{}")


@fault("annotations-crowd", "a")
def a_crowd(folder: Path) -> None:
    crowd = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 1}
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": []}, (crowd,))


@fault("annotations-elsewhere", "")
def rows_of_other_images(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    (folder / "DL_info.csv").write_text('File_name,Bounding_boxes\nz.png,"1, 1, 2, 2"\n')


@fault("annotation-without-image", "annotations[1]")
def a_box_of_no_image(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": []}, ({"image_id": 9, "bbox": [0, 0, 1, 1]},))


@fault("image-absent", "z.png")
def an_image_that_is_not_there(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": [], "z.png": []})


@fault("image-unlisted", "b")
def an_image_not_listed(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]]})


@fault("image-listed-twice", "a")
def an_image_listed_twice(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": [], "other/a_0000.png": []})


@fault("image-size", "a")
def another_size(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": []}, size=9)


@fault("not-2d", "v")
def a_volume(folder: Path) -> None:
    (folder / "imagesTr" / "v_0000.nii.gz").touch()


@fault("not-2d", "v")
def a_tiff_of_pages(folder: Path) -> None:
    page = Pillow.new("L", (8, 6))
    page.save(folder / "imagesTr" / "v.tif", save_all=True, append_images=[page])


@fault("unreadable", "a")
def no_picture(folder: Path) -> None:
    (folder / "imagesTr" / "a_0000.png").write_bytes(b"words")


@fault("box-number", "a")
def not_a_number(folder: Path) -> None:
    boxes_of_a(folder, [0, 0, float("nan"), 1])


@fault("box-empty", "a")
def no_area(folder: Path) -> None:
    boxes_of_a(folder, [3, 3, 0, 1])


@fault("box-empty", "a")
def negative_height(folder: Path) -> None:
    boxes_of_a(folder, [3, 3, 1, -1])


@fault("box-outside", "a")
def wholly_outside(folder: Path) -> None:
    boxes_of_a(folder, [8, 3, 1, 1])


@fault("box-clipped", "a")
def partly_outside(folder: Path) -> None:
    boxes_of_a(folder, [6, 3, 4, 1])


@fault("box-twice", "a")
def twice_the_same(folder: Path) -> None:
    boxes_of_a(folder, [1, 2, 3, 2])


@fault("class-unknown", "a")
def no_such_category(folder: Path) -> None:
    wrong = {"image_id": 0, "category_id": 2, "bbox": [0, 0, 1, 1]}
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": []}, (wrong,))


@fault("no-boxes", "")
def nothing_on_any_image(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [], "b.jpg": []})


@fault("folder-missing", "")
def no_images(folder: Path) -> None:
    (folder / "imagesTr").rename(folder / "images")


@fault("cases-csv", "")
def a_row_of_no_case(folder: Path) -> None:
    (folder / "cases.csv").write_text("case_id\nz\n")


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(folder: Path, name: str) -> None:
    kind, case, change = FAULTS[name]
    change(folder)
    cases, _, problems = read(folder)
    assert (kind, case) in {(one.kind, one.case_id) for one in problems}, problems
    if KINDS[kind].severity == "error":
        assert case not in {one.case_id for one in cases}


@pytest.mark.parametrize(
    "wrong",
    [
        {"iscrowd": 1, "segmentation": {"counts": [9, 2, 37], "size": [6, 8]}},  # a brush mask
        {"category_id": 9},
        {"bbox": [1, 1, None, 2]},
        {"bbox": [1, 1, 0, 2]},
        {"bbox": [9, 9, 3, 3]},
        {"image_id": 99},
        {"image_id": None},
    ],
)
def test_an_image_whose_annotation_is_left_out_is_no_negative(folder: Path, wrong: dict[str, object]) -> None:
    save(folder / "imagesTr" / "c.png")
    annotation = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 2], **wrong}
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": [], "c.png": [[1, 2, 3, 2]]}, (annotation,))
    cases, _, problems = read(folder)
    assert [(case.case_id, case.boxes) for case in cases] == [("a", (TUMOUR,)), ("c", (TUMOUR,))]
    assert "b" in {one.case_id for one in problems}


def test_an_image_with_a_lesion_of_another_type_is_no_case(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    save(folder / "imagesTr" / "c.png")
    box = '"2, 3, 5, 5"'
    rows = (f"a_0000.png,{box},5", f"b.jpg,{box},4", f"c.png,{box},5", 'c.png,"1, 1, 3, 3",4')
    (folder / "DL_info.csv").write_text("\n".join(("File_name,Bounding_boxes,Coarse_lesion_type", *rows)))
    cases, _, problems = read(folder, labels={"lung": (1,)})
    assert [case.case_id for case in cases] == ["a"]
    assert [(one.kind, one.case_id, one.severity) for one in problems] == [
        ("annotations-other-type", "", "warning"),
        ("image-unlabelled", "b", "warning"),
        ("image-unlabelled", "c", "warning"),
    ]
    assert "row 3 is of type liver" in problems[1].found


def change_categories(folder: Path, *names: str, used: str = "") -> None:
    """Categories 1, 2, ...; every box is of the one used, by default the last."""
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    for annotation in content["annotations"]:
        annotation["category_id"] = names.index(used) + 1 if used else len(names)
    path.write_text(json.dumps(content))


def test_categories_without_annotations_are_no_classes(folder: Path) -> None:
    change_categories(folder, "my-project-v2", "background", "tumour", "cyst", used="tumour")
    _, labels, (said,) = read(folder)
    assert labels == {"tumour": (1,)}
    assert (said.kind, said.severity) == ("category-unused", "warning")
    assert said.found == "categories without an annotation: my-project-v2, background, cyst"
    _, labels, problems = read(folder, labels={"tumour": (1,), "cyst": (2,)})
    assert labels == {"tumour": (1,), "cyst": (2,)}
    assert [one.kind for one in problems] == ["category-unused", "class-without-cases"]
    assert problems[0].found == "categories without an annotation: my-project-v2, background"


@pytest.mark.parametrize("name", ["Background", "_background_", "N/A", "none", "No finding"])
@pytest.mark.parametrize("labels", [{}, {"tumour": (1,)}])
def test_annotations_of_what_is_no_object_are_refused(
    folder: Path, name: str, labels: dict[str, tuple[int, ...]]
) -> None:
    change_categories(folder, "tumour", name)
    write_box = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 2, 2]}
    content = json.loads((folder / "annotations.json").read_text())
    content["annotations"].append(write_box)
    (folder / "annotations.json").write_text(json.dumps(content))
    _, found, (wrong,) = read(folder, labels=labels)
    assert found == {"tumour": (1,)}
    assert (wrong.kind, wrong.severity, wrong.case_id) == ("class-no-object", "error", "")
    assert wrong.found == f"annotations are of class {name}, which names no object"


def test_classes_whose_names_are_almost_one(folder: Path) -> None:
    write_coco(
        folder, {"a_0000.png": [[1, 2, 3, 2]], "b.jpg": []}, ({"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]},)
    )
    content = json.loads((folder / "annotations.json").read_text())
    content["categories"].append({"id": 2, "name": "Tumour "})
    (folder / "annotations.json").write_text(json.dumps(content))
    _, _, (alike,) = read(folder)
    assert (alike.kind, alike.found) == (
        "class-names-alike",
        "class 'Tumour ' and class 'tumour' differ by case or spaces alone",
    )
    _, _, (unknown,) = read(folder, labels={"tumour": (1,)})
    assert (unknown.kind, unknown.case_id) == ("class-unknown", "b")
    assert "'Tumour ' differs from 'tumour' by case or spaces alone" in unknown.found


def test_corners_in_the_place_of_sizes_are_one_error(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[4, 2, 7, 5], [5, 3, 7, 6], [2, 1, 7, 3]], "b.jpg": [[3, 4, 6, 6]]})
    _, _, (wrong,) = read(folder)
    assert (wrong.kind, wrong.severity, wrong.case_id) == ("box-layout", "error", "")
    assert wrong.found.startswith("3 of 4 boxes do not lie in their image as x, y, width, height, but do as corners x1")
    assert wrong.remedy.startswith("write x, y, width, height; the numbers seem to be corners x1, y1, x2, y2")


def test_one_box_written_as_corners_is_an_error_of_its_image(folder: Path) -> None:
    """[5, 3, 8, 6] is 5 to 13 of 8 pixels wide: 3/8 x 3/6 of it are inside."""
    write_coco(folder, {"a_0000.png": [[1, 2, 3, 2]] * 2, "b.jpg": [[5, 3, 8, 6], [4, 2, 1, 1], [2, 2, 1, 1]]})
    cases, _, problems = read(folder)
    (wrong,) = [one for one in problems if one.severity == "error"]
    assert (wrong.kind, wrong.case_id) == ("box-layout", "b")
    assert wrong.found.startswith("box of tumour at x 5, y 3, 8 x 6 is more than half outside the image of 8 x 6")
    assert wrong.remedy.startswith("write x, y, width, height; the numbers may be corners x1, y1, x2, y2")
    assert [case.case_id for case in cases] == ["a"]


@pytest.mark.parametrize(
    ("listed", "file"),
    [
        ("/data/local-files/?d=images/3%20mm%2Fa%201.png", "a 1.png"),
        ("..\\..\\media\\upload\\4\\a%201.png", "a 1.png"),
        ("s3://bucket/set/a.png?X-Amz-Signature=x/y", "a.png"),
        ("https://example.org/show?file=a%2B1.png&page=2", "a+1.png"),
        ("a%201.png", "a%201.png"),  # the very name goes first
    ],
)
def test_names_in_web_addresses(folder: Path, listed: str, file: str) -> None:
    (folder / "imagesTr" / "a_0000.png").rename(folder / "imagesTr" / file)
    write_coco(folder, {listed: [[1, 2, 3, 2]], "b.jpg": []})
    cases, _, problems = read(folder)
    assert [one.kind for one in problems if one.severity == "error"] == []
    assert [case.boxes for case in cases if case.case_id != "b"] == [(TUMOUR,)]


def test_files_that_lie_elsewhere_are_pointed_at(folder: Path) -> None:
    (folder / "imagesTr" / "patient_1").mkdir()
    (folder / "imagesTr" / "b.jpg").rename(folder / "imagesTr" / "patient_1" / "b.jpg")
    _, _, (wrong,) = read(folder)
    assert wrong.kind == "image-absent"
    assert wrong.found == "lists b.jpg, which is only in a subfolder of imagesTr, which is not read"
    (folder / "annotations.json").rename(folder / "_annotations.coco.json")
    _, _, (wrong,) = read(folder)
    assert wrong.kind == "annotations-missing"
    assert wrong.found.endswith("; is _annotations.coco.json meant? COCO's file is named annotations.json")


def test_a_file_of_one_image_that_names_another(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    (folder / "Annotations").mkdir()
    corners = "<xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax>"
    lesion = f"<object><name>tumour</name><bndbox>{corners}</bndbox></object>"
    for own, other in (("a", "b.jpg"), ("b", "a_0000.png")):  # swapped
        text = f"<annotation><filename>{other}</filename>{lesion}</annotation>"
        (folder / "Annotations" / f"{own}.xml").write_text(text)
    cases, _, problems = read(folder)
    assert cases == ()
    assert {(one.kind, one.case_id) for one in problems} == {("annotations-field", "a"), ("annotations-field", "b")}
    assert "has the name of case a, but says filename b.jpg" in {one.found for one in problems}


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ({"_background_": 0, "tumour": 1}, ""),
        ({"BG": 0, "tumour": 1}, ""),
        ({"tumour": 1, "none": 2}, "'labels.none' is 2"),
    ],
)
def test_labels_that_are_no_objects(folder: Path, labels: dict[str, int], wrong: str) -> None:
    content = {"task": "detection", "channel_names": {"0": "CT"}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset, problems = inspect_dataset(folder)
    assert [one.kind for one in problems] == (["dataset-json-field"] if wrong else [])
    if wrong:
        assert wrong in problems[0].found
    else:
        assert dataset is not None
        assert dataset.labels == {"tumour": (1,)}


def test_classes_are_those_of_dataset_json(folder: Path) -> None:
    cases, labels, problems = read(folder, labels={"cyst": (1,)})
    assert labels == {"cyst": (1,)}
    assert [case.case_id for case in cases] == ["b"]
    assert [(one.kind, one.case_id) for one in problems] == [("class-unknown", "a"), ("class-without-cases", "")]
    assert "the class is not in dataset.json (cyst)" in problems[0].found


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    write_coco(folder, {"a_0000.png": [[9, 0, 1, 1], [0, 0, 0, 1]], "z.png": []}, size=9)
    _, _, problems = read(folder, number_of_cases=3)
    assert {one.kind for one in problems} == {
        "number-of-cases",
        "image-absent",
        "image-unlisted",
        "image-size",
        "box-outside",
        "box-empty",
    }


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({}, "'labels' is {}"),
        ({"nodule": 1, "mass": 1}, "expected a number of its own for each class"),
        ({"background": 1, "nodule": 1}, "expected a number of its own"),
        ({"nodule": 1, "mass": "2"}, "'labels.mass' is '2'; expected a whole number"),
        ({"nodule": True}, "'labels.nodule' is True"),
        ({"nodule": -1}, "'labels.nodule' is -1"),
        ({"nodule": [1, 2]}, "'labels.nodule' is [1, 2]"),
        ({"0": "background", "1": "nodule"}, "swap names and numbers"),
        ({"a|b": 1}, "printable names without |"),
        ({"$\\frac$": 1}, "printable names without | and $"),  # matplotlib would take it for a formula
        ({"x\ny": 1}, "printable names without |"),
        ({"=cmd|' /C calc'!A0": 1}, "printable names without |"),
    ],
)
def test_wrong_labels_are_refused(folder: Path, labels: dict[str, object], words: str) -> None:
    (folder / "dataset.json").write_text(
        json.dumps({"task": "detection", "channel_names": {"0": "CT"}, "labels": labels})
    )
    dataset, (wrong,) = inspect_dataset(folder)
    assert (dataset, wrong.kind) == (None, "dataset-json-field")
    assert words in f"{wrong.found}; {wrong.remedy}"


def test_background_and_numbers_with_gaps_are_right(folder: Path) -> None:
    labels = {"background": 0, "tumour": 4, "cyst": 2}
    content = {"task": "detection", "channel_names": {"0": "CT"}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset, _ = inspect_dataset(folder)
    assert dataset is not None
    assert dataset.labels == {"tumour": (4,), "cyst": (2,)}


@pytest.mark.parametrize("name", ["a|b", "x\ny", "=cmd|' /C calc'!A0"])
@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_a_class_of_the_annotations_with_an_unsafe_name(folder: Path, kind: str, name: str) -> None:
    path = folder / "annotations.json"
    content = path.read_text()
    if kind == "coco":
        path.write_text(content.replace('"tumour"', json.dumps(name)))
    else:
        path.unlink()
        path = folder / "Annotations" / "a.xml"
        path.parent.mkdir()
        corners = "".join(f"<{corner}>2</{corner}>" for corner in ("xmin", "ymin", "xmax", "ymax"))
        lesion = f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"
        path.write_text(f"<annotation><filename>a.png</filename>{lesion}</annotation>")
        (path.parent / "b.xml").write_text("<annotation><filename>b.jpg</filename></annotation>")
    _, _, (wrong,) = read(folder)
    assert (wrong.kind, wrong.case_id, wrong.file) == ("annotations-field", "", str(path))
    assert repr(name) in wrong.found
    assert "printable names without |" in wrong.found
    _, _, problems = read(folder, labels={"tumour": (1,)})
    assert ("class-unknown", "a") in {(one.kind, one.case_id) for one in problems}
    assert all(one.found.isprintable() for one in problems)


@pytest.mark.skipif("MDKD_REAL_DATA" not in os.environ, reason="MDKD_REAL_DATA does not name a raw folder")
@pytest.mark.parametrize(
    ("name", "images", "boxes"),
    [("Dataset031_LungTumourBoxes", 505, 399), ("Dataset032_DeepLesion50", 50, 51), ("Dataset033_CovidBoxes", 98, 742)],
)
def test_real_data(name: str, images: int, boxes: int) -> None:
    dataset, problems = inspect_dataset(Path(os.environ["MDKD_REAL_DATA"]) / name)
    assert problems == []
    assert dataset is not None
    assert (len(dataset.cases), sum(len(case.boxes or ()) for case in dataset.cases)) == (images, boxes)
