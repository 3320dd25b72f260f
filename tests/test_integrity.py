"""Every kind of fault in raw data: named with its file and case before anything is planned."""

import errno
import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from mdkd_auto import preparation
from mdkd_auto.cli import plan_and_preprocess, train
from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.files import read_json
from mdkd_auto.core.paths import Root
from mdkd_auto.datasets.problems import KINDS
from mdkd_auto.demo.phantoms import PICTURES, write_pictures
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import plan_and_preprocess as plan
from mdkd_auto.preparation import verify

SHAPE = (12, 10, 6)  # x, y, z
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
NAME = "Dataset101_Sound"
OTHER = "Dataset102_Other"


def image_file(folder: Path, case: str, channel: int = 0) -> Path:
    return folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"


def label_file(folder: Path, case: str) -> Path:
    return folder / "labelsTr" / f"{case}.nii.gz"


def write(path: Path, voxels: Any, affine: Any = AFFINE) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), path)


def write_case(folder: Path, case: str, seed: int, affine: Any = AFFINE) -> None:
    rng = np.random.default_rng(seed)
    write(image_file(folder, case), rng.integers(-500, 500, SHAPE).astype(np.int16), affine)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[3:7, 3:7, 2:4] = 1
    write(label_file(folder, case), mask, affine)


def write_dataset(raw: Path, name: str, first_seed: int) -> Path:
    folder = raw / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        write_case(folder, f"case_{number}", first_seed + number)
    change_json(
        folder,
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": 5,
            "file_ending": ".nii.gz",
        },
    )
    return folder


def change_json(folder: Path, fields: dict[str, Any]) -> None:
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({key: value for key, value in (content | fields).items() if value is not None}))


def voxels_of(path: Path) -> Any:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def turned() -> Any:
    """The affine turned by ten degrees about z."""
    angle = np.deg2rad(10)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two sound data sets of five cases."""
    root = tmp_path_factory.mktemp("sound")
    write_dataset(root / "raw", NAME, 0)
    write_dataset(root / "raw", OTHER, 100)
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Root:
    return Root(Path(shutil.copytree(sound, tmp_path / "root")))


# --- faults: each changes the data set, and says what kind of problem is to be found, and in which case ---------------

CASE = "case_2"
Fault = Callable[[Path], None]
FAULTS: dict[str, tuple[str, str, Fault]] = {}  # name -> kind, case, change


def fault(kind: str, case: str = CASE) -> Callable[[Fault], Fault]:
    def register(change: Fault) -> Fault:
        FAULTS[change.__name__] = (kind, case, change)
        return change

    return register


@fault("image-missing")
def no_image_but_other_channel(folder: Path) -> None:
    change_json(folder, {"channel_names": {"0": "CT", "1": "CT2"}})
    for number in range(5):
        shutil.copy(image_file(folder, f"case_{number}"), image_file(folder, f"case_{number}", 1))
    image_file(folder, CASE).unlink()


@fault("image-extra")
def one_channel_too_many(folder: Path) -> None:
    shutil.copy(image_file(folder, CASE), image_file(folder, CASE, 1))


@fault("label-missing")
def no_label(folder: Path) -> None:
    label_file(folder, CASE).unlink()


@fault("label-extra", "alone")
def label_without_image(folder: Path) -> None:
    shutil.copy(label_file(folder, CASE), label_file(folder, "alone"))


@fault("file-name", "plain")
def image_without_channel_number(folder: Path) -> None:
    shutil.copy(image_file(folder, CASE), folder / "imagesTr" / "plain.nii.gz")


@fault("file-unknown", "")
def notes(folder: Path) -> None:
    (folder / "imagesTr" / "notes.txt").write_bytes(b"x")


@fault("case-name", "case;rm -rf")
def name_that_breaks_a_shell(folder: Path) -> None:
    write_case(folder, "case;rm -rf", 9)


@fault("case-name", "=1+1")
def name_that_is_a_formula(folder: Path) -> None:
    write_case(folder, "=1+1", 9)


@fault("case-name", "../../escape")
def name_that_leaves_the_folder(folder: Path) -> None:
    entries = {
        f"case_{number}": {"images": [f"imagesTr/case_{number}_0000.nii.gz"], "label": f"labelsTr/case_{number}.nii.gz"}
        for number in range(5)
    }
    entries["../../escape"] = entries.pop("case_2")
    change_json(folder, {"dataset": entries})


@fault("case-name-unusual", "case 7")
def name_with_a_space(folder: Path) -> None:
    write_case(folder, "case 7", 7)


@fault("case-names-alike", "case_2")
def names_that_differ_by_case(folder: Path) -> None:
    write_case(folder, "CASE_2", 7)


@fault("number-of-cases", "")
def wrong_number(folder: Path) -> None:
    change_json(folder, {"numTraining": 99})


@fault("dataset-json-missing", "")
def no_dataset_json(folder: Path) -> None:
    (folder / "dataset.json").unlink()


@fault("dataset-json-syntax", "")
def broken_dataset_json(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"labels": ')


@fault("dataset-json-field", "")
def wrong_fields(folder: Path) -> None:
    change_json(folder, {"labels": {"lesion": 1}, "file_ending": "nii"})


@fault("folder-missing", "")
def no_label_folder(folder: Path) -> None:
    shutil.rmtree(folder / "labelsTr")


@fault("no-cases", "")
def other_ending(folder: Path) -> None:
    change_json(folder, {"file_ending": ".png"})


@fault("number-twice", "")
def same_number(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "Dataset101_Twin")


@fault("folder-name", "")
def wrong_folder_name(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "Dataset9_Short")


@fault("cases-csv", "")
def unknown_case_in_table(folder: Path) -> None:
    (folder / "cases.csv").write_text("case_id,patient_id\nnobody,p1\n")


@fault("splits", "")
def patient_in_two_parts(folder: Path) -> None:
    (folder / "cases.csv").write_text("case_id,patient_id,split\ncase_1,p1,train\ncase_2,p1,test\n")


@fault("splits", "")
def fold_with_unknown_case(folder: Path) -> None:
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_1"], "val": ["nobody"]}]))


@fault("too-few-cases", "")
def one_patient(folder: Path) -> None:
    rows = "".join(f"case_{number},p1\n" for number in range(5))
    (folder / "cases.csv").write_text(f"case_id,patient_id\n{rows}")


@fault("unreadable")
def not_an_image(folder: Path) -> None:
    image_file(folder, CASE).write_text("this is text\n" * 100)


@fault("truncated")
def truncated_image(folder: Path) -> None:
    path = image_file(folder, CASE)
    path.write_bytes(path.read_bytes()[:-40])


@fault("checksum")
def flipped_bit_in_label(folder: Path) -> None:
    path = label_file(folder, CASE)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the stored CRC
    path.write_bytes(content)


@fault("not-finite")
def not_a_number(folder: Path) -> None:
    voxels = voxels_of(image_file(folder, CASE)).astype(np.float32)
    voxels[1, 2, 3], voxels[3, 2, 1] = np.nan, np.inf
    write(image_file(folder, CASE), voxels)


@fault("absurd-values")
def absurd_value(folder: Path) -> None:
    voxels = voxels_of(image_file(folder, CASE)).astype(np.float32)
    voxels[1, 2, 3] = 3e38
    write(image_file(folder, CASE), voxels)


@fault("unusual-values")
def beyond_hounsfield(folder: Path) -> None:
    voxels = voxels_of(image_file(folder, CASE)).astype(np.int32)
    voxels[1, 2, 3] = 60_000
    write(image_file(folder, CASE), voxels)


@fault("constant-image")
def constant_image(folder: Path) -> None:
    write(image_file(folder, CASE), np.full(SHAPE, 7, dtype=np.int16))


@fault("label-undeclared")
def undeclared_value(folder: Path) -> None:
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE)) * np.uint8(3))


@fault("label-0-255")
def mask_of_255(folder: Path) -> None:
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE)) * np.uint8(255))


@fault("label-fractional")
def blurred_label(folder: Path) -> None:
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE)).astype(np.float32) * 0.4)


@fault("label-empty")
def empty_label(folder: Path) -> None:
    write(label_file(folder, CASE), np.zeros(SHAPE, dtype=np.uint8))


@fault("label-full")
def full_label(folder: Path) -> None:
    write(label_file(folder, CASE), np.ones(SHAPE, dtype=np.uint8))


@fault("shape")
def label_of_other_size(folder: Path) -> None:
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE))[:-1])


@fault("spacing")
def label_of_other_spacing(folder: Path) -> None:
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE)), np.diag([1.0, 1.0, 4.0, 1.0]))


@fault("origin")
def label_elsewhere(folder: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] = 5
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE)), affine)


@fault("direction")
def label_turned(folder: Path) -> None:
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE)), turned())


@fault("origin")
def label_mirrored(folder: Path) -> None:
    """Left and right swapped about the origin: the canonical grids lie side by side."""
    write(label_file(folder, CASE), voxels_of(label_file(folder, CASE)), np.diag([-1.0, 1.0, 3.0, 1.0]))


@fault("direction")
def channel_turned(folder: Path) -> None:
    change_json(folder, {"channel_names": {"0": "CT", "1": "CT2"}})
    for number in range(5):
        shutil.copy(image_file(folder, f"case_{number}"), image_file(folder, f"case_{number}", 1))
    write(image_file(folder, CASE, 1), voxels_of(image_file(folder, CASE)), turned())


@fault("orientation")
def axes_of_one_case_reversed(folder: Path) -> None:
    write_case(folder, CASE, 2, np.diag([-1.0, -1.0, 3.0, 1.0]))


@fault("spacing-unusual")
def micrometres_for_millimetres(folder: Path) -> None:
    write_case(folder, CASE, 2, np.diag([0.001, 0.001, 0.003, 1.0]))


@fault("mixed-dimensions", "")
def a_slice_among_volumes(folder: Path) -> None:
    for path in (image_file(folder, CASE), label_file(folder, CASE)):
        write(path, voxels_of(path)[:, :, 2:3])


@fault("same-image", "case_3")
def image_under_two_names(folder: Path) -> None:
    write(image_file(folder, "case_3"), voxels_of(image_file(folder, CASE)).astype(np.float32))


@fault("same-image-same-patient", "case_3")
def image_twice_of_one_patient(folder: Path) -> None:
    (folder / "cases.csv").write_text("case_id,patient_id\ncase_2,p1\ncase_3,p1\n")
    shutil.copy(image_file(folder, CASE), image_file(folder, "case_3"))


@fault("near-duplicate-image", "case_3")
def brighter_copy(folder: Path) -> None:
    write(image_file(folder, "case_3"), voxels_of(image_file(folder, "case_1")) + np.int16(20))


@fault("same-image-other-dataset", "case_4")
def image_in_two_data_sets(folder: Path) -> None:
    shutil.copy(image_file(folder, CASE), image_file(folder.parent / OTHER, "case_4"))


@fault("same-patient-other-dataset", "")
def patient_in_two_data_sets(folder: Path) -> None:
    for dataset in (folder, folder.parent / OTHER):
        (dataset / "cases.csv").write_text("case_id,patient_id\ncase_1,MUELLER\n")


# --- classification: a data set of PICTURES --------------------------------------------------------------------------

CLASS_FAULTS: dict[str, tuple[str, str, Fault]] = {}


def class_fault(kind: str, case: str) -> Callable[[Fault], Fault]:
    def register(change: Fault) -> Fault:
        CLASS_FAULTS[change.__name__] = (kind, case, change)
        return change

    return register


def change_rows(folder: Path, change: Callable[[int, str], str]) -> None:
    """``change(number, class)``: what stands behind a case's name in cases.csv."""
    head, *rows = (folder / "cases.csv").read_text().splitlines()
    changed = [f"{row.split(',')[0]},{change(number, row.split(',')[1])}" for number, row in enumerate(rows)]
    (folder / "cases.csv").write_text("\n".join([head, *changed]) + "\n")


@class_fault("case-twice", "case_001")
def two_files_of_a_case(folder: Path) -> None:
    shutil.copy(folder / "imagesTr" / "case_002_0000.png", folder / "imagesTr" / "case_001.png")


@class_fault("class-missing", "case_003")
def no_class(folder: Path) -> None:
    change_rows(folder, lambda number, name: "" if number == 3 else name)


@class_fault("class-unknown", "case_003")
def a_class_not_declared(folder: Path) -> None:
    change_rows(folder, lambda number, name: "square" if number == 3 else name)


@class_fault("class-name", "case_003")
def a_class_that_is_a_formula(folder: Path) -> None:
    change_json(folder, {"labels": None})
    change_rows(folder, lambda number, name: "=cmd|' /C calc'!A0" if number == 3 else name)


@class_fault("class-names-alike", "")
def a_class_in_upper_case(folder: Path) -> None:
    change_json(folder, {"labels": None})
    change_rows(folder, lambda number, name: name.upper() if number % 4 < 2 else name)


@class_fault("class-contradicted", "round_case_003")
def another_class_than_the_folder(folder: Path) -> None:
    (folder / "imagesTr" / "round").mkdir()
    (folder / "imagesTr" / "case_003_0000.png").rename(folder / "imagesTr" / "round" / "case_003.png")
    (folder / "cases.csv").write_text((folder / "cases.csv").read_text().replace("case_003,", "round_case_003,"))
    change_rows(folder, lambda number, name: "long" if number == 3 else name)


@class_fault("images-deeper", "")
def a_folder_a_patient(folder: Path) -> None:
    (folder / "imagesTr" / "round" / "patient_1").mkdir(parents=True)
    (folder / "imagesTr" / "case_003_0000.png").rename(folder / "imagesTr" / "round" / "patient_1" / "a.png")


@class_fault("images-beside", "")
def a_class_folder_beside_the_images(folder: Path) -> None:
    (folder / "round").mkdir()
    shutil.copy(folder / "imagesTr" / "case_003_0000.png", folder / "round" / "a.png")


@class_fault("splits-by-folders", "")
def folders_of_splits(folder: Path) -> None:
    rows = [row.split(",") for row in (folder / "cases.csv").read_text().splitlines()[1:]]
    (folder / "cases.csv").unlink()
    for number, (case_id, name) in enumerate(rows):
        place = folder / ("test" if number < 4 else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        (folder / "imagesTr" / f"{case_id}_0000.png").rename(place / f"{case_id}.png")
    (folder / "imagesTr").rmdir()
    change_json(folder, {"numTraining": None})


@class_fault("split-folder", "")
def a_split_of_images_without_a_class(folder: Path) -> None:
    (folder / "imagesTr" / "test").mkdir()
    (folder / "imagesTr" / "case_003_0000.png").rename(folder / "imagesTr" / "test" / "case_003.png")


@class_fault("class-empty", "")
def a_folder_without_images(folder: Path) -> None:
    (folder / "imagesTr" / "round").mkdir()


@class_fault("class-rare", "")
def a_class_of_one_case(folder: Path) -> None:
    change_rows(folder, lambda number, name: "long" if number == 0 else "round")


@class_fault("class-without-cases", "")
def a_class_declared_in_vain(folder: Path) -> None:
    change_json(folder, {"labels": {"round": 0, "long": 1, "cross": 2}})


@class_fault("one-class", "")
def all_are_of_one_class(folder: Path) -> None:
    change_rows(folder, lambda number, name: "round")


def brighter(folder: Path, case: str, twin: str) -> None:
    with Pillow.open(folder / "imagesTr" / f"{case}_0000.png") as original:
        pixels = np.asarray(original).astype(int) + 4
    Pillow.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "imagesTr" / f"{twin}_0000.png")


def split_by_table(folder: Path) -> None:
    """The first three cases to test, the next three to validate."""
    rows = (folder / "cases.csv").read_text().splitlines()
    parts = ["split", *(("test", "val", "train", "train")[number // 3] for number in range(len(rows) - 1))]
    (folder / "cases.csv").write_text("\n".join(f"{row},{part}" for row, part in zip(rows, parts, strict=True)) + "\n")


@class_fault("near-duplicate", "case_009")
def look_alikes_of_one_part(folder: Path) -> None:
    split_by_table(folder)
    brighter(folder, "case_007", "case_009")


@class_fault("near-duplicate-train-test", "case_009")
def look_alikes_of_two_parts(folder: Path) -> None:
    split_by_table(folder)
    brighter(folder, "case_001", "case_009")


@pytest.mark.parametrize("name", CLASS_FAULTS)
def test_faults_of_classification_are_named(tmp_path: Path, name: str, command: Callable[..., Any]) -> None:
    kind, case, change = CLASS_FAULTS[name]
    root = Root(tmp_path / "root")
    write_pictures(root.raw, PICTURES[:2], cases=12)
    change(root.raw / PICTURES[0].name)
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", 1, "--plan-only")
    found = {(problem["kind"], problem["case_id"]) for problem in read_json(root.integrity)}
    assert (kind, case) in found
    assert "Traceback" not in said.out + said.err
    assert said.status == (1 if KINDS[kind].severity == "error" else 0), said.err
    assert root.plan("CXR_classification").is_file() == (KINDS[kind].severity == "warning")
    plan(root, request=PlanRequest(exclude_broken=True), preprocess=False)
    assert root.plan("CXR_classification").is_file()


# --- detection: pictures with a box each, the last without ----------------------------------------------------------

BOXED = ("Dataset131_Boxed", "Dataset132_Boxed")
SIDE = 64
BOX_FAULTS: dict[str, tuple[str, str, Fault]] = {}


def box_fault(kind: str, case: str = CASE) -> Callable[[Fault], Fault]:
    def register(change: Fault) -> Fault:
        BOX_FAULTS[change.__name__] = (kind, case, change)
        return change

    return register


def picture_file(folder: Path, case: str, ending: str = ".png") -> Path:
    return folder / "imagesTr" / f"{case}_0000{ending}"


def write_boxed(raw: Path, name: str, first_seed: int, cases: int = 6) -> Path:
    """Case n is image n of annotations.json; all but the last have one box."""
    folder = raw / name
    (folder / "imagesTr").mkdir(parents=True)
    for number in range(cases):
        pixels = np.random.default_rng(first_seed + number).integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
        Pillow.fromarray(pixels).save(picture_file(folder, f"case_{number}"))
    images = [{"id": n, "file_name": f"case_{n}_0000.png", "width": SIDE, "height": SIDE} for n in range(cases)]
    boxes = [{"image_id": n, "category_id": 1, "bbox": [8 + n, 10, 20, 16]} for n in range(cases - 1)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "nodule"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    change_json(folder, {"task": "detection", "channel_names": {"0": "CXR"}, "labels": {"nodule": 1}})
    return folder


def change_annotations(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def give_box(folder: Path, *numbers: float) -> None:
    """Another box of the case that is to be found wrong."""
    box = {"image_id": 2, "category_id": 1, "bbox": numbers}
    change_annotations(folder, lambda content: content["annotations"].append(box))


@box_fault("annotations-missing", "")
def no_annotations(folder: Path) -> None:
    (folder / "annotations.json").unlink()


@box_fault("annotations-several", "")
def annotations_in_two_formats(folder: Path) -> None:
    (folder / "Annotations").mkdir()


@box_fault("annotations-syntax", "")
def annotations_that_break_off(folder: Path) -> None:
    (folder / "annotations.json").write_text('{"images": [')


@box_fault("annotations-field", "")
def annotations_without_categories(folder: Path) -> None:
    change_annotations(folder, lambda content: content.pop("categories"))


@box_fault("annotations-crowd")
def a_crowd(folder: Path) -> None:
    crowd = {"image_id": 2, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1}
    change_annotations(folder, lambda content: content["annotations"].append(crowd))


@box_fault("annotations-no-size")
def a_size_that_the_tool_did_not_know(folder: Path) -> None:
    change_annotations(folder, lambda content: content["images"][2].update(width=0, height=0))


@box_fault("annotations-doubtful", "")
def rows_marked_noisy(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    rows = [f'case_{number}_0000.png,"8, 10, 28, 26",{number % 2}' for number in range(6)]
    (folder / "DL_info.csv").write_text("\n".join(["File_name,Bounding_boxes,Possibly_noisy", *rows]) + "\n")


@box_fault("image-unlabelled", "case_0")
def an_image_with_a_lesion_of_another_type(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    change_json(folder, {"labels": {"lung": 1}})
    rows = [f'case_{number}_0000.png,"8, 10, 28, 26",{5 if number else 4}' for number in range(6)]
    (folder / "DL_info.csv").write_text("\n".join(["File_name,Bounding_boxes,Coarse_lesion_type", *rows]) + "\n")


@box_fault("box-from-zero", "")
def corners_that_count_from_zero(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    (folder / "Annotations").mkdir()
    corners = "<xmin>0</xmin><ymin>8</ymin><xmax>20</xmax><ymax>30</ymax>"
    nodule = f"<object><name>nodule</name><bndbox>{corners}</bndbox></object>"
    for number in range(6):
        (folder / "Annotations" / f"case_{number}.xml").write_text(f"<annotation>{nodule}</annotation>")


def give_boxes(folder: Path, *boxes: tuple[int, ...]) -> None:
    """In the place of all others."""
    change_annotations(
        folder,
        lambda content: content.update(
            annotations=[
                {"image_id": number, "category_id": 1, "bbox": box} for number, box in enumerate(boxes, start=1)
            ]
        ),
    )


@box_fault("box-layout", "")
def corners_in_the_place_of_sizes(folder: Path) -> None:
    give_boxes(folder, (30, 30, 50, 50), (10, 10, 20, 20), (25, 40, 45, 60), (40, 8, 50, 20))


@box_fault("box-layout-doubtful", "")
def boxes_that_may_be_corners(folder: Path) -> None:
    give_boxes(folder, (20, 20, 50, 50), (26, 26, 50, 50), (5, 5, 30, 30), (10, 10, 20, 20), (8, 8, 20, 20))


@box_fault("class-no-object", "")
def boxes_around_nothing(folder: Path) -> None:
    change_annotations(folder, lambda content: content["categories"].append({"id": 7, "name": "No finding"}))
    change_annotations(folder, lambda content: content["annotations"][2].update(category_id=7))


@box_fault("category-unused", "")
def a_category_of_the_tool(folder: Path) -> None:
    change_annotations(folder, lambda content: content["categories"].append({"id": 0, "name": "nodules-v2"}))


@box_fault("annotations-elsewhere", "")
def a_part_of_deep_lesion(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    rows = [f'case_{number}_0000.png,"8, 10, 28, 26"' for number in range(8)]  # of 6 images
    (folder / "DL_info.csv").write_text("\n".join(["File_name,Bounding_boxes", *rows]) + "\n")


@box_fault("annotations-other-type", "")
def some_types_of_deep_lesion(folder: Path) -> None:
    (folder / "annotations.json").unlink()
    change_json(folder, {"labels": {"lung": 1}})
    rows = [f'case_{number}_0000.png,"8, 10, 28, 26",{4 + number % 2}' for number in range(6)]
    (folder / "DL_info.csv").write_text("\n".join(["File_name,Bounding_boxes,Coarse_lesion_type", *rows]) + "\n")


@box_fault("annotation-without-image", "annotations[5]")
def a_box_of_no_image(folder: Path) -> None:
    box = {"image_id": 99, "category_id": 1, "bbox": [1, 1, 9, 9]}
    change_annotations(folder, lambda content: content["annotations"].append(box))


@box_fault("image-absent", "gone.png")
def a_listed_image_is_not_there(folder: Path) -> None:
    change_annotations(folder, lambda content: content["images"].append({"id": 99, "file_name": "gone.png"}))


@box_fault("image-unlisted", "case_9")
def an_image_that_is_not_listed(folder: Path) -> None:
    Pillow.fromarray(np.eye(SIDE, dtype=np.uint8)).save(picture_file(folder, "case_9"))


@box_fault("image-listed-twice")
def an_image_listed_twice(folder: Path) -> None:
    twin = {"id": 99, "file_name": "case_2_0000.png"}
    change_annotations(folder, lambda content: content["images"].append(twin))


@box_fault("image-size")
def boxes_drawn_on_another_size(folder: Path) -> None:
    change_annotations(folder, lambda content: content["images"][2].update(width=2 * SIDE))


def turn(folder: Path, orientation: int) -> None:
    """The case's picture is stored as a strip of another size, which EXIF turns."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(9).integers(0, 255, (SIDE, SIDE - 8), dtype=np.uint8)
    Pillow.fromarray(pixels).save(picture_file(folder, CASE), exif=exif)
    change_annotations(folder, lambda content: content["images"][2].update(width=SIDE - 8))


@box_fault("exif-turned", "")
def a_picture_that_exif_turns(folder: Path) -> None:
    turn(folder, 8)


@box_fault("exif-boxes-turned", "")
def boxes_of_the_picture_as_stored(folder: Path) -> None:
    turn(folder, 6)


@box_fault("exif-boxes-unsure", "")
def boxes_of_a_picture_upside_down(folder: Path) -> None:
    turn(folder, 3)


@box_fault("not-2d", "case_9")
def a_volume_among_pictures(folder: Path) -> None:
    write(picture_file(folder, "case_9", ".nii.gz"), np.arange(720, dtype=np.int16).reshape(SHAPE))


@box_fault("not-2d")
def a_tiff_of_several_pages(folder: Path) -> None:
    picture_file(folder, CASE).unlink()
    page = Pillow.fromarray(np.eye(SIDE, dtype=np.uint8))
    page.save(picture_file(folder, CASE, ".tif"), save_all=True, append_images=[page])
    change_annotations(folder, lambda content: content["images"][2].update(file_name="case_2_0000.tif"))


@box_fault("box-number")
def a_box_of_three_numbers(folder: Path) -> None:
    give_box(folder, 1, 2, 3)


@box_fault("box-empty")
def a_box_without_width(folder: Path) -> None:
    give_box(folder, 5, 5, 0, 9)


@box_fault("box-outside")
def a_box_beside_the_image(folder: Path) -> None:
    give_box(folder, SIDE + 5, 5, 9, 9)


@box_fault("box-clipped")
def a_box_over_the_edge(folder: Path) -> None:
    give_box(folder, SIDE - 5, 5, 9, 9)


@box_fault("box-twice")
def a_box_twice(folder: Path) -> None:
    give_box(folder, 10, 10, 20, 16)


@box_fault("no-boxes", "")
def images_without_boxes(folder: Path) -> None:
    change_annotations(folder, lambda content: content["annotations"].clear())


@box_fault("class-unknown")
def a_box_of_a_class_not_declared(folder: Path) -> None:
    change_json(folder, {"labels": {"nodule": 1, "mass": 2}})
    change_annotations(folder, lambda content: content["categories"].append({"id": 7, "name": "cyst"}))
    change_annotations(folder, lambda content: content["annotations"][2].update(category_id=7))


@box_fault("class-without-cases", "")
def a_class_without_a_box(folder: Path) -> None:
    change_json(folder, {"labels": {"nodule": 1, "mass": 2}})


def test_sound_boxes_have_no_problems(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    write_boxed(root.raw, BOXED[0], 0)
    assert verify(root).problems == ()


@pytest.mark.parametrize("name", BOX_FAULTS)
def test_faults_of_detection_are_named(tmp_path: Path, name: str, command: Callable[..., Any]) -> None:
    kind, case, change = BOX_FAULTS[name]
    root = Root(tmp_path / "root")
    for number, dataset in enumerate(BOXED):
        write_boxed(root.raw, dataset, 100 * number)
    change(root.raw / BOXED[0])
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", 1, "--plan-only")
    found = {(problem["kind"], problem["case_id"]) for problem in read_json(root.integrity)}
    assert (kind, case) in found
    assert "Traceback" not in said.out + said.err
    assert said.status == (1 if KINDS[kind].severity == "error" else 0), said.err
    assert root.plan("CXR_detection").is_file() == (KINDS[kind].severity == "warning")
    plan(root, request=PlanRequest(exclude_broken=True), preprocess=False)
    assert root.plan("CXR_detection").is_file()


@fault("cases-csv-column", "")
def a_patient_under_another_name(folder: Path) -> None:
    (folder / "cases.csv").write_text("case_id,Subject\ncase_0,a\ncase_1,a\n")


@fault("patients-alike", "")
def a_patient_with_and_without_zeros(folder: Path) -> None:
    (folder / "cases.csv").write_text("case_id,patient_id\ncase_0,007\ncase_1,7\n")


@fault("link-dangling")
def an_image_that_was_not_fetched(folder: Path) -> None:
    image_file(folder, CASE).unlink()
    image_file(folder, CASE).symlink_to("../.git/annex/objects/x.nii.gz")


@fault("name-almost", "")
def a_workbook_of_patients(folder: Path) -> None:
    (folder / "cases.xlsx").touch()


@fault("spacing-contradicts")
def sizes_of_the_s_form_alone(folder: Path) -> None:
    path = image_file(folder, CASE)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[76 + 4 * 3 : 76 + 4 * 4] = np.float32(30).tobytes()  # pixdim[3]
    path.write_bytes(gzip.compress(bytes(content)))


@fault("forms-contradict")
def mirrored_q_form(folder: Path) -> None:
    image = nib.load(image_file(folder, CASE))  # type: ignore[attr-defined]
    image.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), code=1)
    nib.save(image, image_file(folder, CASE))


@fault("spacing-stated", "")
def spacing_of_other_files(folder: Path) -> None:
    change_json(folder, {"spacing_mm": [3.0, 1.0, 1.1]})


@fault("sheared")
def tilted_gantry(folder: Path) -> None:
    tilted = AFFINE.copy()
    tilted[1, 2] = 0.3
    for file in (image_file(folder, CASE), label_file(folder, CASE)):
        write(file, voxels_of(file), tilted)


def as_itk(folder: Path, ending: str) -> None:
    for path in sorted(folder.glob("*/*.nii.gz")):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ending))
        path.unlink()
    change_json(folder, {"file_ending": ending})


@fault("header-contradicts")
def two_origins(folder: Path) -> None:
    as_itk(folder, ".mha")
    path = folder / "imagesTr" / f"{CASE}_0000.mha"
    path.write_bytes(path.read_bytes().replace(b"\nOffset =", b"\nPosition = 90 90 90\nOffset ="))


@fault("label-names")
def segments_of_other_values(folder: Path) -> None:
    as_itk(folder, ".nrrd")
    path = folder / "labelsTr" / f"{CASE}.nrrd"
    names = b"Segment0_Name:=Lesion\nSegment0_LabelValue:=2\nSegment1_Name:=Segment_2\nSegment1_LabelValue:=1\n"
    path.write_bytes(path.read_bytes().replace(b"\nencoding:", b"\n" + names + b"encoding:"))


def store_splits(folder: Path, **more: str) -> None:
    """As an earlier plan stored them: five patients of a case each."""
    path = folder.parent.parent / "preprocessed" / folder.name / "splits.json"
    path.parent.mkdir(parents=True)
    folds = [
        {"train": ["case_3", "case_4"], "val": ["case_1", "case_2"]},
        {"train": ["case_1", "case_2"], "val": ["case_3", "case_4"]},
    ]
    path.write_text(json.dumps({"test": ["case_0"], "folds": folds, **more}))


@fault("splits-torn", "")
def a_patient_of_two_parts_told_later(folder: Path) -> None:
    store_splits(folder)
    (folder / "cases.csv").write_text("case_id,patient_id\ncase_0,a\ncase_1,a\n")


@fault("patients-torn", "")
def a_patient_torn_by_given_folds(folder: Path) -> None:
    folds = [{"train": ["case_1", "case_2"], "val": ["case_3"]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    (folder / "cases.csv").write_text("case_id,patient_id\ncase_0,a\ncase_1,a\n")


@fault("subjects-torn", "")
def visits_of_patients(folder: Path) -> None:
    for number in range(6):
        write_case(folder, f"patient{number // 2}_visit{number % 2}", 50 + number)


@fault("patient-unmatched")
def a_name_that_the_stored_pattern_does_not_match(folder: Path) -> None:
    store_splits(folder, patient_pattern="_(?P<patient>[^2])$")


def test_an_image_that_may_lack_a_box_is_in_no_split(tmp_path: Path) -> None:
    """Annotation 2 names no image: it may be one of case_2, or of case_5, which has no box either."""
    root = Root(tmp_path / "root")
    folder = write_boxed(root.raw, BOXED[0], 0)
    change_annotations(folder, lambda content: content["annotations"][2].update(image_id=99))
    verified = verify(root, request=PlanRequest(exclude_broken=True))
    splits = verified.splits[BOXED[0]]
    placed = {*splits.test, *(case for fold in splits.folds for case in (*fold.train, *fold.val))}
    assert placed == {"case_0", "case_1", "case_3", "case_4"}
    listed = [one["case_id"] for one in read_json(root.integrity) if one["kind"] == "image-unlabelled"]
    assert listed == ["case_2", "case_5"]


NOT_BY_DATA = {
    "not-checked",  # a worker that dies: tests/core/test_workers.py
    "pattern-unused",  # by a flag: tests/datasets/test_patients.py
    "splits-changed",
    "splits-emptied",  # of stored splits: tests/datasets/test_split_checks.py
    "data-set-is-a-file",  # beside data sets: tests/datasets/test_raw_folder.py
    "refused",
    "no-data-sets",  # tests of their own below
}


def test_every_kind_has_a_fault() -> None:
    faults = [*FAULTS.values(), *CLASS_FAULTS.values(), *BOX_FAULTS.values()]
    assert {kind for kind, _, _ in faults} == set(KINDS) - NOT_BY_DATA
    assert len(FAULTS) >= 25


def test_every_kind_is_in_the_manual() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "integrity.md").read_text(encoding="utf-8")
    for kind, (severity, remedy) in KINDS.items():
        assert f"| `{kind}` | {severity} |" in manual
        assert f"| {remedy} |" in manual


def test_sound_data_have_no_problems(root: Root) -> None:
    assert verify(root).problems == ()
    assert read_json(root.integrity) == []


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(root: Root, name: str, command: Callable[..., Any]) -> None:
    kind, case, change = FAULTS[name]
    change(root.raw / NAME)
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", 1)
    found = read_json(root.integrity)
    (hit,) = [problem for problem in found if problem["kind"] == kind and problem["case_id"] == case][:1]
    assert (hit["severity"], hit["remedy"] != "") == (KINDS[kind].severity, True)
    assert Path(hit["file"] or hit["dataset"]).name in root.integrity.with_suffix(".txt").read_text()
    planned = root.plan("CT_segmentation").is_file()
    assert "Traceback" not in said.out + said.err
    if KINDS[kind].severity == "error":
        assert said.status == 1
        assert not planned
        assert kind in said.err
        assert "--exclude-broken" in said.err
        plan(root, request=PlanRequest(exclude_broken=True), preprocess=False)
        assert root.plan("CT_segmentation").is_file()
    else:
        assert said.status == 0, said.err
        assert planned
        assert kind in said.out


def test_only_what_is_broken_is_left_out(root: Root) -> None:
    not_a_number(root.raw / NAME)
    label_without_image(root.raw / NAME)
    (root.raw / OTHER / "dataset.json").unlink()
    assert plan(root, request=PlanRequest(exclude_broken=True)).done == 4 * 2  # four sound cases, 2d and 3d_fullres
    stored = {path.stem for path in root.cases(NAME, "2d").glob("*.json")}
    assert stored == {"case_0", "case_1", "case_3", "case_4"}
    assert not root.cases(OTHER, "2d").exists()
    splits = read_json(root.splits(NAME))
    assert CASE not in json.dumps(splits)


def test_a_case_left_out_is_named_once(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    for channel in (1, 2):
        shutil.copy(image_file(root.raw / NAME, CASE), image_file(root.raw / NAME, CASE, channel))
    with caplog.at_level("INFO"):
        plan(root, request=PlanRequest(exclude_broken=True), preprocess=False)
    assert [line for line in caplog.messages if line.startswith("left out: ")] == [f"left out: case {CASE} of {NAME}"]


def test_all_problems_are_listed_at_once(root: Root) -> None:
    for change in (truncated_image, one_patient, wrong_number, notes):
        change(root.raw / NAME)
    mask_of_255(root.raw / OTHER)
    with pytest.raises(DatasetError) as error:
        verify(root)
    for words in ("truncated", "label-0-255", "too-few-cases", "number-of-cases", "notes.txt", "3 errors, 2 warnings"):
        assert words in str(error.value)
    kinds = {problem["kind"] for problem in read_json(root.integrity)}
    assert kinds == {"truncated", "label-0-255", "too-few-cases", "number-of-cases", "file-unknown"}


@pytest.mark.parametrize(
    ("part", "number"),
    [
        ("imagesTr/case_2_0000.nii.gz", errno.EACCES),
        ("labelsTr/case_2.nii.gz", errno.EIO),
        ("dataset.json", errno.EMFILE),
        ("cases.csv", errno.EACCES),
    ],
)
def test_a_file_that_the_system_refuses_is_one_more_problem(
    root: Root, monkeypatch: pytest.MonkeyPatch, part: str, number: int
) -> None:
    refused = root.raw / NAME / part
    mask_of_255(root.raw / OTHER)
    one_patient(root.raw / NAME)
    real_open = io.open

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file) == str(refused):
            raise OSError(number, os.strerror(number), str(file))
        return real_open(file, *arguments, **options)

    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DatasetError):
        verify(root)
    found = read_json(root.integrity)
    assert "label-0-255" in {problem["kind"] for problem in found}
    (hit,) = [problem for problem in found if problem["kind"] == "refused"]
    assert hit["file"] == str(refused)
    assert os.strerror(number) in hit["found"]
    assert "damaged" not in hit["found"] + hit["remedy"]


def test_an_earlier_report_does_not_stay(root: Root) -> None:
    mask_of_255(root.raw / OTHER)
    with pytest.raises(DatasetError):
        verify(root)
    for name in (NAME, OTHER):
        (root.raw / name / "dataset.json").rename(root.raw / name / "dataset.jsn")
    with pytest.raises(DatasetError, match=r"(?s)no data set can be used.*dataset-json-missing"):
        verify(root)
    assert {problem["kind"] for problem in read_json(root.integrity)} == {"dataset-json-missing"}
    for number, name in enumerate((NAME, OTHER)):
        (root.raw / name).rename(root.raw / f"elsewhere_{number}")
    with pytest.raises(DatasetError, match="no data set of any task; put DatasetNNN_Name folders"):
        verify(root)
    assert [problem["kind"] for problem in read_json(root.integrity)] == ["no-data-sets"]
    root.raw.rename(root.folder / "moved")
    with pytest.raises(DatasetError, match="the raw folder does not exist"):
        verify(root)
    assert not root.integrity.exists()
    assert not root.integrity.with_suffix(".txt").exists()


def test_broken_cases_are_not_called_too_few(root: Root) -> None:
    for number in range(5):
        label_file(root.raw / NAME, f"case_{number}").unlink()
    for number in range(1, 5):
        label_file(root.raw / OTHER, f"case_{number}").write_bytes(b"no mask")
    with pytest.raises(DatasetError):
        verify(root)
    assert {problem["kind"] for problem in read_json(root.integrity)} == {"label-missing", "truncated"}
    with pytest.raises(DatasetError, match="every data set has errors"):
        verify(root, request=PlanRequest(exclude_broken=True))  # then it is the reason why both are left out
    assert "too-few-cases" in {problem["kind"] for problem in read_json(root.integrity)}


@pytest.mark.parametrize("name", ["preprocessed", "results", "raw"])
def test_a_file_in_the_place_of_a_folder(tmp_path: Path, name: str, command: Callable[..., Any]) -> None:
    (tmp_path / name).write_text("not a folder")
    for main, more in ((plan_and_preprocess.main, ()), (train.main, ("011",))):
        said = command(main, "--root", tmp_path, *more)
        assert said.status == 1
        assert f"{tmp_path / name}: is a file, and a folder is expected" in said.err
        assert "Traceback" not in said.err


def test_a_file_in_the_place_of_a_data_sets_folder(root: Root, command: Callable[..., Any]) -> None:
    root.preprocessed.mkdir()
    (root.preprocessed / NAME).write_text("not a folder")
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", 1)
    assert said.status == 1
    assert f"{root.preprocessed / NAME} is a file, and a folder is expected; move it elsewhere" in said.err


def test_a_damaged_splits_file(root: Root) -> None:
    plan(root, preprocess=False)
    content = read_json(root.splits(NAME))
    torn = {**content, "test": [*content["test"], content["folds"][0]["train"][0]]}
    for text, words in (
        ("{", "not valid JSON"),
        (json.dumps({"test": [], "folds": []}), "holds no folds"),
        (json.dumps(torn), "fold 0: in two of train, val and test: "),
    ):
        root.splits(NAME).write_text(text)
        with pytest.raises(DatasetError):
            verify(root)
        (hit,) = read_json(root.integrity)
        assert (hit["kind"], hit["file"]) == ("splits", str(root.splits(NAME)))
        assert words in hit["found"]
        assert "delete it" in hit["remedy"]


def test_two_wrong_files_of_one_case_are_both_named(root: Root) -> None:
    truncated_image(root.raw / NAME)
    mask_of_255(root.raw / NAME)
    with pytest.raises(DatasetError) as error:
        verify(root)
    assert "case_2_0000.nii.gz" in str(error.value)
    assert "case_2.nii.gz: label values 255" in str(error.value)


def test_every_wrong_field_is_named(root: Root) -> None:
    wrong_fields(root.raw / NAME)
    with pytest.raises(DatasetError, match=r"(?s)labels\.background.*file_ending"):
        verify(root)


def test_mended_data_are_planned(root: Root) -> None:
    path = image_file(root.raw / NAME, CASE)
    good = path.read_bytes()
    truncated_image(root.raw / NAME)
    with pytest.raises(DatasetError):
        plan(root)
    path.write_bytes(good)
    assert plan(root).problems == ()
    assert read_json(root.integrity) == []


def test_another_group_does_not_stand_in_the_way(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    write_dataset(root.raw, "Dataset201_Head", 300)
    change_json(root.raw / "Dataset201_Head", {"channel_names": {"0": "T1"}})
    truncated_image(root.raw / "Dataset201_Head")
    (root.raw / "Dataset301_Unknown").mkdir()
    assert verify(root, "CT").problems == ()
    assert "Dataset301_Unknown" in caplog.text
    with pytest.raises(DatasetError, match="Dataset201_Head"):
        verify(root, "MRI")


def test_verify_only_plans_nothing(root: Root, command: Callable[..., Any]) -> None:
    assert command(plan_and_preprocess.main, "--root", root.folder, "--verify-only", "-j", 1).status == 0
    assert not root.plan("CT_segmentation").exists()
    assert command(plan_and_preprocess.main, "--root", root.folder, "--plan-only", "-j", 1).status == 0
    assert root.plan("CT_segmentation").is_file()
    assert not root.cases(NAME, "2d").exists()


def test_names_cannot_write_to_the_terminal(root: Root, command: Callable[..., Any]) -> None:
    change_json(root.raw / NAME, {"labels": {"background": 0, "\x1b[2Jlesion": 1}})
    said = command(plan_and_preprocess.main, "--root", root.folder, "--verify-only", "-j", 1)
    assert said.status == 1
    assert "\x1b" not in said.out + said.err


def test_nothing_is_read_twice(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked is not checked again until it changes."""
    verify(root)
    monkeypatch.setattr(preparation, "check_group", lambda *_: [])
    monkeypatch.setattr("mdkd_auto.planners.fingerprint.inspect_case", None)
    assert verify(root).problems == ()


def test_a_long_list_of_cases_left_out_is_said_once(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(8):
        image_file(root.raw / NAME, f"odd_{number}").write_bytes(image_file(root.raw / NAME, CASE).read_bytes())
    with caplog.at_level("INFO"):
        plan(root, request=PlanRequest(exclude_broken=True), preprocess=False)
    said = "\n".join(caplog.messages)
    assert all(said.count(f"labelsTr/odd_{number}.nii.gz") == said.count(f"odd_{number}") == 1 for number in range(8))
    assert [line for line in caplog.messages if line.startswith("left out: ")] == [
        f"left out: the 8 cases of {NAME} with errors"
    ]
