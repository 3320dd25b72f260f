"""What is done, what is to do, how long it may take, and which finished runs no longer match."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.settings import Settings
from mdkd_auto.core.text import duration
from mdkd_auto.execution.run_folder import RunRecord, read_run
from mdkd_auto.execution.scoring_time import ScoringTime, scoring_seconds, time_scoring
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import NETWORK_NAMES, is_finished
from mdkd_auto.experiments.titles import titles_of
from mdkd_auto.networks.detector import Objects
from mdkd_auto.networks.model import Model
from mdkd_auto.planners.detection import LEAST_ANCHOR
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job, Network
from mdkd_auto.tasks.task_parts import TASK_PARTS, Given
from mdkd_auto.training.interfaces import Output
from mdkd_auto.training.loop import LATEST, find_device, is_out_of_memory

logger = logging.getLogger(__name__)

COST_OF_SOURCE = 1 / 3  # more, for each beyond two: a frozen teacher's forward pass; backward takes twice as long
COST_OF_FORWARD = 1 / 3  # a validation batch against an update
SECONDS_OF_FIGURE = 5.0  # mean of those beside a table, of which a t-SNE takes most, on two CPU cores
NIGHT_SECONDS = 12 * 3600.0
FEW_EPOCHS = 40  # of a budget that is suggested: the plateau rule and the best checkpoint need some
FEWEST_ITERATIONS = 10
_TIMED_UPDATES = 2


class Stale(NamedTuple):
    """A finished run that a changed raw folder or plan has overtaken."""

    folder: str
    changes: tuple[str, ...]


class Times(NamedTuple):
    """What one kind of network takes."""

    update: float  # seconds
    scoring: ScoringTime | None  # None: it could not be timed


def state_of(root: Root, job: Job) -> str:
    """done, interrupted or to do."""
    if is_finished(root, job):
        return "done"
    return "interrupted" if (root.results / job.folder / LATEST).is_file() else "to do"


def seconds_per_update(experiment: Experiment, job: Job) -> float:
    """One update of a single network such as that of ``job`` on this machine, timed on noise.

    As in training a batch that the memory does not hold is split.
    """
    plan = experiment.plan.configuration(experiment.configuration)
    device = find_device(experiment.settings.device)
    given = Given(plan, {}, experiment.settings, stage_of(job).distils, job.architecture, job.width, {})
    task = TASK_PARTS[experiment.plan.task].training(given)
    encoder = task.encoder()
    model = Model(encoder, task.head(1, encoder)).to(device)
    size, parts = experiment.settings.batch_size or plan.batch_size, 1
    while True:
        try:
            return parts * _seconds(model, (math.ceil(size / parts), 1, *plan.patch_size), device)
        except RuntimeError as error:
            if not is_out_of_memory(error) or parts >= size:
                raise
        model.zero_grad(set_to_none=True)
        torch.accelerator.empty_cache()
        parts = min(2 * parts, size)


def _seconds(model: Model, shape: tuple[int, ...], device: torch.device) -> float:
    """One update on noise of that shape."""
    batch = torch.randn(shape, device=device)
    times = []
    for _ in range(_TIMED_UPDATES):
        started = time.monotonic()
        _some_loss(model(batch)).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - started)
    return min(times)


def _some_loss(output: Output) -> torch.Tensor:
    """As costly as the true one: of a detector, that of an object an image."""
    if isinstance(output, torch.Tensor):
        return output.mean()
    boxes = torch.tensor([[0.0, 0.0, LEAST_ANCHOR, LEAST_ANCHOR]], device=output.likelihoods().device)
    objects = [Objects(boxes, torch.zeros(1, dtype=torch.long, device=boxes.device))] * len(output)
    return torch.stack(list(output.losses(objects).values())).sum()


def estimated_seconds(experiment: Experiment, job: Job, times: Mapping[Network, float], teacher: Job) -> float:
    """How long a job may take at most (no early stop). ``times``: of an update of one network of each kind.

    What a job costs beyond its own network's update is the work of frozen networks of ``teacher``'s kind.
    """
    updates = experiment.settings.epochs * experiment.settings.iterations_per_epoch
    stage = stage_of(job)
    rounds = len(stage.predicted(job))  # one batch per head
    more = stage.cost - 1
    if stage.runs_all_teachers:
        more += COST_OF_SOURCE * (len(job.sources) - 2)
    return updates * rounds * (times[_network(job)] + more * times[_network(teacher)])


def _network(job: Job) -> Network:
    return Network(job.architecture, job.width)


def _teacher_of(job: Job, jobs: Sequence[Job]) -> Job:
    """The joint teacher that a student learns from; of other stages, and where it is not listed, the job itself."""
    return next((one for one in jobs if one.folder in job.reads and stage_of(one).runs_all_teachers), job)


def stale_runs(root: Root, jobs: list[Job]) -> list[Stale]:
    """Finished runs of the same targets, stage and fold whose data, plan or sources have changed since.

    A run made with other settings on the same data is another experiment, not a stale one.
    """
    current = {job.folder for job in jobs}
    found = []
    for target in dict.fromkeys(job.target for job in jobs):
        for folder, run in _finished_runs(root, target):
            successor = next((job for job in jobs if _takes_the_place_of(job, run.job)), None)
            if folder in current or successor is None:
                continue
            if run.settings.keep_classes != successor.identity["settings"]["keep_classes"]:
                continue  # a setting that changes the data's classes
            changes = tuple(_differences(run.job.identity, successor.identity))
            shown = tuple(change for change in changes if not change.startswith("reads"))
            if any(not change.startswith("settings") for change in shown):
                found.append(Stale(folder, shown))
    return found


def _takes_the_place_of(job: Job, old: Job) -> bool:
    """Whether it is the same job with the old sources or more: fewer are a choice, not a change of the data."""
    same = (job.stage, job.target, job.configuration, job.fold) == (old.stage, old.target, old.configuration, old.fold)
    return same and set(old.sources) <= set(job.sources)


def _finished_runs(root: Root, target: str) -> Iterator[tuple[str, RunRecord]]:
    for path in sorted((root.results / target).glob("*/fold_*")):
        if RunFolder(path).finished.is_file():
            try:
                yield str(Path(path).relative_to(root.results).as_posix()), read_run(path)
            except MdkdError:
                continue  # written by another version: its identity cannot be compared


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Leaves that differ, by name: plan spacing_mm: [1.0, 1.0] -> [1.5, 1.5]."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            if name in ("key", "version"):
                continue
            yield from _differences(old.get(name), new.get(name), f"{where} {name}".strip())
    elif isinstance(old, list) and isinstance(new, list) and all(isinstance(item, str) for item in old + new):
        changes = [f"+ {item}" for item in new if item not in old] + [f"- {item}" for item in old if item not in new]
        if changes:
            yield f"{where}: {', '.join(changes)}"
    elif isinstance(old, dict) or isinstance(new, dict):
        yield f"{where}: {'added' if old is None else 'removed'}"
    elif old != new:
        yield f"{where}: {_brief(old)} -> {_brief(new)}"


def _brief(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def log_dry_run(experiment: Experiment, jobs: Sequence[tuple[Experiment, Job]], figures: int) -> None:
    """Log what a command would do: the jobs in order, their state, and the time left."""
    logger.info("%s", dry_run_text(experiment, [job for _, job in jobs], figures))


def dry_run_text(experiment: Experiment, jobs: Sequence[Job], drawings: int = 0) -> str:
    """The jobs, what each reads, what is done, and how long the rest may take on this machine.

    ``drawings``: how many figures follow.
    """
    distinct = list({job.folder: job for job in jobs}.values())
    states = {job.folder: state_of(experiment.root, job) for job in distinct}
    undone = [job for job in distinct if states[job.folder] != "done"]
    times = _update_times(experiment, undone, distinct)
    costs = {job.folder: _cost(experiment, job, times, _teacher_of(job, distinct)) for job in undone}
    lines = [f"{experiment.plan.group}, {experiment.configuration}: {len(distinct)} jobs"]
    for number, (job, title) in enumerate(zip(distinct, titles_of(distinct).values(), strict=True), start=1):
        lines.append(f"[{number}] {title}: {states[job.folder]}{_cost_text(costs.get(job.folder))}")
        lines.append(f"      {stage_of(job).purpose}; folder {job.folder}")
        lines += [f"      reads  {folder}" for folder in job.reads]
        lines.append(f"      images of {', '.join(stage_of(job).drawn(job))}")
    if not undone:
        return "\n".join([*lines, "to do: nothing"])
    figures = SECONDS_OF_FIGURE * drawings
    scoring, training = (sum(cost[part] for cost in costs.values()) for part in (1, 0))
    timed = ", ".join(f"{1000 * time.update:.0f} ms per update of one {_named(kind)}" for kind, time in times.items())
    lines.append(
        f"to do: at most about {duration(training + scoring + figures)}: training {duration(training)} (at "
        f"{timed}), scoring {duration(scoring)}, figures {duration(figures)}"
    )
    if any(time.scoring is None for time in times.values()):
        lines.append("scoring could not be timed on all networks, and is counted as nothing there")
    return "\n".join([*lines, *_budget_text(experiment, training, scoring + figures)])


def _update_times(experiment: Experiment, undone: Sequence[Job], jobs: Sequence[Job]) -> dict[Network, Times]:
    """Of each kind of network that is trained, or that a student's teacher consists of."""
    of_kind = {_network(one): one for job in undone for one in (job, _teacher_of(job, jobs))}
    trained = {_network(job) for job in undone}
    return {
        network: Times(
            seconds_per_update(experiment, job),
            time_scoring(experiment, job) if network in trained else ScoringTime(0.0, 0.0),
        )
        for network, job in of_kind.items()
    }


def _cost(experiment: Experiment, job: Job, times: Mapping[Network, Times], teacher: Job) -> tuple[float, float]:
    """Seconds of training with its validation, and of scoring."""
    settings = experiment.settings
    updates = {network: time.update for network, time in times.items()}
    validation = COST_OF_FORWARD * settings.validation_batches_used / settings.iterations_per_epoch
    training = (1 + validation) * estimated_seconds(experiment, job, updates, teacher)
    scoring = times[_network(job)].scoring
    return training, scoring_seconds(experiment, job, scoring) if scoring is not None else 0.0


def _cost_text(cost: tuple[float, float] | None) -> str:
    return "" if cost is None else f", about {duration(sum(cost))} (scoring {duration(cost[1])})"


def _budget_text(experiment: Experiment, training: float, rest: float) -> list[str]:
    """On a CPU with the default budget, which is meant for a GPU: a budget that this machine trains overnight."""
    settings, default = experiment.settings, Settings()
    updates = settings.epochs * settings.iterations_per_epoch
    is_default = (settings.epochs, settings.iterations_per_epoch) == (default.epochs, default.iterations_per_epoch)
    if find_device(settings.device).type != "cpu" or not is_default or training + rest <= NIGHT_SECONDS:
        return []
    fitting = int(updates * max(0.0, NIGHT_SECONDS - rest) / training)
    iterations = min(settings.iterations_per_epoch, fitting // FEW_EPOCHS)
    if iterations < FEWEST_ITERATIONS:
        return [
            f"the default budget is meant for a GPU; in {duration(NIGHT_SECONDS)} this CPU makes {fitting} updates "
            "per network, too few: use a GPU, a smaller --width, or fewer data sets"
        ]
    epochs = fitting // iterations
    return [
        f"the default budget is meant for a GPU; --epochs {epochs} --iterations {iterations} takes this CPU about "
        f"{duration(rest + training * epochs * iterations / updates)}"
    ]


def _named(network: Network) -> str:
    """UNet, or UNet of width 16."""
    width = "" if network.width is None else f" of width {network.width}"
    return f"{NETWORK_NAMES.get(network.architecture, network.architecture)}{width}"
