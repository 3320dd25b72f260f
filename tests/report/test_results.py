"""Result tables as one DataFrame."""

from pathlib import Path

import pytest

import mdkd_auto
from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_text
from mdkd_auto.core.tables import table_text
from mdkd_auto.report.results import results
from mdkd_auto.report.tables import CSV_COLUMNS

A_MEAN = 0.1 + 0.2  # needs all its 17 digits
SCORED = ["Dataset001_A", "test", "image", "student", "a/run", "dice", None, A_MEAN, 0.25, 3, 1, None]
NOT_SCORED = ["Dataset001_A", "test", "not scored", "student", *[None] * 7, "case_7: NA, unreadable"]


def write(root: Path, group: str, name: str, rows: list[list[object]]) -> None:
    write_text(root / "results" / group / f"{name}.csv", table_text(CSV_COLUMNS, rows))


def test_all_tables_of_a_root(tmp_path: Path) -> None:
    write(tmp_path, "group_a", "table_x__1", [SCORED, NOT_SCORED])
    write(tmp_path, "group_b", "table_y__2", [SCORED])
    frame = results(tmp_path)
    assert list(frame.columns) == ["group", "table", *CSV_COLUMNS]
    assert frame[["group", "table"]].to_numpy().tolist() == [
        ["group_a", "table_x__1"],
        ["group_a", "table_x__1"],
        ["group_b", "table_y__2"],
    ]
    assert frame["mean"].dropna().tolist() == [A_MEAN, A_MEAN]
    assert frame["n"].dropna().tolist() == [3, 3]
    assert frame["problem"].tolist() == ["", "case_7: NA, unreadable", ""]
    assert frame.groupby("metric")["mean"].mean()["dice"] == A_MEAN
    assert mdkd_auto.results(tmp_path).equals(frame)


def test_a_root_without_tables_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    frame = results(str(tmp_path))
    assert frame.empty
    assert list(frame.columns) == ["group", "table", *CSV_COLUMNS]
    assert frame["mean"].dtype == "float64"


def test_a_folder_that_is_no_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MdkdError, match="results: no such folder"):
        results(tmp_path / "results")


def test_a_damaged_table_is_named_with_its_row(tmp_path: Path) -> None:
    write(tmp_path, "group_a", "table_x__1", [SCORED])
    path = tmp_path / "results" / "group_a" / "table_x__1.csv"
    path.write_text(path.read_text().replace(",problem", ",problem\nDataset001_A,test", 1))
    with pytest.raises(MdkdError, match=r"table_x__1.csv: row 2 has 2 cells for 12 columns"):
        results(tmp_path)
