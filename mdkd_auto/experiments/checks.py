"""Does the joint teacher use its sources, and is the student really distilled? Measured on validation patches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdkd_auto.data.sampling import Batch
from mdkd_auto.experiments.jobs import Experiment, Job
from mdkd_auto.experiments.runs import load_model, read_run
from mdkd_auto.files import write_json
from mdkd_auto.networks.fusion import JointEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.training.fit import Streams

CHECKED_BATCHES = 4
POSITIONS = 8  # feature maps are pooled to at most this many positions an axis before they are compared
USED = 0.01  # mean change of probability from which on sources count as used


def write_checks(experiment: Experiment, job: Job, streams: Streams, device: torch.device) -> None:
    """Write checks.json into the folder of a joint teacher or a student; other stages have nothing to check."""
    if job.stage not in ("joint_teacher", "student"):
        return
    folder = experiment.root.results / job.folder
    sampler = streams.validation[job.target]
    size = max(2, streams.batch_size)
    batches = [_on(sampler.batch(index, size), device) for index in range(CHECKED_BATCHES)]
    model = _load(folder, device)
    if job.stage == "joint_teacher":
        result: dict[str, Any] = source_use(model, batches)
    else:
        joint_folder = experiment.root.results / job.reads[0]
        joint_job = read_run(joint_folder).job
        result = distillation(
            model, _load(experiment.root.results / joint_job.reads[0], device), _load(joint_folder, device), batches
        )
    write_json(folder / "checks.json", result)


@torch.no_grad()
def source_use(model: Model, batches: list[Batch]) -> dict[str, Any]:
    """How much the output depends on the source teachers: their maps are replaced by one that says nothing.

    ``output_change`` is the mean change of the probability over voxels that either output calls likely (above 0.1).
    """
    changed, counted = 0.0, 0
    assert isinstance(model.encoder, JointEncoder)
    for batch in batches:
        whole = torch.sigmoid(model(batch.images))
        silenced = torch.sigmoid(model.head(model.encoder(batch.images, silence_sources=True)))
        likely = (whole > 0.1) | (silenced > 0.1)
        changed += (whole - silenced).abs()[likely].sum().item()
        counted += int(likely.sum().item())
    change = changed / counted if counted else 0.0
    return {"check": "source_use", "output_change": change, "uses_sources": change > USED}


@torch.no_grad()
def distillation(student: Model, baseline: Model, joint_teacher: Model, batches: list[Batch]) -> dict[str, Any]:
    """Likeness (linear CKA) of the student's features to the joint teacher's, beside the undistilled baseline's."""
    like_student = _likeness(student.features, joint_teacher.features, batches)
    like_baseline = _likeness(baseline.features, joint_teacher.features, batches)
    return {
        "check": "distillation",
        "likeness_of_student": like_student,
        "likeness_of_baseline": like_baseline,
        "distilled": like_student > like_baseline,
    }


def _likeness(
    ours: Callable[[torch.Tensor], list[torch.Tensor]],
    theirs: Callable[[torch.Tensor], list[torch.Tensor]],
    batches: list[Batch],
) -> float:
    """Mean over levels of the linear CKA of features at the same positions."""
    left: list[list[torch.Tensor]] = [[_rows(level) for level in ours(batch.images)] for batch in batches]
    right: list[list[torch.Tensor]] = [[_rows(level) for level in theirs(batch.images)] for batch in batches]
    by_level = zip(zip(*left, strict=True), zip(*right, strict=True), strict=True)
    levels = [linear_cka(torch.cat(a), torch.cat(b)) for a, b in by_level]
    return sum(levels) / len(levels)


def linear_cka(a: torch.Tensor, b: torch.Tensor) -> float:
    """Linear centred kernel alignment of features (N, C_a) and (N, C_b), 0 to 1 (Kornblith et al., 2019)."""
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    between = (a.T @ b).square().sum()
    within = (a.T @ a).square().sum().sqrt() * (b.T @ b).square().sum().sqrt()
    return float(between / within) if within > 0 else 0.0


def _rows(level: torch.Tensor) -> torch.Tensor:
    """(B, C, *S) -> (B * positions, C), float32 on the CPU."""
    y, x = (min(extent, POSITIONS) for extent in level.shape[-2:])
    if level.ndim == 5:
        reduced = F.adaptive_avg_pool3d(level.float(), (min(level.shape[2], POSITIONS), y, x))
    else:
        reduced = F.adaptive_avg_pool2d(level.float(), (y, x))
    return reduced.flatten(2).transpose(1, 2).flatten(0, 1).cpu()


def _load(folder: Path, device: torch.device) -> Model:
    model = load_model(folder, read_run(folder))
    assert isinstance(model, Model)
    nn.Module.to(model, device)
    return model.eval()


def _on(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.images.to(device), batch.labels.to(device), batch.cases)
