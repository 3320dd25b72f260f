"""What each task brings to a run, one entry a task: its parts for training, its predictor, the networks it has."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from mdkd_auto.core.records import ByTask, ConfigurationPlan, DatasetPlan
from mdkd_auto.core.settings import Architecture, Settings
from mdkd_auto.tasks.classification import training as classification
from mdkd_auto.tasks.detection import training as detection
from mdkd_auto.tasks.segmentation import training as segmentation
from mdkd_auto.tasks.shared.classes import Classes
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.training.interfaces import TrainingTask


class Given(NamedTuple):
    """What the parts of a run are made from."""

    plan: ConfigurationPlan
    classes: dict[str, Classes]
    settings: Settings  # with the task's own in their place
    distils: bool  # whether it is a student's
    architecture: Architecture
    width: int | None
    class_counts: dict[str, tuple[int, ...]]  # training cases of each class of a data set; {} without such classes


class TaskParts(NamedTuple):
    """What a run of a task is made of."""

    training: Callable[[Given], TrainingTask]
    predictor: Callable[[nn.Module, DatasetPlan, ConfigurationPlan, Classes, PredictionOptions], Any]
    check: Callable[[Settings, ConfigurationPlan], None]  # raises SettingsError for networks that it does not have
    has_width: Callable[[Architecture], bool] = lambda name: True  # whether a network may be made wider or narrower
    counts_memory: bool = True  # whether what an update keeps can be counted without computing it


TASK_PARTS = ByTask(
    {
        "segmentation": TaskParts(
            lambda given: segmentation.SegmentationTask(*given[:6]),
            segmentation.predictor_of,
            segmentation.check_settings,
        ),
        "classification": TaskParts(
            lambda given: classification.ClassificationTask(*given),
            classification.Classifier,
            classification.check_settings,
            classification.has_width,
        ),
        "detection": TaskParts(
            lambda given: detection.DetectionTask(
                given.plan, given.classes, given.settings, given.architecture, given.width
            ),
            detection.Detector,
            detection.check_settings,
            lambda name: False,
            counts_memory=False,  # a detector's losses pick regions by their values
        ),
    }
)
