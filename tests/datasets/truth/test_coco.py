"""Boxes of COCO files, sound and broken."""

import json
from pathlib import Path

import pytest

from mdkd_auto.core.records import Box
from mdkd_auto.datasets.truth.coco import read_coco


def write(folder: Path, **changes: object) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "sub/a.png", "width": 8, "height": 6}, {"id": "two", "file_name": "b.png"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [1, 2.5, 3, 2]},
            {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]},
        ],
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
    assert first.boxes == (
        Box(class_name="cyst", x=1, y=2.5, width=3, height=2),
        Box(class_name="tumour", x=0, y=0, width=1, height=1),
    )
    assert (second.file_name, second.size, second.boxes) == ("b.png", None, ())


@pytest.mark.parametrize("flag", [{"iscrowd": 1}, {"iscrowd": True}, {"iscrowd": "1"}, {"ignore": 1}])
def test_a_crowd_is_an_error_of_its_image(tmp_path: Path, flag: dict[str, object]) -> None:
    crowd = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1], **flag}
    read = read_coco(write(tmp_path, annotations=[crowd, crowd]))
    assert (read.findings, read.images[1].findings, read.classes, read.unused) == ([], (), ("cyst",), ("tumour",))
    (wrong,) = read.images[0].findings
    assert (wrong.kind, wrong.found[:24]) == ("annotations-crowd", "2 annotations are crowds")


@pytest.mark.parametrize(
    "flag", [{"iscrowd": 0}, {"iscrowd": "0"}, {"iscrowd": None}, {"iscrowd": float("nan")}, {"ignore": False}, {}]
)
def test_no_crowd(tmp_path: Path, flag: dict[str, object]) -> None:
    read = read_coco(write(tmp_path, annotations=[{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1], **flag}]))
    assert (len(read.images[0].boxes), read.images[0].findings) == (1, ())


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 6, 3.5, 4, 5]],
        [[1, 3, 2, 3, 2, 4], [5, 2, 6, 2, 6, 5]],  # two parts of one object
        [1, 2, 6, 3.5, 4, 5],
        [[1, 2], [6, 3.5], [4, 5]],
    ],
)
@pytest.mark.parametrize("bbox", [{}, {"bbox": []}, {"bbox": None}])
def test_polygons_without_a_box(tmp_path: Path, segmentation: object, bbox: dict[str, object]) -> None:
    annotation = {"image_id": 1, "category_id": 7, "segmentation": segmentation, **bbox}
    read = read_coco(write(tmp_path, annotations=[annotation]))
    assert read.images[0].boxes == (Box(class_name="cyst", x=1, y=2, width=5, height=3),)


@pytest.mark.parametrize(
    "segmentation", [[], [[1, 2, 3]], [[1, 2, 6, 3]], [["a", 2, 6, 3, 4, 5]], {"counts": [1, 2], "size": [6, 8]}, [[]]]
)
def test_no_polygon_and_no_box(tmp_path: Path, segmentation: object) -> None:
    annotation = {"image_id": 1, "category_id": 7, "segmentation": segmentation}
    (wrong,) = read_coco(write(tmp_path, annotations=[annotation])).images[0].findings
    assert wrong.kind == "box-number"
    assert ("run-length mask" in wrong.found) == isinstance(segmentation, dict)


@pytest.mark.parametrize(
    ("angle", "sound"),
    [(0, True), (180.0, True), (-0.5, True), ("359.5", True), (30, False), (90, False), (-45.0, False)],
)
def test_rotated_boxes_are_refused(tmp_path: Path, angle: object, sound: bool) -> None:
    annotation = {"image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 2], "attributes": {"rotation": angle}}
    image = read_coco(write(tmp_path, annotations=[annotation])).images[0]
    assert [one.kind for one in image.findings] == ([] if sound else ["box-number"])
    assert sound or f"rotated by {float(str(angle)):g} degrees" in image.findings[0].found


def test_ids_that_a_table_made_fractions(tmp_path: Path) -> None:
    box = {"image_id": 1.0, "category_id": 7.0, "bbox": [0, 0, 1, 1]}
    read = read_coco(write(tmp_path, annotations=[box, {**box, "image_id": "two"}]))
    assert (len(read.images[0].boxes), len(read.images[1].boxes), read.unplaced) == (1, 1, 0)


def test_annotations_of_no_image_are_counted(tmp_path: Path) -> None:
    strays = [{"image_id": image, "category_id": 7, "bbox": [0, 0, 1, 1]} for image in (9, "three", None, 1.5, True)]
    read = read_coco(write(tmp_path, annotations=[*strays, "words"]))
    assert (read.unplaced, read.classes) == (6, ("cyst",))


@pytest.mark.parametrize("image", ["1", " 1", "sub/a.png", "a.png"])
def test_an_annotation_whose_image_is_clear_is_an_error_of_this_image(tmp_path: Path, image: str) -> None:
    boxes = [{"image_id": number, "category_id": 7, "bbox": [0, 0, 1, 1]} for number in (1, image)]
    read = read_coco(write(tmp_path, annotations=boxes))
    (wrong,) = read.images[0].findings
    assert (wrong.kind, read.unplaced) == ("annotation-without-image", 0)
    assert wrong.found == f"annotations[1]: image_id {image!r} is not among the images; 1 seems to be meant"


@pytest.mark.parametrize("size", [{"width": 0, "height": 0}, {"width": -1, "height": -1}])
def test_a_size_that_the_tool_did_not_know(tmp_path: Path, size: dict[str, int]) -> None:
    image = read_coco(write(tmp_path, images=[{"id": 1, "file_name": "a.png", **size}])).images[0]
    assert (image.size, [one.kind for one in image.findings]) == (None, ["annotations-no-size"])


def test_corners_are_seen_by_outlines_and_areas(tmp_path: Path) -> None:
    """All of them lie in their image as x, y, width, height too."""
    corners = [(1, 1, 3, 4), (2, 1, 4, 3), (1, 2, 4, 4)]
    outlined = [
        {"image_id": 1, "category_id": 7, "bbox": [x1, y1, x2, y2], "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]}
        for x1, y1, x2, y2 in [(10 * a, 10 * b, 10 * c, 10 * d) for a, b, c, d in corners]
    ]
    measured = [
        {"image_id": 1, "category_id": 7, "bbox": [*box], "area": (box[2] - box[0]) * (box[3] - box[1])}
        for box in corners
    ]
    for annotations in (outlined, measured):
        suspicion = read_coco(write(tmp_path, annotations=annotations)).suspicion
        assert suspicion is not None
        assert suspicion.certain
        assert "3 of 3 boxes agree with their segmentation or area as corners x1, y1, x2, y2" in suspicion.found
    sound = [{"image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 3], "area": 6, "segmentation": []}] * 3
    assert read_coco(write(tmp_path, annotations=sound)).suspicion is None


def test_web_addresses_name_files_too(tmp_path: Path) -> None:
    image = read_coco(write(tmp_path, images=[{"id": 1, "file_name": "/data/local-files/?d=x/a%20b.png"}])).images[0]
    assert "a b.png" in (image.file_name, *image.other_names)


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
        ({"image_id": 1, "category_id": 7, "bbox": [2, 2, 3, 2, 0.7]}, "box-number", "five are a rotated box"),
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


def test_patients_of_images(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    images: list[dict[str, object]] = [{"id": number, "file_name": f"{number}.png"} for number in range(6)]
    for image, patient in zip(images, (7, "P7", "", None, [7]), strict=False):
        image.update(patient_id=patient)
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    assert [one.patient_id for one in read_coco(path).images] == ["7", "P7", "", "", "", ""]
