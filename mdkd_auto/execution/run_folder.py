"""A run folder: the networks of a job, and prediction from nothing but the folder."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import torch

import mdkd_auto
from mdkd_auto.core.errors import MdkdError, PredictionError, TrainingError
from mdkd_auto.core.files import ReadError, read_record
from mdkd_auto.core.limits import Fault, faults_of_configuration, faults_of_dataset, number, numbers, refuse
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan, Fingerprint, Record, Task
from mdkd_auto.core.settings import MOST_FOLDS, WIDEST, Settings
from mdkd_auto.datasets.raw_folder import find_name, folder_names
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.execution.run_limits import faults_of_identity, faults_of_network, faults_of_ranges, faults_of_spacing
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import class_counts
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.planners.ranges import TrainingRanges, training_ranges
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job, Network
from mdkd_auto.stages.student import STUDENT
from mdkd_auto.tasks.shared.classes import Classes, faults_of_classes
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.task_parts import TASK_PARTS, Given
from mdkd_auto.training.checkpoints import COPY_AGAIN, load_weights
from mdkd_auto.training.interfaces import TrainingTask

logger = logging.getLogger(__name__)


class RunRecord(Record, frozen=True, kw_only=True):
    """run.json: with the weights beside it, all that prediction needs."""

    version: str  # of mdkd_auto
    job: Job
    plan: ConfigurationPlan
    dataset_plans: dict[str, DatasetPlan]
    classes: dict[str, Classes]
    channel_names: dict[str, tuple[str, ...]]
    file_endings: dict[str, str]
    settings: Settings
    task: Task
    class_counts: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)  # training cases of each
    # of the data sets that it predicts; {} where the fingerprint was missing, and prediction says so once
    ranges: dict[str, TrainingRanges] = msgspec.field(default_factory=dict)


class Finished(Record, frozen=True, kw_only=True):
    """finished.json: written last."""

    updates: int
    seconds: float
    seconds_per_update: float
    best_validation_loss: float | None  # None: never finite
    best_validation_score: float
    validation_share: float  # of the training time
    parts: int  # into which each batch was split for lack of memory, at the end


def describe(experiment: Experiment, job: Job) -> RunRecord:
    """The record of a job about to run. Raises TrainingError for one that prediction would refuse."""
    run = RunRecord(
        version=mdkd_auto.__version__,
        job=job,
        plan=experiment.plan.configuration(job.configuration),
        dataset_plans={name: experiment.plan.dataset(name) for name in job.datasets},
        classes={name: experiment.classes(name) for name in job.datasets},
        channel_names={name: experiment.datasets[name].channel_names for name in job.datasets},
        file_endings={name: experiment.datasets[name].file_ending for name in job.datasets},
        settings=experiment.settings,
        task=experiment.plan.task,
        class_counts=class_counts(experiment, job),
        ranges=ranges_of_training(experiment, job),
    )
    remedy = (
        "Plan again with another --spacing-mm or --patch-size (mdkd_plan_and_preprocess --replan), or train with "
        "another --width"
    )
    refuse(experiment.root.plan(experiment.plan.group), faults_of_run(run), TrainingError, remedy)
    return run


def ranges_of_training(experiment: Experiment, job: Job) -> dict[str, TrainingRanges]:
    """What the training images span of each data set that the job's model predicts; without those not known."""
    found = {}
    for dataset in stage_of(job).predicted(job):
        path = experiment.root.fingerprint(dataset)
        trained = set(experiment.cases(dataset, "train", job.label_fraction if dataset == job.target else 1.0))
        try:
            cases = [case for case in read_record(path, Fingerprint).cases if case.case_id in trained]
        except MdkdError as error:
            logger.warning("%s; prediction will not report images unlike the training images", error)
            continue
        ranges = training_ranges(cases, experiment.plan.dataset(dataset)) if len(cases) == len(trained) else None
        if ranges is not None:
            found[dataset] = ranges
        else:
            logger.warning(
                "%s: does not cover all training cases; prediction will not report images unlike the training images. "
                "Run mdkd_plan_and_preprocess to renew it",
                path,
            )
    return found


def make_task(run: RunRecord) -> TrainingTask:
    """The task of a run, with its kind of network."""
    job = run.job
    distils = stage_of(job).distils
    given = Given(run.plan, run.classes, run.settings, distils, job.architecture, job.width, run.class_counts)
    return TASK_PARTS[run.task].training(given)


def build_model(run: RunRecord, task: TrainingTask) -> Model | MultiHeadModel:
    """The networks of a run with random weights, drawn from its seed."""
    job = run.job
    torch.manual_seed(run.settings.seed)
    return stage_of(job).build_model(task, job)


def read_run(folder: Path) -> RunRecord:
    """Read run.json. Raises PredictionError if the folder is not a run, or what the file says makes no sense."""
    if not RunFolder(folder).description.is_file():
        raise PredictionError(f"{folder}: not a run folder: it has no run.json. Give a folder such as .../fold_0")
    path = RunFolder(folder).description
    try:
        run = read_record(path, RunRecord, PredictionError)
    except ReadError:
        raise
    except MdkdError as error:
        raise PredictionError(f"{error}. {COPY_AGAIN}") from None
    refuse(path, faults_of_run(run), PredictionError, COPY_AGAIN)
    return run


def faults_of_run(run: RunRecord) -> Iterator[Fault]:
    """What makes no sense in a run.json: nothing is built of it before."""
    faults = [*_faults_of_job(run), *_faults_of_parts(run)]
    yield from faults
    if faults:
        return  # what follows takes each field to be sound by itself
    job, plans = run.job, run.dataset_plans
    yield from faults_of_identity(job.identity, _copied_in_identity(run))
    for name in run.ranges or (job.target,):
        if name in plans:
            yield from faults_of_spacing(run.plan, plans[name], run.ranges.get(name))
    for field, network in (
        ("job.width", Network(job.architecture, job.width)),
        *(("job.teachers", network) for network in job.teachers),
    ):
        yield from faults_of_network(run.plan, *network, field)


def _faults_of_job(run: RunRecord) -> Iterator[Fault]:
    job = run.job
    if run.task not in TASK_PARTS:
        yield Fault("task", run.task, f"one of {', '.join(TASK_PARTS)}")
    if job.configuration != run.plan.configuration:
        yield Fault("job.configuration", job.configuration, f"that of the plan, {run.plan.configuration}")
    for width in (job.width, *(width for _, width in job.teachers)):
        if width is not None:
            yield from number("job.width", width, 1, WIDEST)
    yield from number("job.fold", job.fold, 0, MOST_FOLDS)
    yield from number("job.label_fraction", job.label_fraction, 0, 1)
    if not job.sources and (missing := stage_of(job).missing_sources):
        yield Fault("job.sources", [], missing)
    if len(set(job.datasets)) < len(job.datasets):
        yield Fault("job.sources", job.sources, "each data set once, and not the target")
    if job.teachers and len(job.teachers) != len(job.datasets):
        yield Fault("job.teachers, their number,", len(job.teachers), f"{len(job.datasets)}, one for each data set")


def _faults_of_parts(run: RunRecord) -> Iterator[Fault]:
    """Of the plan, and of what is said of each data set."""
    names = run.job.datasets
    yield from faults_of_configuration(run.plan, "plan.")
    for part in ("dataset_plans", "classes", "channel_names"):
        if missing := [name for name in names if name not in getattr(run, part)]:
            yield Fault(part, sorted(getattr(run, part)), f"the data sets of the job; {', '.join(missing)} is missing")
    for name, plan in run.dataset_plans.items():
        where = f"dataset_plans.{name}."
        yield from faults_of_dataset(plan, where)
        if plan.dataset != name:
            yield Fault(f"{where}dataset", plan.dataset, name)
        yield from number(f"{where}channel", plan.channel, 0, max(0, len(run.channel_names.get(name, ())) - 1))
    masks = run.task in TASK_DATA and TASK_DATA[run.task].masks
    for name, classes in run.classes.items():
        yield from faults_of_classes(classes, masks, f"classes.{name}.channels")
        if name in run.class_counts:
            yield from numbers(f"class_counts.{name}", run.class_counts[name], len(classes.channels), 0, 1e12)
    for name, ranges in run.ranges.items():
        if name not in names:
            yield Fault("ranges", name, f"data sets of the job: {', '.join(names)}")
        yield from faults_of_ranges(ranges, f"ranges.{name}.")


def _copied_in_identity(run: RunRecord) -> dict[str, tuple[tuple[str, ...], object]]:
    """Field -> where job.identity has a copy of it, and its value."""
    job = run.job
    parts: dict[str, tuple[tuple[str, ...], object]] = {
        f"job.{name}": ((name,), getattr(job, name)) for name in ("stage", "target", "sources", "configuration", "fold")
    }
    parts |= {f"job.{name}": (("network", name), getattr(job, name)) for name in ("architecture", "width")}
    plan = {name: value for name, value in msgspec.to_builtins(run.plan).items() if name not in ("datasets", "reasons")}
    parts |= {"job.teachers": (("teachers",), job.teachers), "plan": (("plan",), plan)}
    parts |= {f"dataset_plans.{name}": (("data", name, "plan"), plan) for name, plan in run.dataset_plans.items()}
    return parts | {f"classes.{name}": (("data", name, "classes"), one) for name, one in run.classes.items()}


def load_model(folder: Path, run: RunRecord) -> Model | MultiHeadModel:
    """The run's networks with its best weights. Raises PredictionError where they cannot be built, TrainingError where
    the weights cannot be used."""
    try:
        model = build_model(run, make_task(run))
    except Exception as error:  # libraries raise dozens of kinds of numbers that no network can have
        path = RunFolder(folder).description
        raise PredictionError(f"{path}: its network cannot be built: {error}. {COPY_AGAIN}") from error
    load_weights(RunFolder(folder).best, model)
    return model


def load_predictor(folder: Path, options: PredictionOptions, dataset: str | None = None) -> Any:
    """The task's predictor for ``dataset`` (default: the run's target; multi-head runs need one)."""
    run = read_run(folder)
    model = load_model(folder, run)
    stage, job = stage_of(run.job), run.job
    if stage.several_heads and dataset not in job.datasets:
        raise PredictionError(f"{folder}: a multi-head model; say for which data set: {', '.join(job.datasets)}")
    if not stage.several_heads and dataset not in (None, job.target):
        raise PredictionError(f"{folder}: has one head, that of {job.target}; leave out --head {dataset}")
    name = dataset or job.target
    network = stage.network_for(model, make_task(run), job, name)
    network.to(options.device).eval()
    return TASK_PARTS[run.task].predictor(network, run.dataset_plans[name], run.plan, run.classes[name], options)


def finished_students(root: Root) -> dict[Path, str]:
    """Run folders of all finished students, sorted, and their configurations."""
    runs = [path.parent for path in sorted(root.results.glob(f"Dataset*/{STUDENT.folder_name}-*/fold_*/finished.json"))]
    return {run: run.parent.name.rsplit("__", 1)[-1] for run in runs}


def refuse_without_students(root: Root, configuration: str) -> NoReturn:
    """Raise TrainingError: no student matches the settings; names other configurations that have finished students."""
    others = sorted({other for other in finished_students(root).values() if other != configuration})
    hint = f"; there are finished students in {' and '.join(others)} (-c)" if others else ""
    raise TrainingError(
        f"{root.results}: no finished student has these settings in {configuration}{hint}; train, or give the same "
        "settings"
    )


def find_student(root: Root, target: str | None, configuration: str | None = None) -> Path:
    """The finished student of a target. Raises PredictionError listing all that fit where it is not the only one."""
    students = finished_students(root)
    if not students:
        raise PredictionError(f"{root.results}: no finished student; run mdkd_train_all_permutations first")
    if target is not None:
        names = sorted({run.parent.parent.name for run in students})
        untrained = {
            name: f"has no finished student; train one with mdkd_train {name[7:10]}"
            for name in folder_names(root.raw)
            if name not in names
        }
        name = find_name(target, names, untrained)
        students = {run: of for run, of in students.items() if run.parent.parent.name == name}
    runs = [run for run, of in students.items() if configuration in (None, of)]
    if len(runs) == 1:
        return runs[0]
    if not runs:
        there = sorted(set(students.values()))
        whose = f" of {name}" if target is not None else ""
        raise PredictionError(
            f"{root.results}: no finished {configuration} student{whose}, but {' and '.join(there)}; "
            f"give -c {there[0]}, or train with -c {configuration}"
        )
    scored = sorted(((_score(run), run) for run in runs), reverse=True)
    listed = "\n".join(f"  -m {run}   validation score {score:.3f}" for score, run in scored)
    raise PredictionError(f"{len(runs)} finished students fit; choose one, best validation score first:\n{listed}")


def _score(run: Path) -> float:
    return read_finished(RunFolder(run)).best_validation_score


def read_finished(run: RunFolder) -> Finished:
    """Read finished.json. Raises TrainingError for one that is damaged, saying what to do."""
    try:
        return read_record(run.finished, Finished, TrainingError)
    except ReadError:
        raise
    except MdkdError as error:
        remedy = "restore it from a copy; or delete the folder and run the training command again"
        raise TrainingError(f"{error}; {remedy}") from None
