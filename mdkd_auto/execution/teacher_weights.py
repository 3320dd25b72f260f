"""How much a teacher is listened to: as much as it is worth on the target's validation cases.

A source that is worse on the target than the target's own teacher should not be fused as if it were as good, and a
joint teacher that is worse than what the student's network learns alone should not be copied: the paper's student of
BraTS is below its own baseline.
"""

import logging

import numpy as np

from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.paths import RunFolder
from mdkd_auto.core.tables import read_numbers
from mdkd_auto.execution.evaluate_run import read_summary
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.shared.scored_part import VALIDATION
from mdkd_auto.tasks.task_scores import TASK_SCORES

logger = logging.getLogger(__name__)

POWER = 2.0  # half the target teacher's DSC: a quarter of its weight


def source_weights(experiment: Experiment, job: Job) -> tuple[float, ...]:
    """One weight for each teacher of a joint teacher, the target's own first; 1 where nothing is to be weighed."""
    whole = (1.0,) * len(job.datasets)
    if not experiment.settings.weighs_sources or len(job.reads) < 2:
        return whole
    scores = [validation_score(experiment, folder) for folder in job.reads]
    weights = tuple(weight(score, scores[0]) for score in scores)
    said = ", ".join(f"{name[7:10]} {value:.2f}" for name, value in zip(job.datasets, weights, strict=True))
    logger.info("weights of the teachers, by their scores on the validation cases of %s: %s", job.target, said)
    return weights


def distillation_weight(experiment: Experiment, job: Job) -> float:
    """The factor of a student's distillation losses: the joint teacher against the student's network trained alone."""
    if not experiment.settings.reliability:
        return 1.0
    joint, alone = (validation_score(experiment, folder) for folder in job.reads)
    factor = weight(joint, alone)
    if factor < 1:
        words = "distillation turned down to %.2f: validation score of the joint teacher %.3f, of the model alone %.3f"
        logger.info(words, factor, joint, alone)
    return factor


def baseline_scores(experiment: Experiment, job: Job) -> tuple[float, ...]:
    """Validation scores of the student's network trained alone, one an epoch; () where its log is gone."""
    path = experiment.root.results / job.reads[1] / "progress.csv"
    if not experiment.settings.turn_down:
        return ()
    if not path.is_file():
        logger.warning("%s: gone, so distillation is not turned down where the student falls behind", path)
        return ()
    return tuple(read_numbers(path, ("validation_score",))[:, 0].tolist())


def weight(score: float, reference: float) -> float:
    """1 for a teacher at least as good as the reference, else the square of the ratio of their scores above chance."""
    return 1.0 if score >= reference else float((score / reference) ** POWER)


def validation_score(experiment: Experiment, folder: str) -> float:
    """The score of a run over the validation cases of its target that teachers are weighed by: what it is above chance,
    0 where it is not or is None.

    Raises TrainingError where the run's summary is gone.
    """
    task = experiment.plan.task
    run = RunFolder(experiment.root.results / folder)
    summary = read_summary(run, VALIDATION, None, task)
    if summary is None:
        raise TrainingError(
            f"{run.masks(VALIDATION) / 'summary.json'}: missing, and the run's weight with it; delete {run.folder} to "
            'train and score it again, or weigh all runs alike with "reliability": false'
        )
    overall = summary.overall(per_patient=False)
    scores = TASK_SCORES[task]
    mean = None if overall is None else overall.metrics[scores.weighed_by].mean
    return 0.0 if mean is None or not np.isfinite(mean) else max(0.0, mean - scores.weighed_above(summary))
