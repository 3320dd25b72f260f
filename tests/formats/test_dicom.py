"""DICOM files by their names and by their first bytes."""

from pathlib import Path

import pytest

from mdkd_auto.core.files import write_json
from mdkd_auto.datasets.raw_folder import inspect_dataset
from mdkd_auto.formats.dicom import find_dicom, is_dicom

PART_10 = bytes(128) + b"DICM" + bytes(4)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.dcm", b"", True),
        ("A.DCM", b"", True),
        ("a.IMA", b"", True),
        ("DICOMDIR", b"", True),
        ("IM0001", PART_10, True),
        ("1.2.840.113", PART_10, True),
        ("notes.txt", b"DICM", False),
        ("empty", b"", False),
        ("a.nii.gz", PART_10, False),
    ],
)
def test_by_name_or_by_first_bytes(tmp_path: Path, name: str, content: bytes, expected: bool) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_dicom(tmp_path / name) == expected


def test_the_first_is_found_in_folders_below(tmp_path: Path) -> None:
    assert find_dicom(tmp_path) is None
    (tmp_path / "patient" / "series").mkdir(parents=True)
    (tmp_path / "patient" / "series" / "0001").write_bytes(PART_10)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "0000.dcm").write_bytes(PART_10)
    assert find_dicom(tmp_path) == str(Path("patient", "series", "0001"))
    assert not is_dicom(tmp_path / "nowhere")


@pytest.mark.parametrize("task", ["segmentation", "classification", "detection"])
def test_a_data_set_of_dicom_is_told_to_be_converted(tmp_path: Path, task: str) -> None:
    folder = tmp_path / "Dataset011_Scans"
    for part in ("imagesTr/p1/s1", "labelsTr"):
        (folder / part).mkdir(parents=True)
    (folder / "imagesTr" / "p1" / "s1" / "IM1").write_bytes(PART_10)
    write_json(
        folder / "dataset.json",
        {
            "task": task,
            "channel_names": {"0": "CT"},
            "file_ending": ".nii.gz",
            "labels": {"background": 0, "a": 1},
            "numTraining": 1,
        },
    )
    if task == "detection":
        write_json(folder / "annotations.json", {"images": [], "annotations": [], "categories": []})
    _, problems = inspect_dataset(folder)
    said = [one for one in problems if one.kind == "no-cases"]
    assert len(said) == 1
    assert "but DICOM (" in said[0].found
    assert said[0].found.endswith("p1/s1/IM1)")
    assert said[0].remedy.startswith("DICOM is not read: convert it")
