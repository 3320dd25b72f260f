"""The figures of a table, in a folder beside it.

Of a training's table: overlays, t-SNE, attention maps and learning curves of each target, and all differences. Of an
ablation's: learning curves, all differences and, for few labels, gain against number of labels.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import WriteError, write_json
from mdkd_auto.core.progress import progress
from mdkd_auto.core.records import ByTask
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.report.ablation import Study
from mdkd_auto.report.classification.pictures import draw_class_attention, draw_class_embedding
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.detection.embedding import draw_box_embedding
from mdkd_auto.report.detection.pictures import draw_detections
from mdkd_auto.report.differences import draw_differences, draw_gain_by_labels
from mdkd_auto.report.learning import draw_learning
from mdkd_auto.report.segmentation.attention import draw_attention
from mdkd_auto.report.segmentation.embedding import draw_embedding
from mdkd_auto.report.segmentation.overlays import draw_overlays
from mdkd_auto.report.tables import Table
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job

logger = logging.getLogger(__name__)

Drawing = Callable[[Path, Experiment, Row], object]  # writes the PNG; what it returns is kept as numbers
WholeDrawing = Callable[[Path], object]  # of all targets in one
DRAWINGS: ByTask[dict[str, Drawing]] = ByTask(
    {
        "segmentation": {
            "overlays": draw_overlays,
            "tsne": draw_embedding,
            "attention": draw_attention,
            "learning": draw_learning,
        },
        "classification": {"tsne": draw_class_embedding, "attention": draw_class_attention, "learning": draw_learning},
        "detection": {"detections": draw_detections, "tsne": draw_box_embedding, "learning": draw_learning},
    }
)


def permutation_figures(experiment: Experiment, jobs: Sequence[tuple[Experiment, Job]]) -> int:
    """Number of figures drawn beside the table of the jobs' students."""
    targets = {job.target for _, job in jobs if stage_of(job).distils}
    return len(targets) * len(DRAWINGS[experiment.plan.task]) + 1


def ablation_figures(study: Study) -> int:
    """Number of figures drawn beside an ablation's table."""
    return len(study.entries) + 1


def draw_figures(experiment: Experiment, table: Table) -> Path:
    """Draw every figure of a training's table; returns their folder, which holds their numbers in figures.json too.

    A figure whose files are gone or damaged, or in whose drawing the program is at fault, is left out and named in the
    log, a fault with its traceback: the table and the other figures stand without it. Raises WriteError where the disk
    takes no more.
    """
    drawings = DRAWINGS[experiment.plan.task]
    return _draw(experiment, table, drawings, {"differences": lambda path: draw_differences(path, table)})


def draw_ablation(name: str, experiment: Experiment, table: Table) -> Path:
    """Draw the figures of an ablation's table, as :func:`draw_figures` does."""
    whole: dict[str, WholeDrawing] = {"differences": lambda path: draw_differences(path, table)}
    if name == "labels":
        whole["gain_by_labels"] = lambda path: draw_gain_by_labels(path, experiment, table)
    return _draw(experiment, table, {"learning": draw_learning}, whole)


def _draw(
    experiment: Experiment, table: Table, drawings: Mapping[str, Drawing], whole: Mapping[str, WholeDrawing]
) -> Path:
    folder = figures_folder(table.path)
    numbers: dict[str, dict[str, object]] = {}
    wanted: list[tuple[str, str, Callable[[], object]]] = [
        *(
            (row.target, name, partial(drawing, folder / f"{row.target}_{name}.png", experiment, row))
            for row in table.rows
            for name, drawing in drawings.items()
        ),
        *(("the table", name, partial(drawing, folder / f"{name}.png")) for name, drawing in whole.items()),
    ]
    with progress("figures") as advance:
        for done, (of, name, draw) in enumerate(wanted):
            advance(done, len(wanted), f"{name} of {of}")
            try:
                said = draw()
            except WriteError:
                raise
            except MdkdError as error:
                logger.warning("%s: the figure %s is left out: %s", of, name, error)
                continue
            except Exception:
                logger.exception(
                    "%s: the figure %s is left out: a fault of the program; please run mdkd_doctor and "
                    "report it with the file it writes",
                    of,
                    name,
                )
                continue
            if said is not None:
                numbers.setdefault(of, {})[name] = said
    write_json(folder / "figures.json", numbers)
    logger.info("figures -> %s", folder)
    return folder


def figures_folder(table: Path) -> Path:
    """Beside a table: table_2d_fold_0__1a2b3c4d.md has figures_2d_fold_0__1a2b3c4d/."""
    return table.with_name(table.stem.replace("table", "figures", 1))
