"""CSV tables, read and written with pandas: cases.csv, DL_info.csv, predictions.csv, progress.csv and the like.

pandas is imported where a table is read or written: `--help` and planning without tables do not pay for it.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdkd_auto.core.errors import MdkdError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SHOWN = 200  # characters of a first row in a message
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_STATED = re.compile(r'"?sep=([^\r\n"]?)"?[,;\t]*(?:\r\n|\r|\n|$)', re.IGNORECASE)  # what Excel takes from a first line
_COUNT = "count"  # beside columns that are named by numbers
Cells = list[str]


class TableError(Exception):
    """A file that is not a table with the columns that are needed: what was found, and what to do."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(f"{found}; {remedy}" if remedy else found)
        self.found, self.remedy = found, remedy


class Row(NamedTuple):
    """One line of a table: its number in the file (the last one, where a cell holds line breaks)."""

    number: int
    cells: dict[str, str]  # by column; "" for those that a short row lacks
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
    frame = _frame(path, needed)
    counts = frame.pop(_COUNT)
    columns = _columns([] if frame.empty else frame.iloc[0].tolist()[: counts.iloc[0]], needed, known)
    width = max((place for place, name in enumerate(columns, start=1) if name), default=0)
    rows = []
    for number, given, *cells in zip(frame.index[1:], counts[1:], *(frame[name][1:] for name in frame), strict=True):
        filled = max((place for place, cell in enumerate(cells, start=1) if cell), default=0)
        count = filled if filled > width else min(given, width)
        fault = f"has {count} cells for {width} columns" if count != width else ""
        rows.append(Row(number, {name: cell for name, cell in zip(columns, cells, strict=False) if name}, fault))
    return Table(tuple(name for name in columns if name), rows)


def read_frame(path: Path, columns: Sequence[str]) -> "pd.DataFrame":
    """Text columns of a table that this program wrote, indexed by row number. Raises MdkdError, OSError."""
    import pandas as pd

    try:
        rows = read_table(path, columns).rows
    except TableError as error:
        raise MdkdError(f"{path}: {error}") from None
    for row in rows:
        if row.fault:
            raise MdkdError(f"{path}: row {row.number} {row.fault}")
    return pd.DataFrame([row.cells for row in rows], [row.number for row in rows], list(columns), dtype=str)


def read_numbers(path: Path, columns: Sequence[str]) -> "NDArray[np.float64]":
    """The same as numbers without rounding, shape (rows, columns). Raises MdkdError for a cell that is no number."""
    import numpy as np

    frame = read_frame(path, columns)
    numbers = np.empty(frame.shape)
    for place, (number, *cells) in enumerate(frame.itertuples(name=None)):
        try:
            numbers[place] = [float(cell) for cell in cells]
        except ValueError as error:
            raise MdkdError(f"{path}: row {number}: {error}") from None
    return numbers


def table_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with one line per row: numbers with all their digits, None as an empty cell.

    Raises ValueError for a row with fewer or more cells than ``columns``.
    """
    import pandas as pd

    cells = [["" if cell is None else str(cell) for _, cell in zip(columns, row, strict=True)] for row in rows]
    return pd.DataFrame(cells, columns=list(columns), dtype=object).to_csv(index=False, lineterminator="\n")


def likeness_of_column(name: str) -> str:
    """Equal for names that differ by case, spaces, ``_`` and ``-`` alone."""
    return "".join(sign for sign in name.casefold() if not sign.isspace() and sign not in "_-")


def _frame(path: Path, needed: Sequence[str]) -> "pd.DataFrame":
    """Rows that are not empty by their numbers, split at the separator that gives the columns needed."""
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


def _split(text: str, separator: str, skipped: int = 0) -> "pd.DataFrame":
    """Stripped cells and, as column ``_COUNT``, how many the row has: pandas fills short rows without a word.

    Indexed by the row's number in a file that has ``skipped`` lines before the text.
    """
    import pandas as pd

    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num + skipped, len(cells)) for cells in reader]
    except csv.Error as error:
        by = SEPARATORS.get(separator, separator)
        raise TableError(f"not a table of values separated by {by} ({error})") from None
    numbers, counts = [number for number, _ in lines], [count for _, count in lines]
    width = max(counts, default=0)
    if not width:
        return pd.DataFrame({_COUNT: []})
    frame = pd.read_csv(
        io.StringIO(text, newline=""),
        sep=separator,
        header=None,
        names=range(width),
        index_col=False,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
        engine="python",  # splits lines as the csv module does, which counted the cells
    )
    frame = frame.fillna("").map(str.strip).set_axis(numbers)
    filled = (frame != "").any(axis=1)
    frame[_COUNT] = counts
    return frame[filled]


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
