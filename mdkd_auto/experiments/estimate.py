"""What is done, what is to do, how long it may take, and which finished runs no longer match."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mdkd_auto.errors import MdkdError
from mdkd_auto.experiments.jobs import NETWORK_NAMES, STAGES, Experiment, Job, Network, is_finished
from mdkd_auto.experiments.run import title_of
from mdkd_auto.experiments.runs import RunRecord, read_run
from mdkd_auto.networks.detector import Objects
from mdkd_auto.networks.model import Model
from mdkd_auto.paths import Root, RunFolder
from mdkd_auto.planners.detection import LEAST_ANCHOR
from mdkd_auto.tasks.task_parts import TASK_PARTS, Given
from mdkd_auto.training.fit import LATEST, find_device, is_out_of_memory
from mdkd_auto.training.interfaces import Output

# Cost of an update against a single teacher's, with two sources: the largest in docs/results.md, rounded up.
COST_OF_STAGE = {"teacher": 1.0, "source_teacher": 1.1, "joint_teacher": 2.0, "student": 1.8, "fine_tuned": 1.0,
                 "multi_head": 1.0}  # fmt: skip
COST_OF_SOURCE = 1 / 3  # more, for each beyond two: a frozen teacher's forward pass; backward takes twice as long
_TIMED_UPDATES = 2


class Stale(NamedTuple):
    """A finished run that a changed raw folder or plan has overtaken."""

    folder: str
    changes: tuple[str, ...]


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
    given = Given(plan, {}, experiment.settings, job.stage, job.architecture, job.width, {})
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
    rounds = len(job.datasets) if job.stage == "multi_head" else 1
    more = COST_OF_STAGE[job.stage] - 1
    if job.stage in ("joint_teacher", "student"):
        more += COST_OF_SOURCE * (len(job.sources) - 2)
    return updates * rounds * (times[_network(job)] + more * times[_network(teacher)])


def _network(job: Job) -> Network:
    return Network(job.architecture, job.width)


def _teacher_of(job: Job, jobs: Sequence[Job]) -> Job:
    """The joint teacher that a student learns from; of other stages, and where it is not listed, the job itself."""
    return next((one for one in jobs if one.stage == "joint_teacher" and one.folder in job.reads), job)


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
    same = (job.stage, job.target, job.configuration, job.fold) == (old.stage, old.target, old.configuration, old.fold)
    grown = set(old.sources) <= set(job.sources)  # fewer sources are another choice, not a change of the data
    return same and (job.sources == old.sources if job.stage == "source_teacher" else grown)


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


def dry_run_text(experiment: Experiment, jobs: list[Job]) -> str:
    """The jobs, what each reads, what is done, and how long the rest may take on this machine."""
    states = [state_of(experiment.root, job) for job in jobs]
    needed = [one for job, state in zip(jobs, states, strict=True) if state != "done"
              for one in (job, _teacher_of(job, jobs))]  # fmt: skip
    of_kind = {_network(job): job for job in needed}
    times = {network: seconds_per_update(experiment, job) for network, job in of_kind.items()}
    lines, total = [f"{experiment.plan.group}, {experiment.configuration}: {len(jobs)} jobs"], 0.0
    for number, (job, state) in enumerate(zip(jobs, states, strict=True), start=1):
        seconds = 0.0 if state == "done" else estimated_seconds(experiment, job, times, _teacher_of(job, jobs))
        total += seconds
        lines.append(f"[{number}] {title_of(job)}: {state}{f', about {_duration(seconds)}' if seconds else ''}")
        lines.append(f"      {STAGES[job.stage].purpose}; folder {job.folder}")
        lines += [f"      reads  {folder}" for folder in job.reads]
        lines.append(f"      images of {', '.join(job.datasets if job.stage != 'student' else job.datasets[:1])}")
    timed = [f"{1000 * seconds:.0f} ms an update of one {_named(network)}" for network, seconds in times.items()]
    lines.append(f"to do: at most about {_duration(total)}, at {', '.join(timed)}" if timed else "to do: nothing")
    return "\n".join(lines)


def _named(network: Network) -> str:
    """UNet, or UNet of width 16."""
    width = "" if network.width is None else f" of width {network.width}"
    return f"{NETWORK_NAMES.get(network.architecture, network.architecture)}{width}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
