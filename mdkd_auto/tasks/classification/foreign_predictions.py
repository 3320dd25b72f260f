"""Classes that lie in a folder as a table, ours or another program's, as answers to a data set."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.records import Dataset
from mdkd_auto.core.tables import Row, TableError, read_table
from mdkd_auto.tasks.classification.scoring import UNCALIBRATED, Answer, answer_of, summary_of_answers
from mdkd_auto.tasks.shared.coverage import Found, Truth, case_named, no_case, refuse_all

LEAST_PROBABILITY = 1e-300  # for the logarithm of a 0; far below what a table that does not round it away holds
SUM_WITHIN = 0.02  # of 1: probabilities of one row, rounded, of many classes
CASE, PROBABILITY = "case_id", "probability "
CLASS, TRUTH = "class", "truth"  # compared where the table has them; probabilities and data set are scored
_OF_A_CLASS = re.compile(r"probability[\s_-]+\S", re.IGNORECASE)  # as read_table finds columns


def score_predictions(folder: Path, truth: Truth) -> Found:
    """The answers of a predictions.csv, anyone's, against the classes of a data set.

    Columns ``case_id`` and ``probability {class}`` for each class, which sum to 1; one row per case. A row that cannot
    be used is named, and the others are scored. Raises DatasetError for a table without these columns, or without a
    row that can be used.
    """
    path, dataset = folder / "predictions.csv", truth.dataset
    rows, unmatched, failed = _rows_by_case(path, truth)
    cases = {case.case_id: case for case in dataset.cases}
    classes = tuple(dataset.labels)
    answers: list[Answer] = []
    for case_id, row in rows.items():
        if case_id in truth.broken:
            failed[case_id] = truth.broken[case_id]
            continue
        try:
            answers.append(answer_of(cases[case_id], _logits(row, classes), classes))
        except DatasetError as error:
            failed[case_id] = f"{path}: row {row.number}: {error}"
    if not answers:
        refuse_all(path, [*failed.values(), *(f"{path}: {row}: {why}" for row, why in unmatched.items())])
    summary = summary_of_answers(answers, classes, dataset.name, folder.name, UNCALIBRATED, failed)
    broken = truth.broken.keys() & failed.keys()
    notes = _contradictions(rows, answers, classes, dataset.name)
    return Found(summary, {*rows, *failed}, "a row of probabilities", unmatched, notes, broken)


def _contradictions(
    rows: Mapping[str, Row], answers: Sequence[Answer], classes: tuple[str, ...], dataset: str
) -> tuple[str, ...]:
    """What the table itself says against its probabilities, as where two columns are swapped, and against the truth."""
    likeliest, truths = [], []
    for answer in answers:
        row = rows[answer.case_id]
        said, truth = row.cells.get(CLASS, ""), row.cells.get(TRUTH, "")
        if said in classes and answer.logits[classes.index(said)] < max(answer.logits):
            likeliest.append(f"row {row.number}, {answer.case_id}: {said}")
        if truth and truth != classes[answer.truth]:
            truths.append(f"row {row.number}, {answer.case_id}: {truth}, not {classes[answer.truth]}")
    notes = []
    if likeliest:
        notes.append(
            f"{len(likeliest)} of {len(answers)} rows name a class in column {CLASS} that is not the most "
            f"probable one; the probabilities are scored ({likeliest[0]}). Are columns swapped?"
        )
    if truths:
        notes.append(
            f"{len(truths)} of {len(answers)} rows name another class in column {TRUTH} than {dataset}; the "
            f"data set is right ({truths[0]})"
        )
    return tuple(notes)


def _rows_by_case(path: Path, truth: Truth) -> tuple[dict[str, Row], dict[str, str], dict[str, str]]:
    """Case -> its row; row -> why it is for no case; case -> why its rows cannot be used."""
    rows: dict[str, Row] = {}
    unmatched: dict[str, str] = {}
    failed: dict[str, str] = {}
    for row in _read(path, truth.dataset):
        name = row.cells.get(CASE, "")
        case_id = case_named(name, truth.names)
        if case_id is None:
            unmatched[f"row {row.number}"] = f"{name!r} {no_case(name, truth)}"
        elif case_id in rows:
            failed[case_id] = (
                f"{path}: row {row.number}: {name!r} stands in row {rows[case_id].number} too; keep the "
                "one that is right"
            )
        else:
            rows[case_id] = row
    return {case_id: row for case_id, row in rows.items() if case_id not in failed}, unmatched, failed


def _read(path: Path, dataset: Dataset) -> list[Row]:
    """The rows of a table. Raises DatasetError where a column is missing, or one is of a class that is not there."""
    if not path.is_file():
        raise DatasetError(f"{path}: missing; mdkd_predict writes it")
    wanted = [CASE, *(PROBABILITY + name for name in dataset.labels)]
    try:
        table = read_table(path, wanted, (CLASS, TRUTH))
    except TableError as error:
        raise DatasetError(f"{path}: {error}; classes alone are not scored") from None
    other = [name for name in table.columns if _OF_A_CLASS.match(name) and name not in wanted]
    if other:
        raise DatasetError(
            f"{path}: row 1 has {', '.join(other)}; the classes of {dataset.name} are {', '.join(dataset.labels)}"
        )
    return table.rows


def _logits(row: Row, classes: tuple[str, ...]) -> np.ndarray:
    """Raises DatasetError, without the row's number, for what are no probabilities."""
    empty = [name for name in classes if not row.cells.get(PROBABILITY + name)]
    if row.fault or empty:
        raise DatasetError(row.fault or f"has no {', '.join(PROBABILITY + name for name in empty)}")
    try:
        shares = np.array([float(row.cells[PROBABILITY + name]) for name in classes])
    except ValueError as error:
        raise DatasetError(f"{error}; expected numbers from 0 to 1") from None
    if not ((shares >= 0) & (shares <= 1)).all():  # NaN is neither
        raise DatasetError(f"{shares.tolist()}; expected numbers from 0 to 1")
    if abs(shares.sum() - 1) > SUM_WITHIN:
        raise DatasetError(f"the probabilities of {', '.join(classes)} sum to {shares.sum():.3g}; expected 1")
    return np.log(np.maximum(shares, LEAST_PROBABILITY))
