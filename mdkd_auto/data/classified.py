"""The cases of a classification data set: one folder a class, or imagesTr with the classes in cases.csv."""

from pathlib import Path
from typing import Any

from mdkd_auto.data.case_table import name_problems, read_case_table
from mdkd_auto.data.cases import split_name, visible_files
from mdkd_auto.data.description import Description
from mdkd_auto.data.endings import image_ending
from mdkd_auto.data.problems import Problem, errors_of, problem
from mdkd_auto.errors import ImageError
from mdkd_auto.records import Case

Labels = dict[str, tuple[int, ...]]


class _Found:
    """Image files by case and channel, the class of each case where its folder says it, and what is wrong."""

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder, self.description = folder, description
        self.files: dict[str, dict[int, Path]] = {}
        self.classes: dict[str, str] = {}
        self.problems: list[Problem] = []

    def report(self, kind: str, found: str, file: Path, case_id: str = "") -> None:
        self.problems.append(problem(kind, found, dataset=self.folder.name, case_id=case_id, file=file))

    def add_folder(self, images: Path, class_name: str | None) -> None:
        """The images of one folder; those of a class's folder get its name in front, as names may repeat."""
        for name in visible_files(images):
            path = images / name
            wanted = self.description.file_ending
            try:
                ending = name[len(name) - len(image_ending(name)) :]
            except ImageError:
                self.report("file-unknown", "is not an image this program reads", path)
                continue
            if wanted and ending != wanted:
                self.report("file-unknown", f"does not end in {wanted}, the file_ending of dataset.json", path)
                continue
            case_id, channel = split_name(name, ending) or (name[: len(name) - len(ending)], 0)
            if class_name is not None:
                case_id = f"{class_name}_{case_id}"
                self.classes[case_id] = class_name
            files = self.files.setdefault(case_id, {})
            if channel in files:
                self.report("case-twice", f"is the same case and channel as {files[channel].name}", path, case_id)
            files[channel] = path

    def check_channels(self) -> None:
        channels = self.description.channel_names
        for case_id, files in sorted(self.files.items()):
            beside = next(iter(files.values()))
            for channel in sorted(set(files) ^ set(range(len(channels)))):
                if channel in files:
                    found = f"one channel too many; dataset.json names {len(channels)}"
                    self.report("image-extra", found, files[channel], case_id)
                else:
                    found = f"channel {channel}, {channels[channel]}, of this case is missing"
                    self.report("image-missing", found, beside, case_id)


def read_classified(folder: Path, description: Description) -> tuple[tuple[Case, ...], Labels, list[Problem]]:
    """The cases whose files and class are as they should be, the classes, and what is wrong with the others.

    Classes are those of dataset.json; where it names none, the folders' or the table's in alphabetical order.
    """
    found = _Found(folder, description)
    images = folder / "imagesTr"
    class_folders = _class_folders(images if images.is_dir() else folder)
    if not images.is_dir() and not class_folders:
        found.report("folder-missing", "has neither a folder imagesTr nor one folder a class", folder)
        return (), description.labels, found.problems
    for one in class_folders:
        if not visible_files(one):
            found.report("class-empty", "is empty", one)
        found.add_folder(one, one.name)
    if images.is_dir():
        found.add_folder(images, None)
    found.check_channels()
    rows, findings = read_case_table(folder / "cases.csv", set(found.files))
    for wrong in findings:
        found.report(wrong.kind, wrong.found, Path(wrong.file))
    classes = {case_id: rows.get(case_id, {}).get("label") or found.classes.get(case_id, "") for case_id in found.files}
    labels = description.labels or {name: (value,) for value, name in enumerate(sorted({*classes.values()} - {""}))}
    _check_classes(found, classes, labels)
    return _cases(found, rows, classes), labels, found.problems + name_problems(folder.name, sorted(found.files))


def _class_folders(parent: Path) -> list[Path]:
    """Folders that hold one class each; nnU-Net's own (imagesTs, labelsTr) are none."""
    own = ("imagestr", "imagests", "labelstr", "labelsts")
    return sorted(
        entry for entry in parent.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__")) and entry.name.lower() not in own
    )  # fmt: skip


def _check_classes(found: _Found, classes: dict[str, str], labels: Labels) -> None:
    """Every case has a class that is known, and there are two classes or more."""
    table = found.folder / "cases.csv"
    known = ", ".join(labels)
    for case_id, name in sorted(classes.items()):
        if not name:
            where = table if table.is_file() else next(iter(found.files[case_id].values()))
            found.report("class-missing", f"no class is given for {case_id}", where, case_id)
        elif name not in labels:
            where = table if case_id not in found.classes else next(iter(found.files[case_id].values()))
            wrong = f"class {name!r} of {case_id} is not in dataset.json ({known})"
            found.report("class-unknown", wrong, where, case_id)
    if not found.files:
        found.report("no-cases", "holds no images that can be read", found.folder)
    elif len({*classes.values()} & set(labels)) < 2:
        only = ", ".join(sorted({*classes.values()} & set(labels))) or "none"
        found.report("one-class", f"its cases are all of one class: {only}", found.folder)
    number = found.description.number_of_cases
    if number is not None and number != len(found.files):
        found.report("number-of-cases", f"says numTraining {number}, the folder holds {len(found.files)} cases",
                     found.folder / "dataset.json")  # fmt: skip


def _cases(found: _Found, rows: dict[str, dict[str, str]], classes: dict[str, str]) -> tuple[Case, ...]:
    broken = {one.case_id for one in errors_of(found.problems)}
    cases = []
    for case_id, files in sorted(found.files.items()):
        if case_id not in broken:
            row = rows.get(case_id, {})
            split: Any = row.get("split", "")
            images = tuple(str(files[channel]) for channel in sorted(files))
            patient_id = row.get("patient_id") or case_id
            cases.append(
                Case(case_id=case_id, images=images, class_name=classes[case_id], patient_id=patient_id, split=split)
            )
    return tuple(cases)
