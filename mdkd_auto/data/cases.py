"""Finding the image files of cases by nnU-Net's names: ``{case}_{0000}{ending}``, one file a channel."""

import re
from pathlib import Path

from mdkd_auto.data.companions import is_litter
from mdkd_auto.data.endings import ENDINGS, ends_in, image_ending, is_image
from mdkd_auto.errors import ImageError, PredictionError
from mdkd_auto.records import Case
from mdkd_auto.text import escaped, is_utf8

NOT_UTF8 = "is not UTF-8, as of an archive packed on another system"
LISTED = 10  # problems shown in one message
_UNSAFE = frozenset("$&;|<>*?\"'`:")
_UNUSUAL = frozenset(" ()[]{}#~!%,")
_LONGEST_NAME = 200  # bytes: file systems take 255, endings and temporary names included
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


def split_name(name: str, ending: str) -> tuple[str, int] | None:
    """``lung_01_0000.png`` -> ("lung_01", 0); None where the name does not end so, in capitals or not."""
    match = _CHANNEL.fullmatch(name[: len(name) - len(ending)]) if ends_in(name, ending) else None
    return (match[1], int(match[2])) if match else None


def visible_files(folder: Path) -> list[str]:
    """Sorted names of the files in a folder, without hidden ones and what systems leave behind."""
    return sorted(entry.name for entry in folder.iterdir() if not is_litter(entry.name) and entry.is_file())


def listed(problems: list[str]) -> str:
    """The first problems, one a line, and how many more there are."""
    lines = [f"\n  {problem}" for problem in problems[:LISTED]]
    more = len(problems) - LISTED
    return "".join(lines) + (f"\n  and {more} more ({len(problems)} in all)" if more > 0 else "")


def check_case_id(case_id: str) -> str | None:
    """What is wrong with a case name, or None."""
    if not case_id:
        return "is empty"
    if not is_utf8(case_id):
        return NOT_UTF8
    if case_id[0] in ".-=+@":
        return f"begins with {case_id[0]!r}, which is hidden, an option or a formula to other programs"
    if "/" in case_id or "\\" in case_id:
        return "holds a path separator"
    if not case_id.isprintable():
        return "holds a control character"
    unsafe = sorted(set(case_id) & _UNSAFE)
    if unsafe:
        return f"holds {' '.join(unsafe)}, which a shell or Windows takes for something else"
    if len(case_id.encode()) > _LONGEST_NAME:
        return f"is {len(case_id.encode())} bytes long; {_LONGEST_NAME} are the most"
    return None


def is_unusual(case_id: str) -> bool:
    """Whether a shell script must quote the name, or Windows changes it."""
    return bool(set(case_id) & _UNUSUAL) or case_id[-1:] in {".", " "}


def find_cases(path: Path, ending: str | None, channels: int, needed: int | None = None) -> list[Case]:
    """The cases of a folder, or of one file, to predict; sorted by name.

    ``channels``: how many the data set has. ``needed``: the one channel a model reads, or None for all of them;
    ``Case.images`` then holds that one file. Where only one is read, plain ``{case}{ending}`` names do as well.
    ``ending`` None takes every image this program reads. Raises PredictionError.
    """
    if not path.exists():
        raise PredictionError(f"{path}: neither a folder nor a file")
    folder = (path if path.is_dir() else path.parent).absolute()
    found: dict[str, dict[int, Path]] = {}
    problems = []
    for name in visible_files(folder):
        if is_image(name) and not is_utf8(name):
            problems.append(f"the name {escaped(name)} {NOT_UTF8}; rename the file")
            continue
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
    return [
        Case(case_id=case_id, images=tuple(str(files[channel]) for channel in wanted), patient_id=case_id)
        for case_id, files in sorted(found.items())
    ]


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
    return f"the folder holds images ending in {', '.join(present)}" if present else "the folder holds no images"
