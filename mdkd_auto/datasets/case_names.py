"""Case and image file names as in nnU-Net: ``{case}_{0000}{ending}``, one file per channel."""

import re
from pathlib import Path

from mdkd_auto.core.text import is_utf8
from mdkd_auto.formats.companion_files import is_litter
from mdkd_auto.formats.file_endings import ends_in

NOT_UTF8 = "is not UTF-8, as of an archive packed on another system"
LISTED = 10  # problems shown in one message
_UNSAFE = frozenset("$&;|<>*?\"'`:")
_UNUSUAL = frozenset(" ()[]{}#~!%,")
_LONGEST_NAME = 200  # bytes: file systems allow 255, including endings and temporary names
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


def split_name(name: str, ending: str) -> tuple[str, int] | None:
    """``lung_01_0000.png`` -> ("lung_01", 0); None without this ending (case is ignored) or channel number."""
    match = _CHANNEL.fullmatch(name[: len(name) - len(ending)]) if ends_in(name, ending) else None
    return (match[1], int(match[2])) if match else None


def visible_files(folder: Path) -> list[str]:
    """Return the sorted file names of a folder without hidden files and operating-system litter."""
    return sorted(entry.name for entry in folder.iterdir() if not is_litter(entry.name) and entry.is_file())


def listed(problems: list[str]) -> str:
    """Join the first problems, one per line, and the number of others."""
    lines = [f"\n  {problem}" for problem in problems[:LISTED]]
    more = len(problems) - LISTED
    return "".join(lines) + (f"\n  and {more} more ({len(problems)} in all)" if more > 0 else "")


def check_case_id(case_id: str) -> str | None:
    """Return the problem with a case name, or None."""
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
    """Whether shells must quote the name, or Windows changes it."""
    return bool(set(case_id) & _UNUSUAL) or case_id[-1:] in {".", " "}
