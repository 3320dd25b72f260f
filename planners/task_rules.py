"""Planning rules that differ between tasks, one entry per task."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mdkd_auto.core.records import ByTask, ConfigurationPlan, Dataset, Fingerprint, Plan, Reason, Splits
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.planners.classification import class_counts, plan_classification
from mdkd_auto.planners.detection import box_counts, plan_detection
from mdkd_auto.planners.group_member import Member
from mdkd_auto.planners.integrity import check_classes
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.segmentation import plan_segmentation


class TaskRules(NamedTuple):
    """How groups of a task are planned."""

    plan: Callable[[Sequence[Member], PlanRequest, Plan | None], list[ConfigurationPlan]]  # the last: the plan to keep
    counts: Callable[[Fingerprint], Reason] | None = None  # reports class or box counts of a data set
    check_splits: Callable[[Dataset, Splits], list[Problem]] | None = None  # checks splits against the truth


TASK_RULES = ByTask(
    {
        "segmentation": TaskRules(plan=plan_segmentation),
        "classification": TaskRules(plan=plan_classification, counts=class_counts, check_splits=check_classes),
        "detection": TaskRules(plan=plan_detection, counts=box_counts),
    }
)
