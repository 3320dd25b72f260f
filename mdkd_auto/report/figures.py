"""The figures of a table, in a folder beside it: overlays, t-SNE, attention maps and learning curves of each target."""

import logging
from collections.abc import Callable
from pathlib import Path

from mdkd_auto.errors import MdkdError
from mdkd_auto.experiments.jobs import Experiment
from mdkd_auto.files import WriteError, write_json
from mdkd_auto.progress import progress
from mdkd_auto.report.attention import draw_attention
from mdkd_auto.report.embedding import draw_embedding
from mdkd_auto.report.learning import draw_learning
from mdkd_auto.report.overlays import draw_overlays
from mdkd_auto.report.tables import Row, Table

logger = logging.getLogger(__name__)

Drawing = Callable[[Path, Experiment, Row], object]  # writes the PNG; what it returns is kept as numbers
DRAWINGS: dict[str, Drawing] = {
    "overlays": draw_overlays,
    "tsne": draw_embedding,
    "attention": draw_attention,
    "learning": draw_learning,
}


def draw_figures(experiment: Experiment, table: Table) -> Path:
    """Draw every figure of every target; returns their folder, which also holds their numbers in figures.json.

    A figure whose files are gone or damaged is left out and named in the log: the table stands without it. Raises
    WriteError where the disk takes no more.
    """
    folder = figures_folder(table.path)
    numbers: dict[str, dict[str, object]] = {}
    wanted = [(row, name) for row in table.rows for name in DRAWINGS]
    with progress("figures") as advance:
        for done, (row, name) in enumerate(wanted):
            advance(done, len(wanted), f"{name} of {row.target}")
            try:
                said = DRAWINGS[name](folder / f"{row.target}_{name}.png", experiment, row)
            except WriteError:
                raise
            except MdkdError as error:
                logger.warning("%s: the figure %s is left out: %s", row.target, name, error)
                continue
            if said is not None:
                numbers.setdefault(row.target, {})[name] = said
    write_json(folder / "figures.json", numbers)
    logger.info("figures -> %s", folder)
    return folder


def figures_folder(table: Path) -> Path:
    """Beside a table: table_2d_fold_0__1a2b3c4d.md has figures_2d_fold_0__1a2b3c4d/."""
    return table.with_name(table.stem.replace("table", "figures", 1))
