"""A finished model judged on images that its training did not see: the fold's validation cases and the test part."""

from mdkd_auto.experiments.jobs import Experiment, Job
from mdkd_auto.experiments.parts import TEST, VALIDATION, AnySummary, Part
from mdkd_auto.experiments.runs import load_predictor
from mdkd_auto.experiments.task_scores import TASK_SCORES
from mdkd_auto.files import read_record
from mdkd_auto.paths import RunFolder
from mdkd_auto.records import Case, Task
from mdkd_auto.tasks.segmentation import PredictionOptions


def evaluate_run(experiment: Experiment, job: Job, options: PredictionOptions) -> None:
    """Predict and score the validation and test cases of the job's target (for multi-head of every data set that has
    the fold).

    A source teacher is only a means: it is scored on the target's validation cases. A classifier's probabilities are
    calibrated on the validation cases, and a detector's score threshold is chosen there.
    """
    folder = RunFolder(experiment.root.results / job.folder)
    several = job.stage == "multi_head"
    score_part = TASK_SCORES[experiment.plan.task].score_part
    for dataset in filter(experiment.has_fold, job.datasets) if several else (job.target,):
        predictor = load_predictor(folder.folder, options, dataset)
        carried: float | None = None
        for name in (VALIDATION,) if job.stage == "source_teacher" else (VALIDATION, TEST):
            cases = cases_of_part(experiment, dataset, name)
            if cases:
                target = folder.masks(name, dataset if several else None)
                carried = score_part(Part(name, experiment.datasets[dataset], cases, predictor, target), carried)


def read_summary(folder: RunFolder, part: str, dataset: str | None, task: Task) -> AnySummary | None:
    """The summary of a run, None where it has none."""
    path = folder.masks(part, dataset) / "summary.json"
    if not path.is_file():
        return None
    summary: AnySummary = read_record(path, TASK_SCORES[task].summary, any_number=True)
    return summary


def cases_of_part(experiment: Experiment, dataset: str, part: str) -> list[Case]:
    """The raw cases of the fold's validation part, or of the test part."""
    wanted = set(experiment.splits[dataset].test if part == TEST else experiment.fold(dataset).val)
    return [case for case in experiment.datasets[dataset].cases if case.case_id in wanted]
