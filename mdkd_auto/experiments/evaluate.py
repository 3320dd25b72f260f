"""A finished model judged on images that its training did not see: the fold's validation cases and the test part."""

import logging
from pathlib import Path

from mdkd_auto.data.images import write_mask
from mdkd_auto.errors import MdkdError
from mdkd_auto.experiments.jobs import Experiment, Job
from mdkd_auto.experiments.runs import load_predictor
from mdkd_auto.experiments.scoring import CaseScores, Summary, score_against_label, summary_of, write_summary
from mdkd_auto.files import WriteError, read_record
from mdkd_auto.paths import RunFolder
from mdkd_auto.progress import progress
from mdkd_auto.records import Case
from mdkd_auto.tasks.segmentation import PredictionOptions, Predictor, mask_ending, read_channel

logger = logging.getLogger(__name__)

VALIDATION, TEST = "validation", "test"


def evaluate_run(experiment: Experiment, job: Job, options: PredictionOptions) -> None:
    """Predict and score the validation and test cases of the job's target (of every data set for multi-head).

    A source teacher is only a means: it is scored on the target's validation cases.
    """
    folder = RunFolder(experiment.root.results / job.folder)
    several = job.stage == "multi_head"
    for dataset in job.datasets if several else (job.target,):
        predictor = load_predictor(folder.folder, options, dataset)
        for part in (VALIDATION,) if job.stage == "source_teacher" else (VALIDATION, TEST):
            cases = cases_of_part(experiment, dataset, part)
            if cases:
                target = folder.masks(part, dataset if several else None)
                write_summary(target, _predict_and_score(experiment, dataset, part, cases, predictor, target))


def read_summary(folder: RunFolder, part: str, dataset: str | None) -> Summary | None:
    """The summary of a run, None where it has none."""
    path = folder.masks(part, dataset) / "summary.json"
    return read_record(path, Summary) if path.is_file() else None


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
