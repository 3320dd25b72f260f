"""Read a raw data set: dataset.json as nnU-Net v2 writes it, three optional fields of ours, and cases.csv."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.files import is_refusal, unread_because
from mdkd_auto.core.records import Dataset
from mdkd_auto.datasets.case_names import check_case_id, listed
from mdkd_auto.datasets.dataset_json import read_description
from mdkd_auto.datasets.links import check_links, check_names, dangling, with_links
from mdkd_auto.datasets.patients import with_patients
from mdkd_auto.datasets.problems import Problem, errors_of, problem, problem_of, without_broken
from mdkd_auto.datasets.split_folders import check_unread_folders
from mdkd_auto.datasets.task_data import TASK_DATA

log = logging.getLogger(__name__)

LABELS = "labelsTr"
NO_NAME = "the data set's name is empty; give its folder, or its name or number (011)"
FOLDER_NAME = re.compile(r"Dataset\d{3}_\S.*")
NUMBERED = re.compile(r"dataset\d{3}", re.IGNORECASE)


def find_datasets(raw: Path) -> tuple[list[Dataset], list[Problem]]:
    """Return every data set of the raw folder, sorted by name, without cases that have errors; and all problems.

    Unreadable data sets are excluded. Raises DatasetError if the raw folder does not exist.
    """
    if not raw.is_dir():
        if (aim := dangling(raw)) is not None:
            raise DatasetError(f"{raw}: {aim}; mount the drive, or correct the link")
        raise DatasetError(f"{raw}: the raw folder does not exist; make it and put DatasetNNN_Name folders into it")
    datasets: list[Dataset] = []
    problems: list[Problem] = []
    for folder in sorted(raw.iterdir()):
        meant = folder.name.lower().startswith("dataset") or os.path.lexists(folder / "dataset.json")
        if meant and (aim := dangling(folder)) is not None:
            problems.append(problem("link-dangling", aim, dataset=folder.name, file=folder))
        elif folder.is_file() and NUMBERED.match(folder.name) and not _is_unpacked(folder):
            problems.append(problem("data-set-is-a-file", "is a file, not a folder", dataset=folder.name, file=folder))
        if folder.name.startswith(".") or not folder.is_dir() or not meant:
            continue
        dataset, folder_problems = _inspect_if_let(folder)
        problems += folder_problems
        if dataset is None:
            continue
        twin = next((other.name for other in datasets if other.short_name == dataset.short_name), None)
        if twin is not None:
            problems.append(
                problem("number-twice", f"has the same number as {twin}", dataset=dataset.name, file=folder)
            )
        else:
            datasets.append(dataset)
    return datasets, problems


def _is_unpacked(archive: Path) -> bool:
    """Whether an archive's folder exists beside it."""
    return any(archive.name.startswith(f"{folder.name}.") for folder in archive.parent.iterdir() if folder.is_dir())


def find_folder(given: str, raw: Path) -> Path:
    """Return a data set's folder from its path, its labelsTr, or its name or number in the raw folder.

    Raises DatasetError.
    """
    if not given.strip():
        raise DatasetError(NO_NAME)
    path = Path(given)
    whole = Path(os.path.abspath(path))  # keeps a link's own name
    for folder in (whole.parent if whole.name == LABELS else whole, whole):
        if whole.is_dir() and (folder / "dataset.json").is_file():
            return folder
    if not path.exists() and path.name == given:
        names = folder_names(raw)
        if not names:
            raise DatasetError(
                f"{given}: not a folder, and {raw} has no data set of this name; give the folder, or --root"
            )
        return raw / find_name(given, names)
    reason = "has no dataset.json" if path.is_dir() else "is a file" if path.exists() else "does not exist"
    raise DatasetError(
        f"{given}: {reason}; expected the folder of a raw data set (.../Dataset011_LungTumour), its "
        "labelsTr, or its name or number under --root"
    )


def folder_names(raw: Path) -> list[str]:
    """Return all DatasetNNN_Name folders, usable or not; [] without a raw folder."""
    names = sorted(folder.name for folder in raw.iterdir() if folder.is_dir()) if raw.is_dir() else []
    return [name for name in names if FOLDER_NAME.fullmatch(name)]


def find_name(wanted: str, names: Sequence[str], others: Mapping[str, str] = MappingProxyType({})) -> str:
    """Resolve ``wanted``: a data set's name, its number (11, 011) or its name without the number.

    ``others``: data sets that are unavailable here -> reason. Raises DatasetError.
    """
    if not wanted.strip():
        raise DatasetError(f"{NO_NAME}; found: {', '.join(names) or 'none'}")
    matches = _meant(wanted, names)
    if len(matches) == 1:
        return matches[0]
    refused = _meant(wanted, list(others)) if not matches else []
    if refused:
        raise DatasetError(f"{refused[0]} {others[refused[0]]}; found: {', '.join(names) or 'none'}")
    number = "no data set" if not matches else "several data sets"
    raise DatasetError(f"{wanted!r} names {number}; found: {', '.join(matches or names) or 'none'}")


def _meant(wanted: str, names: Sequence[str]) -> list[str]:
    return [
        name
        for name in names
        if wanted == name or name.split("_", 1)[-1] == wanted or (wanted.isdecimal() and int(wanted) == int(name[7:10]))
    ]


def read_dataset(folder: Path) -> Dataset:
    """Read one DatasetNNN_Name folder. Cases are sorted.

    Raises DatasetError with every error: file or field, details, remedy.
    """
    dataset, problems = _inspected(folder)
    if dataset is None or problems:
        raise _refusal(folder, problems)
    return dataset


def read_sound_cases(folder: Path) -> tuple[Dataset, dict[str, str]]:
    """Read as :func:`read_dataset` does, but exclude cases with errors of their own; returns these errors by case.

    Raises DatasetError for an error of the whole data set, or if no case is left.
    """
    dataset, problems = _inspected(folder)
    kept = [] if dataset is None else without_broken([dataset], problems)
    if not kept:
        raise _refusal(folder, problems)
    broken: dict[str, str] = {}
    for entry in problems:
        broken.setdefault(entry.case_id, str(entry))
    return kept[0], broken


def _inspected(folder: Path) -> tuple[Dataset | None, list[Problem]]:
    """Return a data set and its errors; warnings are logged."""
    dataset, problems = inspect_dataset(folder)
    for entry in problems:
        if entry.severity == "warning":
            log.warning("%s", entry)
    return dataset, errors_of(problems)


def _refusal(folder: Path, errors: list[Problem]) -> DatasetError:
    return DatasetError(str(errors[0]) if len(errors) == 1 else f"{folder}:{listed([str(error) for error in errors])}")


def _inspect_if_let(folder: Path) -> tuple[Dataset | None, list[Problem]]:
    """Inspect as :func:`inspect_dataset` does; an unreadable folder is reported as a problem."""
    try:
        return inspect_dataset(folder)
    except OSError as error:
        if not is_refusal(error):
            raise
        file = error.filename or folder
        return None, [problem("refused", unread_because(error), dataset=folder.name, file=file)]


def inspect_dataset(folder: Path) -> tuple[Dataset | None, list[Problem]]:
    """Read as :func:`read_dataset` does, but exclude cases with wrong files; returns all problems.

    None if the folder or its dataset.json is unusable.
    """
    folder = folder.absolute()
    name = folder.name
    if not FOLDER_NAME.fullmatch(name) or (wrong := check_case_id(name)):
        message = f"the name {wrong}" if FOLDER_NAME.fullmatch(name) else "the folder is not named DatasetNNN_Name"
        return None, [problem("folder-name", message, dataset=name, file=folder)]
    description, findings = read_description(folder / "dataset.json", TASK_DATA)
    problems = [problem_of(name, finding) for finding in findings] + check_names(folder)
    if description is None:
        return None, with_links(problems, check_links(folder))
    cases, labels, more = TASK_DATA[description.task].read(folder, description)
    in_folders = TASK_DATA[description.task].class_folders
    more += [] if in_folders or description.entries else check_unread_folders(folder)
    problems = with_links(problems + more, check_links(folder, in_folders))
    dataset = Dataset(
        name=name,
        folder=str(folder),
        task=description.task,
        modality=description.modality,
        channel_names=description.channel_names,
        labels=labels,
        regions_class_order=description.regions_class_order,
        ignore_label=description.ignore_label,
        file_ending=description.file_ending,
        spacing_mm=description.spacing_mm,
        spacing_from=description.spacing_from,
        cases=tuple(msgspec.structs.replace(case, spacing_from=description.spacing_from) for case in cases),
    )
    return with_patients(dataset)[0], problems
