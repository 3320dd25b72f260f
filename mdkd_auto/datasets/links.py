"""Dangling links and misspelt file names, which would otherwise count as absent files."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mdkd_auto.datasets.case_names import split_name
from mdkd_auto.datasets.problems import Problem, problem
from mdkd_auto.formats.file_endings import ENDINGS

FILES_READ = ("dataset.json", "cases.csv", "splits_final.json", "annotations.json", "DL_info.csv")
FOLDERS_READ = ("imagesTr", "labelsTr", "Annotations")
NOT_READ = ("imagests", "labelsts")
MISSPELT = ("dataset.json", "cases.csv", "splits_final.json", "imagesTr")  # if absent, no or a misleading error
ABSENT = ("image-missing", "label-missing", "label-extra", "image-absent")  # follow from a case's dangling link
COUNTED = ("no-cases", "number-of-cases")  # follow for its data set
SHEETS = (".csv.txt", ".tsv", ".xls", ".xlsx", ".ods", ".numbers")  # formats cases.csv may have been saved in


def dangling(path: Path) -> str | None:
    """Describe the target of a dangling link; None for anything else."""
    if not os.path.islink(path):
        return None
    try:
        os.stat(path)
    except OSError as error:
        target = os.readlink(path)
        if error.errno == errno.ELOOP:
            return f"is a link to {target}, which leads back to itself"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return f"is a link to {target}, which does not exist"
        return f"is a link to {target}, which cannot be reached ({error.strerror})"
    return None


def check_links(folder: Path, class_folders: bool = False) -> list[Problem]:
    """Report every dangling link where a file or folder would be read.

    ``class_folders``: any folder may hold images, as in a classification data set.
    """
    problems = []
    for path in _visible(folder):
        read = path.name in (*FILES_READ, *FOLDERS_READ)
        may_be_class = class_folders and not path.suffix and path.name.lower() not in NOT_READ
        if (read or may_be_class) and (target := dangling(path)) is not None:
            problems.append(problem("link-dangling", target, dataset=folder.name, file=path))
        elif path.is_dir() and (path.name in FOLDERS_READ or may_be_class):
            problems += [
                problem("link-dangling", target, dataset=folder.name, case_id=_case_of(below, folder), file=below)
                for below in files_below(path)
                if (target := dangling(below)) is not None
            ]
    return problems


def linked_cases(folder: Path, class_folders: bool = False) -> set[str]:
    """Return the cases whose files are dangling links."""
    return {entry.case_id for entry in check_links(folder, class_folders)} - {""}


def with_links(problems: list[Problem], links: list[Problem]) -> list[Problem]:
    """Merge both lists, dropping missing-file problems and their consequences that a dangling link explains."""
    files, cases = {entry.file for entry in links}, {entry.case_id for entry in links} - {""}
    folders = {os.path.dirname(entry.file) for entry in links}
    kept = []
    for entry in problems:
        of_case = entry.kind in ABSENT and bool({entry.case_id, _case_of_file(entry.case_id)} & cases)
        of_folder = entry.kind == "class-empty" and entry.file in folders
        if entry.file not in files and not of_case and not of_folder and not (cases and entry.kind in COUNTED):
            kept.append(entry)
    return kept + links


def check_names(folder: Path) -> list[Problem]:
    """Find files that differ only by case from an absent file, or are its spreadsheet."""
    problems = []
    present = {path.name for path in _visible(folder)}
    for name in MISSPELT:
        if name in present or (folder / name).exists():  # file systems may ignore case
            continue
        meant = {name.lower(), f"{name}.txt".lower()}
        if name == "cases.csv":
            meant |= {f"cases{ending}" for ending in SHEETS}
        problems += [
            problem("name-almost", f"is not read; {name} would be", dataset=folder.name, file=folder / file_name)
            for file_name in sorted(present)
            if file_name.lower() in meant
        ]
    return problems


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def files_below(folder: Path) -> Iterator[Path]:
    """Yield everything visible below a folder, following each link once. Raises OSError."""

    def refuse(error: OSError) -> None:
        raise error

    entered = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        entered.add(os.path.realpath(place))
        folders[:] = sorted(subfolder for subfolder in folders if not subfolder.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))
        folders[:] = [
            subfolder for subfolder in folders if os.path.realpath(os.path.join(place, subfolder)) not in entered
        ]


def _case_of(path: Path, folder: Path) -> str:
    """Return the case of a file by its name; below a class folder, the folders form a prefix."""
    parts = path.parent.relative_to(folder).parts
    return "_".join((*(component for component in parts if component not in FOLDERS_READ), _case_of_file(path.name)))


def _case_of_file(name: str) -> str:
    """Strip ending and channel."""
    ending = max((candidate for candidate in ENDINGS if name.lower().endswith(candidate)), key=len, default="")
    stem = name[: len(name) - len(ending)] if ending else Path(name).stem
    named = split_name(f"{stem}.", ".")
    return named[0] if named else stem
