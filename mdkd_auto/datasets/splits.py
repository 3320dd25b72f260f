"""Assign patients to the test part, and to training and validation per fold. A patient is never split.

Sources, in order: splits_final.json in the raw folder, the split column of cases.csv or DeepLesion's, a seeded draw.
The draw orders patients by a hash of seed and name, so it does not depend on file order or on the other patients.
For classification, each part is stratified by class.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from mdkd_auto.core.errors import DatasetError, MdkdError, SettingsError
from mdkd_auto.core.files import ReadError, read_json, read_record, to_record, write_json
from mdkd_auto.core.records import Dataset, Fold, Splits
from mdkd_auto.datasets.case_names import LISTED, listed
from mdkd_auto.datasets.cases_csv import read_case_table
from mdkd_auto.datasets.patients import compile_pattern
from mdkd_auto.datasets.truth.boxes import DEEP_LESION

log = logging.getLogger(__name__)

RAW_SPLITS = "splits_final.json"
DAMAGED_SPLITS = (
    "restore it from a copy; or delete it and run mdkd_plan_and_preprocess: patients are dealt out again, and what was "
    "trained before no longer matches"
)
MIN_PATIENTS = 3  # one each for testing, training and validation

# A patient's place: the test part, the validation part of fold 0, 1, ..., or always training.
_TEST = -1
_TRAIN = -2


def read_splits(path: Path) -> Splits:
    """Read splits.json. Raises DatasetError, also for a case both trained on and held out, or a wrong pattern."""
    try:
        splits = read_record(path, Splits, DatasetError)
    except ReadError:
        raise
    except MdkdError as error:
        raise DatasetError(f"{error}; {DAMAGED_SPLITS}") from None
    if not splits.folds:
        raise DatasetError(f"{path}: holds no folds; {DAMAGED_SPLITS}")
    for number, fold in enumerate(splits.folds):
        parts = {"train": {*fold.train}, "val": {*fold.val}, "test": {*splits.test}}
        pairs = (("train", "val"), ("train", "test"), ("val", "test"))
        shared = {f"{name} ({a}, {b})" for a, b in pairs for name in parts[a] & parts[b]}
        if shared:
            examples = ", ".join(sorted(shared)[:LISTED])
            raise DatasetError(f"{path}: fold {number}: in two of train, val and test: {examples}; {DAMAGED_SPLITS}")
    try:
        if splits.patient_pattern:
            compile_pattern(splits.patient_pattern, "patient_pattern")
    except SettingsError as error:
        raise DatasetError(f"{path}: {error}; {DAMAGED_SPLITS}") from None
    return splits


def write_splits(path: Path, splits: Splits) -> None:
    """Write splits.json atomically."""
    write_json(path, splits)


def read_raw_splits(dataset: Dataset, broken: Collection[str] = ()) -> tuple[Fold, ...] | None:
    """Read nnU-Net's splits_final.json from the raw folder, a list of {train, val}; None if absent.

    ``broken``: cases that the data set excludes for known errors; they are dropped. Raises DatasetError.
    """
    path = Path(dataset.folder) / RAW_SPLITS
    if not os.path.lexists(path):
        return None
    try:
        folds = to_record(read_json(path), tuple[Fold, ...], str(path), DatasetError)
    except DatasetError as error:
        raise DatasetError(f"{error}; expected a list of folds, each with 'train' and 'val', lists of cases") from None
    except MdkdError as error:
        raise DatasetError(str(error)) from None
    _check_folds(path, dataset, folds, broken)
    lost = {*broken}.difference(case.case_id for case in dataset.cases)
    return tuple(Fold(train=_without(fold.train, lost), val=_without(fold.val, lost)) for fold in folds)


def _without(cases: tuple[str, ...], lost: Collection[str]) -> tuple[str, ...]:
    return tuple(case for case in cases if case not in lost)


def make_splits(
    dataset: Dataset,
    seed: int,
    test_fraction: float = 0.2,
    folds: int = 5,
    existing: Splits | None = None,
    raw_splits: tuple[Fold, ...] | None = None,
) -> Splits:
    """Split a data set by patient; ``test_fraction`` is a fraction of patients.

    Patients in ``existing`` keep their place unless the data set states another test part; new ones are assigned,
    missing cases are dropped.
    ``raw_splits`` (see :func:`read_raw_splits`) are used unchanged; cases they leave out form the test part.
    Raises DatasetError for fewer than three patients, or a patient stated to be in two parts.
    """
    if folds < 2 or not 0 <= test_fraction < 1:
        raise SettingsError(f"folds {folds} and test_fraction {test_fraction}: need at least 2 folds and 0 <= part < 1")
    if raw_splits is not None:
        return _from_raw(dataset, raw_splits)
    dataset = _parted_as_stated(dataset)
    stated = _stated_splits(dataset)
    if "val" in stated.values():
        return _single_fold(dataset, stated)
    places = {patient: _TEST for patient, split in stated.items() if split == "test"}
    if existing is not None and not existing.folds:
        existing = None
    if existing is not None:
        kept = _places(dataset, existing)
        kept = {patient: at for patient, at in kept.items() if at != _TEST or stated[patient] != "train"}
        places = kept | places
    class_of = _classes(dataset)
    waiting = _by_class(class_of, _shuffled(seed, set(stated) - set(places)))
    _deal_test(dataset, stated, places, waiting, test_fraction)
    count = len(existing.folds) if existing is not None else min(folds, len(waiting))
    if existing is None and count < 2:
        by_name = " by their names" if any(case.patient_by in ("name", "pattern") for case in dataset.cases) else ""
        raise DatasetError(
            f"{dataset.name}: {len(stated)} patient(s){by_name}, {len(waiting)} outside the test part; a test part and "
            f"two folds need at least {MIN_PATIENTS} patients: add cases, or state train and val in cases.csv"
        )
    sizes = Counter(places.values())
    of_class = Counter((class_of[patient], fold) for patient, fold in places.items())
    for patient in waiting:
        name = class_of[patient]
        fold = min(range(count), key=lambda fold, name=name: (of_class[name, fold], sizes[fold]))  # type: ignore[misc]
        places[patient] = fold
        sizes[fold] += 1
        of_class[name, fold] += 1
    return _splits(dataset, places, count)


def keeps_existing(dataset: Dataset, raw_splits: tuple[Fold, ...] | None) -> bool:
    """Whether :func:`make_splits` uses ``existing``: the raw folder states neither folds nor a validation part."""
    return raw_splits is None and not any(case.split == "val" for case in dataset.cases)


def torn_patients(dataset: Dataset, splits: Splits, patient_of: Mapping[str, str] | None = None) -> dict[str, int]:
    """Find patients with cases in several of: test part, validation parts, rest. Returns patient -> number of parts.

    ``patient_of``: case -> patient, overriding the data set's.
    """
    by_case = _place_of_cases(splits)
    parts: dict[str, set[int]] = {}
    for case in dataset.cases:
        patient = case.patient_id if patient_of is None else patient_of.get(case.case_id, case.case_id)
        if case.case_id in by_case:
            parts.setdefault(patient, set()).add(by_case[case.case_id])
    return {patient: len(places) for patient, places in sorted(parts.items()) if len(places) > 1}


def torn_by(existing: Splits, dataset: Dataset) -> dict[str, int]:
    """:func:`torn_patients` of earlier splits, except those torn by stated splits."""
    return torn_patients(_parted_as_stated(dataset), existing)


def _parted_as_stated(dataset: Dataset) -> Dataset:
    """Stated splits take precedence over patients from names: cases of a patient they separate become independent."""
    stated: dict[str, set[str]] = {}
    for case in dataset.cases:
        if case.patient_by in ("pattern", "name"):
            stated.setdefault(case.patient_id, set()).update({case.split} - {""})
    parted = {patient for patient, splits in stated.items() if len(splits) > 1}
    cases = (
        msgspec.structs.replace(case, patient_id=case.case_id) if case.patient_id in parted else case
        for case in dataset.cases
    )
    return msgspec.structs.replace(dataset, cases=tuple(cases)) if parted else dataset


def _stated_splits(dataset: Dataset) -> dict[str, str]:
    """Patient -> stated split, "" without one."""
    stated: dict[str, set[str]] = {}
    for case in dataset.cases:
        stated.setdefault(case.patient_id, set()).update({case.split} - {""})
    torn = [f"{patient}: {', '.join(sorted(splits))}" for patient, splits in stated.items() if len(splits) > 1]
    if torn:
        raise DatasetError(
            f"{dataset.folder}: cases of one patient are in several parts by {_stated_by(dataset)}; "
            f"choose one for each in cases.csv:{listed(sorted(torn))}"
        )
    return {patient: next(iter(splits), "") for patient, splits in stated.items()}


def _stated_by(dataset: Dataset) -> str:
    """Name the columns that state splits; cases.csv takes precedence over DeepLesion."""
    folder = Path(dataset.folder)
    rows, _ = read_case_table(folder / "cases.csv", {case.case_id for case in dataset.cases})
    by_deep_lesion = (folder / DEEP_LESION).is_file()
    columns = ["column split of cases.csv"] if any(row["split"] for row in rows.values()) or not by_deep_lesion else []
    if any(
        case.class_name is not None and case.split and not rows.get(case.case_id, {}).get("split")
        for case in dataset.cases
    ):
        columns = [*(columns if rows else []), "folders named for splits"]
    return " and ".join([*columns, *([f"column Train_Val_Test of {DEEP_LESION}"] if by_deep_lesion else [])])


def _single_fold(dataset: Dataset, stated: dict[str, str]) -> Splits:
    """With a stated validation part: a single fold, and patients without a split are used for training."""
    codes = {"test": _TEST, "val": 0}
    splits = _splits(dataset, {patient: codes.get(split, _TRAIN) for patient, split in stated.items()}, 1)
    if not splits.folds[0].train:
        raise DatasetError(
            f"{dataset.folder}: {_stated_by(dataset)} leaves no case to train on; name some 'train' in cases.csv"
        )
    return splits


def _deal_test(
    dataset: Dataset, stated: dict[str, str], places: dict[str, int], waiting: list[str], test_fraction: float
) -> None:
    """Move patients from ``waiting`` to the test part up to its size, unless that part is stated."""
    if "test" in stated.values():
        return
    wanted = max(1, round(test_fraction * len(stated))) if test_fraction > 0 else 0
    if len(waiting) == len(stated):
        wanted = min(wanted, max(1, len(stated) - 2))  # two folds need two patients
    free = [patient for patient in waiting if stated[patient] == ""]
    missing = max(0, wanted - list(places.values()).count(_TEST))
    for patient in free[:missing]:
        places[patient] = _TEST
        waiting.remove(patient)


def _places(dataset: Dataset, existing: Splits) -> dict[str, int]:
    """Patient -> place of one of the patient's cases in an earlier split."""
    by_case = _place_of_cases(existing)
    known = sorted((case.case_id, case.patient_id) for case in dataset.cases if case.case_id in by_case)
    return {patient: by_case[case_id] for case_id, patient in known}


def _place_of_cases(splits: Splits) -> dict[str, int]:
    by_case = {case_id: _TRAIN for fold in splits.folds for case_id in fold.train}
    by_case |= {case_id: number for number, fold in enumerate(splits.folds) for case_id in fold.val}
    return by_case | dict.fromkeys(splits.test, _TEST)


def _splits(dataset: Dataset, places: dict[str, int], folds: int) -> Splits:
    """Convert patients' places to sorted case identifiers."""
    place = {case.case_id: places[case.patient_id] for case in sorted(dataset.cases, key=lambda case: case.case_id)}
    parts = tuple(
        Fold(
            train=tuple(case_id for case_id, at in place.items() if at not in {_TEST, number}),
            val=tuple(case_id for case_id, at in place.items() if at == number),
        )
        for number in range(folds)
    )
    return Splits(test=tuple(case_id for case_id, at in place.items() if at == _TEST), folds=parts)


def _from_raw(dataset: Dataset, folds: tuple[Fold, ...]) -> Splits:
    """Use the given folds; cases in no fold form the test part."""
    used = {case_id for fold in folds for case_id in (*fold.train, *fold.val)}
    test = tuple(sorted({case.case_id for case in dataset.cases} - used))
    sorted_folds = (Fold(train=tuple(sorted(fold.train)), val=tuple(sorted(fold.val))) for fold in folds)
    return Splits(test=test, folds=tuple(sorted_folds))


def _check_folds(path: Path, dataset: Dataset, folds: tuple[Fold, ...], broken: Collection[str]) -> None:
    splits = {case.case_id: case.split for case in dataset.cases}
    problems = [] if folds else ["it holds no folds"]
    for number, fold in enumerate(folds):
        if not fold.train or not fold.val:
            problems.append(f"fold {number}: 'train' or 'val' is empty")
        for case_id in sorted({*fold.train, *fold.val}):
            if case_id not in splits and case_id in broken:
                continue
            if case_id not in splits:
                problems.append(f"fold {number}: case {case_id!r} is not in the data set")
            elif splits[case_id] == "test":
                problems.append(f"fold {number}: case {case_id!r} is a test case by {_stated_by(dataset)}")
        problems += [f"fold {number}: {name!r} is in train and val" for name in sorted({*fold.train} & {*fold.val})]
        problems += [
            f"fold {number}: {name!r} is listed twice in {part}"
            for part, cases in (("train", fold.train), ("val", fold.val))
            for name, count in Counter(cases).items()
            if count > 1
        ]
    used = {name for fold in folds for name in (*fold.train, *fold.val)}
    problems += [
        f"case {name!r} is in no fold, and so would be tested on; it is a case of {split} by {_stated_by(dataset)}"
        for name, split in sorted(splits.items())
        if folds and name not in used and split in ("train", "val")
    ]
    if problems:
        raise DatasetError(f"{path}: the folds do not fit; correct or remove the file:{listed(problems)}")


def _shuffled(seed: int, patients: set[str]) -> list[str]:
    return sorted(patients, key=lambda patient: (hashlib.sha256(f"{seed}:{patient}".encode()).digest(), patient))


def _classes(dataset: Dataset) -> dict[str, str | None]:
    """Patient -> class of the first case; for boxes, whether any image has one; None in segmentation."""
    classes: dict[str, str | None] = {}
    boxed = {case.patient_id for case in dataset.cases if case.boxes}
    for case in sorted(dataset.cases, key=lambda case: case.case_id):
        stratum = case.class_name if case.boxes is None else str(case.patient_id in boxed)
        classes.setdefault(case.patient_id, stratum)
    return classes


def _by_class(class_of: dict[str, str | None], patients: list[str]) -> list[str]:
    """Interleave patients so that every prefix is stratified by class; order within a class is kept."""
    sizes, seen = Counter(class_of[patient] for patient in patients), Counter[str | None]()
    places = {}
    for patient in patients:
        name = class_of[patient]
        places[patient] = (seen[name] + 0.5) / sizes[name]
        seen[name] += 1
    return sorted(patients, key=lambda patient: places[patient])


def say_splits(dataset: Dataset, splits: Splits, raw_splits: tuple[Fold, ...] | None) -> None:
    """Log what the data set leaves open: patients without a split beside a stated validation part, and no test part."""
    stated = _stated_splits(_parted_as_stated(dataset)) if raw_splits is None else {}
    silent = sorted(patient for patient, split in stated.items() if split == "") if "val" in stated.values() else []
    if silent:
        shown = ", ".join(silent[:LISTED]) + (", ..." if len(silent) > LISTED else "")
        log.warning("%s: %d patient(s) without a split go to training: %s", dataset.name, len(silent), shown)
    if not splits.test:
        log.warning("%s: no test part; results are those of the validation cases", dataset.name)
