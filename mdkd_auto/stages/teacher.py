"""Stage 1: a data set's own teacher, the data-set-specific baseline."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.networks.model import Model
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.settings import COMMON
from mdkd_auto.stages.stage import Ingredients, Stage, single_head
from mdkd_auto.training.interfaces import Score, Terms, TrainingTask


class TeacherObjective:
    """Supervised training on one data set: target teacher (eq. 1) and, on a fused encoder, joint teacher (stage 2).

    A frozen encoder inside the model simply has no parameter that requires a gradient.
    """

    def __init__(self, model: Model, task: TrainingTask, dataset: str) -> None:
        self.model, self.task, self.dataset = model, task, dataset
        self.batch_fractions = {dataset: 1.0}

    def trained(self) -> nn.Module:
        return self.model

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        del progress
        batch = batches[self.dataset]
        yield {"total": self.task.loss(self.model(batch.images), batch, self.dataset)}

    def schedules(self, progress: float) -> dict[str, float]:
        del progress
        return {}

    def on_epoch_end(self, score: float) -> None:
        """Nothing depends on it."""

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        output = self.model(batch.images)
        return self.task.loss(output, batch, dataset), self.task.score(output, batch, dataset)

    def validated_on(self) -> Iterable[str]:
        return (self.dataset,)

    def to(self, device: torch.device) -> None:
        self.model.to(device)


def build_model(task: TrainingTask, job: Job) -> Model:
    return single_head(task, task.outputs(job.target))


def make_objective(given: Ingredients) -> TeacherObjective:
    return TeacherObjective(given.model, given.task, given.job.target)


TEACHER = Stage(
    name="teacher",
    folder_name="Teacher",
    title="teacher of {target}",
    purpose="learns the target alone: the data-set-specific baseline",
    settings=COMMON,
    build_model=build_model,
    make_objective=make_objective,
    jobs=lambda maker, target, sources: [maker.specific(target)],
    column="data-set-specific",
    network="teachers",
    knows_sources=False,
)
