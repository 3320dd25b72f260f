"""Which scores a task's tables show, and which one is judged."""

from collections.abc import Mapping
from typing import NamedTuple

from mdkd_auto.experiments.class_scoring import CLASS_TITLES
from mdkd_auto.experiments.scoring import IN_PERCENT, TITLES
from mdkd_auto.metrics.classification import CLASS_METRICS
from mdkd_auto.metrics.summary import METRICS


class Scale(NamedTuple):
    """The scores of a task, and the one whose differences are judged, in words."""

    metrics: tuple[str, ...]
    titles: Mapping[str, str]
    in_percent: tuple[str, ...]
    per_patient: tuple[str, ...]  # those shown over patients too
    judged: str  # the first of the metrics
    note: str


SCALES: dict[str, Scale] = {
    "segmentation": Scale(
        METRICS, TITLES, IN_PERCENT, ("dice", "lesion_f1"), "DSC",
        "n is the number of images in which the metric is evaluable (where truth and prediction are both empty there "
        "is no DSC).",
    ),
    "classification": Scale(
        CLASS_METRICS, CLASS_TITLES, CLASS_METRICS, (), "accuracy",
        "n is the number of images. Balanced accuracy and F1 are means over the classes that occur, AUROC of one class "
        "against the rest.",
    ),
}  # fmt: skip
