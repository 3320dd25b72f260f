import os
from pathlib import Path

import pytest

from mdkd_auto.datasets.case_names import LISTED, check_case_id, is_unusual, listed, split_name, visible_files


@pytest.mark.parametrize(
    ("name", "ending", "expected"),
    [
        ("lung_01_0000.png", ".png", ("lung_01", 0)),
        ("lung_01_0003.NII.GZ", ".nii.gz", ("lung_01", 3)),
        ("a_0001_0002.nii", ".nii", ("a_0001", 2)),
        ("lung_01.png", ".png", None),
        ("lung_01_000.png", ".png", None),
        ("lung_01_0000.png", ".nii", None),
        ("_0000.png", ".png", None),
    ],
)
def test_names_of_image_files(name: str, ending: str, expected: tuple[str, int] | None) -> None:
    assert split_name(name, ending) == expected


@pytest.mark.parametrize("name", ["a", "lung_01", "sub-01_ses-02", "1.2.840", "Müller", "a b"])
def test_names_that_are_fine(name: str) -> None:
    assert check_case_id(name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        (".hidden", "begins with '.'"),
        ("=1+1", "begins with '='"),
        ("a/b", "separator"),
        ("a\\b", "separator"),
        ("a\nb", "control"),
        ("a|b", "holds |"),
        ("x" * 201, "201 bytes"),
        ("ü" * 101, "202 bytes"),
        (os.fsdecode(b"M\xfcller"), "UTF-8"),
    ],
)
def test_names_that_are_refused(name: str, words: str) -> None:
    found = check_case_id(name)
    assert found is not None
    assert words in found


def test_names_that_a_shell_must_quote() -> None:
    assert [name for name in ("a b", "a#1", "a.", "a", "a-b_c.d") if is_unusual(name)] == ["a b", "a#1", "a."]


def test_hidden_files_and_folders_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".DS_Store", "._a.png", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert visible_files(tmp_path) == ["a.png", "b.png"]


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "\n  a\n  b"
    lines = listed([str(number) for number in range(LISTED + 3)]).splitlines()
    assert len(lines) == 1 + LISTED + 1
    assert lines[-1] == f"  and 3 more ({LISTED + 3} in all)"
