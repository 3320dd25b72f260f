"""Real data sets, as users have them; needs MDKD_REAL_DATA, the raw folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto import pipeline
from mdkd_auto.cli import train
from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.files import read_json, read_record
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Plan, Splits
from mdkd_auto.datasets.raw_folder import read_dataset
from mdkd_auto.datasets.splits import read_splits
from mdkd_auto.formats.read_write import read_image, same_geometry
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.tasks.shared.prediction import mask_ending

RAW = Path(os.environ.get("MDKD_REAL_DATA", ""))
pytestmark = [
    pytest.mark.skipif("MDKD_REAL_DATA" not in os.environ, reason="MDKD_REAL_DATA does not name a raw folder"),
    pytest.mark.usefixtures("one_thread", "no_curves"),
]

SMALL = ("--epochs", 1, "--iterations", 2, "--width", 4, "--batch-size", 2, "--device", "cpu")


def linked(folder: Path, *numbers: str) -> Root:
    """A root whose raw folder holds links to these data sets."""
    root = Root(folder)
    root.raw.mkdir(parents=True)
    for number in numbers:
        (found,) = RAW.glob(f"Dataset{number}_*")
        (root.raw / found.name).symlink_to(found, target_is_directory=True)
    return root


def test_groups_of_every_task_are_found(tmp_path: Path) -> None:
    root = linked(tmp_path, "001", "002", "003", "011", "012", "013", "021", "031")
    groups, problems = find_groups(root)
    assert problems == []
    assert {name: [dataset.short_name for dataset in datasets] for name, datasets in groups.items()} == {
        "MRI_segmentation": ["001", "002", "003"],
        "CT_segmentation": ["011", "012", "013"],
        "CXR_classification": ["021"],
        "CT_detection": ["031"],
    }

    outcome = pipeline.plan_and_preprocess(root, "MRI", PlanRequest(configurations=("2d",)))
    assert outcome.problems == ()
    assert outcome.done == sum(len(dataset.cases) for dataset in groups["MRI_segmentation"])
    plan = read_record(root.plan("MRI_segmentation"), Plan)
    assert [part.dataset[7:10] for part in plan.datasets] == ["001", "002", "003"]
    assert not root.plan("CT_segmentation").exists()
    assert {path.name for path in root.preprocessed.iterdir() if not path.name.startswith(".")} == {
        "MRI_segmentation",
        "integrity.json",
        "integrity.txt",
        *(dataset.name for dataset in groups["MRI_segmentation"]),
    }


def test_x_rays_that_look_the_same_are_found(tmp_path: Path) -> None:
    """022 holds copies of pictures of 021, saved anew; left out where they would be trained and tested on."""
    root = linked(tmp_path, "021", "022")
    with pytest.raises(DatasetError, match="near-duplicate-train-test in Dataset021_CXRKaggle"):
        pipeline.plan_and_preprocess(root, preprocess=False)
    pipeline.plan_and_preprocess(root, request=PlanRequest(exclude_broken=True), preprocess=False)
    found = [one for one in read_json(root.integrity) if one["kind"].startswith("near-duplicate")]
    across = [one for one in found if "of Dataset02" in one["found"]]
    assert len(across) >= 18
    kept = {name: read_record(root.splits(name), Splits) for name in ("Dataset021_CXRKaggle", "Dataset022_CXRTalo")}
    out = {(one["dataset"], one["case_id"]) for one in found if one["kind"] == "near-duplicate-train-test"}
    for name, splits in kept.items():
        used = {*splits.test, *(case for fold in splits.folds for case in (*fold.train, *fold.val))}
        assert not {case for dataset, case in out if dataset == name} & used
    (part,) = read_record(root.plan("CXR_classification"), Plan).configurations
    assert part.patch_size == (224, 224)


def part_of(root: Root, number: str, count: int) -> None:
    """A data set of ``count`` cases evenly drawn from a real one, its images linked."""
    (found,) = RAW.glob(f"Dataset{number}_*")
    dataset = read_dataset(found)
    cases = dataset.cases[:: len(dataset.cases) // count][:count]
    folder = root.raw / found.name
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    shutil.copy(found / "dataset.json", folder)
    for case in cases:
        for path in map(Path, (*case.images, str(case.label))):
            (folder / path.parent.name / path.name).symlink_to(path)
    rows = "".join(f"{case.case_id},{case.patient_id}\n" for case in cases)
    (folder / "cases.csv").write_text(f"case_id,patient_id\n{rows}")


def test_slices_of_two_data_sets(tmp_path: Path, command: Callable[..., Any]) -> None:
    root = Root(tmp_path)
    part_of(root, "011", 40)
    part_of(root, "013", 30)
    assert pipeline.plan_and_preprocess(root, "CT", PlanRequest(configurations=("2d",))).problems == ()
    said = command(train.main, "013", "--from", "011", "--root", root.folder, *SMALL)
    assert said.status == 0, said.err
    assert "Dataset013_CovidCT (test): " in said.out

    run = pipeline.find_student(root, "013")
    dataset = read_dataset(next(root.raw.glob("Dataset013_*")))
    tested = read_splits(root.splits(dataset.name)).test
    assert len(tested) == 6  # one in five; every image is a patient of its own
    for case in dataset.cases:
        path = run / "test" / f"{case.case_id}{mask_ending(case)}"
        assert path.is_file() == (case.case_id in tested)
        if path.is_file():
            assert same_geometry(read_image(path), read_image(Path(case.images[0]))) is None
