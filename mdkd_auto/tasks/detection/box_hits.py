"""How the four numbers of a detection are written, judged by the true boxes that they hit.

Corners that lie near an image's origin look like x, y, width, height inside it; only the truth tells them apart.
"""

from collections.abc import Sequence

import numpy as np

from mdkd_auto.datasets.truth.box_layouts import LAYOUTS, SIZES, Layout, Suspicion
from mdkd_auto.metrics.detection import IOU, box_ious
from mdkd_auto.tasks.detection.scoring import BoxAnswer, detected_boxes, truth_boxes

ENOUGH_HITS = 3  # that another layout alone explains
CLEARLY = 4  # times as many as hit as they are read


def suspect_hits(answers: Sequence[BoxAnswer]) -> Suspicion | None:
    """Whether detections hit true boxes as another layout than the one they were read as: x, y, width, height.

    Of each image only as many detections count as it has true boxes, the highest scores first: among many boxes some
    hit by chance. An error where more than half of them hit, a doubt where more hit than as they are read.
    """
    judged = [answer for answer in answers if answer.truth and answer.detected]
    here = _hits(judged, SIZES)
    others = [(layout.name, int((_hits(judged, layout) & ~here).sum())) for layout in LAYOUTS if layout is not SIZES]
    name, explained = max(others, key=lambda one: one[1])
    if explained < ENOUGH_HITS or explained <= here.sum():
        return None
    certain = explained * 2 > len(here) and here.sum() * CLEARLY <= explained
    found = f"{explained} of the {len(here)} likeliest boxes hit a true box as {name}, {here.sum()} as {SIZES.name}"
    return Suspicion(certain, found, f"write {SIZES.name}" if certain else "look at some boxes")


def _hits(answers: Sequence[BoxAnswer], layout: Layout) -> np.ndarray:
    """Whether each of the likeliest detections overlaps a true box of its class, if a file writes boxes that way."""
    hits: list[bool] = []
    for answer in answers:
        truth, found = truth_boxes(answer), detected_boxes(answer)
        likeliest = np.argsort(-np.array(answer.scores), kind="stable")[: len(answer.truth)]
        for (x1, y1, x2, y2), number in zip(found.boxes[likeliest], found.classes[likeliest], strict=True):
            corners = np.array([layout.corners((x1, y1, x2 - x1, y2 - y1))])
            hits.append(bool((box_ious(corners, truth.boxes[truth.classes == number]) >= IOU).any()))
    return np.array(hits, dtype=bool)
