"""Read the cases of a classification data set: one folder per class, or imagesTr with classes in cases.csv."""

from pathlib import Path
from typing import Any

from mdkd_auto.core.records import Case
from mdkd_auto.core.text import is_utf8
from mdkd_auto.datasets.case_names import NOT_UTF8, visible_files
from mdkd_auto.datasets.cases_csv import name_problems, read_case_table, stated_patient
from mdkd_auto.datasets.dataset_json import Description, Labels, is_name
from mdkd_auto.datasets.image_files import ImageFiles
from mdkd_auto.datasets.links import linked_cases
from mdkd_auto.datasets.problems import Problem, errors_of
from mdkd_auto.datasets.split_folders import SPLIT_OF_FOLDER, ClassFolder, class_folders, folders_in, images_below
from mdkd_auto.formats.file_endings import is_image

UNREAD = {"images-deeper", "split-folder"}  # problems of images that exist but are not read
FOLDERS_SHOWN = 5  # per message


def read_classified(folder: Path, description: Description) -> tuple[tuple[Case, ...], Labels, list[Problem]]:
    """Return the sound cases, the classes, and all problems.

    Classes come from dataset.json, or else from the folders or the table, in alphabetical order.
    """
    found = ImageFiles(folder, description)
    of_folder: dict[str, ClassFolder] = {}  # per case, if its folder gives the class
    images = folder / "imagesTr"
    parent = images if images.is_dir() else folder
    if not images.is_dir() and not folders_in(folder):
        found.report("folder-missing", "has neither a folder imagesTr nor one folder a class", folder)
        return (), description.labels, found.problems
    class_places = class_folders(found, parent)
    for one in class_places:
        if not is_utf8(one.path.name):
            found.report("class-name", f"the folder's name {NOT_UTF8}", one.path)
    class_places = [one for one in class_places if is_utf8(one.prefix)]
    deeper = [one for one in class_places if _report_deeper(found, one.path)]
    for one in class_places:
        if not visible_files(one.path) and one not in deeper:
            found.report("class-empty", "is empty", one.path)
        # prefix with the class, as names may repeat
        of_folder.update(dict.fromkeys(found.add_folder(one.path, one.prefix), one))
    class_of_folder = {case_id: one.class_name for case_id, one in of_folder.items()}
    if images.is_dir():
        found.add_folder(images)
        _report_beside(found)
    found.check_channels()
    rows, findings = read_case_table(folder / "cases.csv", set(found.files) | linked_cases(folder, class_folders=True))
    for wrong in findings:
        found.report_finding(wrong)
    classes = {
        case_id: rows.get(case_id, {}).get("label") or class_of_folder.get(case_id, "") for case_id in found.files
    }
    named = sorted(filter(is_name, {*classes.values()}))
    labels = description.labels or {name: (value,) for value, name in enumerate(named)}
    _check_classes(found, classes, labels, class_of_folder)
    if found.files or not UNREAD & {one.kind for one in found.problems}:
        found.check_number()
    splits = {case_id: _split(found, case_id, rows, of_folder) for case_id in found.files}
    cases = _cases(found, rows, classes, splits)
    return cases, labels, found.problems + name_problems(folder.name, sorted(found.files))


def _report_deeper(found: ImageFiles, folder: Path) -> bool:
    """Report images in subfolders of a class folder, which are not read."""
    below = images_below(folder)
    if not below:
        return False
    parts = {part.lower() for place in below for part in (folder.name, *place.split("/"))}
    remedy = ""
    if parts & set(SPLIT_OF_FOLDER):
        remedy = "one folder a class, without folders for splits: give the split in column split of cases.csv"
    shown = ", ".join([*list(below)[:FOLDERS_SHOWN], *(["..."] if len(below) > FOLDERS_SHOWN else [])])
    words = f"has images in subfolders, which are not read: {shown} ({sum(below.values())} in all)"
    found.report("images-deeper", words, folder, remedy=remedy)
    return True


def _report_beside(found: ImageFiles) -> None:
    """Report image folders beside imagesTr, which are not read."""
    for folder in folders_in(found.folder):
        count = sum(map(is_image, visible_files(folder))) + sum(images_below(folder).values())
        if count:
            found.report("images-beside", f"is not read beside imagesTr; images in it: {count}", folder)


def _check_classes(found: ImageFiles, classes: dict[str, str], labels: Labels, class_of_folder: dict[str, str]) -> None:
    """Check that every case has one known class, and that there are at least two classes."""
    table = found.folder / "cases.csv"
    known = ", ".join(labels)
    for case_id, name in sorted(classes.items()):
        image = next(iter(found.files[case_id].values()))
        where = image if case_id in class_of_folder else table
        folder = class_of_folder.get(case_id, name)
        if not name:
            where = table if table.is_file() else image
            found.report("class-missing", f"no class is given for {case_id}", where, case_id)
        elif name != folder:
            wrong = f"says class {name!r} of {case_id}, its folder says {folder!r}"
            found.report("class-contradicted", wrong, table, case_id)
        elif not is_name(name):
            wrong = f"class {name!r} of {case_id} has signs that tables and spreadsheets take for something else"
            found.report("class-name", wrong, where, case_id)
        elif name not in labels:
            wrong = f"class {name!r} of {case_id} is not in dataset.json ({known})"
            found.report("class-unknown", wrong, where, case_id)
    if found.files and len({*classes.values()} & set(labels)) < 2:
        only = ", ".join(sorted({*classes.values()} & set(labels))) or "none"
        found.report("one-class", f"its cases are all of one class: {only}", found.folder)


def _split(found: ImageFiles, case_id: str, rows: dict[str, dict[str, str]], of_folder: dict[str, ClassFolder]) -> str:
    """Return the split of the table, else of the folder; reports contradictions."""
    by_table = rows.get(case_id, {}).get("split", "")
    by_folder = of_folder[case_id].split if case_id in of_folder else ""
    if by_table and by_folder and by_table != by_folder:
        words = f"says split {by_table!r} of {case_id}, its folder says {by_folder!r}"
        found.report("cases-csv", words, found.folder / "cases.csv", case_id)
    return by_table or by_folder


def _cases(
    found: ImageFiles, rows: dict[str, dict[str, str]], classes: dict[str, str], splits: dict[str, str]
) -> tuple[Case, ...]:
    broken = {one.case_id for one in errors_of(found.problems)}
    cases = []
    for case_id, files in sorted(found.files.items()):
        if case_id not in broken:
            row = rows.get(case_id, {})
            split: Any = splits[case_id]
            images = tuple(str(files[channel]) for channel in sorted(files))
            patient_id, by = stated_patient(row, case_id)
            cases.append(
                Case(
                    case_id=case_id,
                    images=images,
                    class_name=classes[case_id],
                    patient_id=patient_id,
                    patient_by=by,
                    split=split,
                )
            )
    return tuple(cases)
