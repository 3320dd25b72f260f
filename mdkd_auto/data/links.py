"""Links to nothing, and files under almost the name that is read: what would otherwise count as absent."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mdkd_auto.data.cases import split_name
from mdkd_auto.data.endings import ENDINGS
from mdkd_auto.data.problems import Problem, problem

FILES_READ = ("dataset.json", "cases.csv", "splits_final.json", "annotations.json", "DL_info.csv")
FOLDERS_READ = ("imagesTr", "labelsTr", "Annotations")
NOT_READ = ("imagests", "labelsts")
MISSPELT = ("dataset.json", "cases.csv", "splits_final.json", "imagesTr")  # absent, no error or a misleading one
SHEETS = (".csv.txt", ".tsv", ".xls", ".xlsx", ".ods", ".numbers")  # what cases.csv may have been saved as


def dangling(path: Path) -> str | None:
    """Where a link leads that leads to nothing, in words; None for what is no link, or leads to something."""
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
    """Every link to nothing in a data set's folder where a file or folder would be read.

    ``class_folders``: any folder may hold images, as in a classification data set.
    """
    problems = []
    for path in _visible(folder):
        read = path.name in (*FILES_READ, *FOLDERS_READ)
        may_be_class = class_folders and not path.suffix and path.name.lower() not in NOT_READ
        if (read or may_be_class) and (found := dangling(path)) is not None:
            problems.append(problem("link-dangling", found, dataset=folder.name, file=path))
        elif path.is_dir() and (path.name in FOLDERS_READ or may_be_class):
            problems += [
                problem("link-dangling", found, dataset=folder.name, case_id=_case_of(below, folder), file=below)
                for below in files_below(path) if (found := dangling(below)) is not None
            ]  # fmt: skip
    return problems


def with_links(problems: list[Problem], links: list[Problem]) -> list[Problem]:
    """All of them, but of a link to nothing not also that the file is missing."""
    files = {one.file for one in links}
    return [one for one in problems if one.file not in files] + links


def check_names(folder: Path) -> list[Problem]:
    """Files and folders that differ by case alone from a name that is read and absent, or are its spreadsheet."""
    problems = []
    present = {path.name for path in _visible(folder)}
    for name in MISSPELT:
        if name in present or (folder / name).exists():  # the file system may not tell cases apart
            continue
        meant = {name.lower(), f"{name}.txt".lower()}
        if name == "cases.csv":
            meant |= {f"cases{ending}" for ending in SHEETS}
        problems += [
            problem("name-almost", f"is not read; {name} would be", dataset=folder.name, file=folder / one)
            for one in sorted(present) if one.lower() in meant
        ]  # fmt: skip
    return problems


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def files_below(folder: Path) -> Iterator[Path]:
    """Everything visible in a folder and those below; linked folders too, each once. Raises OSError."""

    def refuse(error: OSError) -> None:
        raise error

    entered = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        entered.add(os.path.realpath(place))
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))
        folders[:] = [one for one in folders if os.path.realpath(os.path.join(place, one)) not in entered]


def _case_of(path: Path, folder: Path) -> str:
    """The case that a file belongs to by its name; in a folder of a class, the folders stand in front."""
    name = path.name
    ending = max((one for one in ENDINGS if name.lower().endswith(one)), key=len, default="")
    stem = name[: len(name) - len(ending)] if ending else path.stem
    named = split_name(f"{stem}.", ".")
    parts = path.parent.relative_to(folder).parts
    return "_".join((*(part for part in parts if part not in FOLDERS_READ), named[0] if named else stem))
