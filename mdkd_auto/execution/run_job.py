"""Running a job: build its networks from what it reads, train, score on images that training did not see."""

import logging
import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from mdkd_auto.batches.sampling import PatchSampler, seed_of
from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import make_folder, write_json
from mdkd_auto.core.paths import RunFolder
from mdkd_auto.execution.checks import write_checks
from mdkd_auto.execution.evaluate_run import evaluate_run, is_up_to_date, score_again
from mdkd_auto.execution.memory_note import memory_note
from mdkd_auto.execution.run_folder import Finished, RunRecord, build_model, describe, load_model, make_task, read_run
from mdkd_auto.execution.teacher_weights import baseline_scores, distillation_weight, source_weights
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import check_unchanged, is_finished
from mdkd_auto.experiments.titles import titles_of
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.networks.weights.load import load_pretrained
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.stage import Ingredients
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.task_parts import TASK_PARTS
from mdkd_auto.training.interfaces import Objective
from mdkd_auto.training.loop import LATEST, Streams, find_device, fit, uses_bf16, validation_seed

logger = logging.getLogger(__name__)

HOLDER = ".lock_holder"  # beside the lock: who has it, in words
WAIT_SECONDS = 2.0  # between two looks at a job that another process holds


def run_jobs(jobs: Sequence[tuple[Experiment, Job]]) -> None:
    """Run what is not done, in order, a job that stands several times once.

    Finished jobs come first: one that cannot be scored again is refused before hours of training, not after.

    Raises TrainingError at the first job that fails; the same call goes on there.

    A job that another process trains is left to it, and so are those that read it: the others come first, then it is
    waited for. So several commands on one root share its jobs.
    """
    distinct = {job.folder: (experiment, job) for experiment, job in jobs}
    named = titles_of([job for _, job in distinct.values()])
    titles = {folder: f"[{number}/{len(named)}] {named[folder]}" for number, folder in enumerate(named, start=1)}
    finished = {folder for folder, (experiment, job) in distinct.items() if is_finished(experiment.root, job)}
    undone, told = sorted(distinct, key=lambda folder: folder not in finished), ""  # stable: else in order
    while undone:
        held: list[str] = []
        for folder in undone:
            experiment, job = distinct[folder]
            if not set(held).isdisjoint(job.reads) or not run_job(experiment, job, titles[folder]):
                held.append(folder)
        if len(held) == len(undone):
            if told != held[0]:
                told = held[0]
                logger.info("%s: held by %s; waiting", titles[told], _holder(experiment.root.results / told))
            time.sleep(WAIT_SECONDS)
        undone = held


def run_job(experiment: Experiment, job: Job, title: str) -> bool:
    """Train and score one job, if it is not done; one that is, is scored again where its files changed.

    False if another process is at it.
    """
    folder = experiment.root.results / job.folder
    if is_finished(experiment.root, job) and is_up_to_date(experiment, job):
        logger.info("%s: done before", title)
        return True
    make_folder(folder)
    lock = FileLock(RunFolder(folder).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        (folder / HOLDER).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        if not is_finished(experiment.root, job):  # it may have been done just now
            _run(experiment, job, folder, title)
        elif not is_up_to_date(experiment, job):
            logger.info("%s: done before; its scores no longer hold and are renewed", title)
            score_again(experiment, job, _options(experiment))
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()
    return True


def _holder(folder: Path) -> str:
    """Who trains the job of a folder."""
    try:
        return (folder / HOLDER).read_text(encoding="utf-8") or "another process"
    except FileNotFoundError:
        return "another process"


def _run(experiment: Experiment, job: Job, folder: Path, title: str) -> None:
    check_unchanged(experiment, job)
    run = describe(experiment, job)
    write_json(RunFolder(folder).description, run)
    write_json(folder / "plan.json", experiment.plan)
    device = find_device(experiment.settings.device)
    started = time.monotonic()
    objective = make_objective(experiment, run)
    streams = make_streams(experiment, run)
    if streams.batch_size < (fewest := stage_of(job).fewest_images):
        words = "%s: batches of %d: the contrastive loss needs %d images and is left out"
        logger.info(words, title, streams.batch_size, fewest)
    if TASK_PARTS[run.task].counts_memory:
        note = memory_note(objective, run, streams.batch_size, experiment.plan.memory_gb)
        if note is not None:
            logger.warning("%s: %s", title, note)
    before = time.monotonic() - started
    state = fit(objective, streams, run.settings.for_stage(job.stage, run.task), folder, device, title)
    fitted = time.monotonic()
    evaluate_run(experiment, job, _options(experiment))
    write_checks(experiment, job, objective, streams, device, state.parts)
    validation_share = state.validation_seconds / state.seconds
    finished = Finished(
        updates=state.update,
        seconds=round(before + state.wall_seconds + time.monotonic() - fitted, 1),
        seconds_per_update=state.seconds / max(1, state.update),
        best_validation_loss=state.best_loss if math.isfinite(state.best_loss or 0) else None,
        best_validation_score=state.best_score,
        validation_share=validation_share,
        parts=state.parts,
    )
    try:
        check_unchanged(experiment, job)
    except TrainingError:
        (folder / LATEST).unlink(missing_ok=True)  # learned from both the old cases and the new: nothing to go on from
        raise
    write_json(RunFolder(folder).finished, finished)
    (folder / LATEST).unlink(missing_ok=True)
    logger.info(
        "%s: done in %.0f s (%d updates, %.0f ms each, %.0f %% of it validation), validation score %.3f -> %s",
        title,
        finished.seconds,
        state.update,
        1000 * finished.seconds_per_update,
        100 * validation_share,
        state.best_score,
        folder,
    )


def renew_scores(jobs: Sequence[tuple[Experiment, Job]]) -> None:
    """Score the finished runs among the jobs again where their files changed since; nothing is trained."""
    run_jobs(
        [
            (experiment, job)
            for experiment, job in jobs
            if is_finished(experiment.root, job) and not is_up_to_date(experiment, job)
        ]
    )


def _options(experiment: Experiment) -> PredictionOptions:
    """How a run's own scores are predicted."""
    device = find_device(experiment.settings.device)
    return PredictionOptions(device, low_precision=uses_bf16(experiment.settings.precision, device))


def make_objective(experiment: Experiment, run: RunRecord) -> Objective:
    """The stage's networks: new ones with random weights, frozen ones from the jobs it reads."""
    job, settings = run.job, run.settings
    task = make_task(run)
    model = build_model(run, task)
    if settings.pretrained is not None:
        heads = list(model.heads.values()) if isinstance(model, MultiHeadModel) else [model.head]
        load_pretrained(settings.pretrained, model.encoder, heads)
    earlier = _FinishedJobs(experiment, job)
    return stage_of(job).make_objective(Ingredients(job, settings, task, model, run.classes, earlier))


class _FinishedJobs(NamedTuple):
    """What a job takes from the jobs that it reads."""

    experiment: Experiment
    job: Job

    def model(self, folder: str) -> Model:
        path = self.experiment.root.results / folder
        model = load_model(path, read_run(path))
        assert isinstance(model, Model)
        return model

    def source_weights(self) -> tuple[float, ...]:
        return source_weights(self.experiment, self.job)

    def distillation_weight(self) -> float:
        return distillation_weight(self.experiment, self.job)

    def baseline_scores(self) -> tuple[float, ...]:
        return baseline_scores(self.experiment, self.job)


def make_streams(experiment: Experiment, run: RunRecord) -> Streams:
    """Samplers of every data set the job draws from: its training cases, and its fixed validation batches."""
    job, settings, plan = run.job, run.settings, run.plan
    drawn = stage_of(job).drawn(job)

    def sampler(dataset: str, part: str, seed: int) -> PatchSampler:
        share = job.label_fraction if dataset == job.target else 1.0
        cases = experiment.cases(dataset, part, share)  # type: ignore[arg-type]
        folder = experiment.root.cases(dataset, job.configuration)
        return PatchSampler(folder, cases, plan.patch_size, settings.lesion_fraction, seed_of(dataset, seed))

    return Streams(
        training={dataset: sampler(dataset, "train", settings.seed) for dataset in drawn},
        validation={dataset: sampler(dataset, "val", validation_seed(settings.seed)) for dataset in drawn},
        batch_size=settings.batch_size or plan.batch_size,
        spacing_mm=plan.spacing_mm,
        upright=plan.whole_images,
    )
