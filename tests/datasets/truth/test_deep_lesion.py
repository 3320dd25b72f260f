"""Boxes of DL_info.csv, sound and broken."""

from pathlib import Path

import pytest

from mdkd_auto.core.records import Box
from mdkd_auto.datasets.truth.annotations import Annotations
from mdkd_auto.datasets.truth.deep_lesion import read_deep_lesion

COLUMNS = "File_name,Patient_index,Bounding_boxes,Coarse_lesion_type,Spacing_mm_px_,Image_size,Train_Val_Test"
NAME = "000001_01_01_109.png"


def row(
    name: str = NAME,
    box: str = "3, 2, 5.5, 4",
    lesion: str = "5",
    spacing: str = "0.8, 0.7, 5",
    size: str = "8, 6",
    split: str = "3",
) -> str:
    return f'{name},1,"{box}",{lesion},"{spacing}","{size}",{split}'


def read(folder: Path, *rows: str, names: set[str] | None = None, labels: tuple[str, ...] = ()) -> Annotations:
    (folder / "DL_info.csv").write_text("\n".join((COLUMNS, *rows)) + "\n")
    return read_deep_lesion(folder / "DL_info.csv", {NAME} if names is None else names, labels)


def test_several_lesions_an_image(tmp_path: Path) -> None:
    found = read(tmp_path, row(), row(box="1, 1, 2, 3", lesion="1"), row("000002_01_01_001.png"))
    assert found.classes == ("bone", "lung")
    (one,) = found.images
    assert one.boxes == (
        Box(class_name="lung", x=2, y=1, width=2.5, height=2),
        Box(class_name="bone", x=0, y=0, width=1, height=2),
    )  # counted from 1
    assert (one.file_name, one.size, one.patient_id, one.split) == (NAME, (8, 6), "1", "test")
    assert one.spacing_mm == (5, 0.7, 0.8)
    assert one.findings == ()
    (elsewhere,) = found.findings
    assert (elsewhere.kind, elsewhere.found[:11]) == ("annotations-elsewhere", "1 of 3 rows")


def test_one_class_for_all(tmp_path: Path) -> None:
    found = read(tmp_path, row(lesion="-1"), labels=("lesion",))
    assert (found.classes, found.images[0].findings) == (("lesion",), ())


@pytest.mark.parametrize("labels", [("lung",), ("Lung",), ("lung", "kidney")])
def test_rows_of_types_that_are_not_asked_for_are_left_out(tmp_path: Path, labels: tuple[str, ...]) -> None:
    rows = (row(), row(lesion="4"), row("b.png", lesion="4"), row("c.png", lesion="1"), row("d.png", lesion="-1"))
    found = read(tmp_path, *rows, names={NAME, "b.png", "c.png", "d.png"}, labels=labels)
    assert found.classes == (labels[0],)
    assert [len(one.boxes) for one in found.images] == [1, 0, 0, 0]
    assert [one.left_out[:23] for one in found.images] == [
        "row 3 is of type liver,",
        "row 4 is of type liver,",
        "row 5 is of type bone, ",
        "",
    ]
    (others,) = found.findings
    assert (others.kind, others.found[:14]) == ("annotations-other-type", "3 of 5 rows ar")
    assert "(bone 1, liver 2)" in others.found
    assert [[one.kind for one in image.findings] for image in found.images] == [[], [], [], ["class-unknown"]]


def test_rows_marked_noisy_are_counted(tmp_path: Path) -> None:
    rows = ('a.png,"3, 2, 5, 4",0', 'b.png,"3, 2, 5, 4",1', 'b.png,"1, 2, 5, 4",1', 'elsewhere.png,"3, 2, 5, 4",1')
    (tmp_path / "DL_info.csv").write_text("\n".join(("File_name,Bounding_boxes,Possibly_noisy", *rows)))
    found = read_deep_lesion(tmp_path / "DL_info.csv", {"a.png", "b.png"}, ("lesion",))
    (doubtful,) = [one for one in found.findings if one.kind == "annotations-doubtful"]
    assert doubtful.found == "rows marked Possibly_noisy: 2 of 3; they are used like the others"
    assert [len(one.boxes) for one in found.images] == [1, 2]


def test_without_a_column_of_types_all_boxes_are_of_the_one_class(tmp_path: Path) -> None:
    (tmp_path / "DL_info.csv").write_text('File_name,Bounding_boxes\na.png,"3, 2, 5, 4"\n')
    assert read_deep_lesion(tmp_path / "DL_info.csv", {"a.png"}, ("lung",)).classes == ("lung",)


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        ((row(lesion="-1"),), "class-unknown", "row 2: Coarse_lesion_type is '-1'"),
        ((row(box="1, 2, 3"),), "box-number", "row 2: Bounding_boxes is '1, 2, 3'"),
        ((row(box="1, 2, inf, 3"),), "box-number", "row 2"),
        ((row(spacing="1, 0, 1"),), "annotations-field", "row 2: Spacing_mm_px_ is '1, 0, 1'"),
        ((row(size="8"),), "annotations-field", "row 2: Image_size is '8'"),
        ((row(split="4"),), "annotations-field", "row 2: Train_Val_Test is '4'"),
        ((row(), row(split="1")), "annotations-field", "row 3: patient, split, spacing or size differ"),
    ],
)
def test_wrong_rows(tmp_path: Path, rows: tuple[str, ...], kind: str, words: str) -> None:
    (one,) = read(tmp_path, *rows).images
    (wrong,) = one.findings
    assert (wrong.kind, wrong.file) == (kind, str(tmp_path / "DL_info.csv"))
    assert words in wrong.found


def test_rows_of_no_image(tmp_path: Path) -> None:
    found = read(tmp_path, row(""), "a,b", f"{NAME},b")
    assert [(one.kind, one.found, one.part) for one in found.findings] == [
        ("annotations-syntax", "row 3: has 2 cells for 7 columns", "row 3"),
        ("annotations-syntax", "row 4: has 2 cells for 7 columns", NAME),
        ("annotation-without-image", "row 2: has no File_name", "row 2"),
    ]


@pytest.mark.parametrize("text", [b"", b"File_name\na.png\n", b"\xff\xfe", b'File_name,Bounding_boxes\n"a"b,c\n'])
def test_not_a_table(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "DL_info.csv").write_bytes(text)
    found = read_deep_lesion(tmp_path / "DL_info.csv", {NAME})
    assert [one.kind for one in found.findings] == ["annotations-syntax"]
