"""splits.json: kept while it fits the data set, created if absent, recreated on request."""

import logging
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import ReadError
from mdkd_auto.core.records import Dataset, Fold, Splits
from mdkd_auto.datasets.case_names import LISTED
from mdkd_auto.datasets.problems import Problem, problem
from mdkd_auto.datasets.split_checks import SPLIT_SEED, changes_of, emptied_folds, faults_of
from mdkd_auto.datasets.splits import (
    DAMAGED_SPLITS,
    MIN_PATIENTS,
    RAW_SPLITS,
    keeps_existing,
    make_splits,
    read_raw_splits,
    read_splits,
    say_splits,
    torn_by,
    write_splits,
)

log = logging.getLogger(__name__)

TEST_FRACTION = 0.2  # fraction of patients
UNFIT = "restore it from a copy; or --replan deals the patients out again: runs trained before are kept, but not used"


def make_or_keep(
    path: Path, dataset: Dataset, test_fraction: float | None, replan: bool = False, broken: Collection[str] = ()
) -> tuple[Splits | None, list[Problem]]:
    """Return splits, keeping those stored at ``path`` if possible, and a warning per case that changed its part.

    Returns None and the reason if the data set cannot be split. ``test_fraction``: fraction of patients, None for 0.2.
    ``replan``: recreate stored splits that do not fit or split a patient, instead of reporting it. ``broken``: cases
    excluded for known errors.
    """
    patients = len({case.patient_id for case in dataset.cases})
    try:
        existing = read_splits(path) if os.path.lexists(path) else None
    except ReadError as error:
        return None, [problem("refused", error.found, dataset=dataset.name, file=path)]
    except MdkdError as error:
        message = str(error).removeprefix(f"{path}: ").removesuffix(f"; {DAMAGED_SPLITS}")
        return None, [problem("splits", message, dataset=dataset.name, file=path, remedy=DAMAGED_SPLITS)]
    share = TEST_FRACTION if test_fraction is None else test_fraction
    try:
        raw_splits = read_raw_splits(dataset, broken)
        kept = existing if existing is not None and keeps_existing(dataset, raw_splits) else None
        wrong = None if kept is None else _wrong_with(path, kept, dataset)
        if wrong is None:
            made = make_splits(dataset, SPLIT_SEED, share, existing=kept, raw_splits=raw_splits)
            wrong = _emptied(path, dataset, made, kept)
        if wrong is not None and (kept is None or not replan):
            return None, [wrong]
        if wrong is not None:
            log.warning("%s: %s; its patients are dealt out again", path, wrong.found)
            existing, made = None, make_splits(dataset, SPLIT_SEED, share)
    except MdkdError as error:
        kind = "too-few-cases" if patients < MIN_PATIENTS else "splits"
        return None, [problem(kind, str(error), dataset=dataset.name, file=dataset.folder)]
    say_splits(dataset, made, raw_splits)
    tested = len({case.patient_id for case in dataset.cases if case.case_id in made.test})
    if test_fraction is not None and abs(tested - test_fraction * patients) > 1:
        log.warning(
            "%s: %d of %d patients are tested on, not the share of %g asked for: they were dealt out before, or the "
            "raw folder says so. To deal them anew delete %s; what was trained before then no longer matches",
            dataset.name,
            tested,
            patients,
            test_fraction,
            path,
        )
    return made, [] if existing is None else changes_of(path, dataset, existing, made, broken)


def _wrong_with(path: Path, existing: Splits, dataset: Dataset) -> Problem | None:
    """Return why stored splits cannot be kept, or None."""
    if torn := torn_by(existing, dataset):
        patients = len({case.patient_id for case in dataset.cases})
        message = f"tears {len(torn)} of {patients} patients apart: {', '.join(list(torn)[:5])}"
        return problem("splits-torn", message, dataset=dataset.name, file=path)
    faults = faults_of(existing, dataset)
    if not faults:
        return None
    return problem("splits", _in_a_line(faults), dataset=dataset.name, file=path, remedy=UNFIT)


def _emptied(path: Path, dataset: Dataset, made: Splits, kept: Splits | None) -> Problem | None:
    """Report folds with an empty part because cases are gone, for kept splits and for splits_final.json."""
    if not (emptied := emptied_folds(made, kept)):
        return None
    file = Path(dataset.folder) / RAW_SPLITS if kept is None else path
    remedy = "correct the cases, or the file" if kept is None else ""
    return problem("splits-emptied", _in_a_line(emptied), dataset=dataset.name, file=file, remedy=remedy)


def _in_a_line(faults: list[str]) -> str:
    return "; ".join(faults[:LISTED]) + (f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else "")


def only_those_of(splits: Splits, dataset: Dataset) -> Splits:
    """Return the splits without cases missing from the data set."""
    kept = {case.case_id for case in dataset.cases}

    def some(cases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(case for case in cases if case in kept)

    folds = tuple(Fold(train=some(fold.train), val=some(fold.val)) for fold in splits.folds)
    return msgspec.structs.replace(splits, test=some(splits.test), folds=folds)


def store(path: Path, dataset: str, splits: Splits) -> None:
    """Write splits that do not exist yet; logs the number of cases per part."""
    if path.is_file() and read_splits(path) == splits:
        return
    write_splits(path, splits)
    folds, train, val = len(splits.folds), len(splits.folds[0].train), len(splits.folds[0].val)
    log.info(
        "%s: %d folds (fold 0: %d cases to train, %d to validate), %d cases to test -> %s",
        dataset,
        folds,
        train,
        val,
        len(splits.test),
        path,
    )


def stored_pattern(path: Path) -> str:
    """Return the patient pattern of stored splits; "" without splits or if unreadable, which is reported later."""
    with suppress(MdkdError):
        return read_splits(path).patient_pattern if path.is_file() else ""
    return ""
