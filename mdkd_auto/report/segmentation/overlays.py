"""Overlays: truth beside every column's mask on the worst, the median and the best test case of a target."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.core.paths import RunFolder
from mdkd_auto.core.records import Case
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.formats.read_write import read_mask
from mdkd_auto.report.comparison import COLUMNS, Row
from mdkd_auto.report.patches import Bools, busiest_slice, row_step
from mdkd_auto.tasks.segmentation.scoring import CaseScores, Summary, read_truth
from mdkd_auto.tasks.shared.prediction import mask_ending, read_channel

TRUTH_COLOUR, PREDICTION_COLOUR = "#00d98b", "#ff1744"  # green and red of different brightness and hue for all eyes
_MARGIN = 0.35  # of the lesion's extent, shown around it where the image is large
_SMALLEST_VIEW = 48  # voxels
_LEAST_VIEW = 1 / 3  # of the image
_NARROWEST = 2 / 3  # of the longer side
_PANEL_INCHES, _TITLE_INCHES = 2.6, 0.5


class Slice(NamedTuple):
    """What a line of panels shows: one slice of a case, the part of it in view, top row first."""

    image: NDArray[np.float32]
    truth: Bools
    masks: dict[str, Bools]  # by column
    aspect: float  # height of a pixel against its width


def draw_overlays(path: Path, experiment: Experiment, row: Row) -> None:
    """A line a case, a panel a column: truth green, prediction red. Raises MdkdError where an image or mask is gone."""
    columns = [column for column in COLUMNS if column in row.summaries]
    judge = "student" if "student" in row.summaries else columns[-1]
    summaries = {column: row.masks(column) for column in columns}
    chosen = chosen_cases(summaries[judge])
    if not chosen:
        raise MdkdError(f"{row.target}: no {row.part} case has a DSC")
    slices = [_read_slice(experiment, row, name, columns) for name in chosen.values()]
    heights = [_PANEL_INCHES * one.aspect * one.image.shape[0] / one.image.shape[1] + _TITLE_INCHES for one in slices]
    figure = Figure(figsize=(_PANEL_INCHES * (len(columns) + 1), 0.8 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(chosen), len(columns) + 1, squeeze=False, height_ratios=heights)
    for line, shown, (word, name) in zip(panels, slices, chosen.items(), strict=True):
        _draw_panel(line[0], shown, None, f"{word} {row.part} case\n{_short(name)}")
        for axes, column in zip(line[1:], columns, strict=True):
            _draw_panel(axes, shown, column, f"{column}\n{_dice(summaries[column], name)}")
    figure.suptitle(f"{row.target}: cases by the {judge}'s DSC", fontsize=11)
    names = (("truth", TRUTH_COLOUR), ("prediction", PREDICTION_COLOUR))
    lines = [Line2D([], [], color=colour, label=name, linewidth=2.5) for name, colour in names]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def chosen_cases(summary: Summary) -> dict[str, str]:
    """The worst, median and best case by DSC (classes averaged): worst and best of two, the only one, or none.

    Of the cases with a lesion, where there are any: an empty truth has a DSC of 0 wherever anything is predicted. Of an
    even number the median is the upper of the two in the middle; equal cases stand in the order of their names.
    """
    positive = [case for case in summary.metric_per_case if not all(one.negative for one in case.metrics.values())]
    cases = positive or summary.metric_per_case
    scored = sorted((dice, case.case_id) for case in cases if (dice := _mean_dice(case)) is not None)
    names = [name for _, name in scored]
    if not names:
        return {}
    if len(names) == 1:
        return {"only": names[0]}
    middle = {"median": names[len(names) // 2]} if len(names) > 2 else {}
    return {"worst": names[0], **middle, "best": names[-1]}


def median_case(summary: Summary) -> str | None:
    """The median of :func:`chosen_cases`, or the best of two; None where no case has a DSC."""
    chosen = chosen_cases(summary)
    return next((chosen[word] for word in ("median", "best", "only") if word in chosen), None)


def _mean_dice(case: CaseScores) -> float | None:
    values = [scores.dice for scores in case.metrics.values() if scores.dice is not None]
    return float(np.mean(values)) if values else None


def _dice(summary: Summary, name: str) -> str:
    """DSC 71, or one number a class."""
    scores = next((case.metrics for case in summary.metric_per_case if case.case_id == name), {})
    values = [f"{100 * one.dice:.0f}" if one.dice is not None else "-" for one in scores.values()]
    return f"DSC {' / '.join(values)}" if values else "not scored"


def _read_slice(experiment: Experiment, row: Row, name: str, columns: Sequence[str]) -> Slice:
    """The slice with most truth; without any, that with most of what the last column (the student) predicts."""
    dataset = experiment.datasets[row.target]
    case = next(case for case in dataset.cases if case.case_id == name)
    image = read_channel(case, experiment.plan.dataset(row.target))
    values = [value for channel in experiment.classes(row.target).channels for value in channel.values]
    truth = np.isin(read_truth(case, dataset).array, values)
    masks = {column: _read_mask(experiment, row, case, column) for column in columns}
    ruling = truth if truth.any() else masks[columns[-1]]
    z = busiest_slice(ruling)
    view = view_of(np.any([truth[z], *(mask[z] for mask in masks.values())], axis=0))
    upright = slice(None, None, row_step(dataset, name))

    def shown(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array[z][view][upright]

    return Slice(
        image=shown(image.array).astype(np.float32),
        truth=shown(truth).astype(bool),
        masks={column: shown(mask).astype(bool) for column, mask in masks.items()},
        aspect=image.spacing_mm[1] / image.spacing_mm[2],
    )


def _read_mask(experiment: Experiment, row: Row, case: Case, column: str) -> Bools:
    """What the column's first replicate predicted. Raises ImageError where the mask is gone."""
    run = RunFolder(experiment.root.results / row.folders[column][0])
    folder = run.masks(row.part, row.target if column == "multi-head" else None)
    file = folder / f"{case.case_id}{mask_ending(case)}"
    mask: Bools = read_mask(file, spacing_from=case.spacing_from).array > 0
    return mask


def view_of(mask: Bools) -> tuple[slice, slice]:
    """The part of a slice around the foreground, at least a third of each side and not too long a strip.

    All of the slice where there is no foreground.
    """
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    found = [np.flatnonzero(mask.any(1 - axis)) for axis in (0, 1)]
    wanted = [
        max((places[-1] - places[0]) * (1 + 2 * _MARGIN), size * _LEAST_VIEW, _SMALLEST_VIEW)
        for places, size in zip(found, mask.shape, strict=True)
    ]
    view = []
    for places, size, extent in zip(found, mask.shape, wanted, strict=True):
        length = min(size, max(extent, max(wanted) * _NARROWEST))
        start = int(max(0, min((places[0] + places[-1]) / 2 - length / 2, size - length)))
        view.append(slice(start, int(start + length)))
    return view[0], view[1]


def _draw_panel(axes: Axes, shown: Slice, column: str | None, title: str) -> None:
    """The image alone, or with the outlines of truth and of a column's mask."""
    show_image(axes, shown.image, shown.aspect)
    axes.set_title(title, fontsize=9)
    if column is not None:
        outline(axes, shown.truth, TRUTH_COLOUR, 2.0)
        outline(axes, shown.masks[column], PREDICTION_COLOUR, 1.1)
        if not shown.masks[column].any():
            axes.text(
                0.5,
                0.02,
                "nothing predicted here",
                transform=axes.transAxes,
                color="white",
                fontsize=8,
                ha="center",
                va="bottom",
                bbox={"color": "black", "pad": 2},
            )


def show_image(axes: Axes, image: NDArray[np.float32], aspect: float = 1.0) -> None:
    """A grey picture between the image's 1st and 99th percentile, without axes."""
    low, high = np.percentile(image, [1, 99])
    axes.set_axis_off()
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest", aspect=aspect)


def outline(axes: Axes, mask: Bools, colour: str, width: float) -> None:
    """Draw the edge of a mask, which may touch the picture's."""
    height, length = mask.shape
    for edge in edges_of(mask):
        axes.plot(edge[:, 1], edge[:, 0], color=colour, linewidth=width)
    axes.set_xlim(-0.5, length - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def edges_of(mask: Bools) -> list[NDArray[np.float64]]:
    """The closed lines around the foreground of a mask (y, x), each (points, 2), half a pixel outside its centres."""
    from skimage.measure import find_contours

    return [edge - 1 for edge in find_contours(np.pad(mask.astype(np.float64), 1), 0.5)]


def _short(name: str, most: int = 28) -> str:
    """Long names are cut in their middle, so that titles do not run into each other."""
    return name if len(name) <= most else f"{name[: most // 2]}...{name[-most // 2 + 3 :]}"
