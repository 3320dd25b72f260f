"""Folders named after a split: read if each holds the same class folders, refused if they hold images."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mdkd_auto.datasets.case_names import visible_files
from mdkd_auto.datasets.image_files import ImageFiles
from mdkd_auto.datasets.links import dangling, files_below
from mdkd_auto.datasets.problems import Problem, problem
from mdkd_auto.formats.file_endings import is_image

SPLIT_OF_FOLDER = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_BESIDE_SPLIT = re.compile(r"[_ -]?(?:set|data|images)$")
OWN = ("imagestr", "imagests", "labelstr", "labelsts")
TEST_FOLDERS = ("imagesTs", "labelsTs")  # nnU-Net's
ROBOFLOW = "_annotations.coco.json"
TO_TABLE = "put images into imagesTr, class and split of each into cases.csv; unlabelled ones are for mdkd_predict"
TO_IMAGES_TR = "put the images of all splits into imagesTr, their truth beside it, and their split into cases.csv"
TEST_REMEDY = "cases to test on belong into imagesTr, with their truth and split test in cases.csv; or use mdkd_predict"


class ClassFolder(NamedTuple):
    """A folder with the images of one class, of one split if its parent gives it, and the prefix of its cases."""

    path: Path
    class_name: str
    split: str = ""

    @property
    def prefix(self) -> str:
        return f"{self.path.parent.name}_{self.path.name}_" if self.split else f"{self.path.name}_"


def folders_in(parent: Path) -> list[Path]:
    """Return the visible folders without nnU-Net's own (imagesTs, labelsTr)."""
    return sorted(
        entry
        for entry in parent.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__")) and entry.name.lower() not in OWN
    )


def images_below(folder: Path) -> dict[str, int]:
    """Count the images of each folder below this one, by relative path; hidden folders are skipped."""
    places = (file.parent.relative_to(folder) for file in files_below(folder) if is_image(file.name))
    return dict(Counter(place.as_posix() for place in places if place.parts and not _is_hidden(place)))


def class_folders(image_files: ImageFiles, parent: Path) -> list[ClassFolder]:
    """Return the class folders in ``parent``, or in its split folders, which is logged; [] if these are refused."""
    folders = folders_in(parent)
    named = [entry for entry in folders if _split_of(entry) and entry.name not in image_files.description.labels]
    splits = [entry for entry in named if _count(entry)]
    if not splits:
        return [ClassFolder(entry, entry.name) for entry in folders]
    for entry in named:
        if entry not in splits:
            image_files.report("class-empty", "is empty", entry)
    if _is_refused(image_files, splits, [entry for entry in folders if entry not in named]):
        return []
    counts = ", ".join(f"{entry.name} {_count(entry)}" for entry in splits)
    if len(splits) == 1:
        message = f"alone is named for a split; its images ({counts}) are split as any"
        image_files.report("splits-by-folders", message, splits[0])
    else:
        image_files.report("splits-by-folders", f"has folders that are read as splits, with images: {counts}", parent)
    return [
        ClassFolder(below, below.name, _split_of(entry) if len(splits) > 1 else "")
        for entry in splits
        for below in folders_in(entry)
    ]


def check_unread_folders(folder: Path) -> list[Problem]:
    """Report, for data sets without class folders, ignored images and dangling links.

    Covers folders named after a split and nnU-Net's imagesTs and labelsTs.
    """
    if not folder.is_dir():
        return []
    problems = [
        problem("images-beside", f"is not read, and {aim}", dataset=folder.name, file=subfolder)
        for subfolder in sorted(folder.iterdir())
        if _split_of(subfolder) and (aim := dangling(subfolder)) is not None
    ]
    read = (folder / "imagesTr").is_dir()
    for subfolder in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        if not (count := _count(subfolder)):
            continue
        if subfolder.name in TEST_FOLDERS:
            message, remedy, kind = f"is not read; files in it: {count}", TEST_REMEDY, "images-beside"
        elif _split_of(subfolder) and read:
            message, remedy, kind = f"is not read beside imagesTr; images in it: {count}", "", "images-beside"
        elif _split_of(subfolder):
            by = f", and {ROBOFLOW}" if (subfolder / ROBOFLOW).is_file() else ""
            message, kind = f"holds {count} images{by}; only imagesTr is read", "split-folder"
            remedy = f"{TO_IMAGES_TR}; boxes into one annotations.json" if by else TO_IMAGES_TR
        else:
            continue
        problems.append(problem(kind, message, dataset=folder.name, file=subfolder, remedy=remedy))
    return problems


def _is_refused(image_files: ImageFiles, splits: list[Path], others: list[Path]) -> bool:
    """Whether split folders hold images themselves, differ in classes, or have other image folders beside them."""
    refused = False
    classes = {entry: [below.name for below in folders_in(entry)] for entry in splits}
    for entry in splits:
        if count := sum(map(is_image, visible_files(entry))):
            message = f"is named for a split and holds images itself ({count})"
            image_files.report("split-folder", message, entry, remedy=TO_TABLE)
            refused = True
    if not refused and any(names != classes[splits[0]] for names in classes.values()):
        listed = "; ".join(f"{entry.name} holds {', '.join(names)}" for entry, names in classes.items())
        image_files.report("split-folder", f"has folders of splits with other classes: {listed}", splits[0].parent)
        refused = True
    for entry in others:
        if count := _count(entry):
            message = f"lies beside folders of splits ({splits[0].name}); images in it: {count}"
            image_files.report("split-folder", message, entry)
            refused = True
    return refused


def _split_of(folder: Path) -> str:
    """Return the split a folder is named after (train, Test_set, val-images), or ""."""
    return SPLIT_OF_FOLDER.get(_BESIDE_SPLIT.sub("", folder.name.lower()), "")


def _count(folder: Path) -> int:
    """Count the images in a folder tree."""
    return sum(is_image(file.name) for file in files_below(folder) if not _is_hidden(file.parent.relative_to(folder)))


def _is_hidden(place: Path) -> bool:
    return any(component.startswith((".", "__")) for component in place.parts)
