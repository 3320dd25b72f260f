"""A finished model judged on images that its training did not see: the fold's validation cases and the test part.

A finished run is looked at again by every command that reads its scores: see ``evidence`` for what a changed file asks
for.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mdkd_auto.core.errors import MdkdError, TrainingError
from mdkd_auto.core.files import read_record
from mdkd_auto.core.paths import RunFolder
from mdkd_auto.core.records import Case, Task
from mdkd_auto.datasets.case_names import listed
from mdkd_auto.execution.prepared_images import seen_images
from mdkd_auto.execution.run_folder import load_predictor
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.shared.evidence import evidence_of, work_of
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.shared.scored_part import TEST, AnySummary, Part
from mdkd_auto.tasks.task_scores import TASK_SCORES

logger = logging.getLogger(__name__)

_NAMED = 5  # cases spelled out in a message


def evaluate_run(experiment: Experiment, job: Job, options: PredictionOptions) -> None:
    """Predict and score the validation and test cases of the job's target (for multi-head of every data set that has
    the fold).

    A source teacher is only a means: it is scored on the target's validation cases. A classifier's probabilities are
    calibrated on the validation cases, and a detector's score threshold is chosen there.
    """
    _score(experiment, job, options, again=False)


def is_up_to_date(experiment: Experiment, job: Job) -> bool:
    """Whether the scores of a finished run hold for the files that are there now."""
    carried: dict[str, float | None] = {}
    for part in _parts(experiment, job, again=True):
        if not part.is_scored:
            return False
        value = TASK_SCORES[experiment.plan.task].carried(part.earlier)
        if carried.setdefault(part.dataset.name, value) != value:
            return False  # interrupted between the two parts
    return True


def score_again(experiment: Experiment, job: Job, options: PredictionOptions) -> None:
    """Score a finished run anew where files changed. Raises TrainingError where that takes weights that are gone."""
    _score(experiment, job, options, again=True)


def _score(experiment: Experiment, job: Job, options: PredictionOptions, again: bool) -> None:
    folder = experiment.root.results / job.folder
    predictors: dict[str, Any] = {}
    carried: dict[str, float | None] = {}
    for part in _parts(experiment, job, again):
        name = part.dataset.name
        missing = [case for case, work in part.work.items() if work.do == "predict"]
        if missing and name not in predictors:
            _check_weights(folder, part, missing)
            predictors[name] = load_predictor(folder, options, stage_of(job).head_of(name))
        if again and not part.is_scored:
            rescored = sum(work.do == "rescore" for work in part.work.values())
            words = "%s of %s: cases or files changed since it was scored; %d of %d predicted again, %d scored again%s"
            gone = f"; {len(part.lost)} can no longer be read" if part.lost else ""
            logger.info(words, part.name, name, len(missing), len(part.work), rescored, gone)
        score_part = TASK_SCORES[experiment.plan.task].score_part
        carried[name] = score_part(part._replace(predictor=predictors.get(name)), carried.get(name))


def _check_weights(folder: Path, part: Part, missing: list[str]) -> None:
    """Raise TrainingError where images are to be predicted by a run whose weights are gone."""
    run = RunFolder(folder)
    gone = next((path for path in (run.best, run.description) if not path.is_file()), None)
    if gone is None:
        return
    named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
    raise TrainingError(
        f"{folder}: its scores do not hold for {len(missing)} of {len(part.work)} {part.name} cases of "
        f"{part.dataset.name} ({named}): an image changed, or its prediction is gone or altered. Predicting them takes "
        f"{gone.name}, which is gone. Put it or the earlier files back, or delete the folder to train the run again"
    )


def _parts(experiment: Experiment, job: Job, again: bool) -> Iterator[Part]:
    """What a run is scored on, validation before test. ``again``: what still holds of earlier scores is kept."""
    folder = RunFolder(experiment.root.results / job.folder)
    stage = stage_of(job)
    for dataset in filter(experiment.has_fold, stage.predicted(job)) if stage.several_heads else (job.target,):
        for name in stage.scored_parts:
            if names_of_part(experiment, dataset, name):
                yield _part(experiment, dataset, name, folder.masks(name, stage.head_of(dataset)), again)


def _part(experiment: Experiment, dataset: str, name: str, folder: Path, again: bool) -> Part:
    scores = TASK_SCORES[experiment.plan.task]
    earlier: AnySummary | None = None
    if again and (folder / "summary.json").is_file():
        with suppress(MdkdError):  # damaged, or of another version: scored anew
            earlier = read_record(folder / "summary.json", scores.summary)
    known = {} if earlier is None else earlier.by_case()
    whole, classes, hashes = experiment.datasets[dataset], experiment.classes(dataset), experiment.hashes(dataset)
    cases = cases_of_part(experiment, dataset, name)
    work = {}
    for case in cases:
        answered = earlier is not None and (case.case_id in known or case.case_id in earlier.failed)
        before = earlier.evidence.get(case.case_id) if earlier is not None and answered else None
        stored = scores.prediction_hash(folder, case, known.get(case.case_id)) if before is not None else ""
        work[case.case_id] = work_of(evidence_of(case, whole, classes, hashes), before, stored)
    hashes.save()
    is_written = earlier is None or scores.is_written(folder, earlier)
    see = partial(seen_images(experiment.root.cases(dataset, experiment.configuration)).see, experiment, dataset)
    plan = experiment.plan.dataset(dataset)
    lost = lost_of_part(experiment, dataset, name)
    return Part(name, whole, cases, classes, plan, None, folder, work, see, earlier, is_written, lost)


def read_summary(folder: RunFolder, part: str, dataset: str | None, task: Task) -> AnySummary | None:
    """The summary of a run, None where it has none."""
    path = folder.masks(part, dataset) / "summary.json"
    if not path.is_file():
        return None
    summary: AnySummary = read_record(path, TASK_SCORES[task].summary, any_number=True)
    return summary


def not_scored(experiment: Experiment, job: Job) -> list[str]:
    """The cases that the scores of a finished run lack, in words."""
    said = []
    for part in _parts(experiment, job, again=True):
        failed = {} if part.earlier is None else part.earlier.failed
        said += [f"{part.dataset.name}, {part.name} case {case}, not scored: {why}" for case, why in failed.items()]
    return said


def check_scored(jobs: Sequence[tuple[Experiment, Job]]) -> None:
    """Raise TrainingError naming every case that the scores of the finished jobs lack."""
    unscored = [case for experiment, job in jobs for case in not_scored(experiment, job)]
    if unscored:
        raise TrainingError(f"cases are not scored; the rest is done:{listed(unscored)}")


def cases_of_part(experiment: Experiment, dataset: str, part: str) -> list[Case]:
    """The raw cases of the fold's validation part, or of the test part."""
    wanted = set(names_of_part(experiment, dataset, part))
    return [case for case in experiment.datasets[dataset].cases if case.case_id in wanted]


def lost_of_part(experiment: Experiment, dataset: str, part: str) -> dict[str, str]:
    """Cases of the fold's validation part, or of the test part, that the raw folder no longer gives -> why."""
    wanted = set(names_of_part(experiment, dataset, part))
    return {case: why for case, why in experiment.lost(dataset).items() if case in wanted}


def names_of_part(experiment: Experiment, dataset: str, part: str) -> tuple[str, ...]:
    """Cases of the part as the stored splits name them."""
    return experiment.splits[dataset].test if part == TEST else experiment.fold(dataset).val
