"""Does the joint teacher use its sources, and is the student really distilled? Measured on validation patches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.files import write_json
from mdkd_auto.execution.run_folder import load_model, make_task, read_run
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.losses.features import resized, unit_scale
from mdkd_auto.networks.fusion.joint import FusedEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.training.interfaces import Objective
from mdkd_auto.training.loop import Streams

CHECKED_BATCHES = 4
EXPLAINED = 0.05  # share of the teacher's variance from which on a student counts as distilled
USED = 0.01  # mean change of probability from which on sources count as used


def write_checks(
    experiment: Experiment, job: Job, objective: Objective, streams: Streams, device: torch.device, parts: int = 1
) -> None:
    """Write checks.json into the job's folder where its stage has something to check.

    ``parts``: into which a batch must be split for the memory to hold it.
    """
    check = stage_of(job).check
    if check is None:
        return
    folder = experiment.root.results / job.folder
    sampler = streams.validation[job.target]
    size = max(2, streams.batch_size)
    batches = [_on(sampler.batch(index, size), device) for index in range(CHECKED_BATCHES)]
    if check == "source_use":
        some = [part for batch in batches for part in _in_parts(batch, parts, least=2)]  # silencing takes means of them
        result = source_use(_load(folder, device), some, make_task(read_run(folder)).probabilities)
    else:
        assert isinstance(objective, StudentObjective)
        result = distillation(objective, batches, parts)
    write_json(folder / "checks.json", result)


@torch.no_grad()
def source_use(
    model: Model, batches: list[Batch], probabilities: Callable[[torch.Tensor], torch.Tensor] = torch.sigmoid
) -> dict[str, Any]:
    """How much the output depends on the source teachers: their maps are replaced by one that says nothing.

    ``output_change`` is the mean change of the probability over voxels (or classes) that either output calls
    likely (above 0.1).
    """
    changed, counted = 0.0, 0
    assert isinstance(model.encoder, FusedEncoder)
    for batch in batches:
        whole = probabilities(model(batch.images))
        silenced = probabilities(model.head(model.encoder(batch.images, silence_sources=True)))
        likely = (whole > 0.1) | (silenced > 0.1)
        changed += (whole - silenced).abs()[likely].sum().item()
        counted += int(likely.sum().item())
    change = changed / counted if counted else 0.0
    return {"check": "source_use", "output_change": change, "uses_sources": change > USED}


@torch.no_grad()
def distillation(objective: StudentObjective, batches: list[Batch], parts: int = 1) -> dict[str, Any]:
    """How much of the joint teacher's maps the student's maps, through their projections, explain (R squared).

    0 is what a constant for each channel would reach. A student that was not distilled never trained its projections
    and stays below. The projections end with training, so this is the student's last state, not its best.
    Each batch is taken in so many ``parts``; what it explains is that of the whole.
    """
    explained = [0.0] * len(objective.projections)
    objective.trained().eval()
    for batch in batches:
        sums = [_level_sums(objective, part) for part in _in_parts(batch, parts)]
        for index, level in enumerate(zip(*sums, strict=True)):
            explained[index] += _explained(level) / len(batches)
    mean = sum(explained) / len(explained)
    return {"check": "distillation", "explained": mean, "explained_by_level": explained, "distilled": mean > EXPLAINED}


class _Sums(NamedTuple):
    """Of the joint teacher's map at one level, over a part of a batch."""

    missed: float  # squares of what the student's map does not say
    spread: float  # squares around the means
    means: torch.Tensor  # of the channels
    voxels: int


def _level_sums(objective: StudentObjective, batch: Batch) -> list[_Sums]:
    """Level by level."""
    ours, theirs = objective.pair(
        objective.model.features(batch.images), objective.joint_teacher.features(batch.images)
    )
    sums = []
    for project, a, b in zip(objective.projections, ours, unit_scale(theirs), strict=True):
        axes = [axis for axis in range(b.ndim) if axis != 1]
        missed = (resized(project(a).float(), b) - b).square().sum()
        spread = (b - b.mean(axes, keepdim=True)).square().sum()
        sums.append(_Sums(missed.item(), spread.item(), b.mean(axes).cpu().double(), b.numel() // b.shape[1]))
    return sums


def _explained(parts: Sequence[_Sums]) -> float:
    """R squared of a level over all parts: the spread is that around the means of the whole."""
    voxels = torch.tensor([[part.voxels] for part in parts], dtype=torch.float64)
    means = torch.stack([part.means for part in parts])
    whole = (voxels * means).sum(0) / voxels.sum()
    spread = sum(part.spread for part in parts) + (voxels * (means - whole).square()).sum().item()
    return 1 - sum(part.missed for part in parts) / max(spread, 1e-12)


def _in_parts(batch: Batch, parts: int, least: int = 1) -> list[Batch]:
    """The batch in so many parts, or in fewer of at least so many images each."""
    images = len(batch.images)
    parts = max(1, min(parts, images // least))
    return [batch.part(images * number // parts, images * (number + 1) // parts) for number in range(parts)]


def _load(folder: Path, device: torch.device) -> Model:
    model = load_model(folder, read_run(folder))
    assert isinstance(model, Model)
    nn.Module.to(model, device)
    return model.eval()


def _on(batch: Batch, device: torch.device) -> Batch:
    return batch.to(device)
