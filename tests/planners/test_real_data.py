"""Plans of real data sets; needs MDKD_REAL_DATA, the raw folder or the one that holds raw/."""

import os
from pathlib import Path

import pytest

from mdkd_auto.core.records import Plan
from mdkd_auto.datasets.raw_folder import read_dataset
from mdkd_auto.planners.fingerprint import fingerprint_dataset
from mdkd_auto.planners.group import plan_group
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.plan_text import plan_text

FOLDER = os.environ.get("MDKD_REAL_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="MDKD_REAL_DATA does not name a raw folder")


def plan_of(numbers: tuple[int, ...], cache: Path) -> Plan:
    raw = Path(FOLDER or "")
    raw = raw / "raw" if (raw / "raw").is_dir() else raw
    found = [next(raw.glob(f"Dataset{number:03d}_*")) for number in numbers]
    datasets = [read_dataset(folder) for folder in found]
    fingerprints = {}
    for dataset in datasets:
        fingerprints[dataset.name], problems = fingerprint_dataset(dataset, cache / dataset.name)
        assert problems == []
    plan = plan_group(datasets, fingerprints, PlanRequest())
    print(plan_text(plan))
    return plan


def test_ct_slices(tmp_path: Path) -> None:
    plan = plan_of((11, 12, 13), tmp_path)
    part = plan.configuration("2d")
    assert part.spacing_mm == (1.5625, 1.5625)
    assert part.patch_size == (256, 256)
    assert part.batch_size >= 4


def test_mri_volumes(tmp_path: Path) -> None:
    plan = plan_of((1, 2, 3), tmp_path)
    assert plan.configuration("2d").spacing_mm == (1.0, 1.0)
    assert plan.configuration("3d_fullres").spacing_mm == (1.0, 1.0, 1.0)
    assert all(96 <= edge <= 192 for edge in plan.configuration("3d_fullres").patch_size)
