"""Overlays: truth beside the baseline's and the student's masks on images that training never saw."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdkd_auto.data.images import read_image
from mdkd_auto.experiments.jobs import Experiment
from mdkd_auto.experiments.scoring import Summary, read_truth
from mdkd_auto.files import write_atomically
from mdkd_auto.paths import RunFolder
from mdkd_auto.report.tables import COLUMNS, Row
from mdkd_auto.tasks.segmentation import mask_ending

TRUTH_COLOUR, PREDICTION_COLOUR = "#00c853", "#ff1744"
_MARGIN = 0.35  # of the lesion's extent, shown around it where the image is large
_SMALLEST_VIEW = 48  # voxels


def draw_overlays(path: Path, experiment: Experiment, rows: tuple[Row, ...]) -> None:
    """One line a target: its median test case by the student's DSC, a panel a column, truth green, prediction red."""
    columns = [column for column in COLUMNS if any(column in row.summaries for row in rows)]
    figure = Figure(figsize=(3.2 * (len(columns) + 1), 3.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(columns) + 1, squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        _draw_row(line, experiment, row, columns)
    figure.suptitle("Median case of each target: truth green, prediction red", fontsize=11)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def _draw_row(line: np.ndarray, experiment: Experiment, row: Row, columns: list[str]) -> None:
    for axes in line:
        axes.set_axis_off()
    name = median_case(row.summaries["student"][0]) if "student" in row.summaries else None
    if name is None:
        return
    dataset = experiment.datasets[row.target]
    case = next(case for case in dataset.cases if case.case_id == name)
    plan = experiment.plan.dataset(row.target)
    image = read_image(Path(case.images[plan.channel])).array
    values = [value for channel in experiment.classes(row.target).channels for value in channel.values]
    truth = np.isin(read_truth(case, dataset).array, values)
    z = int(truth.sum((1, 2)).argmax())
    upright = -1 if dataset.file_ending not in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff") else 1  # anterior up
    view = _view(truth[z])
    grey = image[z][view][::upright]
    low, high = np.percentile(grey, [1, 99])
    for axes, column in zip(line, ["image", *columns], strict=True):
        axes.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        if column == "image":
            axes.set_title(f"{row.target}\n{name}", fontsize=8)
            _outline(axes, truth[z][view][::upright], TRUTH_COLOUR)
            continue
        if column not in row.summaries:
            continue
        run = RunFolder(experiment.root.results / row.folders[column][0])
        folder = run.masks(row.part, row.target if column == "multi-head" else None)
        predicted = read_image(folder / f"{name}{mask_ending(case)}").array > 0
        dice = next(iter(entry.metrics.values() for entry in row.summaries[column][0].metric_per_case
                         if entry.case_id == name))  # fmt: skip
        scores = [f"{100 * scores.dice:.0f}" for scores in dice if scores.dice is not None]
        axes.set_title(f"{column}\nDSC {', '.join(scores)}", fontsize=8)
        _outline(axes, truth[z][view][::upright], TRUTH_COLOUR)
        _outline(axes, predicted[z][view][::upright], PREDICTION_COLOUR)


def median_case(summary: Summary) -> str | None:
    """The case whose DSC is the median; None where no case has one."""
    scored = []
    for case in summary.metric_per_case:
        values = [scores.dice for scores in case.metrics.values() if scores.dice is not None]
        if values:
            scored.append((float(np.mean(values)), case.case_id))
    return sorted(scored)[len(scored) // 2][1] if scored else None


def _view(truth: np.ndarray) -> tuple[slice, slice]:
    """The part of a slice around the lesion, at least half the image."""
    view = []
    for axis in (0, 1):
        found = np.flatnonzero(truth.any(1 - axis))
        size = truth.shape[axis]
        if not len(found):
            view.append(slice(0, size))
            continue
        extent = max((found[-1] - found[0]) * (1 + 2 * _MARGIN), size / 2, min(_SMALLEST_VIEW, size))
        start = int(max(0, min((found[0] + found[-1]) / 2 - extent / 2, size - extent)))
        view.append(slice(start, int(start + extent)))
    return view[0], view[1]


def _outline(axes: Axes, mask: np.ndarray, colour: str) -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)


def overlay_path(table: Path) -> Path:
    """The picture beside a table."""
    return table.with_name(table.stem.replace("table", "overlays", 1) + ".png")


