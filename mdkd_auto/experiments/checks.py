"""Does the joint teacher use its sources, and is the student really distilled? Measured on validation patches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mdkd_auto.data.sampling import Batch
from mdkd_auto.experiments.jobs import Experiment, Job
from mdkd_auto.experiments.runs import load_model, make_task, read_run
from mdkd_auto.files import write_json
from mdkd_auto.losses.features import resized, unit_scale
from mdkd_auto.networks.fusion import FusedEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.training.fit import Streams
from mdkd_auto.training.interfaces import Objective
from mdkd_auto.training.objectives import StudentObjective

CHECKED_BATCHES = 4
EXPLAINED = 0.05  # share of the teacher's variance from which on a student counts as distilled
USED = 0.01  # mean change of probability from which on sources count as used


def write_checks(
    experiment: Experiment, job: Job, objective: Objective, streams: Streams, device: torch.device
) -> None:
    """Write checks.json into the folder of a joint teacher or a student; other stages have nothing to check."""
    if job.stage not in ("joint_teacher", "student"):
        return
    folder = experiment.root.results / job.folder
    sampler = streams.validation[job.target]
    size = max(2, streams.batch_size)
    batches = [_on(sampler.batch(index, size), device) for index in range(CHECKED_BATCHES)]
    if job.stage == "joint_teacher":
        result = source_use(_load(folder, device), batches, make_task(read_run(folder)).probabilities)
    else:
        assert isinstance(objective, StudentObjective)
        result = distillation(objective, batches)
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
def distillation(objective: StudentObjective, batches: list[Batch]) -> dict[str, Any]:
    """How much of the joint teacher's maps the student's maps, through their projections, explain (R squared).

    0 is what a constant for each channel would reach. A student that was not distilled never trained its projections
    and stays below. The projections end with training, so this is the student's last state, not its best.
    """
    explained = [0.0] * len(objective.projections)
    objective.trained().eval()
    for batch in batches:
        ours, theirs = objective.pair(
            objective.model.features(batch.images), objective.joint_teacher.features(batch.images)
        )
        theirs = unit_scale(theirs)
        for index, (project, a, b) in enumerate(zip(objective.projections, ours, theirs, strict=True)):
            axes = [axis for axis in range(b.ndim) if axis != 1]
            projected = resized(project(a).float(), b)
            spread = (b - b.mean(axes, keepdim=True)).square().sum()
            missed = (projected - b).square().sum()
            explained[index] += float(1 - missed / spread.clamp_min(1e-12)) / len(batches)
    mean = sum(explained) / len(explained)
    return {"check": "distillation", "explained": mean, "explained_by_level": explained, "distilled": mean > EXPLAINED}


def _load(folder: Path, device: torch.device) -> Model:
    model = load_model(folder, read_run(folder))
    assert isinstance(model, Model)
    nn.Module.to(model, device)
    return model.eval()


def _on(batch: Batch, device: torch.device) -> Batch:
    return batch.to(device)
