"""All result tables of a root as one pandas DataFrame, for notebooks and further statistics."""

from pathlib import Path
from typing import TYPE_CHECKING

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.paths import Root
from mdkd_auto.core.tables import read_frame
from mdkd_auto.report.tables import CSV_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = {"mean": "float64", "std": "float64", "n": "Int64", "left_out": "Int64"}


def results(root: str | Path) -> "pd.DataFrame":
    """One row per target, level, column, run and metric of every ``table_*.csv`` under ``root``/results.

    ``group`` and ``table`` say which file a row is from; the other columns are the file's own. ``mean`` and ``std`` are
    fractions (0.712 for a DSC of 71.2 %) or in ``unit``; NaN where nothing could be scored. Without a table the frame
    has no rows. Raises MdkdError where ``root`` has no folder results, or a table is damaged.
    """
    import pandas as pd

    folder = Root(Path(root)).results
    if not folder.is_dir():
        raise MdkdError(f"{folder}: no such folder; give the folder that holds raw, preprocessed and results")
    frames = [pd.DataFrame(columns=["group", "table", *CSV_COLUMNS], dtype=str)]
    for path in sorted(folder.glob("*/table_*.csv")):
        frame = read_frame(path, CSV_COLUMNS)
        frame.insert(0, "group", path.parent.name)
        frame.insert(1, "table", path.stem)
        frames.append(frame)
    found = pd.concat(frames, ignore_index=True)
    for column, kind in _NUMBERS.items():
        found[column] = found[column].map(lambda cell: float(cell) if cell else float("nan")).astype(kind)
    return found
