"""Preprocess a whole data set for one configuration: resumable, parallel; a failing case does not stop the others."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.file_hashes import HashOf
from mdkd_auto.core.files import content_hash, file_hash, make_folder
from mdkd_auto.core.records import Case, ConfigurationPlan, Dataset, DatasetPlan, Plan, PreprocessedCase, Record
from mdkd_auto.core.workers import map_cases
from mdkd_auto.datasets.case_reading import bytes_to_read, source_hash
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.preprocessing.box_geometry import stored_boxes
from mdkd_auto.preprocessing.case import preprocess_case, read_case
from mdkd_auto.preprocessing.case_store import (
    compact_label,
    image_path,
    label_path,
    read_case_record,
    record_path,
    save_case,
)
from mdkd_auto.preprocessing.lesions import sample_lesions

PREPROCESSING_VERSION = 2  # raise it if the same decisions yield different arrays
COPIES_WHILE_RESAMPLING = 2  # times the memory of reading and checking a case


class Outcome(Record, frozen=True, kw_only=True):
    """The result of preprocessing a data set."""

    done: int
    skipped: int  # already stored and unchanged
    failed: tuple[tuple[str, str], ...]  # case, error message


def preprocess_dataset(
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    folder: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Preprocess every case into ``folder``; unchanged cases are skipped. Raises KeyError."""
    make_folder(folder)
    work = partial(
        store_case,
        dataset=msgspec.structs.replace(dataset, cases=()),
        dataset_plan=plan.dataset(dataset.name),
        configuration_plan=plan.configuration(configuration),
        folder=folder,
    )
    items = {case.case_id: case for case in dataset.cases}
    needed = COPIES_WHILE_RESAMPLING * max((bytes_to_read(case) for case in dataset.cases), default=0)
    results, failed = map_cases(work, items, workers, progress, bytes_a_worker=needed)
    done = sum(results.values())
    return Outcome(done=done, skipped=len(results) - done, failed=tuple(failed.items()))


def store_case(
    case: Case, dataset: Dataset, dataset_plan: DatasetPlan, configuration_plan: ConfigurationPlan, folder: Path
) -> bool:
    """Preprocess and store one case; False if it is already stored. Raises ImageError, PlanError."""
    key = case_key(case, dataset, dataset_plan, configuration_plan)
    if is_stored(folder, case, dataset, key):
        return False
    raw = read_case(case, dataset, dataset_plan.channel)
    image, label, geometry = preprocess_case(raw.image, raw.spacing_mm, raw.label, dataset_plan, configuration_plan)
    if not TASK_DATA[dataset.task].masks:  # a constant map, so patches and augmentation handle a single kind of label
        value = TASK_DATA[dataset.task].label_value(case, dataset)
        label = compact_label(np.full(geometry.resampled_shape, value))
    record = PreprocessedCase(
        case_id=case.case_id,
        key=key,
        geometry=geometry,
        shape=geometry.resampled_shape,
        lesions=() if label is None or case.label is None else sample_lesions(label, dataset.ignore_label),
        boxes=None if case.boxes is None else stored_boxes(case.boxes, dataset.labels, geometry),
        plan_key=plan_key(dataset, dataset_plan, configuration_plan),
    )
    save_case(folder, record, image, label, flat=configuration_plan.configuration == "2d")
    return True


def case_key(
    case: Case,
    dataset: Dataset,
    dataset_plan: DatasetPlan,
    configuration_plan: ConfigurationPlan,
    hash_of: HashOf = file_hash,
) -> str:
    """Hash of the case's files and of every decision that changes its arrays."""
    source = source_hash(case, [dataset_plan.channel], hash_of)
    return content_hash({**_decisions(dataset, dataset_plan, configuration_plan), "source": source})


def plan_key(dataset: Dataset, dataset_plan: DatasetPlan, configuration_plan: ConfigurationPlan) -> str:
    """Hash of those decisions alone, equal for all cases of a data set; reads no file."""
    return content_hash(_decisions(dataset, dataset_plan, configuration_plan))


def _decisions(dataset: Dataset, dataset_plan: DatasetPlan, configuration_plan: ConfigurationPlan) -> dict[str, Any]:
    """Collect every decision that changes the arrays of a case."""
    whole = {"patch_size": configuration_plan.patch_size} if configuration_plan.whole_images else {}
    declared = {} if dataset.spacing_from is None else {"spacing_from": dataset.spacing_from}
    return {
        **whole,
        **declared,
        "dataset": {"spacing_mm": dataset.spacing_mm, "labels": dataset.labels, "ignore": dataset.ignore_label},
        "dataset_plan": dataset_plan,
        "configuration": configuration_plan.configuration,
        "spacing_mm": configuration_plan.spacing_mm,
        "version": PREPROCESSING_VERSION,
    }


def is_stored(folder: Path, case: Case, dataset: Dataset, key: str) -> bool:
    """Whether the case is stored completely under this key."""
    if not record_path(folder, case.case_id).is_file():
        return False
    try:
        record = read_case_record(folder, case.case_id)
    except MdkdError:
        return False  # damaged or of another version: preprocess again
    needs_label = case.label is not None or not TASK_DATA[dataset.task].masks
    arrays = [image_path(folder, case.case_id), *([label_path(folder, case.case_id)] if needs_label else [])]
    return record.key == key and all(path.is_file() for path in arrays)
