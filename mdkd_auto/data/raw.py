"""Reading a raw data set: dataset.json as nnU-Net v2 writes it, our three optional fields, and cases.csv."""

import csv
import logging
import os
import re
from pathlib import Path
from typing import Any

from mdkd_auto.data.cases import check_case_id, listed, split_name, visible_files
from mdkd_auto.data.description import Description, read_description
from mdkd_auto.data.endings import output_ending
from mdkd_auto.errors import DatasetError
from mdkd_auto.records import Case, Dataset

log = logging.getLogger(__name__)

FOLDER_NAME = re.compile(r"Dataset\d{3}_\S.*")
CASE_COLUMNS = ("case_id", "patient_id", "split", "label")
SPLITS = ("train", "val", "test", "")


def find_datasets(raw: Path) -> tuple[list[Dataset], list[str]]:
    """Every data set of the raw folder, sorted by name, and what is wrong with those that cannot be read."""
    if not raw.is_dir():
        raise DatasetError(f"{raw}: the raw folder does not exist; make it and put DatasetNNN_Name folders into it")
    datasets: list[Dataset] = []
    problems: list[str] = []
    for folder in sorted(raw.iterdir()):
        meant = folder.name.lower().startswith("dataset") or (folder / "dataset.json").is_file()
        if folder.name.startswith(".") or not folder.is_dir() or not meant:
            continue
        try:
            dataset = read_dataset(folder)
        except DatasetError as error:
            problems.append(str(error))
            continue
        twin = next((other.name for other in datasets if other.short_name == dataset.short_name), None)
        if twin is not None:
            problems.append(f"{folder}: has the same number as {twin}; give one of them another number")
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
    """Read one DatasetNNN_Name folder. Cases are sorted; only a segmentation data set has them read.

    Raises DatasetError naming the file, the field, what was found, what was expected and what to do.
    """
    folder = folder.absolute()
    if not FOLDER_NAME.fullmatch(folder.name):
        raise DatasetError(f"{folder}: the folder is not named DatasetNNN_Name (like Dataset011_LungTumour); rename it")
    description = read_description(folder / "dataset.json")
    cases: tuple[Case, ...] = ()
    if description.task == "segmentation":
        cases = _read_cases(folder, description)
        _compare_number(folder, description, len(cases))
    return Dataset(
        name=folder.name,
        folder=str(folder),
        task=description.task,
        modality=description.modality,
        channel_names=description.channel_names,
        labels=description.labels,
        regions_class_order=description.regions_class_order,
        ignore_label=description.ignore_label,
        file_ending=description.file_ending,
        spacing_mm=description.spacing_mm,
        cases=cases,
    )


def _read_cases(folder: Path, description: Description) -> tuple[Case, ...]:
    files = _listed_files(folder, description) if description.entries else _scanned_files(folder, description)
    rows = read_case_table(folder / "cases.csv", set(files))
    cases = []
    for case_id, (images, label) in sorted(files.items()):
        row = rows.get(case_id, {})
        patient_id = row.get("patient_id") or case_id
        split: Any = row.get("split", "")
        cases.append(Case(case_id=case_id, images=images, label=label, patient_id=patient_id, split=split))
    return tuple(cases)


def _scanned_files(folder: Path, description: Description) -> dict[str, tuple[tuple[str, ...], str]]:
    """Case -> its images, one a channel, and its label, from imagesTr and labelsTr."""
    ending, channels = description.file_ending, len(description.channel_names)
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise DatasetError(f"{folder}: has no folder {part}; images go to imagesTr, labels to labelsTr")
    found: dict[str, set[int]] = {}
    problems = []
    for name in visible_files(folder / "imagesTr"):
        named = split_name(name, ending)
        if named is not None:
            found.setdefault(named[0], set()).add(named[1])
        elif name.endswith(ending):
            problems.append(f"imagesTr/{name}: not named {{case}}_0000{ending}")
    labels = _labels(folder / "labelsTr", ending)
    for case_id in sorted(found.keys() | labels.keys()):
        have = found.get(case_id, set())
        problems += [
            f"imagesTr/{case_id}_{channel:04d}{ending}: {'missing' if channel < channels else 'one channel too many'}"
            for channel in sorted(have ^ set(range(channels)))
        ]
        if case_id not in labels:
            problems.append(f"labelsTr/{case_id}{ending}: missing")
        if wrong := check_case_id(case_id):
            problems.append(f"case {case_id!r}: its name {wrong}")
    if problems:
        expected = f"{channels} image(s) a case ({', '.join(description.channel_names)}) and one label"
        raise DatasetError(f"{folder}: images and labels do not match; expected {expected}:{listed(problems)}")
    if not found:
        raise DatasetError(f"{folder}: imagesTr holds no files ending in {ending}, the file_ending of dataset.json")
    return {
        case_id: (
            tuple(str(folder / "imagesTr" / f"{case_id}_{channel:04d}{ending}") for channel in range(channels)),
            str(folder / "labelsTr" / labels[case_id]),
        )
        for case_id in found
    }


def _labels(folder: Path, ending: str) -> dict[str, str]:
    """Case -> name of its label file. Labels of JPEG images may be PNG, those of .mhd images .mha."""
    names = visible_files(folder)
    return {
        name[: len(name) - len(allowed)]: name
        for allowed in dict.fromkeys((ending, output_ending(ending)))
        for name in names
        if name.endswith(allowed)
    }


def _listed_files(folder: Path, description: Description) -> dict[str, tuple[tuple[str, ...], str]]:
    """Case -> images and label, from the ``dataset`` entries of dataset.json; relative to its folder."""
    channels = len(description.channel_names)
    files = {}
    problems = []
    for case_id, (images, label) in description.entries.items():
        paths = [os.path.normpath(folder / name) for name in (*images, label)]
        if wrong := check_case_id(case_id):
            problems.append(f"case {case_id!r}: its name {wrong}")
        if len(images) != channels:
            problems.append(f"case {case_id}: lists {len(images)} images for {channels} channels")
        problems += [f"case {case_id}: {path} does not exist" for path in paths if not os.path.isfile(path)]
        files[case_id] = (tuple(paths[:-1]), paths[-1])
    if problems:
        raise DatasetError(f"{folder / 'dataset.json'}: field 'dataset' does not fit the files:{listed(problems)}")
    return files


def _compare_number(folder: Path, description: Description, found: int) -> None:
    if description.number_of_cases is not None and description.number_of_cases != found:
        log.warning(
            "%s: dataset.json says numTraining %d, the folder holds %d cases; the folder counts",
            folder.name,
            description.number_of_cases,
            found,
        )


def read_case_table(path: Path, case_ids: set[str]) -> dict[str, dict[str, str]]:
    """cases.csv as case -> {patient_id, split, label}, of the columns it has; {} without a file.

    Raises DatasetError listing the rows that name no case, a case twice, or a split other than train, val, test.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(text.splitlines(), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text ({error}); save it as 'CSV UTF-8'") from None
    except csv.Error as error:
        raise DatasetError(f"{path}: not a table of comma-separated values ({error})") from None
    rows = [(number, row) for number, row in rows if any(row)]
    columns = rows[0][1] if rows else []
    if columns.count("case_id") != 1 or len(set(columns)) != len(columns):
        raise DatasetError(
            f"{path}: the first row is {columns}; expected case_id and any of {', '.join(CASE_COLUMNS[1:])}, "
            "each once, separated by commas"
        )
    table: dict[str, dict[str, str]] = {}
    problems = []
    for number, cells in rows[1:]:
        row = {name: cell for name, cell in zip(columns, cells, strict=False) if name in CASE_COLUMNS}
        case_id = row["case_id"] if len(cells) == len(columns) else ""
        row["split"] = row.get("split", "").lower()
        problems += [f"row {number}: {problem}" for problem in _row_problems(row, cells, columns, case_ids, table)]
        table[case_id] = row
    if problems:
        raise DatasetError(f"{path}: {len(problems)} wrong row(s); correct or remove them:{listed(problems)}")
    return table


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
