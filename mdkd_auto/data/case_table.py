"""cases.csv: patients, splits and classes of cases; and names of cases that other programs may take amiss."""

import csv
from pathlib import Path

from mdkd_auto.data.cases import check_case_id, is_unusual
from mdkd_auto.data.problems import Finding, Problem, problem

CASE_COLUMNS = ("case_id", "patient_id", "split", "label")
SPLITS = ("train", "val", "test", "")


def read_case_table(path: Path, case_ids: set[str]) -> tuple[dict[str, dict[str, str]], list[Finding]]:
    """cases.csv as case -> {patient_id, split, label}, of the columns it has; {} without a file.

    Rows that name no case, a case twice, or a split other than train, val, test are found wrong.
    """
    if not path.is_file():
        return {}, []
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(text.splitlines(), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except UnicodeDecodeError as error:
        return {}, [Finding("cases-csv", str(path), f"not UTF-8 text ({error})", "save it as 'CSV UTF-8'")]
    except csv.Error as error:
        return {}, [Finding("cases-csv", str(path), f"not a table of comma-separated values ({error})")]
    rows = [(number, row) for number, row in rows if any(row)]
    columns = rows[0][1] if rows else []
    if columns.count("case_id") != 1 or len(set(columns)) != len(columns):
        expected = f"expected case_id and any of {', '.join(CASE_COLUMNS[1:])}, each once, separated by commas"
        return {}, [Finding("cases-csv", str(path), f"the first row is {columns}", expected)]
    table: dict[str, dict[str, str]] = {}
    findings = []
    for number, cells in rows[1:]:
        row = {name: cell for name, cell in zip(columns, cells, strict=False) if name in CASE_COLUMNS}
        case_id = row["case_id"] if len(cells) == len(columns) else ""
        row["split"] = row.get("split", "").lower()
        wrong = _row_problems(row, cells, columns, case_ids, table)
        findings += [Finding("cases-csv", str(path), f"row {number}: {text}") for text in wrong]
        table[case_id] = row
    return table, findings


def _row_problems(
    row: dict[str, str], cells: list[str], columns: list[str], case_ids: set[str], seen: dict[str, dict[str, str]]
) -> list[str]:
    if len(cells) != len(columns):
        return [f"has {len(cells)} cells for {len(columns)} columns"]
    problems = []
    if row["case_id"] not in case_ids:
        problems.append(f"case_id {row['case_id']!r} is not among the images")
    if row["case_id"] in seen:
        problems.append(f"case_id {row['case_id']!r} stands there twice")
    if row["split"] not in SPLITS:
        problems.append(f"split {row['split']!r}; allowed are train, val, test or nothing")
    return problems


def name_problems(dataset: str, case_ids: list[str]) -> list[Problem]:
    """Names that other programs or file systems may take amiss."""
    problems = []
    lowered: dict[str, str] = {}
    for case_id in case_ids:
        if wrong := check_case_id(case_id):
            problems.append(problem("case-name", f"the name {case_id!r} {wrong}", dataset=dataset, case_id=case_id))
        elif is_unusual(case_id):
            found = f"the name {case_id!r} holds a space or a sign with a meaning to shells"
            problems.append(problem("case-name-unusual", found, dataset=dataset, case_id=case_id))
        twin = lowered.setdefault(case_id.lower(), case_id)
        if twin != case_id:
            found = f"the names {twin!r} and {case_id!r} differ by upper and lower case only"
            problems.append(problem("case-names-alike", found, dataset=dataset, case_id=case_id))
    return problems
