"""A finished model judged on images that its training did not see: the fold's validation cases and the test part."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from mdkd_auto.data.images import Image, write_mask
from mdkd_auto.errors import MdkdError
from mdkd_auto.experiments.box_scoring import (
    BoxAnswer,
    BoxSummary,
    box_answer_of,
    summary_of_boxes,
    threshold_of,
    write_box_summary,
)
from mdkd_auto.experiments.class_scoring import (
    Answer,
    ClassSummary,
    answer_of,
    summary_of_answers,
    temperature_of,
    write_class_summary,
)
from mdkd_auto.experiments.jobs import Experiment, Job
from mdkd_auto.experiments.runs import load_predictor
from mdkd_auto.experiments.scoring import CaseScores, Summary, score_against_label, summary_of, write_summary
from mdkd_auto.files import WriteError, read_record
from mdkd_auto.metrics.detection import FALLBACK_THRESHOLD, Boxes
from mdkd_auto.paths import RunFolder
from mdkd_auto.progress import progress
from mdkd_auto.records import Case, DatasetPlan, Triple
from mdkd_auto.tasks.classification import Classifier
from mdkd_auto.tasks.detection import Detector
from mdkd_auto.tasks.segmentation import PredictionOptions, Predictor, mask_ending, read_channel

logger = logging.getLogger(__name__)

VALIDATION, TEST = "validation", "test"
AnySummary = Summary | ClassSummary | BoxSummary
Answered = TypeVar("Answered")


def evaluate_run(experiment: Experiment, job: Job, options: PredictionOptions) -> None:
    """Predict and score the validation and test cases of the job's target (of every data set for multi-head).

    A source teacher is only a means: it is scored on the target's validation cases. A classifier's probabilities are
    calibrated on the validation cases, and a detector's score threshold is chosen there.
    """
    folder = RunFolder(experiment.root.results / job.folder)
    several = job.stage == "multi_head"
    for dataset in job.datasets if several else (job.target,):
        predictor = load_predictor(folder.folder, options, dataset)
        temperature, threshold = 1.0, FALLBACK_THRESHOLD
        for part in (VALIDATION,) if job.stage == "source_teacher" else (VALIDATION, TEST):
            cases = cases_of_part(experiment, dataset, part)
            target = folder.masks(part, dataset if several else None)
            if cases and isinstance(predictor, Predictor):
                write_summary(target, _predict_and_score(experiment, dataset, part, cases, predictor, target))
            elif cases and isinstance(predictor, Classifier):
                answers, failed = _answers(dataset, part, cases, partial(_class_of, predictor), predictor.dataset_plan)
                temperature = temperature_of(answers) if part == VALIDATION else temperature
                write_class_summary(
                    target, summary_of_answers(answers, _names(predictor), dataset, part, temperature, failed)
                )
            elif cases and isinstance(predictor, Detector):
                work = partial(boxes_of, predictor, experiment.datasets[dataset].spacing_mm)
                boxes, failed = _answers(dataset, part, cases, work, predictor.dataset_plan)
                threshold = threshold_of(boxes) if part == VALIDATION else threshold
                write_box_summary(
                    target, summary_of_boxes(boxes, _names(predictor), dataset, part, threshold, failed)
                )


def read_summary(folder: RunFolder, part: str, dataset: str | None) -> AnySummary | None:
    """The summary of a run, None where it has none."""
    path = folder.masks(part, dataset) / "summary.json"
    if not path.is_file():
        return None
    if (path.parent / "predictions.csv").is_file():
        return read_record(path, ClassSummary)
    if (path.parent / "detections.csv").is_file():
        return read_record(path, BoxSummary)
    return read_record(path, Summary)


def cases_of_part(experiment: Experiment, dataset: str, part: str) -> list[Case]:
    """The raw cases of the fold's validation part, or of the test part."""
    splits = experiment.splits[dataset]
    if part == TEST:
        wanted = set(splits.test)
    else:
        wanted = set(splits.folds[min(experiment.settings.fold, len(splits.folds) - 1)].val)
    return [case for case in experiment.datasets[dataset].cases if case.case_id in wanted]


def _predict_and_score(
    experiment: Experiment, name: str, part: str, cases: list[Case], predictor: Predictor, folder: Path
) -> Summary:
    dataset = experiment.datasets[name]
    scores: list[CaseScores] = []
    failed: dict[str, str] = {}
    known = True
    with progress(f"{part} of {name}") as advance:
        for number, case in enumerate(cases, start=1):
            try:
                image = read_channel(case, predictor.dataset_plan)
                known = known and (image.spacing_known or dataset.spacing_mm is not None)
                mask = predictor.mask(image)
                write_mask(folder / f"{case.case_id}{mask_ending(case)}", mask, image.header)
                scores.append(score_against_label(mask, case, dataset, predictor.classes))
            except WriteError:
                raise  # a full disk is not the case's fault: the job is not done
            except MdkdError as error:
                failed[case.case_id] = str(error)
                logger.warning("%s: %s is left out of the scores: %s", name, case.case_id, error)
            advance(number, len(cases))
    return summary_of(scores, cases, name, part, "mm" if known else "px", failed)


def _answers(
    name: str, part: str, cases: list[Case], answer: Callable[[Case, Image], Answered], plan: DatasetPlan
) -> tuple[list[Answered], dict[str, str]]:
    """What ``answer`` says of each case, and the cases that failed."""
    answers: list[Answered] = []
    failed: dict[str, str] = {}
    with progress(f"{part} of {name}") as advance:
        for number, case in enumerate(cases, start=1):
            try:
                answers.append(answer(case, read_channel(case, plan, colour_to_grey=True)))
            except MdkdError as error:
                failed[case.case_id] = str(error)
                logger.warning("%s: %s is left out of the scores: %s", name, case.case_id, error)
            advance(number, len(cases))
    return answers, failed


def _class_of(classifier: Classifier, case: Case, image: Image) -> Answer:
    return answer_of(case, classifier.logits(image), _names(classifier))


def boxes_of(detector: Detector, stated: Triple | None, case: Case, image: Image) -> BoxAnswer:
    """What a detector finds in a case; ``stated``: the spacing that its data set states, where the file has none."""
    found = detector.found(image)
    spacing = image.spacing_mm if image.spacing_known else case.spacing_mm or stated
    in_plane = None if spacing is None else (spacing[1], spacing[2])
    return box_answer_of(case, Boxes(found.boxes, found.classes, found.scores), _names(detector), in_plane)


def _names(predictor: Classifier | Detector) -> tuple[str, ...]:
    return tuple(channel.name for channel in predictor.classes.channels)
