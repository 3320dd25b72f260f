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
    image_files = ImageFiles(folder, description)
    of_folder: dict[str, ClassFolder] = {}  # per case, if its folder gives the class
    images = folder / "imagesTr"
    parent = images if images.is_dir() else folder
    if not images.is_dir() and not folders_in(folder):
        image_files.report("folder-missing", "has neither a folder imagesTr nor one folder a class", folder)
        return (), description.labels, image_files.problems
    class_places = class_folders(image_files, parent)
    for entry in class_places:
        if not is_utf8(entry.path.name):
            image_files.report("class-name", f"the folder's name {NOT_UTF8}", entry.path)
    class_places = [entry for entry in class_places if is_utf8(entry.prefix)]
    deeper = [entry for entry in class_places if _report_deeper(image_files, entry.path)]
    for entry in class_places:
        if not visible_files(entry.path) and entry not in deeper:
            image_files.report("class-empty", "is empty", entry.path)
        # prefix with the class, as names may repeat
        of_folder.update(dict.fromkeys(image_files.add_folder(entry.path, entry.prefix), entry))
    class_of_folder = {case_id: entry.class_name for case_id, entry in of_folder.items()}
    if images.is_dir():
        image_files.add_folder(images)
        _report_beside(image_files)
    image_files.check_channels()
    rows, findings = read_case_table(
        folder / "cases.csv", set(image_files.files) | linked_cases(folder, class_folders=True)
    )
    for wrong in findings:
        image_files.report_finding(wrong)
    classes = {
        case_id: rows.get(case_id, {}).get("label") or class_of_folder.get(case_id, "") for case_id in image_files.files
    }
    named = sorted(filter(is_name, {*classes.values()}))
    labels = description.labels or {name: (value,) for value, name in enumerate(named)}
    _check_classes(image_files, classes, labels, class_of_folder)
    if image_files.files or not UNREAD & {entry.kind for entry in image_files.problems}:
        image_files.check_number()
    splits = {case_id: _split(image_files, case_id, rows, of_folder) for case_id in image_files.files}
    cases = _cases(image_files, rows, classes, splits)
    return cases, labels, image_files.problems + name_problems(folder.name, sorted(image_files.files))


def _report_deeper(image_files: ImageFiles, folder: Path) -> bool:
    """Report images in subfolders of a class folder, which are not read."""
    below = images_below(folder)
    if not below:
        return False
    parts = {component.lower() for place in below for component in (folder.name, *place.split("/"))}
    remedy = ""
    if parts & set(SPLIT_OF_FOLDER):
        remedy = "one folder a class, without folders for splits: give the split in column split of cases.csv"
    shown = ", ".join([*list(below)[:FOLDERS_SHOWN], *(["..."] if len(below) > FOLDERS_SHOWN else [])])
    message = f"has images in subfolders, which are not read: {shown} ({sum(below.values())} in all)"
    image_files.report("images-deeper", message, folder, remedy=remedy)
    return True


def _report_beside(image_files: ImageFiles) -> None:
    """Report image folders beside imagesTr, which are not read."""
    for folder in folders_in(image_files.folder):
        count = sum(map(is_image, visible_files(folder))) + sum(images_below(folder).values())
        if count:
            image_files.report("images-beside", f"is not read beside imagesTr; images in it: {count}", folder)


def _check_classes(
    image_files: ImageFiles, classes: dict[str, str], labels: Labels, class_of_folder: dict[str, str]
) -> None:
    """Check that every case has one known class, and that there are at least two classes."""
    table = image_files.folder / "cases.csv"
    known = ", ".join(labels)
    for case_id, name in sorted(classes.items()):
        image = next(iter(image_files.files[case_id].values()))
        where = image if case_id in class_of_folder else table
        folder = class_of_folder.get(case_id, name)
        if not name:
            where = table if table.is_file() else image
            image_files.report("class-missing", f"no class is given for {case_id}", where, case_id)
        elif name != folder:
            wrong = f"says class {name!r} of {case_id}, its folder says {folder!r}"
            image_files.report("class-contradicted", wrong, table, case_id)
        elif not is_name(name):
            wrong = f"class {name!r} of {case_id} has signs that tables and spreadsheets take for something else"
            image_files.report("class-name", wrong, where, case_id)
        elif name not in labels:
            wrong = f"class {name!r} of {case_id} is not in dataset.json ({known})"
            image_files.report("class-unknown", wrong, where, case_id)
    if image_files.files and len({*classes.values()} & set(labels)) < 2:
        only = ", ".join(sorted({*classes.values()} & set(labels))) or "none"
        image_files.report("one-class", f"its cases are all of one class: {only}", image_files.folder)


def _split(
    image_files: ImageFiles, case_id: str, rows: dict[str, dict[str, str]], of_folder: dict[str, ClassFolder]
) -> str:
    """Return the split of the table, else of the folder; reports contradictions."""
    by_table = rows.get(case_id, {}).get("split", "")
    by_folder = of_folder[case_id].split if case_id in of_folder else ""
    if by_table and by_folder and by_table != by_folder:
        message = f"says split {by_table!r} of {case_id}, its folder says {by_folder!r}"
        image_files.report("cases-csv", message, image_files.folder / "cases.csv", case_id)
    return by_table or by_folder


def _cases(
    image_files: ImageFiles, rows: dict[str, dict[str, str]], classes: dict[str, str], splits: dict[str, str]
) -> tuple[Case, ...]:
    broken = {error.case_id for error in errors_of(image_files.problems)}
    cases = []
    for case_id, files in sorted(image_files.files.items()):
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
