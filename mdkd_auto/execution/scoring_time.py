"""How long it takes to score a run: a few cases are predicted and scored with a network that answers nothing."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.records import Case
from mdkd_auto.execution.evaluate_run import cases_of_part
from mdkd_auto.execution.prepared_images import seen_images
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.networks.model import Model
from mdkd_auto.preprocessing.case_store import read_case_record, record_path
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.shared.evidence import Evidence, Work
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.shared.scored_part import VALIDATION, Part
from mdkd_auto.tasks.task_parts import TASK_PARTS, Given
from mdkd_auto.tasks.task_scores import TASK_SCORES
from mdkd_auto.training.loop import find_device, uses_bf16

FEW = 3  # cases that are timed besides the first, which also waits for what is made once
LONG_SECONDS = 10.0  # a first case that takes so long is timed alone


class ScoringTime(NamedTuple):
    """What a part of a run costs."""

    once: float  # seconds per part
    per_voxel: float  # seconds, of the stored cases

    def seconds(self, voxels: int) -> float:
        return self.once + self.per_voxel * voxels if voxels else 0.0


def time_scoring(experiment: Experiment, job: Job) -> ScoringTime | None:
    """Predict and score cases of the job's target with its kind of network; None where there are none, or one fails."""
    dataset = next((name for name in job.datasets if scored_cases(experiment, name, VALIDATION)), None)
    if dataset is None:
        return None
    cases = sorted(scored_cases(experiment, dataset, VALIDATION), key=partial(_voxels, experiment, dataset))
    middle = len(cases) // 2
    first, more = cases[middle], cases[max(0, middle - FEW) : middle + 1]
    part = _part_of(experiment, job, dataset)
    try:
        once = _seconds(part, experiment, [first])
        if once >= LONG_SECONDS or len(more) < 2:
            return ScoringTime(0.0, once / _voxels(experiment, dataset, first))
        all_of_them = _seconds(part, experiment, more)
    except MdkdError:
        return None
    voxels = [_voxels(experiment, dataset, case) for case in more]
    per_voxel = max(0.0, all_of_them - once) / sum(voxels[:-1])
    return ScoringTime(max(0.0, once - per_voxel * voxels[-1]), per_voxel)


def scoring_seconds(experiment: Experiment, job: Job, cost: ScoringTime) -> float:
    """Of all the cases that a run of the job is scored on."""
    stage = stage_of(job)
    sizes = (
        sum(_voxels(experiment, dataset, case) for case in scored_cases(experiment, dataset, part))
        for dataset in stage.predicted(job)
        for part in stage.scored_parts
    )
    return sum(cost.seconds(size) for size in sizes)


def scored_cases(experiment: Experiment, dataset: str, part: str) -> list[Case]:
    """The preprocessed ones."""
    folder = experiment.root.cases(dataset, experiment.configuration)
    return [case for case in cases_of_part(experiment, dataset, part) if record_path(folder, case.case_id).is_file()]


def _voxels(experiment: Experiment, dataset: str, case: Case) -> int:
    folder = experiment.root.cases(dataset, experiment.configuration)
    return int(np.prod(read_case_record(folder, case.case_id).shape))


def _part_of(experiment: Experiment, job: Job, dataset: str) -> Part:
    """The validation part, without cases, and a predictor whose head is all zeros: its answers cost what others do."""
    plan, settings = experiment.plan.configuration(experiment.configuration), experiment.settings
    classes, own = experiment.classes(dataset), experiment.plan.dataset(dataset)
    parts, device = TASK_PARTS[experiment.plan.task], find_device(settings.device)
    distils = stage_of(job).distils
    task = parts.training(Given(plan, {dataset: classes}, settings, distils, job.architecture, job.width, {}))
    encoder = task.encoder()
    network: nn.Module = Model(encoder, task.head(task.outputs(dataset), encoder)).to(device).eval()
    with torch.no_grad():
        for parameter in network.head.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    options = PredictionOptions(device, low_precision=uses_bf16(settings.precision, device))
    predictor = parts.predictor(network, own, plan, classes, options)
    see = partial(seen_images(experiment.root.cases(dataset, experiment.configuration)).see, experiment, dataset)
    return Part(VALIDATION, experiment.datasets[dataset], [], classes, own, predictor, Path(), {}, see)


def _seconds(part: Part, experiment: Experiment, cases: list[Case]) -> float:
    """Predicting and scoring ``cases``; nothing of it is kept."""
    nothing = Evidence(images=(), label="", rules="")
    work = {case.case_id: Work(nothing, "predict") for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        score = TASK_SCORES[experiment.plan.task].score_part
        score(part._replace(cases=cases, work=work, folder=Path(folder)), None)
        return time.monotonic() - started
