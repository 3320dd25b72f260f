"""How the answers of each task are scored, one entry a task."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mdkd_auto.core.records import ByTask, Case
from mdkd_auto.metrics.classification import CLASS_METRICS
from mdkd_auto.metrics.detection import DETECTION_METRICS
from mdkd_auto.metrics.summary import METRICS
from mdkd_auto.tasks.classification.foreign_predictions import score_predictions
from mdkd_auto.tasks.classification.scoring import (
    CLASS_TITLES,
    ClassSummary,
    class_summary_markdown,
    logits_hash,
    rows_are_written,
    score_classes_of_part,
    write_class_summary,
)
from mdkd_auto.tasks.detection.foreign_detections import score_detections
from mdkd_auto.tasks.detection.scoring import (
    BOX_TITLES,
    BoxSummary,
    box_summary_markdown,
    detections_are_written,
    detections_hash,
    score_boxes_of_part,
    write_box_summary,
)
from mdkd_auto.tasks.segmentation.foreign_masks import score_mask_folder
from mdkd_auto.tasks.segmentation.scoring import (
    IN_PERCENT,
    TITLES,
    Summary,
    mask_hash,
    score_masks_of_part,
    summary_markdown,
    write_summary,
)
from mdkd_auto.tasks.shared.coverage import Found, Truth
from mdkd_auto.tasks.shared.scored_part import Part

LEAST_ABOVE_CHANCE = 0.05  # of balanced accuracy: the same of two classifiers
LEAST_FOUND = 0.1  # of DSC or F1: two models below it differ, but neither is of use


class Scale(NamedTuple):
    """The scores of a task, and the one whose differences are judged, in words."""

    metrics: tuple[str, ...]
    titles: Mapping[str, str]
    in_percent: tuple[str, ...]
    per_patient: tuple[str, ...]  # those shown over patients too
    judged: str  # the first of the metrics
    note: str
    quick: str  # the validation score of training
    right_or_wrong: bool = False  # a case counts 1 or 0: McNemar's test for one replicate whose units do too
    nothing: float = 0.0  # less than this above chance says that next to nothing was found
    found_by: str = ""  # the score that says so; "": the judged one
    chance: Callable[[Any], float] = lambda summary: 0.0  # of it, in a summary


class TaskScores(NamedTuple):
    """How a task's answers become scores, in files and in words. A summary is as parts.AnySummary says.

    Its fields ``failed`` and ``coverage`` hold what the scores of a folder leave out (see coverage).
    """

    # of the validation part, then of the test part, which is given what the first returned (None before)
    score_part: Callable[[Part, float | None], float | None]
    prediction_hash: Callable[[Path, Case, Any], str]  # of folder, case and answer: of what is stored as predicted
    summary: type  # of summary.json
    score_folder: Callable[[Path, Truth, bool | None], Found]  # anyone's answers in a folder; whether all classes
    write: Callable[[Path, Any], None]  # the summary of such a folder
    markdown: Callable[[Any], str]
    weighed_by: str  # the score that teachers are weighed by
    scale: Scale
    weighed_above: Callable[[Any], float] = lambda summary: 0.0  # what of that score is chance, in a summary
    # whether the files of a folder that repeat its summary are as that has them; else they are written again
    is_written: Callable[[Path, Any], bool] = lambda folder, summary: True
    carried: Callable[[Any], float | None] = lambda summary: None  # from validation to test, as a summary has it


def _chance_of_balanced_accuracy(summary: ClassSummary) -> float:
    """It is a mean over the classes that occur: of K classes of which two do, guessing one of the two gives 1 / 2."""
    return 1 / max(1, sum(any(row) for row in summary.confusion))


TASK_SCORES = ByTask(
    {
        "segmentation": TaskScores(
            score_masks_of_part,
            mask_hash,
            Summary,
            score_mask_folder,
            write_summary,
            summary_markdown,
            "dice",
            Scale(
                METRICS,
                TITLES,
                IN_PERCENT,
                ("dice", "lesion_f1"),
                "DSC",
                "n is the number of images in which the metric is evaluable (where truth and prediction are both empty "
                "there is no DSC). In verdicts a patient without the lesion counts 1 if nothing is found, else 0.",
                "DSC of patches",
                nothing=LEAST_FOUND,
            ),
        ),
        "classification": TaskScores(
            score_classes_of_part,
            logits_hash,
            ClassSummary,
            lambda folder, truth, keep_classes: score_predictions(folder, truth),
            partial(write_class_summary, answers=False),
            class_summary_markdown,
            "balanced_accuracy",
            Scale(
                CLASS_METRICS,
                CLASS_TITLES,
                CLASS_METRICS,
                (),
                "accuracy",
                "n is the number of images. Balanced accuracy and F1 are means over the classes that occur, AUROC of "
                "one class against the rest.",
                "balanced accuracy",
                right_or_wrong=True,
                nothing=LEAST_ABOVE_CHANCE,
                found_by="balanced_accuracy",
                chance=_chance_of_balanced_accuracy,
            ),
            # of all classes, occurring or not: finished joint teachers and students were weighed so
            lambda summary: 1 / len(summary.classes),
            is_written=rows_are_written,
            carried=lambda summary: summary.temperature,
        ),
        "detection": TaskScores(
            score_boxes_of_part,
            detections_hash,
            BoxSummary,
            lambda folder, truth, keep_classes: score_detections(folder, truth),
            partial(write_box_summary, answers=False),
            box_summary_markdown,
            "map_50",
            Scale(
                ("f1", *(name for name in DETECTION_METRICS if name != "f1")),
                BOX_TITLES,
                DETECTION_METRICS,
                (),
                "F1",
                "n is the number of images. A box is found where it overlaps one of its class by half. Sensitivity, "
                "precision and F1 hold at the score threshold with the highest F1 on the validation images. Verdicts "
                "compare the F1 of each patient's boxes (without a true box: 1 if nothing is found, else 0); there n "
                "is the number of patients. FROC is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false boxes "
                "an image.",
                "R-precision of boxes",
                nothing=LEAST_FOUND,
            ),
            is_written=detections_are_written,
            carried=lambda summary: summary.threshold,
        ),
    }
)
