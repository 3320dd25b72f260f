"""DICOM files by their names and by their first bytes."""

from pathlib import Path

import pytest

from mdkd_auto.data.dicom import find_dicom, is_dicom

PART_10 = bytes(128) + b"DICM" + bytes(4)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.dcm", b"", True), ("A.DCM", b"", True), ("a.IMA", b"", True), ("DICOMDIR", b"", True),
        ("IM0001", PART_10, True), ("1.2.840.113", PART_10, True), ("notes.txt", b"DICM", False),
        ("empty", b"", False), ("a.nii.gz", PART_10, False),
    ],
)  # fmt: skip
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
