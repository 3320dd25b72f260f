"""Stage 3: the student learns the target from its labels and from the joint teacher."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.settings import Settings
from mdkd_auto.losses.contrastive import FEWEST_SAMPLES, contrastive_loss
from mdkd_auto.losses.features import feature_loss, pooled, similarity_loss, unit_scale
from mdkd_auto.losses.weighting import DistillationWeights, distillation_total
from mdkd_auto.networks.model import Model
from mdkd_auto.stages.job import Job
from mdkd_auto.stages.settings import COMMON, DISTILLATION
from mdkd_auto.stages.stage import Ingredients, Stage, single_head
from mdkd_auto.training.interfaces import TURNED_DOWN, Score, Terms, TrainingTask
from mdkd_auto.training.schedules import contrastive_weight, curriculum, temperature

TURN_DOWN_EPOCHS = 3  # whose mean is compared: one epoch's score is noise
FIRST_TURNED_BACK = 1 / 16  # of what is distilled, after it was nothing
VOXELS_AT_ONCE = 1 << 17  # 16 maps of them are 8 MiB


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
        self.batch_fractions = {target: 1.0}
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

    def on_epoch_end(self, score: float) -> None:
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


def build_model(task: TrainingTask, job: Job) -> Model:
    return single_head(task, task.outputs(job.target))


def make_objective(given: Ingredients) -> StudentObjective:
    job, earlier = given.job, given.earlier
    joint_teacher = earlier.model(job.reads[0])
    weight, alone = earlier.distillation_weight(), earlier.baseline_scores()
    return StudentObjective(given.model, joint_teacher, given.task, job.target, given.settings, weight, alone)


STUDENT = Stage(
    name="student",
    folder_name="Student",
    title="student of {target} from {sources}",
    purpose="learns the target and the joint teacher",
    settings=(*COMMON, *DISTILLATION, "reliability", "turn_down"),
    build_model=build_model,
    make_objective=make_objective,
    jobs=lambda maker, target, sources: maker.distilled(target, sources),
    reads=("joint_teacher", "teacher"),
    column="student",
    distils=True,
    cost=1.8,
    runs_all_teachers=True,
    fewest_images=FEWEST_SAMPLES,
    check="distillation",
)
