"""splits.json: kept while it fits the data set, made where it is not there, made again where that is asked for."""

import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from mdkd_auto.data.problems import Problem, problem
from mdkd_auto.data.splits import (
    DAMAGED_SPLITS,
    MIN_PATIENTS,
    keeps_existing,
    make_splits,
    read_raw_splits,
    read_splits,
    torn_by,
    write_splits,
)
from mdkd_auto.errors import MdkdError
from mdkd_auto.files import ReadError
from mdkd_auto.records import Dataset, Fold, Splits

log = logging.getLogger(__name__)

SPLIT_SEED = 0
TEST_FRACTION = 0.2  # of the patients


def make_or_keep(path: Path, dataset: Dataset, test_fraction: float | None, replan: bool = False) -> Splits | Problem:
    """The data set's splits, those stored at ``path`` kept where they can be; or why it cannot be split.

    ``test_fraction``: of the patients, 0.2 where it is None. ``replan``: stored splits that tear a patient apart are
    made again, instead of being a problem.
    """
    patients = len({case.patient_id for case in dataset.cases})
    try:
        existing = read_splits(path) if os.path.lexists(path) else None
    except ReadError as error:
        return problem("refused", error.found, dataset=dataset.name, file=path)
    except MdkdError as error:
        found = str(error).removeprefix(f"{path}: ").removesuffix(f"; {DAMAGED_SPLITS}")
        return problem("splits", found, dataset=dataset.name, file=path, remedy=DAMAGED_SPLITS)
    try:
        raw_splits = read_raw_splits(dataset)
        if existing is not None and keeps_existing(dataset, raw_splits) and (torn := torn_by(existing, dataset)):
            found = f"tears {len(torn)} of {patients} patients apart: {', '.join(list(torn)[:5])}"
            if not replan:
                return problem("splits-torn", found, dataset=dataset.name, file=path)
            log.warning("%s: %s; its patients are dealt out again", path, found)
            existing = None
        share = TEST_FRACTION if test_fraction is None else test_fraction
        made = make_splits(dataset, SPLIT_SEED, share, existing=existing, raw_splits=raw_splits)
    except MdkdError as error:
        kind = "too-few-cases" if patients < MIN_PATIENTS else "splits"
        return problem(kind, str(error), dataset=dataset.name, file=dataset.folder)
    tested = len({case.patient_id for case in dataset.cases if case.case_id in made.test})
    if test_fraction is not None and abs(tested - test_fraction * patients) > 1:
        log.warning(
            "%s: %d of %d patients are tested on, not the share of %g asked for: they were dealt out before, or the "
            "raw folder says so. To deal them anew delete %s; what was trained before then no longer matches",
            dataset.name, tested, patients, test_fraction, path,
        )  # fmt: skip
    return made


def only_those_of(splits: Splits, dataset: Dataset) -> Splits:
    """The splits without cases that the data set no longer has."""
    kept = {case.case_id for case in dataset.cases}

    def some(cases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(case for case in cases if case in kept)

    folds = tuple(Fold(train=some(fold.train), val=some(fold.val)) for fold in splits.folds)
    return msgspec.structs.replace(splits, test=some(splits.test), folds=folds)


def store(path: Path, dataset: str, splits: Splits) -> None:
    """Write splits that are not there yet; says how many cases each part has."""
    if path.is_file() and read_splits(path) == splits:
        return
    write_splits(path, splits)
    folds, train, val = len(splits.folds), len(splits.folds[0].train), len(splits.folds[0].val)
    log.info("%s: %d folds (fold 0: %d cases to train, %d to validate), %d cases to test -> %s",
             dataset, folds, train, val, len(splits.test), path)  # fmt: skip


def stored_pattern(path: Path) -> str:
    """The pattern of patients of stored splits; "" without any, or where they cannot be read, which is said later."""
    with suppress(MdkdError):
        return read_splits(path).patient_pattern if path.is_file() else ""
    return ""
