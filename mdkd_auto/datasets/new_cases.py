"""New images to predict, by nnU-Net's names; what of a folder cannot be predicted, or is not read, is named."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mdkd_auto.core.errors import ImageError, PredictionError
from mdkd_auto.core.records import Case
from mdkd_auto.core.text import escaped, is_utf8
from mdkd_auto.datasets.case_names import check_case_id, listed, split_name, visible_files
from mdkd_auto.datasets.links import dangling
from mdkd_auto.formats.companion_files import is_litter
from mdkd_auto.formats.dicom import CONVERT, find_dicom
from mdkd_auto.formats.file_endings import ENDINGS, ends_in, image_ending, is_image


class NewCases(NamedTuple):
    """Cases to predict, and images that are left out: which, and why."""

    cases: list[Case]
    refused: tuple[str, ...]


def find_cases(path: Path, ending: str | None, channels: int, needed: int | None = None) -> NewCases:
    """The cases of a folder, or of one file, to predict; sorted by name.

    ``channels``: how many the data set has. ``needed``: the one channel a model reads, or None for all of them;
    ``Case.images`` then holds that one file. Where only one is read, plain ``{case}{ending}`` names do as well.
    ``ending`` None takes every image this program reads. Names are refused as in a raw folder, and so are links to
    nothing. Raises PredictionError.
    """
    if not path.exists():
        raise PredictionError(f"{path}: {dangling(path) or 'neither a folder nor a file'}")
    folder = (path if path.is_dir() else path.parent).absolute()
    found: dict[str, dict[int, Path]] = {}
    problems = []
    for name in visible_files(folder) + _dangling_images(folder):
        named = _case_and_channel(name, ending if path.is_dir() else None, channels, needed)
        if named is None:
            continue
        files = found.setdefault(named[0], {})
        if named[1] in files:
            problems.append(f"{files[named[1]].name} and {name} are both channel {named[1]} of {named[0]}")
        files[named[1]] = folder / name
    if path.is_file():
        found = {case_id: files for case_id, files in found.items() if folder / path.name in files.values()}
        problems = [problem for problem in problems if path.name in problem]
    wanted = range(channels) if needed is None else (needed,)
    problems += [_missing(case_id, files, wanted) for case_id, files in found.items() if not set(wanted) <= set(files)]
    if problems:
        raise PredictionError(f"{path}: the images do not fit the model:{listed(problems)}")
    if not found:
        raise PredictionError(f"{path}: no images named {{case}}_0000{ending or '.*'}; {_endings_in(folder)}")
    chosen = {case_id: [files[channel] for channel in wanted] for case_id, files in sorted(found.items())}
    refused = {case_id: why for case_id, files in chosen.items() if (why := _refusal(case_id, files)) is not None}
    if len(refused) == len(chosen):
        raise PredictionError(f"{path}: no image can be predicted:{listed(list(refused.values()))}")
    cases = [
        Case(case_id=case_id, images=tuple(map(str, files)), patient_id=case_id)
        for case_id, files in chosen.items()
        if case_id not in refused
    ]
    return NewCases(cases, tuple(refused.values()))


def not_read(folder: Path) -> list[str]:
    """What of a folder is not predicted though it may be meant: subfolders with images, links to nothing.

    Links that are named as images are: ``find_cases`` refuses them.
    """
    visible = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    return [
        *(
            f"{path.name}: is a folder with images; give it with -i"
            for path in visible
            if path.is_dir() and any(is_image(file.name) for file in path.rglob("*"))
        ),
        *(f"{path.name}: {found}" for path in visible if not is_image(path.name) and (found := dangling(path))),
    ]


def _dangling_images(folder: Path) -> list[str]:
    """Sorted names of links to nothing that are named as images, hidden ones left out."""
    links = (path for path in folder.iterdir() if not is_litter(path.name) and is_image(path.name))
    return sorted(path.name for path in links if dangling(path) is not None)


def _refusal(case_id: str, files: Sequence[Path]) -> str | None:
    """Why a case is not predicted, or None."""
    if wrong := check_case_id(case_id):
        name = repr(case_id) if is_utf8(case_id) else escaped(case_id)
        return f"the name {name} {wrong}; rename it: letters, digits, '_', '-' and '.' are safe"
    lost = ((file.name, dangling(file)) for file in files)
    return next((f"{case_id}: {name} {found}; restore its target, or remove it" for name, found in lost if found), None)


def _case_and_channel(name: str, ending: str | None, channels: int, needed: int | None) -> tuple[str, int] | None:
    """A number beyond the channels is part of the name (``patient_2023.png``) where one channel is read."""
    try:
        found = name[len(name) - len(image_ending(name)) :]
    except ImageError:
        return None
    if ending is not None and not ends_in(name, ending):
        return None
    ending = ending or found
    named = split_name(name, ending)
    if named is not None and named[1] < channels:
        return named
    if channels == 1 or needed is not None:
        return name[: len(name) - len(ending)], needed or 0
    return named


def _missing(case_id: str, files: dict[int, Path], wanted: range | tuple[int, ...]) -> str:
    absent = ", ".join(f"_{channel:04d}" for channel in wanted if channel not in files)
    return f"{case_id}: channel {absent} is missing; found {', '.join(file.name for file in files.values())}"


def _endings_in(folder: Path) -> str:
    present = sorted({ending for name in visible_files(folder) for ending in ENDINGS if name.lower().endswith(ending)})
    if present:
        return f"the folder holds images ending in {', '.join(present)}"
    dicom = find_dicom(folder)
    return f"{escaped(dicom)} is DICOM. {CONVERT}" if dicom is not None else "the folder holds no images"
