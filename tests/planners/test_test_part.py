"""Test cases have no part in a plan."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.core.files import read_record
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Plan
from mdkd_auto.datasets.splits import read_splits
from mdkd_auto.demo.phantoms import LOOKS, PICTURES, SCENES, write_datasets, write_detection_datasets, write_pictures
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import plan_and_preprocess

Change = Callable[[Path, str], None]


def write_volumes(raw: Path) -> None:
    """As few cases as can be split: one to test, two folds of one."""
    write_datasets(raw, (LOOKS[0]._replace(shape=(6, 32, 32), spacing_mm=(6.0, 6.0, 6.0)),), cases=3)


def brighter_with_specks(folder: Path, case: str) -> None:
    image, label = folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "labelsTr" / f"{case}.nii.gz"
    voxels = np.asarray(nib.load(image).dataobj)
    affine = np.diag([2.0, 2.0, 6.0, 1.0])
    mask = np.zeros(voxels.shape, dtype=np.uint8)
    mask[4::8, 4::8] = 1
    nib.save(nib.Nifti1Image((voxels + 500).astype(np.int16), affine), image)
    nib.save(nib.Nifti1Image(mask, affine), label)


def larger_of_another_class(folder: Path, case: str) -> None:
    with Pillow.open(folder / "imagesTr" / f"{case}_0000.png") as picture:
        picture.resize((400, 300)).save(folder / "imagesTr" / f"{case}_0000.png")
    table = folder / "cases.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    other = {"round": "long", "long": "round"}
    table.write_text("".join(f"{name},{other[of] if name == case else of}\n" for name, of in rows))


def full_of_flat_boxes(folder: Path, case: str) -> None:
    table = folder / "annotations.json"
    content = json.loads(table.read_text())
    (image,) = (image["id"] for image in content["images"] if image["file_name"].startswith(case))
    content["annotations"] += [
        {"id": 1000 + number, "image_id": image, "category_id": 1, "bbox": [1, 1 + number, 70, 2 + number / 10]}
        for number in range(40)
    ]
    table.write_text(json.dumps(content))


CHAINS: dict[str, tuple[Callable[[Path], None], Change]] = {
    "segmentation": (write_volumes, brighter_with_specks),
    "classification": (lambda raw: write_pictures(raw, PICTURES[:1], cases=12), larger_of_another_class),
    "detection": (lambda raw: write_detection_datasets(raw, SCENES[:1], cases=12), full_of_flat_boxes),
}


def decisions(plan: Plan) -> object:
    """Without the words."""
    return plan.datasets, [msgspec.structs.replace(part, reasons=()) for part in plan.configurations]


@pytest.mark.parametrize("task", CHAINS)
def test_test_cases_change_nothing_in_a_plan_and_training_cases_do(tmp_path: Path, task: str) -> None:
    write, change = CHAINS[task]
    root = Root(tmp_path)
    write(root.raw)
    (folder,) = root.raw.iterdir()

    def planned() -> tuple[Plan, bytes]:
        plan_and_preprocess(root, request=PlanRequest(replan=True), preprocess=False)
        (path,) = root.preprocessed.glob("*/plan.json")
        return read_record(path, Plan), root.fingerprint(folder.name).read_bytes()

    before = planned()
    splits = read_splits(root.splits(folder.name))
    for case in splits.test:
        change(folder, case)
    assert planned() == before
    for case in splits.folds[0].train:
        change(folder, case)
    plan, _ = planned()
    assert decisions(plan) != decisions(before[0])
    assert read_splits(root.splits(folder.name)) == splits
