"""Tables as spreadsheets, other programs and other countries save them."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.tables import TableError, read_numbers, read_table, table_text

ROWS = [{"case_id": "a", "note": 'x, "y"'}, {"case_id": "b", "note": ""}]
QUOTED = 'case_id,note\na,"x, ""y"""\nb,\n'


def cells(
    path: Path, needed: tuple[str, ...] = ("case_id",), known: tuple[str, ...] = ("note",)
) -> list[dict[str, str]]:
    table = read_table(path, needed, known)
    assert [row.fault for row in table.rows] == [""] * len(table.rows)
    return [row.cells for row in table.rows]


@pytest.mark.parametrize(
    "content",
    [
        QUOTED.encode(),
        b"\xef\xbb\xbf" + QUOTED.replace("\n", "\r\n").encode(),  # Excel's "CSV UTF-8"
        QUOTED.replace("\n", "\r").encode(),
        QUOTED.replace("\n", ",,,\n").encode(),
        ("\n\n" + QUOTED + ",\n\n,,,,\n").encode(),
        (b'case_id;note\na;"x, ""y"""\nb;\n'),
        ('case_id\tnote\na\t"x, ""y"""\nb\t\n').encode("utf-16"),  # Excel's "Unicode text"
        b"sep=,\r\n" + QUOTED.encode(),
        b'"sep=;"\r\n' + b'case_id;note\na;"x, ""y"""\nb;\n',
        b'sep=|\ncase_id|note\na|x, "y"\nb|\n',
        b'sep=\t\ncase_id\tnote\na\tx, "y"\nb\t\n',
        (b'Case ID , NOTE\na,"x, ""y"""\nb,\n'),
        (b',case-id,note\n0,a,"x, ""y"""\n1,b,\n'),  # pandas with its index
    ],
)
def test_one_table_in_many_forms(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert cells(path) == ROWS


def test_line_breaks_and_quotes_in_cells_and_the_rows_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('case_id,note\na,"two\nlines"\nb,5" disc\u2028wide\n\nc,x\n', encoding="utf-8")
    assert [(row.number, row.cells["note"]) for row in read_table(path, ("case_id",)).rows] == [
        (3, "two\nlines"),
        (4, '5" disc\u2028wide'),
        (6, "x"),
    ]


def test_rows_of_another_length_are_told(tmp_path: Path) -> None:
    """Not cells beyond the last named column that are empty."""
    path = tmp_path / "table.csv"
    path.write_text("case_id,note,,\na\nb,x,,,,\nc,x,y,\nd,x,,y\n")
    faults = [row.fault for row in read_table(path, ("case_id",)).rows]
    assert faults == ["has 1 cells for 2 columns", "", "has 3 cells for 2 columns", "has 4 cells for 2 columns"]


def test_a_name_that_is_exact_goes_before_one_that_is_alike(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("p Covid,p covid\n1,2\n")
    assert cells(path, ("p covid", "p Covid"), ()) == [{"p Covid": "1", "p covid": "2"}]
    path.write_text("P COVID,p covid\n1,2\n")
    with pytest.raises(TableError, match="has no column p Covid"):
        read_table(path, ("p covid", "p Covid"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", r"row 1 has no column case_id; the first row is \[\]; expected case_id and any of note, each once"),
        (b"case_id,Case_ID\na,b\n", "with case_id more than once"),
        (b"case_id,x,x\na,b,c\n", "with x more than once"),
        ("case_id,note\na,Müller\n".encode("latin-1"), "not UTF-8 text .* save it as 'CSV UTF-8'"),
        ("case_id,note\n".encode("utf-16-le"), "NUL"),
        (b'case_id,note\na,"open\n', "not a table of values separated by commas"),
        (b"PK\x03\x04\x14\x00\x06\x00", "NUL|UTF-8"),  # a workbook under a table's name
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=found):
        read_table(path, ("case_id",), ("note",))


def test_text_stays_text(tmp_path: Path) -> None:
    """Names that pandas would take for missing values or numbers."""
    path = tmp_path / "table.csv"
    path.write_text("case_id,note\n007,NA\nnull,1e5\nNone,\nTrue, nan \n")
    assert cells(path) == [
        {"case_id": "007", "note": "NA"},
        {"case_id": "null", "note": "1e5"},
        {"case_id": "None", "note": ""},
        {"case_id": "True", "note": "nan"},
    ]


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    scores = [0.1 + 0.2, 1e-300, -0.0, float("nan")]
    path.write_text(table_text(("case_id", "score"), [("a, b", score) for score in scores]), encoding="utf-8")
    assert path.read_text() == ('case_id,score\n"a, b",0.30000000000000004\n"a, b",1e-300\n"a, b",-0.0\n"a, b",nan\n')
    np.testing.assert_array_equal(read_numbers(path, ("score",))[:, 0], scores)


@given(
    st.lists(
        st.lists(
            st.none() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
            min_size=2,
            max_size=2,
        ),
        max_size=5,
    )
)
def test_tables_are_written_as_the_csv_module_writes_them(rows: list[list[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["a", "b"], *rows])
    assert table_text(("a", "b"), rows) == text.getvalue()


def test_a_table_without_rows_is_a_line_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(table_text(("epoch", "validation_score"), []))
    assert path.read_text() == "epoch,validation_score\n"
    assert read_numbers(path, ("epoch", "validation_score")).shape == (0, 2)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("epoch\n1\nx\n", "table.csv: row 3: could not convert string to float: 'x'"),
        ("epoch\n1\n2,3\n", "table.csv: row 3 has 2 cells for 1 columns"),
        ("other\n1\n", "table.csv: row 1 has no column epoch"),
    ],
)
def test_damaged_numbers_are_named_with_file_and_row(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(MdkdError, match=found):
        read_numbers(path, ("epoch",))


def test_pandas_is_imported_with_the_first_table_alone() -> None:
    code = "import sys, mdkd_auto.core.tables; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
