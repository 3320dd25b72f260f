"""Boxes of COCO files, sound and broken."""

import json
from pathlib import Path

import pytest

from mdkd_auto.data.coco import read_coco
from mdkd_auto.records import Box


def write(folder: Path, **changes: object) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "sub/a.png", "width": 8, "height": 6}, {"id": "two", "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2.5, 3, 2]}],
        "categories": [{"id": 7, "name": "cyst"}, {"id": 3, "name": "tumour"}],
        **changes,
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def test_images_boxes_and_classes(tmp_path: Path) -> None:
    read = read_coco(write(tmp_path))
    assert read.findings == []
    assert read.classes == ("tumour", "cyst")  # by id
    first, second = read.images
    assert (first.file_name, first.size) == ("a.png", (8, 6))
    assert first.boxes == (Box(class_name="cyst", x=1, y=2.5, width=3, height=2),)
    assert (second.file_name, second.size, second.boxes) == ("b.png", None, ())


def test_crowds_are_left_out(tmp_path: Path) -> None:
    crowd = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1], "iscrowd": 1}
    read = read_coco(write(tmp_path, annotations=[crowd, crowd]))
    assert [(one.kind, one.found[:24]) for one in read.findings] == [("annotations-crowd", "2 annotations are crowds")]
    assert read.images[0].boxes == ()


@pytest.mark.parametrize(
    ("annotation", "kind", "words"),
    [
        ({"image_id": 9, "category_id": 7, "bbox": [0, 0, 1, 1]}, "annotation-without-image", "image_id 9"),
        ({"image_id": [1], "category_id": 7, "bbox": [0, 0, 1, 1]}, "annotation-without-image", "image_id [1]"),
        ({"image_id": 1, "category_id": 8, "bbox": [0, 0, 1, 1]}, "class-unknown", "category_id 8 is not in"),
        ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 1]}, "box-number", "bbox is [0, 0, 1]"),
        ({"image_id": 1, "category_id": 7, "bbox": [0, 0, "x", 1]}, "box-number", "annotations[0]"),
        ({"image_id": 1, "category_id": 7, "bbox": [0, float("nan"), 1, 1]}, "box-number", "nan"),
        ({"image_id": 1, "category_id": 7, "bbox": [0, 0, 10**400, 1]}, "box-number", "1000"),
        ({"image_id": 1, "category_id": 7}, "box-number", "bbox is None"),
        (5, "annotations-field", "annotations[0]: is 5"),
    ],
)
def test_wrong_annotations(tmp_path: Path, annotation: object, kind: str, words: str) -> None:
    read = read_coco(write(tmp_path, annotations=[annotation]))
    (wrong,) = [*read.findings, *read.images[0].findings]
    assert (wrong.kind, wrong.file) == (kind, str(tmp_path / "annotations.json"))
    assert words in wrong.found
    assert read.images[0].boxes == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": {}}, "has no list images"),
        ({"images": [{"id": 1}]}, "images[0]: id 1, file_name None"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "images[1]: id 1 is that of a too"),
        ({"images": [{"id": 1, "file_name": "a", "width": 0, "height": 3}]}, "images[0]: width and height are [0, 3]"),
        ({"categories": [{"id": 7, "name": 3}]}, "categories[0]: id 7, name 3"),
        ({"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}, "categories[1]: id 7 is that of a too"),
    ],
)
def test_wrong_fields(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    read = read_coco(write(tmp_path, **{"annotations": [], **changes}))
    findings = [*read.findings, *(finding for image in read.images for finding in image.findings)]
    assert any(one.kind == "annotations-field" and words in one.found for one in findings), findings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"images": [', "line 1, column 13"),
        (b'"\xff\xfe"', "not UTF-8"),
        (b"[" * 100_000, ""),
        (b'{"images": [' + b"1" * 5000 + b"]}", ""),
    ],
)
def test_not_json(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "annotations.json").write_bytes(text)
    (wrong,) = read_coco(tmp_path / "annotations.json").findings
    assert wrong.kind == "annotations-syntax"
    assert words in wrong.found
