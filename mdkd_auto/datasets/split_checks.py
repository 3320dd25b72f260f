"""Check stored splits against the data set: impossible splits, contradictions with the raw folder, changed cases."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.records import Dataset, Splits
from mdkd_auto.datasets.case_names import LISTED, listed
from mdkd_auto.datasets.problems import Problem, problem
from mdkd_auto.datasets.splits import keeps_existing, make_splits, read_raw_splits, torn_by

SPLIT_SEED = 0
Place = tuple[bool, tuple[int, ...], tuple[int, ...]]  # in the test part; folds validating, folds training on it


def faults_of(stored: Splits, dataset: Dataset) -> list[str]:
    """Find faults in stored splits: empty lists, duplicate cases, cases validated in two folds or missing from a fold.

    Cases in no part count as new, cases missing from the data set as gone.
    """
    faults = [f"{name!r} is listed twice in test" for name in _twice(stored.test)]
    for number, fold in enumerate(stored.folds):
        for part, cases in (("train", fold.train), ("val", fold.val)):
            faults += [f"fold {number}: '{part}' is empty"] if not cases else []
            faults += [f"fold {number}: {name!r} is listed twice in {part}" for name in _twice(cases)]
    present = {case.case_id for case in dataset.cases}
    for name, (tested, validated, trained) in sorted(_places(stored).items()):
        if len(validated) > 1:
            faults.append(f"{name!r} is in val of {_folds(validated)}")
        lacking = tuple(sorted({*range(len(stored.folds))}.difference(validated, trained)))
        if name in present and not tested and lacking:
            faults.append(f"{name!r} is in neither train nor val of {_folds(lacking)}")
    return faults


def emptied_folds(made: Splits, stored: Splits | None) -> list[str]:
    """Folds with an empty training or validation part, and the ``stored`` cases that are gone."""
    emptied = []
    for number, fold in enumerate(made.folds):
        for part, cases in (("train", fold.train), ("val", fold.val)):
            if not cases:
                was = f" of {', '.join(getattr(stored.folds[number], part)[:LISTED])}" if stored is not None else ""
                emptied.append(f"fold {number}: no case of '{part}' is left{was}")
    return emptied


def check_stored(stored: Splits, dataset: Dataset) -> None:
    """Raise DatasetError, naming cases, unless stored splits agree with the data set and its declarations.

    Cases that are gone, and cases in no part, are not contradictions.
    """
    raw = read_raw_splits(dataset, _places(stored))
    if keeps_existing(dataset, raw):
        if torn := torn_by(stored, dataset):
            message = "has cases of one patient in several parts"
            raise DatasetError(f"{message} ({', '.join(torn)}); run mdkd_plan_and_preprocess --replan")
        if faults := faults_of(stored, dataset):
            raise DatasetError(f"does not fit; restore it, or run mdkd_plan_and_preprocess --replan:{listed(faults)}")
    places = _places(stored)
    known = {case.case_id for case in dataset.cases} & places.keys()
    after = _places(make_splits(dataset, SPLIT_SEED, existing=stored, raw_splits=raw))
    moved = [
        f"{name!r}: {_place_text(places[name])}; by the raw folder {_place_text(after[name])}"
        for name in sorted(known)
        if places[name] != after[name]
    ]
    if moved:
        raise DatasetError(f"is not what the raw folder says now; run mdkd_plan_and_preprocess:{listed(moved)}")


def changes_of(path: Path, dataset: Dataset, stored: Splits, made: Splits, broken: Collection[str]) -> list[Problem]:
    """Warn about each case that is new in, missing from, or moved within the splits.

    ``broken``: cases with known errors, which are not reported as gone.
    """
    before, after = _places(stored), _places(made)
    changes = {name: f"is new: now {_place_text(place)}" for name, place in after.items() if name not in before}
    changes |= {
        name: f"is not in the data set any more: was {_place_text(place)}"
        for name, place in before.items()
        if name not in after and name not in broken
    }
    changes |= {
        name: f"was {_place_text(before[name])}, is now {_place_text(place)}"
        for name, place in after.items()
        if name in before and before[name] != place
    }
    return [
        problem("splits-changed", f"{name}: {message}", dataset=dataset.name, case_id=name, file=path)
        for name, message in sorted(changes.items())
    ]


def _places(splits: Splits) -> dict[str, Place]:
    def folds_with(part: str) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for number, fold in enumerate(splits.folds):
            for name in dict.fromkeys(getattr(fold, part)):
                found[name] = (*found.get(name, ()), number)
        return found

    validated, trained = folds_with("val"), folds_with("train")
    names = sorted({*splits.test, *validated, *trained})
    return {name: (name in splits.test, validated.get(name, ()), trained.get(name, ())) for name in names}


def _place_text(place: Place) -> str:
    tested, validated, trained = place
    parts = [
        *(["test"] if tested else []),
        *([f"val of {_folds(validated)}"] if validated else []),
        *([f"train of {_folds(trained)}"] if trained else []),
    ]
    return " and ".join(parts)


def _folds(numbers: Collection[int]) -> str:
    return f"fold{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def _twice(names: Collection[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
