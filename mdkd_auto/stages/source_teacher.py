"""Stage 1: a teacher trained on a source and aligned with the target by adversarial training."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.settings import Settings
from mdkd_auto.losses.domain import domain_loss
from mdkd_auto.networks.discriminator import Discriminator, reversal_strength, reverse_gradient
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.settings import COMMON
from mdkd_auto.stages.stage import Ingredients, MakesJobs, Stage, single_head
from mdkd_auto.tasks.shared.scored_part import VALIDATION
from mdkd_auto.training.interfaces import Output, Score, Terms, TrainingTask, outputs_of, some_images


class SourceTeacherObjective:
    """Eq. (2)-(6): a source teacher aligned with the target by a domain discriminator behind a reversal layer.

    The task says which of the head's outputs are whose: in segmentation each data set has its own, in classification
    classes of one name share theirs. A batch is shared by both, so that an update costs no more memory or time than the
    target teacher's.
    """

    def __init__(
        self,
        model: Model,
        discriminator: Discriminator,
        task: TrainingTask,
        source: str,
        target: str,
        settings: Settings,
    ) -> None:
        self.model, self.discriminator, self.task = model, discriminator, task
        self.source, self.target = source, target
        self.target_label_weight = settings.target_label_weight
        self.outputs = task.source_and_target_outputs(source, target)[1]
        self.batch_fractions = {source: 0.5, target: 0.5}
        self._trained = nn.ModuleDict({"model": model, "discriminator": discriminator})

    def trained(self) -> nn.Module:
        return self._trained

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        source, target = batches[self.source], batches[self.target]
        features = self.model.features(torch.cat([source.images, target.images]))
        output = self.model.head(features)  # (B_s + B_t, K_s + K_t, *S)
        count, both = len(source.images), len(features[0])
        source_loss = self.task.loss(self._of(self.source, some_images(output, 0, count)), source, self.source)
        domains = self.discriminator(reverse_gradient(features[-1], reversal_strength(progress)))
        terms = {"source": source_loss, "domain": domain_loss(domains[:count], domains[count:])}
        total = source_loss + terms["domain"]
        if self.target_label_weight > 0:
            terms["target"] = self.task.loss(
                self._of(self.target, some_images(output, count, both)), target, self.target
            )
            total = total + self.target_label_weight * terms["target"]
        yield {"total": total, **terms}

    def schedules(self, progress: float) -> dict[str, float]:
        return {"lambda: gradient reversal": reversal_strength(progress)}

    def on_epoch_end(self, score: float) -> None:
        """Nothing depends on it."""

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        output = self._of(dataset, self.model(batch.images))
        return self.task.loss(output, batch, dataset), self.task.score(output, batch, dataset)

    def validated_on(self) -> Iterable[str]:
        """The target, which the teacher is for; the source where target labels are not to be used (r = 0)."""
        return (self.target,) if self.target_label_weight > 0 else (self.source,)

    def to(self, device: torch.device) -> None:
        self._trained.to(device)

    def _of(self, dataset: str, output: Output) -> Output:
        return outputs_of(output, self.outputs[dataset])


class TargetOutputs(nn.Module):
    """A source teacher as the target sees it: the target's outputs."""

    def __init__(self, model: nn.Module, places: list[int]) -> None:
        super().__init__()
        self.model, self.places = model, places

    def forward(self, x: torch.Tensor) -> Output:
        return outputs_of(self.model(x), self.places)


def build_model(task: TrainingTask, job: Job) -> Model:
    outputs, _ = task.source_and_target_outputs(job.sources[0], job.target)
    return single_head(task, outputs)


def make_objective(given: Ingredients) -> SourceTeacherObjective:
    job, settings = given.job, given.settings
    discriminator = Discriminator(given.model.encoder.channels[-1], settings.discriminator == "voxelwise")
    return SourceTeacherObjective(given.model, discriminator, given.task, job.sources[0], job.target, settings)


def network_for(network: Model | MultiHeadModel, task: TrainingTask, job: Job, dataset: str) -> nn.Module:
    _, places = task.source_and_target_outputs(job.sources[0], job.target)
    return TargetOutputs(network, places[dataset])


def jobs(maker: MakesJobs, target: str, sources: tuple[str, ...]) -> list[Job]:
    return [job for job in maker.distilled(target, sources) if job.stage == "source_teacher"]


SOURCE_TEACHER = Stage(
    name="source_teacher",
    folder_name="SourceTeacher",
    title="source teacher {sources} -> {target}",
    purpose="learns a source, aligned with the target by adversarial training",
    settings=(*COMMON, "target_label_weight", "discriminator"),
    build_model=build_model,
    make_objective=make_objective,
    jobs=jobs,
    network="teachers",
    network_for=network_for,
    missing_sources="the source",
    draws_sources=True,
    scored_parts=(VALIDATION,),  # only a means
    cost=1.1,
)
