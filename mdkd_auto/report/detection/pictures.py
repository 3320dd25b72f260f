"""Boxes drawn on their images: of new ones, and truth beside every column's on the worst, median and best case."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import write_atomically
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.formats.read_write import Image
from mdkd_auto.metrics.detection import BoxCounts, Boxes, image_counts, matches, threshold_scores
from mdkd_auto.report.comparison import COLUMNS, Row
from mdkd_auto.report.segmentation.overlays import PREDICTION_COLOUR, TRUTH_COLOUR
from mdkd_auto.tasks.detection.scoring import BoxAnswer, BoxSummary, detected_boxes, truth_boxes
from mdkd_auto.tasks.shared.prediction import read_channel

WIDTH_INCHES, PANEL_INCHES = 5.0, 2.8
LABELLED = 10  # boxes of a picture; more hide what they name


def draw_boxes(path: Path, image: Image, found: Boxes, classes: Sequence[str], threshold: float) -> None:
    """One image with the boxes that reach the threshold, their class and score."""
    picture = _picture(image)
    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * picture.shape[0] / picture.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    _show(axes, picture)
    _outline(axes, found, PREDICTION_COLOUR, threshold, classes)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def draw_detections(path: Path, experiment: Experiment, row: Row) -> None:
    """A line a case, a panel a column: truth green, what reaches the column's threshold red.

    The worst, median and best image by the student's F1. Raises MdkdError where none has one, or an image is gone.
    """
    columns = [column for column in COLUMNS if column in row.summaries]
    summaries = {column: _boxes_of(row, column) for column in columns}
    chosen = chosen_images(summaries["student" if "student" in columns else columns[-1]])
    if not chosen:
        raise MdkdError(f"{row.target}: no {row.part} image has a true or detected box")
    figure = Figure(
        figsize=(PANEL_INCHES * len(columns), 0.8 + (PANEL_INCHES + 0.4) * len(chosen)), layout="constrained"
    )
    panels = figure.subplots(len(chosen), len(columns), squeeze=False)
    cases = {case.case_id: case for case in experiment.datasets[row.target].cases}
    for line, (word, name) in zip(panels, chosen.items(), strict=True):
        if name not in cases:
            raise MdkdError(f"{row.target}: case {name} is gone from the raw folder")
        image = read_channel(cases[name], experiment.plan.dataset(row.target), colour_to_grey=True)
        for axes, column in zip(line, columns, strict=True):
            summary = summaries[column]
            answer = next(one for one in summary.answers if one.case_id == name)
            _show(axes, _picture(image))
            _outline(axes, truth_boxes(answer), TRUTH_COLOUR)
            _outline(axes, detected_boxes(answer), PREDICTION_COLOUR, summary.threshold, summary.classes)
            score = image_f1([answer], summary.threshold)[0]
            said = "-" if score is None else f"{100 * score:.0f}"
            head = f"{word} {row.part} image\n{name[:36]}\n" if column == columns[0] else ""
            axes.set_title(f"{head}{column}: F1 {said}".replace("$", r"\$"), fontsize=8)
    lines = [
        Line2D([], [], color=colour, label=name, linewidth=2.5)
        for name, colour in (("truth", TRUTH_COLOUR), ("detected", PREDICTION_COLOUR))
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(f"{row.target}: images by the student's F1".replace("$", r"\$"), fontsize=11)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def chosen_images(summary: BoxSummary) -> dict[str, str]:
    """The worst, median and best image by F1 (of two: worst and best, or the only one).

    Of the images with a true box, where there are any: F1 of the others is 0 wherever anything is detected.
    """
    answers = [answer for answer in summary.answers if answer.truth] or list(summary.answers)
    scored = sorted(
        (score, answer.case_id)
        for answer, score in zip(answers, image_f1(answers, summary.threshold), strict=True)
        if score is not None
    )
    names = [name for _, name in scored]
    if len(names) < 2:
        return {"only": names[0]} if names else {}
    middle = {"median": names[len(names) // 2]} if len(names) > 2 else {}
    return {"worst": names[0], **middle, "best": names[-1]}


def image_f1(answers: Sequence[BoxAnswer], threshold: float) -> list[float | None]:
    """F1 of each image at the threshold; None without true and detected boxes."""
    counts = image_counts(
        matches([truth_boxes(one) for one in answers], [detected_boxes(one) for one in answers]), threshold
    )
    return [threshold_scores(BoxCounts(*row.tolist()))["f1"] for row in counts]


def _boxes_of(row: Row, column: str) -> BoxSummary:
    summary = row.summaries[column][0]
    assert isinstance(summary, BoxSummary)
    return summary


def _picture(image: Image) -> NDArray[np.float32]:
    """(y, x), the top row first."""
    return image.array[0].astype(np.float32)


def _show(axes: Axes, picture: NDArray[np.float32]) -> None:
    """Grey, from the 1st to the 99th percentile; places are pixels from the image's corner, as boxes' are."""
    low, high = np.percentile(picture, (1, 99))
    height, width = picture.shape
    axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=(0, width, height, 0))
    axes.set_axis_off()


def _outline(axes: Axes, boxes: Boxes, colour: str, threshold: float = 0.0, classes: Sequence[str] = ()) -> None:
    """The boxes whose score reaches the threshold (all where there are no scores), named if ``classes`` are given."""
    scores = np.ones(len(boxes.boxes)) if boxes.scores is None else boxes.scores
    shown = np.flatnonzero(scores >= threshold)
    for place in shown:
        x1, y1, x2, y2 = boxes.boxes[place]
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))
        if classes and len(shown) <= LABELLED:
            text = f"{classes[boxes.classes[place]]} {scores[place]:.2f}"
            axes.text(x1, y1 - 2, text.replace("$", r"\$"), color=colour, fontsize=6, va="bottom", clip_on=True)
