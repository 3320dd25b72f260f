"""Reading a raw data set: dataset.json as nnU-Net v2 writes it, our three optional fields, and cases.csv."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from mdkd_auto.data.boxed import read_boxed
from mdkd_auto.data.case_table import name_problems, read_case_table
from mdkd_auto.data.cases import check_case_id, listed, split_name, visible_files
from mdkd_auto.data.classified import read_classified
from mdkd_auto.data.description import Description, read_description
from mdkd_auto.data.endings import output_ending
from mdkd_auto.data.problems import Finding, Problem, errors_of, problem
from mdkd_auto.errors import DatasetError
from mdkd_auto.records import Case, Dataset

log = logging.getLogger(__name__)

FOLDER_NAME = re.compile(r"Dataset\d{3}_\S.*")


def find_datasets(raw: Path) -> tuple[list[Dataset], list[Problem]]:
    """Every data set of the raw folder, sorted by name, without the cases that have errors; and all that is wrong.

    A data set that cannot be read is left out. Raises DatasetError where there is no raw folder.
    """
    if not raw.is_dir():
        raise DatasetError(f"{raw}: the raw folder does not exist; make it and put DatasetNNN_Name folders into it")
    datasets: list[Dataset] = []
    problems: list[Problem] = []
    for folder in sorted(raw.iterdir()):
        meant = folder.name.lower().startswith("dataset") or (folder / "dataset.json").is_file()
        if folder.name.startswith(".") or not folder.is_dir() or not meant:
            continue
        dataset, found = inspect_dataset(folder)
        problems += found
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


def find_name(wanted: str, names: list[str]) -> str:
    """The data set that ``wanted`` means: its name, its number (11, 011) or the name without the number."""
    matches = [
        name for name in names
        if wanted == name or name.split("_", 1)[-1] == wanted or (wanted.isdecimal() and int(wanted) == int(name[7:10]))
    ]  # fmt: skip
    if len(matches) != 1:
        raise DatasetError(f"{wanted!r} names {'no' if not matches else 'several'} data set; found: {', '.join(names)}")
    return matches[0]


def read_dataset(folder: Path) -> Dataset:
    """Read one DatasetNNN_Name folder. Cases are sorted.

    Raises DatasetError listing every error: the file or field, what was found, and what to do.
    """
    dataset, problems = inspect_dataset(folder)
    for one in problems:
        if one.severity == "warning":
            log.warning("%s", one)
    errors = errors_of(problems)
    if dataset is None or errors:
        raise DatasetError(str(errors[0]) if len(errors) == 1 else f"{folder}:{listed([str(one) for one in errors])}")
    return dataset


def inspect_dataset(folder: Path) -> tuple[Dataset | None, list[Problem]]:
    """Like :func:`read_dataset`, without the cases whose files are wrong; and everything that is wrong.

    None where the folder or its dataset.json cannot be used at all.
    """
    folder = folder.absolute()
    name = folder.name
    if not FOLDER_NAME.fullmatch(name) or check_case_id(name):
        return None, [problem("folder-name", "the folder is not named DatasetNNN_Name", dataset=name, file=folder)]
    description, findings = read_description(folder / "dataset.json")
    problems = [_of_dataset(name, finding) for finding in findings]
    if description is None:
        return None, problems
    cases: tuple[Case, ...] = ()
    labels, more = description.labels, list[Problem]()
    if description.task == "segmentation":
        cases, more = _read_cases(folder, description)
    elif description.task == "classification":
        cases, labels, more = read_classified(folder, description)
    elif description.task == "detection":
        cases, labels, more = read_boxed(folder, description)
    problems += more
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
        cases=cases,
    )
    return dataset, problems


def _of_dataset(name: str, finding: Finding, case_id: str = "") -> Problem:
    return problem(
        finding.kind, finding.found, dataset=name, case_id=case_id, file=finding.file, remedy=finding.remedy
    )


def _read_cases(folder: Path, description: Description) -> tuple[tuple[Case, ...], list[Problem]]:
    """The cases whose files are as they should be, and what is wrong with the others."""
    files, problems = (_listed_files if description.entries else _scanned_files)(folder, description)
    broken = {one.case_id for one in errors_of(problems)}
    rows, findings = read_case_table(folder / "cases.csv", set(files) | broken)
    problems += [_of_dataset(folder.name, finding) for finding in findings]
    cases = []
    for case_id, (images, label) in sorted(files.items()):
        if case_id not in broken:
            row = rows.get(case_id, {})
            patient_id = row.get("patient_id") or case_id
            split: Any = row.get("split", "")
            cases.append(Case(case_id=case_id, images=images, label=label, patient_id=patient_id, split=split))
    if not files and not errors_of(problems):
        found = f"holds no files ending in {description.file_ending}, the file_ending of dataset.json"
        problems.append(problem("no-cases", found, dataset=folder.name, file=folder / "imagesTr"))
    number = description.number_of_cases
    if number is not None and number != len(files):
        found = f"says numTraining {number}, the folder holds {len(files)} cases"
        problems.append(problem("number-of-cases", found, dataset=folder.name, file=folder / "dataset.json"))
    return tuple(cases), problems + name_problems(folder.name, sorted(files))


Files = dict[str, tuple[tuple[str, ...], str]]  # case -> its images, one a channel, and its label


def _scanned_files(folder: Path, description: Description) -> tuple[Files, list[Problem]]:
    """The files of imagesTr and labelsTr."""
    ending, channels = description.file_ending, len(description.channel_names)
    images, labels_folder = folder / "imagesTr", folder / "labelsTr"
    missing = [part for part in (images, labels_folder) if not part.is_dir()]
    if missing:
        return {}, [
            problem("folder-missing", f"has no folder {part.name}", dataset=folder.name, file=folder)
            for part in missing
        ]
    problems: list[Problem] = []

    def report(kind: str, file: Path, found: str, case_id: str = "") -> None:
        problems.append(problem(kind, found, dataset=folder.name, case_id=case_id, file=file))

    found: dict[str, set[int]] = {}
    for name in visible_files(images):
        named = split_name(name, ending)
        if named is not None:
            found.setdefault(named[0], set()).add(named[1])
        elif name.endswith(ending):
            report("file-name", images / name, f"not named {{case}}_0000{ending}", name[: len(name) - len(ending)])
        else:
            report("file-unknown", images / name, f"does not end in {ending}")
    labels = _labels(labels_folder, ending)
    for name in sorted(set(visible_files(labels_folder)) - set(labels.values())):
        report("file-unknown", labels_folder / name, f"does not end in {ending}")
    for case_id in sorted(found.keys() | labels.keys()):
        have = found.get(case_id, set())
        if not have:
            report("label-extra", labels_folder / labels[case_id], f"no image {case_id}_0000{ending}", case_id)
            continue
        for channel in sorted(have ^ set(range(channels))):
            file = images / f"{case_id}_{channel:04d}{ending}"
            if channel < channels:
                name = description.channel_names[channel]
                report("image-missing", file, f"missing (channel {channel}, {name})", case_id)
            else:
                report("image-extra", file, f"one channel too many; dataset.json names {channels}", case_id)
        if case_id not in labels:
            report("label-missing", labels_folder / f"{case_id}{ending}", "missing", case_id)
    files = {
        case_id: (
            tuple(str(images / f"{case_id}_{channel:04d}{ending}") for channel in range(channels)),
            str(labels_folder / labels.get(case_id, f"{case_id}{ending}")),
        )
        for case_id in found
    }
    return files, problems


def _labels(folder: Path, ending: str) -> dict[str, str]:
    """Case -> name of its label file. Labels of JPEG images may be PNG, those of .mhd images .mha."""
    names = visible_files(folder)
    return {
        name[: len(name) - len(allowed)]: name
        for allowed in dict.fromkeys((ending, output_ending(ending)))
        for name in names
        if name.endswith(allowed)
    }


def _listed_files(folder: Path, description: Description) -> tuple[Files, list[Problem]]:
    """The files of the ``dataset`` entries of dataset.json; relative to its folder."""
    channels = len(description.channel_names)
    files: Files = {}
    problems = []
    for case_id, (images, label) in description.entries.items():
        paths = [os.path.normpath(folder / name) for name in (*images, label)]
        files[case_id] = (tuple(paths[:-1]), paths[-1])
        if len(images) != channels:
            kind = "image-missing" if len(images) < channels else "image-extra"
            found = f"field 'dataset' lists {len(images)} images for {channels} channels"
            problems.append(
                problem(kind, found, dataset=folder.name, case_id=case_id, file=folder / "dataset.json")
            )
        for path in paths:
            if not os.path.isfile(path):
                kind = "label-missing" if path == paths[-1] else "image-missing"
                found = "does not exist; field 'dataset' of dataset.json names it"
                problems.append(problem(kind, found, dataset=folder.name, case_id=case_id, file=path))
    return files, problems
