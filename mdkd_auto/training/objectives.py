"""The stages of the method as objectives: small holders of networks that turn batches into named losses.

Stage 1: :class:`TeacherObjective` and :class:`SourceTeacherObjective`. Stage 2: :class:`TeacherObjective` on a joint
encoder. Stage 3: :class:`StudentObjective`. Baseline: :class:`MultiHeadObjective`.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.settings import Settings
from mdkd_auto.losses.contrastive import contrastive_loss
from mdkd_auto.losses.domain import domain_loss
from mdkd_auto.losses.features import feature_loss, pooled, similarity_loss, unit_scale
from mdkd_auto.losses.weighting import DistillationWeights, distillation_total
from mdkd_auto.networks.discriminator import Discriminator, reversal_strength, reverse_gradient
from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.training.interfaces import TURNED_DOWN, Output, Score, Terms, TrainingTask
from mdkd_auto.training.schedules import contrastive_weight, curriculum, temperature

TURN_DOWN_EPOCHS = 3  # whose mean is compared: one epoch's score is noise
FIRST_TURNED_BACK = 1 / 16  # of what is distilled, after it was nothing
VOXELS_AT_ONCE = 1 << 17  # 16 maps of them are 8 MiB


class TeacherObjective:
    """Supervised training on one data set: target teacher (eq. 1) and, on a fused encoder, joint teacher (stage 2).

    A frozen encoder inside the model simply has no parameter that requires a gradient.
    """

    def __init__(self, model: Model, task: TrainingTask, dataset: str) -> None:
        self.model, self.task, self.dataset = model, task, dataset
        self.shares = {dataset: 1.0}

    def trained(self) -> nn.Module:
        return self.model

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        del progress
        batch = batches[self.dataset]
        yield {"total": self.task.loss(self.model(batch.images), batch, self.dataset)}

    def schedules(self, progress: float) -> dict[str, float]:
        del progress
        return {}

    def judged(self, score: float) -> None:
        """Nothing depends on it."""

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        output = self.model(batch.images)
        return self.task.loss(output, batch, dataset), self.task.score(output, batch, dataset)

    def validated_on(self) -> Iterable[str]:
        return (self.dataset,)

    def to(self, device: torch.device) -> None:
        self.model.to(device)


class SourceTeacherObjective:
    """Eq. (2)-(6): a source teacher drawn towards the target by a domain discriminator behind a reversal layer.

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
        self.outputs = task.shared(source, target)[1]
        self.shares = {source: 0.5, target: 0.5}
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

    def judged(self, score: float) -> None:
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


class StudentObjective:
    """Eq. (9), (16): task loss and, by curriculum, contrastive, feature, similarity and head's losses.

    The student's maps are projected onto the teacher's (1x1 convolutions that are thrown away after training).
    """

    def __init__(
        self,
        model: Model,
        joint_teacher: Model,
        task: TrainingTask,
        target: str,
        settings: Settings,
        reliability: float = 1.0,
        baseline_scores: Sequence[float] = (),
    ) -> None:
        self.model, self.joint_teacher, self.task, self.target = model, joint_teacher.eval(), task, target
        self.joint_teacher.requires_grad_(False)
        self.settings = settings
        self.shares = {target: 1.0}
        self.reliability = reliability  # of the joint teacher: scales all that is distilled
        self.baseline_scores = tuple(baseline_scores)  # of the same network trained alone, one an epoch
        self.scores: list[float] = []
        self.turned_down = 1.0
        self.levels = task.pairs(model.encoder, joint_teacher.encoder)
        students = [model.encoder.channels[level] for level, _ in self.levels]
        teachers = [joint_teacher.encoder.channels[level] for _, level in self.levels]
        convolution = nn.Conv3d if len(model.encoder.strides[0]) == 3 else nn.Conv2d
        projections = nn.ModuleList(convolution(s, t, 1) for s, t in zip(students, teachers, strict=True))
        self.same_width = students == teachers
        self.head_projection = task.head_projection(model.head, joint_teacher.head)
        self._trained = nn.ModuleDict(
            {"model": model, "projections": projections, "head_projection": self.head_projection}
        )
        self.projections = projections
        self.weights = DistillationWeights(
            alpha=settings.alpha, beta=settings.beta, gamma=settings.gamma, delta=settings.delta
        )

    def trained(self) -> nn.Module:
        return self._trained

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        batch = batches[self.target]
        maps = self.model.features(batch.images)
        output = self.model.head(maps)
        task_loss = self.task.loss(output, batch, self.target)
        weight = self.reliability * self.turned_down * curriculum(progress, self.settings)
        logged = {TURNED_DOWN: torch.tensor(self.turned_down)} if self.settings.turn_down else {}
        if weight == 0.0:  # warm-up: the teacher is not even asked
            yield {"total": self.settings.alpha * task_loss, "task": task_loss, **logged}
            return
        teacher_maps = frozen_features(self.joint_teacher, batch.images)
        contrastive = contrastive_loss(
            pooled(maps[-1]),
            pooled(teacher_maps[-1]),
            temperature(progress, self.settings),
            self.settings.contrastive_centred,
        )
        paired, theirs = self.pair(maps, teacher_maps)
        projected = [project(level) for project, level in zip(self.projections, paired, strict=True)]
        feature = feature_loss(projected, unit_scale(theirs))
        similarity = similarity_loss(paired if self.same_width else projected, theirs)
        total = distillation_total(
            task_loss,
            contrastive,
            feature,
            similarity,
            self.weights,
            beta_factor=contrastive_weight(progress, self.settings) / self.settings.beta if self.settings.beta else 0.0,
            curriculum=weight,
        )
        terms = {"total": total, "task": task_loss, "feature": feature, "similarity": similarity, **logged}
        if self.task.distils_output:
            with torch.no_grad():
                taught = self.joint_teacher.head(teacher_maps)
            more = self.task.distilled(output, taught, paired, theirs, self.head_projection)
            for name, (share, loss) in more.items():
                terms[name] = loss
                terms["total"] = terms["total"] + weight * share * loss
        if contrastive is not None:
            terms["contrastive"] = contrastive
        yield terms

    def schedules(self, progress: float) -> dict[str, float]:
        """Eq. (9): w(e), with the joint teacher's reliability, and beta(e); eq. (11): tau.

        How far the student was turned down in an epoch is logged beside the losses: w(e) holds before it.
        """
        return {
            "w(e): weight of distillation": self.reliability * curriculum(progress, self.settings),
            "beta(e): weight of the contrastive loss": contrastive_weight(progress, self.settings),
            "tau: temperature of the contrastive loss": temperature(progress, self.settings),
        }

    def judged(self, score: float) -> None:
        """Distil nothing after an epoch with the student behind its baseline; after others a sixteenth, doubled to all.

        Both as the mean of the last three epochs; against the same epochs of the baseline. The factor stays what it is
        where the baseline has no more, and in the warm-up: the two are one there, and what differs is rounding.
        """
        self.scores.append(score)
        epoch = len(self.scores)
        if self.settings.turn_down and epoch <= len(self.baseline_scores) and self._distilled_in(epoch):
            first = max(0, epoch - TURN_DOWN_EPOCHS)
            ours, theirs = sum(self.scores[first:]), sum(self.baseline_scores[first:epoch])
            back = min(1.0, max(FIRST_TURNED_BACK, 2 * self.turned_down))
            self.turned_down = 0.0 if ours < theirs else back

    def _distilled_in(self, epoch: int) -> bool:
        """Whether w(e) was above 0 at the last update of an epoch, counted from 1."""
        updates = self.settings.iterations_per_epoch
        return curriculum((epoch * updates - 1) / (self.settings.epochs * updates), self.settings) > 0

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        output = self.model(batch.images)
        return self.task.loss(output, batch, dataset), self.task.score(output, batch, dataset)

    def validated_on(self) -> Iterable[str]:
        return (self.target,)

    def to(self, device: torch.device) -> None:
        self._trained.to(device)
        self.joint_teacher.to(device)

    def pair(
        self, maps: list[torch.Tensor], teacher_maps: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The student's and the teacher's maps of the levels that belong together."""
        return [maps[ours] for ours, _ in self.levels], [teacher_maps[theirs] for _, theirs in self.levels]


def outputs_of(output: Output, places: list[int]) -> Output:
    """The outputs (B, K, ...), or a detector's classes, at these places; a view where they are consecutive."""
    if not isinstance(output, torch.Tensor):
        return output.of(places)
    if places == list(range(places[0], places[0] + len(places))):
        return output[:, places[0] : places[0] + len(places)]
    return output[:, places]


def some_images(output: Output, start: int, stop: int) -> Output:
    """The output for images start..stop-1 of the batch."""
    return output[start:stop] if isinstance(output, torch.Tensor) else output.images(start, stop)


@torch.no_grad()
def frozen_features(model: Model, images: torch.Tensor) -> list[torch.Tensor]:
    """The model's maps, one a level, of images (B, C, *S); no image's depend on the others.

    On a CPU a few images are taken at a time, so that their maps stay in its cache.
    """
    at_once = max(1, VOXELS_AT_ONCE // images[0, 0].numel())
    if images.device.type != "cpu" or at_once >= len(images):
        return model.features(images)
    parts = [model.features(part) for part in images.split(at_once)]
    return [torch.cat(level) for level in zip(*parts, strict=True)]


class MultiHeadModel(nn.Module):
    """A shared encoder with one head a data set."""

    def __init__(self, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({_module_name(dataset): head for dataset, head in heads.items()})

    def of(self, dataset: str) -> Model:
        """Encoder and the head of ``dataset``, sharing the weights."""
        return Model(self.encoder, self.heads[_module_name(dataset)])


def _module_name(dataset: str) -> str:
    """A module's name holds no dot; a data set's may (Dataset012_v1.5). Numbers keep data sets apart."""
    return dataset.replace(".", "_")


class MultiHeadObjective:
    """The multi-data-set baseline: batches of every data set in turn, losses accumulated before each update."""

    def __init__(self, model: MultiHeadModel, task: TrainingTask, datasets: tuple[str, ...]) -> None:
        self.model, self.task, self.datasets = model, task, datasets
        self.shares = dict.fromkeys(datasets, 1.0)

    def trained(self) -> nn.Module:
        return self.model

    def losses(self, batches: dict[str, Batch], progress: float) -> Iterator[Terms]:
        del progress
        for dataset, batch in batches.items():
            loss = self.task.loss(self.model.of(dataset)(batch.images), batch, dataset)
            yield {"total": loss / len(batches), dataset: loss}

    def schedules(self, progress: float) -> dict[str, float]:
        del progress
        return {}

    def judged(self, score: float) -> None:
        """Nothing depends on it."""

    def validate(self, dataset: str, batch: Batch) -> tuple[torch.Tensor, Score]:
        output = self.model.of(dataset)(batch.images)
        return self.task.loss(output, batch, dataset), self.task.score(output, batch, dataset)

    def validated_on(self) -> Iterable[str]:
        return self.datasets

    def to(self, device: torch.device) -> None:
        self.model.to(device)
