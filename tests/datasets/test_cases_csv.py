"""cases.csv: what is taken, what is refused, and what seems to be meant."""

from pathlib import Path

import pytest

from mdkd_auto.datasets.cases_csv import likeness_of_id, read_case_table

CASES = {"001", "002", "Scan_3"}


def read(path: Path, text: str) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    path.write_text(text, encoding="utf-8")
    rows, findings = read_case_table(path, CASES)
    return rows, [(one.kind, one.found) for one in findings]


def test_headers_in_capitals_and_empty_columns(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "cases.csv", "Case_ID,PATIENT_ID,Split,,\n001, P1 ,Test,,\n002,P1,test,,\n")
    assert found == []
    assert rows == {
        "001": {"case_id": "001", "patient_id": "P1", "split": "test"},
        "002": {"case_id": "002", "patient_id": "P1", "split": "test"},
    }


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1", "001"), ("scan_3", "Scan_3"), ("002.nii.gz", "002"), ("Scan_3_0000.png", "Scan_3"), ("2.0", "002")],
)
def test_a_case_that_a_spreadsheet_renamed_is_recognised(tmp_path: Path, written: str, meant: str) -> None:
    _, [(kind, found)] = read(tmp_path / "cases.csv", f"case_id,patient_id\n{written},p\n")
    assert kind == "cases-csv"
    assert f"row 2: case_id {written!r} is not among the images; is it {meant!r}?" in found
    _, [(_, found)] = read(tmp_path / "cases.csv", "case_id,patient_id\nelse,p\n")
    assert found == "row 2: case_id 'else' is not among the images"


@pytest.mark.parametrize(
    ("patients", "found"),
    [
        (("P1", "p1", "P2"), "patients 'P1', 'p1' differ by case, spaces or leading zeros alone"),
        (("007", "7", "70"), "patients '007', '7' differ by case, spaces or leading zeros alone"),
        (("1", "1.0", "10"), "patients '1', '1.0' differ by case, spaces or leading zeros alone"),
        (("nan", "nan", "x"), "patient 'nan' has 2 cases, which count as one patient's"),
        (("P1", "P10", "P100"), None),
        (("", "", "nan"), None),
    ],
)
def test_patients_that_are_almost_one(tmp_path: Path, patients: tuple[str, ...], found: str | None) -> None:
    rows = "".join(f"{case},{patient}\n" for case, patient in zip(sorted(CASES), patients, strict=True))
    _, findings = read(tmp_path / "cases.csv", f"case_id,patient_id\n{rows}")
    assert findings == ([("patients-alike", found)] if found else [])


@pytest.mark.parametrize(
    ("column", "name"), [("Subject ID", "patient_id"), ("patient", "patient_id"), ("set", "split")]
)
def test_a_column_that_seems_to_be_meant_is_named(tmp_path: Path, column: str, name: str) -> None:
    _, findings = read(tmp_path / "cases.csv", f"case_id,{column}\n001,x\n")
    assert findings == [("cases-csv-column", f"column {column!r} is not read")]
    assert read(tmp_path / "cases.csv", f"case_id,{column},{name}\n001,x,\n")[1] == []


def test_a_folder_in_its_place_is_not_absent(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").mkdir()
    (finding,) = read_case_table(tmp_path / "cases.csv", CASES)[1]
    assert (finding.kind, finding.found) == ("cases-csv", "is a folder or a device; expected a file")


def test_likeness() -> None:
    assert likeness_of_id("A010_0000.PNG") == likeness_of_id("a10")
    assert likeness_of_id("a100") != likeness_of_id("a10")
    assert likeness_of_id("0") != likeness_of_id("00x")
