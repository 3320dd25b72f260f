"""Boxes of Pascal VOC files, sound and broken."""

from pathlib import Path

import pytest

from mdkd_auto.core.records import Box
from mdkd_auto.datasets.truth.annotations import Annotated
from mdkd_auto.datasets.truth.voc import read_voc

SIZE = "<size><width>8</width><height>6</height><depth>1</depth></size>"

ROTATED = "<attributes><attribute><name>rotation</name><value>30.0</value></attribute></attributes></object>"


def an_object(name: str, *corners: object) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    return f"<object><name>{name}</name><bndbox>{''.join(f'<{t}>{c}</{t}>' for t, c in tags)}</bndbox></object>"


def write(folder: Path, name: str, *parts: str, file_name: str = "a.png") -> None:
    text = f"<annotation><filename>{file_name}</filename>{''.join(parts)}</annotation>"
    (folder / name).write_text(text, encoding="utf-8")


def read_one(folder: Path) -> Annotated:
    (one,) = read_voc(folder).images
    return one


def test_pixels_count_from_1_to_the_last(tmp_path: Path) -> None:
    write(tmp_path, "a.xml", SIZE, an_object("tumour", 1, 1, 8, 6), an_object("cyst", 3, 2, 3, 4))
    write(tmp_path, "b.xml", file_name="dir\\b.png")
    (tmp_path / "notes.txt").touch()
    read = read_voc(tmp_path)
    assert read.classes == ("cyst", "tumour")
    first, second = read.images
    assert (first.file_name, first.size, first.findings) == ("a.png", (8, 6), ())
    assert first.boxes == (
        Box(class_name="tumour", x=0, y=0, width=8, height=6),
        Box(class_name="cyst", x=2, y=1, width=1, height=3),
    )
    assert (second.file_name, second.size, second.boxes) == ("b.png", None, ())
    assert [one.kind for one in read.findings] == ["file-unknown"]


def test_another_encoding_that_is_declared(tmp_path: Path) -> None:
    text = f'<?xml version="1.0" encoding="windows-1252"?><annotation>{an_object("Läsion", 1, 1, 2, 2)}</annotation>'
    (tmp_path / "a.xml").write_bytes(text.encode("cp1252"))
    assert [box.class_name for box in read_one(tmp_path).boxes] == ["Läsion"]


def test_a_file_that_names_no_image_is_of_the_image_of_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "a_0000.xml", an_object("cyst", 1, 1, 2, 2), file_name="")
    one = read_one(tmp_path)
    assert (one.file_name, len(one.boxes), one.findings) == ("a_0000", 1, ())


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        (an_object("cyst", 1, "nan", 2, 2), "box-number", "object 1: bndbox is ['1', 'nan', '2', '2']"),
        (an_object("cyst", 1, "", 2, 2), "box-number", "object 1"),
        ("<object><name>cyst</name></object>", "box-number", "object 1: bndbox is []"),
        ("<object><name>cyst</name><robndbox/></object>", "box-number", "bndbox is [], beside robndbox"),
        (an_object("cyst", 1, 1, 2, 2).replace("</object>", "<bndbox/></object>"), "box-number", "object 1"),
        (an_object("cyst", 1, 1, 2, 2).replace("</object>", ROTATED), "box-number", "rotated by 30 degrees"),
        (an_object("", 1, 1, 2, 2), "class-unknown", "object 1: has no name"),
        ("<size><width>x</width></size>", "annotations-field", "size: width 'x', height ''"),
    ],
)
def test_wrong_parts(tmp_path: Path, part: str, kind: str, words: str) -> None:
    write(tmp_path, "a.xml", part)
    one = read_one(tmp_path)
    (wrong,) = one.findings
    assert (wrong.kind, wrong.file, one.boxes) == (kind, str(tmp_path / "a.xml"), ())
    assert words in wrong.found


def test_what_the_tool_says_besides(tmp_path: Path) -> None:
    unknown = "<size><width>0</width><height>0</height></size>"
    hard, easy = (f"<difficult>{flag}</difficult><bndbox>" for flag in (1, 0))
    write(tmp_path, "a.xml", unknown, an_object("cyst", 0, 3, 4, 5).replace("<bndbox>", hard))
    write(tmp_path, "b.xml", an_object("cyst", 1, 3, 4, 5).replace("<bndbox>", easy))
    (tmp_path / "more").mkdir()
    read = read_voc(tmp_path)
    assert [(one.kind, one.found) for one in read.findings] == [
        ("file-unknown", "is a folder; files in it are not read"),
        ("annotations-doubtful", "objects marked difficult: 1 of 2; they are used like the others"),
        ("box-from-zero", "1 of 2 boxes have xmin or ymin 0, which Pascal VOC counts from 1"),
    ]
    assert [(one.size, [wrong.kind for wrong in one.findings]) for one in read.images] == [
        (None, ["annotations-no-size"]),
        (None, []),
    ]


def test_parts_of_an_object_are_no_objects(tmp_path: Path) -> None:
    corners = "<xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax>"
    part = f"<part><name>stalk</name><bndbox>{corners}</bndbox></part></object>"
    write(tmp_path, "a.xml", an_object(" large cyst\n", 1, 1, 4, 4).replace("</object>", part))
    one = read_one(tmp_path)
    assert (one.boxes, one.findings) == ((Box(class_name="large cyst", x=0, y=0, width=4, height=4),), ())


@pytest.mark.parametrize(
    "text", ["<objects>{}</objects>", "<Object><name>cyst</name></Object>", '<x:object xmlns:x="x"/>']
)
def test_objects_elsewhere_do_not_make_an_image_that_shows_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path, "a.xml", text.format(an_object("cyst", 1, 1, 2, 2)))
    (wrong,) = read_one(tmp_path).findings
    assert (wrong.kind, wrong.found[-14:]) == ("annotations-field", "so not read: 1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"<annotation><filename>a.png", "line 1, column 27"),
        (b"", "no element found"),
        ("<annotation><folder>Läsionen</folder></annotation>".encode("latin-1"), "no UTF-8, and says no other enc"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', ""),
        (b"<other/>", "outermost element is 'other'"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>', "DOCTYPE"),
        ('<!DOCTYPE x SYSTEM "file:///etc/hosts"><annotation/>'.encode("utf-16"), "DOCTYPE"),
    ],
)
def test_not_an_annotation(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "a.xml").write_bytes(text)
    one = read_one(tmp_path)
    (wrong,) = one.findings
    assert (one.file_name, wrong.kind, wrong.file) == ("a", "annotations-syntax", str(tmp_path / "a.xml"))
    assert words in wrong.found
