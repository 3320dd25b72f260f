"""Files beside images: whose voxels they are, and what is said of those that are not read."""

from pathlib import Path

import pytest

from mdkd_auto.core.files import file_hash
from mdkd_auto.datasets.case_names import visible_files
from mdkd_auto.formats.companion_files import Companions, hash_image, voxel_files, voxel_names

META = "ObjectType = Image\nNDims = 3\nElementDataFile = {}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.mhd").write_text(META.format("a.raw"))
    (tmp_path / "b.MHD").write_text(META.format("voxels of b.bin"))
    (tmp_path / "c.mhd").write_text(META.format("c_%03d.raw 1 2 1"))
    (tmp_path / "d.mhd").write_text(META.format("LIST") + "d_first.raw\nd_second.raw\n")
    (tmp_path / "e.mha").write_bytes(META.format("LOCAL").encode() + bytes(100))
    (tmp_path / "f.nrrd").write_text("NRRD0004\ntype: short\nData File: F_VOXELS.raw.gz\n\n")
    (tmp_path / "g.nrrd").write_text("NRRD0004\ntype: short\n\nElementDataFile\n")
    for name in (
        "a.raw",
        "voxels of b.bin",
        "c_001.raw",
        "c_002.raw",
        "c_x.raw",
        "d_first.raw",
        "d_second.raw",
        "F_VOXELS.raw.gz",
        "lost.zraw",
    ):
        (tmp_path / name).write_bytes(bytes(8))
    return tmp_path


def test_which_files_a_header_names(folder: Path) -> None:
    named = {name: [path.name for path in voxel_files(folder / name)] for name in visible_files(folder)}
    assert {name: files for name, files in named.items() if files} == {
        "a.mhd": ["a.raw"],
        "b.MHD": ["voxels of b.bin"],
        "c.mhd": ["c_001.raw", "c_002.raw"],
        "d.mhd": ["d_first.raw", "d_second.raw"],
        "f.nrrd": ["F_VOXELS.raw.gz"],
    }
    assert voxel_names(folder / "a.raw") == ()


def test_the_hash_of_an_image_is_that_of_its_voxels_too(folder: Path) -> None:
    images = ("a.mhd", "c.mhd", "e.mha", "f.nrrd")
    before = [hash_image(folder / name) for name in images]
    assert before[2] == file_hash(folder / "e.mha")
    for name in ("a.raw", "c_002.raw", "F_VOXELS.raw.gz", "lost.zraw"):
        (folder / name).write_bytes(b"other___")
    after = [hash_image(folder / name) for name in images]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True, False]


def test_voxels_of_an_image_are_nothing_to_speak_of(folder: Path) -> None:
    names = visible_files(folder)
    companions = Companions(folder, names)
    voxels = [name for name in names if name.endswith((".raw", ".bin", ".gz", ".zraw"))]
    assert [name for name in voxels if companions.unread(name, ".mhd") is not None] == ["c_x.raw", "lost.zraw"]
    lost = companions.unread("lost.zraw", ".mhd")
    assert lost is not None
    assert lost.found == "holds voxels whose header is missing: no lost.mhd and no other header here names it"


@pytest.mark.parametrize(
    ("name", "beside", "found", "remedy"),
    [
        ("c.hdr", ["c.img"], "a part of an image in two files", "keep both"),
        ("c.IMG", ["c.HDR"], "a part of an image in two files", "keep both"),
        ("c.img.gz", ["c.hdr.gz"], "a part of an image in two files", "keep both"),
        ("c.nhdr", ["c.raw.gz"], "a part of an image in two files", "keep both"),
        ("c.raw.gz", ["c.nhdr"], "a part of an image in two files", "keep both"),
        ("c.img", [], "whose header is missing", "keep it"),
        ("c.nii", [], "does not end in .nii.gz", "ignored; if it belongs to a case, save it as .nii.gz"),
        ("notes.TXT", [], "is no image", "ignored"),
        ("c.dcm", [], "is DICOM", "ignored; DICOM is not read: convert it, volumes to NIfTI (dcm2niix)"),
    ],
)
def test_what_is_said(tmp_path: Path, name: str, beside: list[str], found: str, remedy: str) -> None:
    said = Companions(tmp_path, [name, *beside]).unread(name, ".nii.gz")
    assert said is not None
    assert found in said.found
    assert remedy in said.remedy
    assert "remove" not in said.remedy


def test_what_systems_leave_is_not_seen(tmp_path: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._a.png", "a.png", "Desktop.INI"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    assert visible_files(tmp_path) == ["a.png"]
