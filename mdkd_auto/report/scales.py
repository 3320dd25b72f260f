"""Which scores a task's tables show, and which one is judged."""

from collections.abc import Mapping
from typing import NamedTuple

from mdkd_auto.experiments.box_scoring import BOX_TITLES
from mdkd_auto.experiments.class_scoring import CLASS_TITLES
from mdkd_auto.experiments.scoring import IN_PERCENT, TITLES
from mdkd_auto.metrics.classification import CLASS_METRICS
from mdkd_auto.metrics.detection import DETECTION_METRICS
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
    "detection": Scale(
        ("f1", *(name for name in DETECTION_METRICS if name != "f1")), BOX_TITLES, DETECTION_METRICS, (), "F1",
        "n is the number of images. A box is found where it overlaps one of its class by half. Sensitivity, precision "
        "and F1 hold at the score threshold with the highest F1 on the validation images; F1 is judged, of each "
        "patient's boxes. FROC is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false boxes an image.",
    ),
}  # fmt: skip
