"""What classification brings: one output a class, encoders from MedViT, timm or the plan, cross-entropy, probabilities.

A case's class is stored as a label map of one value (preprocessing/dataset.py), so that batches are made as for
segmentation; here it becomes the number of an output again.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.errors import PredictionError, SettingsError
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan
from mdkd_auto.core.settings import FUSION_HEADS, Architecture, ClassificationSettings, Settings
from mdkd_auto.formats.read_write import Image
from mdkd_auto.losses.classification import class_weights, cross_entropy, logit_loss
from mdkd_auto.networks.classifier import ClassifierHead
from mdkd_auto.networks.fusion.tokens import FusionAttentionEncoder
from mdkd_auto.networks.medvit import SIZES, MedViTEncoder
from mdkd_auto.networks.model import Encoder
from mdkd_auto.networks.timm_encoder import TimmEncoder, check_name, check_size
from mdkd_auto.networks.unet import UNetEncoder, scale_width
from mdkd_auto.preprocessing.case import Prepared
from mdkd_auto.tasks.shared.classes import Classes
from mdkd_auto.tasks.shared.prediction import NOT_FINITE, PredictionOptions
from mdkd_auto.tasks.shared.whole_images import batch_of, prepare_whole
from mdkd_auto.training.interfaces import Score

MEDVIT = tuple(f"medvit_{size}" for size in SIZES)


def check_settings(settings: Settings, plan: ConfigurationPlan) -> None:
    """Raise SettingsError for networks that classification does not have, or not for the plan's images; for a width
    that none of them has, and for more distilled levels than there are."""
    own = settings.classification
    of_datasets = {own.architecture_of.get(name[7:10]) for name in plan.datasets}  # by the number of DatasetNNN_Name
    teachers = set(map(str, {settings.teacher_architecture, *of_datasets} - {None}))
    student = settings.student_architecture or str(settings.teacher_architecture)
    for name in sorted({*teachers, student}):
        check_architecture(name, len(plan.patch_size))
        if name not in ("unet", *MEDVIT):
            check_size(name, plan.patch_size)
    widened = teachers if settings.student_width is not None else {*teachers, student}
    check_width("--width", settings.width, widened)
    check_width("--student-width", settings.student_width, {student})
    levels = len(plan.topology.features) if student == "unet" else levels_of(student)
    distilled_pairs(own, levels, own.fusion_blocks)


def has_width(name: Architecture) -> bool:
    """Whether a network may be made wider or narrower."""
    return name == "unet"


def check_width(flag: str, width: int | None, names: set[Architecture]) -> None:
    """Raise SettingsError for a width that none of the networks has."""
    if width is not None and not any(map(has_width, names)):
        have = "has a width of its own" if len(names) == 1 else "have widths of their own"
        raise SettingsError(f"width {width}: {', '.join(sorted(names))} {have}; leave {flag} out")


@cache
def levels_of(name: Architecture) -> int:
    """Maps of a network that is not the plan's."""
    if name not in MEDVIT:
        with torch.random.fork_rng(devices=[]):
            return len(TimmEncoder(name).channels)
    with torch.device("meta"):  # without weights, whose first values take seconds
        return len(_medvit(name, ClassificationSettings()).channels)


def _medvit(name: Architecture, settings: ClassificationSettings) -> MedViTEncoder:
    size = name.removeprefix("medvit_")
    return MedViTEncoder(size, 1, settings.dropout, settings.attention_dropout, settings.moment_exchange)


def check_architecture(name: str, axes: int) -> None:
    """Raise SettingsError for a network that classification does not have, or not for so many axes."""
    if name == "unet":
        return
    if axes == 3:
        raise SettingsError(f"network {name!r}: takes 2-D images; for volumes use unet, the plan's encoder")
    if name not in MEDVIT:
        check_name(name)


class ClassificationTask:
    """The parts that training needs, for one configuration (see training.interfaces.TrainingTask).

    ``counts``: cases of each class in a data set's training split, for the weights of eq. (14).
    """

    distils_output = True

    def __init__(
        self,
        plan: ConfigurationPlan,
        classes: dict[str, Classes],
        settings: Settings,
        distils: bool = False,
        architecture: Architecture = "unet",
        width: int | None = None,
        counts: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.plan, self.classes, self.settings = plan, classes, settings
        self.own = settings.classification
        self.architecture, self.width = architecture, width
        self.weighted = settings.task_loss != "paper" or distils
        self.weights = {name: class_weights(numbers) for name, numbers in (counts or {}).items()}
        check_architecture(architecture, len(plan.patch_size))

    def outputs(self, dataset: str) -> int:
        return len(self.classes[dataset].channels)

    def source_and_target_outputs(self, source: str, target: str) -> tuple[int, dict[str, list[int]]]:
        """Classes of the same name share their output."""
        names = [[channel.name for channel in self.classes[name].channels] for name in (source, target)]
        every = list(dict.fromkeys(names[0] + names[1]))
        places = [[every.index(name) for name in part] for part in names]
        return len(every), {source: places[0], target: places[1]}

    def encoder(self, architecture: Architecture | None = None, width: int | None = None) -> Encoder:
        kind, width = (self.architecture, self.width) if architecture is None else (architecture, width)
        if kind == "unet":
            topology = self.plan.topology if width is None else scale_width(self.plan.topology, width)
            return UNetEncoder(topology, 1, len(self.plan.patch_size))
        if width is not None:
            raise SettingsError(f"width {width}: {kind} has a width of its own; leave --width out")
        if kind in MEDVIT:
            return _medvit(kind, self.own)
        return TimmEncoder(kind, 1, self.own.dropout)

    def head(self, outputs: int, encoder: Encoder | None = None) -> nn.Module:
        return ClassifierHead((encoder or self.encoder()).channels[-1], outputs, self.own.dropout)

    def joint_encoder(self, teachers: Sequence[Encoder], weights: Sequence[float] | None) -> Encoder:
        own = self.own
        return FusionAttentionEncoder(
            teachers, own.joint_channels, own.fusion_blocks, FUSION_HEADS, weights, own.dropout
        )

    def pairs(self, student: Encoder, teacher: Encoder) -> list[tuple[int, int]]:
        return distilled_pairs(self.own, len(student.channels), len(teacher.channels))

    def head_projection(self, student: nn.Module, teacher: nn.Module) -> nn.Module:
        return nn.Identity()

    def distilled(
        self,
        output: torch.Tensor,
        taught: torch.Tensor,
        maps: list[torch.Tensor],
        teacher_maps: list[torch.Tensor],
        projection: nn.Module,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        return {"logits": (self.own.logits, logit_loss(output, taught, self.own.logits_temperature))}

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        return torch.softmax(output.float(), dim=1)

    def loss(self, output: torch.Tensor, batch: Batch, dataset: str) -> torch.Tensor:
        weights = self.weights.get(dataset) if self.weighted else None
        return cross_entropy(output, outputs_of_labels(batch.labels, self.classes[dataset]), weights)

    def score(self, output: torch.Tensor, batch: Batch, dataset: str) -> Score:
        """Right answers and cases, a class each; their mean ratio is the balanced accuracy."""
        truth = outputs_of_labels(batch.labels, self.classes[dataset])
        right = truth[output.argmax(1) == truth]
        count = self.outputs(dataset)
        counts = (torch.bincount(some, minlength=count).cpu() for some in (right, truth))
        return Score(*(some.double() for some in counts))  # on the CPU: MPS has no float64


def outputs_of_labels(labels: torch.Tensor, classes: Classes) -> torch.Tensor:
    """Label maps (B, *S), each of one value and INVALID outside, -> the class's number among the outputs (B,)."""
    values = labels.flatten(1).amax(1).long()  # (B,)
    known = torch.tensor([channel.values[0] for channel in classes.channels], device=labels.device)
    return (values[:, None] == known).long().argmax(1)


def distilled_pairs(settings: ClassificationSettings, levels: int, blocks: int) -> list[tuple[int, int]]:
    """(student's level, joint teacher's block) of early-K or late-K, the last level last.

    The student's last K levels learn the first K fusion blocks, or the last K. Raises SettingsError where there are
    fewer.
    """
    kind, number = settings.distilled.split("-")
    count = int(number)
    if count > min(levels, blocks):
        raise SettingsError(
            f"classification.distilled is {settings.distilled}: the student has {levels} levels and the joint teacher "
            f"{blocks} fusion blocks; take K of at most {min(levels, blocks)}"
        )
    first = 0 if kind == "early" else blocks - count
    return [(levels - count + place, first + place) for place in range(count)]


# --- prediction -----------------------------------------------------------------------------------------------------


class Classifier(NamedTuple):
    """A trained model with all it needs to give an image's probabilities."""

    model: nn.Module
    dataset_plan: DatasetPlan
    plan: ConfigurationPlan
    classes: Classes
    options: PredictionOptions

    def prepare(self, image: Image) -> Prepared:
        """The image in network space."""
        return prepare_whole(image, self.dataset_plan, self.plan)

    def logits(self, image: Image) -> np.ndarray:
        """See ``logits_of``."""
        return self.logits_of(self.prepare(image))

    @torch.no_grad()
    def logits_of(self, prepared: Prepared) -> np.ndarray:
        """Of each class (K,); with ``options.mirror`` the mean over the image and the same left to right.

        Upside down no picture is trained on (augmentation.upright). Raises PredictionError where one is not finite.
        """
        batch = batch_of(prepared, self.plan, self.options.device)
        flips: list[tuple[int, ...]] = [(), (-1,)] if self.options.mirror else [()]
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.options.low_precision):
            outputs = [self.model(batch.flip(flip))[0].float() for flip in flips]
        result: np.ndarray = torch.stack(outputs).mean(0).cpu().numpy().astype(np.float64)
        if not np.isfinite(result).all():
            raise PredictionError(NOT_FINITE)
        return result
