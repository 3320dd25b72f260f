"""Find new images to predict, named as in nnU-Net; files that cannot be predicted are reported."""

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
    """Cases to predict, and skipped images with the reason."""

    cases: list[Case]
    refused: tuple[str, ...]


def find_cases(path: Path, ending: str | None, channels: int, needed: int | None = None) -> NewCases:
    """Return the cases of a folder, or of one file, sorted by name.

    ``channels``: number of channels in the data set. ``needed``: the only channel a model reads, or None for all;
    ``Case.images`` then holds that one file. If only one channel is read, plain ``{case}{ending}`` names work too.
    ``ending`` None accepts every supported format. Invalid names are refused as in a raw folder, and so are dangling
    links. Raises PredictionError.
    """
    if not path.exists():
        raise PredictionError(f"{path}: {dangling(path) or 'neither a folder nor a file'}")
    folder = (path if path.is_dir() else path.parent).absolute()
    files_by_case: dict[str, dict[int, Path]] = {}
    problems = []
    for name in visible_files(folder) + _dangling_images(folder):
        named = _case_and_channel(name, ending if path.is_dir() else None, channels, needed)
        if named is None:
            continue
        files = files_by_case.setdefault(named[0], {})
        if named[1] in files:
            problems.append(f"{files[named[1]].name} and {name} are both channel {named[1]} of {named[0]}")
        files[named[1]] = folder / name
    if path.is_file():
        files_by_case = {
            case_id: files for case_id, files in files_by_case.items() if folder / path.name in files.values()
        }
        problems = [problem for problem in problems if path.name in problem]
    wanted = range(channels) if needed is None else (needed,)
    problems += [
        _missing(case_id, files, wanted) for case_id, files in files_by_case.items() if not set(wanted) <= set(files)
    ]
    if problems:
        raise PredictionError(f"{path}: the images do not fit the model:{listed(problems)}")
    if not files_by_case:
        raise PredictionError(f"{path}: no images named {{case}}_0000{ending or '.*'}; {_endings_in(folder)}")
    chosen = {case_id: [files[channel] for channel in wanted] for case_id, files in sorted(files_by_case.items())}
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
    """Report what a folder holds but ``find_cases`` ignores: subfolders with images, dangling links.

    Dangling links with an image name are refused by ``find_cases`` instead.
    """
    visible = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    return [
        *(
            f"{path.name}: is a folder with images; give it with -i"
            for path in visible
            if path.is_dir() and any(is_image(file.name) for file in path.rglob("*"))
        ),
        *(f"{path.name}: {target}" for path in visible if not is_image(path.name) and (target := dangling(path))),
    ]


def _dangling_images(folder: Path) -> list[str]:
    """Return the sorted names of dangling links with an image name, without hidden ones."""
    links = (path for path in folder.iterdir() if not is_litter(path.name) and is_image(path.name))
    return sorted(path.name for path in links if dangling(path) is not None)


def _refusal(case_id: str, files: Sequence[Path]) -> str | None:
    """Return why a case is refused, or None."""
    if wrong := check_case_id(case_id):
        name = repr(case_id) if is_utf8(case_id) else escaped(case_id)
        return f"the name {name} {wrong}; rename it: letters, digits, '_', '-' and '.' are safe"
    lost = ((file.name, dangling(file)) for file in files)
    return next(
        (f"{case_id}: {name} {target}; restore its target, or remove it" for name, target in lost if target), None
    )


def _case_and_channel(name: str, ending: str | None, channels: int, needed: int | None) -> tuple[str, int] | None:
    """If one channel is read, a number beyond the channels belongs to the name (``patient_2023.png``)."""
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
