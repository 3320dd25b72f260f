"""Tables of separated values as programs and people save them: cases.csv, DL_info.csv, predictions.csv and the like."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SHOWN = 200  # characters of a first row in a message
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_STATED = re.compile(r'"?sep=([^\r\n"]?)"?[,;\t]*(?:\r\n|\r|\n|$)', re.IGNORECASE)  # what Excel takes from a first line
Cells = list[str]


class TableError(Exception):
    """A file that is not a table with the columns that are needed: what was found, and what to do."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(f"{found}; {remedy}" if remedy else found)
        self.found, self.remedy = found, remedy


class Row(NamedTuple):
    """One line of a table: its number in the file (the last one, where a cell holds line breaks)."""

    number: int
    cells: dict[str, str]  # by column; of a row with a wrong number of cells, those that there are
    fault: str = ""  # what is wrong with the number of cells


class Table(NamedTuple):
    """Columns by the names that were asked for, others as written; rows without those that are empty."""

    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path, needed: Sequence[str], known: Collection[str] = ()) -> Table:
    """Read a table whose first row names its columns; cells are stripped. Raises TableError, OSError.

    Columns ``needed`` must be there, ``known`` ones may be: each is found by its name, or by one that differs in case,
    spaces, ``_`` and ``-`` alone. What spreadsheets add is taken as it is meant: a byte order mark, UTF-16, semicolons
    or tabs, a line ``sep=;``, empty columns at the end, empty rows. A column without a name is not read, and
    after the last name must be empty.
    """
    lines = _lines(path, needed)
    columns = _columns(lines[0][1] if lines else [], needed, known)
    width = max((place for place, name in enumerate(columns, start=1) if name), default=0)
    rows = []
    for number, cells in lines[1:]:
        filled = max((place for place, cell in enumerate(cells, start=1) if cell), default=0)
        count = filled if filled > width else min(len(cells), width)
        fault = f"has {count} cells for {width} columns" if count != width else ""
        named = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
        rows.append(Row(number, named, fault))
    return Table(tuple(name for name in columns if name), rows)


def likeness_of_column(name: str) -> str:
    """Equal for names that differ by case, spaces, ``_`` and ``-`` alone."""
    return "".join(sign for sign in name.casefold() if not sign.isspace() and sign not in "_-")


def _lines(path: Path, needed: Sequence[str]) -> list[tuple[int, Cells]]:
    """Rows with their numbers, empty ones left out, split at the separator that gives the columns needed."""
    text = _text(path)
    stated = _STATED.match(text)
    if stated is not None:
        return _split(text[stated.end() :], stated[1] or "\t", skipped=1)
    return _split(text, _separator(text, needed))


def _separator(text: str, needed: Sequence[str]) -> str:
    """The one by which the first row holds the columns needed; commas where none does."""
    wanted = set(map(likeness_of_column, needed))
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        with suppress(csv.Error):
            first = next((cells for cells in reader if any(map(str.strip, cells))), [])
            if wanted <= {likeness_of_column(cell.strip()) for cell in first}:
                return separator
    return ","


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"not UTF-8 text ({error})", "save it as 'CSV UTF-8'") from None
    if "\0" in text:
        raise TableError("holds NUL characters, so it is no text in UTF-8", "save it as 'CSV UTF-8'")
    return text


def _split(text: str, separator: str, skipped: int = 0) -> list[tuple[int, Cells]]:
    """Rows that are not empty, with their numbers in a file that has ``skipped`` lines before the text."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num + skipped, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        by = SEPARATORS.get(separator, separator)
        raise TableError(f"not a table of values separated by {by} ({error})") from None
    return [(number, cells) for number, cells in lines if any(cells)]


def _columns(written: Cells, needed: Sequence[str], known: Collection[str]) -> Cells:
    """The names of the columns; "" for those that have none."""
    asked = [*needed, *(name for name in known if name not in needed)]
    alike = Counter(map(likeness_of_column, asked))
    spelled = {likeness_of_column(name): name for name in asked if alike[likeness_of_column(name)] == 1}
    names = [name if name in asked else spelled.get(likeness_of_column(name), name) for name in written]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    missing = [name for name in needed if name not in names]
    if twice or missing:
        shown = str(written)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        also = [name for name in known if name not in needed]
        expected = ", ".join(needed) + (f" and any of {', '.join(also)}" if also else "")
        lacks = f"row 1 has no column {', '.join(missing)}; " if missing else ""
        found = f"{lacks}the first row is {shown}" + (f", with {', '.join(twice)} more than once" if twice else "")
        raise TableError(found, f"expected {expected}, each once, separated by commas")
    return names
