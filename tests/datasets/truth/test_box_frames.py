"""Boxes of pictures that EXIF turns: drawn on the picture as stored, or upright."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.datasets.raw_folder import inspect_dataset
from mdkd_auto.formats.read_write import read_image

UPRIGHT_BOX = (6, 3, 8, 5)  # x, y, width, height on the upright picture of 30 x 20
# The same box on the picture as stored: 20 x 30 where the orientation swaps the axes, by hand.
STORED_BOX = {3: (16, 12, 8, 5), 5: (3, 6, 5, 8), 6: (3, 16, 5, 8), 7: (12, 16, 5, 8), 8: (12, 6, 5, 8)}


def upright_picture(size):
    width, height = size
    pixels = np.full((height, width), 20, np.uint8)
    x, y, w, h = UPRIGHT_BOX
    pixels[y : y + h, x : x + w] = 220
    return pixels


def stored_picture(upright, orientation):
    """As a camera with this orientation stores it."""
    return {
        1: upright,
        3: upright[::-1, ::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]


def write(tmp_path, orientations, stated, box, size=(30, 20), ending=".png"):
    """Images of these orientations, each with the box and the stated size (None: none)."""
    folder = tmp_path / "Dataset041_Films"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"task": "detection", "channel_names": {"0": "CXR"}}))
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nodule"}]}
    for number, orientation in enumerate(orientations, start=1):
        exif = Pillow.Exif()
        exif[0x0112] = orientation
        stored = np.ascontiguousarray(stored_picture(upright_picture(size), orientation))
        Pillow.fromarray(stored).save(folder / "imagesTr" / f"f{number}{ending}", exif=exif)
        sizes = {} if stated is None else dict(zip(("width", "height"), stated, strict=True))
        coco["images"].append({"id": number, "file_name": f"f{number}{ending}", **sizes})
        annotation = {"id": number, "image_id": number, "category_id": 1, "bbox": list(box), "iscrowd": 0}
        coco["annotations"].append(annotation)
    (folder / "annotations.json").write_text(json.dumps(coco))
    return folder


def place(box):
    return (box.x, box.y, box.width, box.height)


def kinds(problems):
    return [one.kind for one in problems if one.kind.startswith(("exif", "image"))]


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_stated_size_tells_the_frame(tmp_path, orientation, ending):
    for number, (stated, box, found) in enumerate(
        [((30, 20), UPRIGHT_BOX, []), ((20, 30), STORED_BOX[orientation], ["exif-boxes-turned"])]
    ):
        folder = write(tmp_path / str(number), [orientation] * 2, stated, box, ending=ending)
        dataset, problems = inspect_dataset(folder)
        assert kinds(problems) == found
        for case in dataset.cases:
            assert place(case.boxes[0]) == UPRIGHT_BOX
            x, y, width, height = UPRIGHT_BOX
            array = read_image(case.images[0]).array
            assert array.shape == (1, 20, 30)
            assert array[0, y : y + height, x : x + width].min() > 180


@pytest.mark.parametrize(
    ("orientation", "stated", "size"),
    [
        (3, (30, 20), (30, 20)),
        (3, None, (30, 20)),
        (6, None, (30, 20)),
        (8, (30, 30), (30, 30)),
        (8, None, (30, 30)),
    ],
)
def test_where_no_size_tells_the_frame_boxes_are_upright_and_this_is_said_once(tmp_path, orientation, stated, size):
    dataset, problems = inspect_dataset(write(tmp_path, [orientation] * 3, stated, UPRIGHT_BOX, size))
    assert kinds(problems) == ["exif-boxes-unsure"]
    assert "3 (f1, f2, f3)" in problems[0].found
    assert {place(case.boxes[0]) for case in dataset.cases} == {UPRIGHT_BOX}


def test_a_size_of_neither_frame_is_an_error_and_pictures_stored_upright_are_as_before(tmp_path):
    dataset, problems = inspect_dataset(write(tmp_path / "a", [6, 1], (31, 20), UPRIGHT_BOX))
    assert [one.kind for one in problems if one.severity == "error"] == ["image-size", "image-size"]
    assert "30 x 20 pixels once EXIF orientation 6 turns it upright, not 31 x 20" in problems[0].found
    assert dataset.cases == ()
    dataset, problems = inspect_dataset(write(tmp_path / "b", [1, 1], (30, 20), UPRIGHT_BOX))
    assert kinds(problems) == []
    _, problems = inspect_dataset(write(tmp_path / "c", [1, 1], (20, 30), UPRIGHT_BOX))
    assert kinds(problems) == ["image-size", "image-size"]
