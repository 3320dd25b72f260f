"""cases.csv: patients, splits and classes of cases; and case names that cause problems in other programs."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mdkd_auto.core.files import unread_because
from mdkd_auto.core.records import PatientBy
from mdkd_auto.core.tables import TableError, likeness_of_column, read_table
from mdkd_auto.datasets.case_names import check_case_id, is_unusual
from mdkd_auto.datasets.problems import Finding, Problem, problem
from mdkd_auto.formats.file_endings import ENDINGS

CASE_COLUMNS = ("case_id", "patient_id", "split", "label")
MEANT = {  # common alternative column names, ignoring case, spaces, "_" and "-"
    "patient_id": frozenset(
        (
            "patient",
            "patients",
            "patientnumber",
            "patientno",
            "patientname",
            "patientindex",
            "pid",
            "subject",
            "subjectid",
            "participant",
            "participantid",
            "person",
            "personid",
        )
    ),
    "split": frozenset(("set", "subset", "partition", "splits", "traintest", "trainvaltest")),
}
NO_VALUE = frozenset(("nan", "na", "n/a", "none", "null", "-", "?", "unknown"))
_CHANNEL_0 = re.compile(r"_0000$")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
SPLITS = ("train", "val", "test", "")


def read_case_table(path: Path, case_ids: set[str]) -> tuple[dict[str, dict[str, str]], list[Finding]]:
    """Read cases.csv as case -> {patient_id, split, label}, limited to existing columns; {} without a file.

    Reports unknown cases, duplicate cases, splits other than train, val and test, patients with almost equal names, and
    columns with names that are probably meant.
    """
    if not path.exists():  # dangling links are reported when the folder is read
        return {}, []
    if not path.is_file():
        return {}, [Finding("cases-csv", str(path), "is a folder or a device; expected a file", "put the table there")]
    try:
        read = read_table(path, CASE_COLUMNS[:1], CASE_COLUMNS)
    except TableError as error:
        return {}, [Finding("cases-csv", str(path), error.found, error.remedy)]
    except OSError as error:
        return {}, [Finding("refused", str(path), unread_because(error))]
    table: dict[str, dict[str, str]] = {}
    findings = []
    nearly = {likeness_of_id(case_id): case_id for case_id in sorted(case_ids)}
    for number, cells, fault in read.rows:
        row = {name: cell for name, cell in cells.items() if name in CASE_COLUMNS}
        row["split"] = row.get("split", "").lower()
        for text in [fault] if fault else _row_problems(row, case_ids, table, nearly):
            findings.append(Finding("cases-csv", str(path), f"row {number}: {text}"))
        table["" if fault else row["case_id"]] = row
    findings += [Finding("cases-csv-column", str(path), message, remedy) for message, remedy in _meant(read.columns)]
    findings += [Finding("patients-alike", str(path), message) for message in _alike(table)]
    return table, findings


def stated_patient(row: dict[str, str], case_id: str, annotated: str = "") -> tuple[str, PatientBy]:
    """Return a case's patient and its source: the row of cases.csv, else annotations, else none."""
    if row.get("patient_id"):
        return row["patient_id"], "table"
    return (annotated, "annotations") if annotated else (case_id, "")


def _row_problems(
    row: dict[str, str], case_ids: set[str], seen: dict[str, dict[str, str]], nearly: dict[str, str]
) -> list[str]:
    problems, case_id = [], row["case_id"]
    if case_id not in case_ids:
        meant = nearly.get(likeness_of_id(case_id))
        hint = f"; is it {meant!r}? Spreadsheets drop leading zeros, and names are without ending" if meant else ""
        problems.append(f"case_id {case_id!r} is not among the images{hint}")
    if case_id in seen:
        problems.append(f"case_id {case_id!r} stands there twice")
    if row["split"] not in SPLITS:
        problems.append(f"split {row['split']!r}; allowed are train, val, test or nothing")
    return problems


def likeness_of_id(name: str) -> str:
    """Normalise a name: equal if names differ only by case, spaces, leading zeros, ``.0`` or an image ending."""
    name = "".join(name.split()).casefold().removesuffix(".0")
    ending = max((candidate for candidate in ENDINGS if name.endswith(candidate)), key=len, default="")
    name = name.removesuffix(ending)
    if ending:
        name = _CHANNEL_0.sub("", name)
    return _LEADING_ZEROS.sub("", name)


def _meant(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Find ignored columns that look like patient or split, if that column is absent."""
    return [
        (f"column {written!r} is not read", f"name it {name} if it says that; else nothing is amiss")
        for name, words in MEANT.items()
        if name not in columns
        for written in columns
        if likeness_of_column(written) in words
    ]


def _alike(table: dict[str, dict[str, str]]) -> list[str]:
    """Find patients whose names differ only by case, spaces or leading zeros, and names that mean "missing"."""
    patients = Counter(row["patient_id"] for row in table.values() if row.get("patient_id"))
    by_likeness: dict[str, list[str]] = {}
    for patient in sorted(patients):
        by_likeness.setdefault(likeness_of_id(patient), []).append(patient)
    messages = [
        f"patients {', '.join(map(repr, names))} differ by case, spaces or leading zeros alone"
        for names in by_likeness.values()
        if len(names) > 1
    ]
    messages += [
        f"patient {patient!r} has {count} cases, which count as one patient's"
        for patient, count in patients.items()
        if patient.casefold() in NO_VALUE and count > 1
    ]
    return messages


def name_problems(dataset: str, case_ids: list[str]) -> list[Problem]:
    """Find names that other programs or file systems may mishandle."""
    problems = []
    lowered: dict[str, str] = {}
    for case_id in case_ids:
        if wrong := check_case_id(case_id):
            problems.append(problem("case-name", f"the name {case_id!r} {wrong}", dataset=dataset, case_id=case_id))
        elif is_unusual(case_id):
            message = f"the name {case_id!r} holds a space or a sign with a meaning to shells"
            problems.append(problem("case-name-unusual", message, dataset=dataset, case_id=case_id))
        twin = lowered.setdefault(case_id.lower(), case_id)
        if twin != case_id:
            message = f"the names {twin!r} and {case_id!r} differ by upper and lower case only"
            problems.append(problem("case-names-alike", message, dataset=dataset, case_id=case_id))
    return problems
