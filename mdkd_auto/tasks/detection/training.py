"""What detection brings: two families of detectors with their losses, what of a head is distilled, boxes of images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.ops import box_iou

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core import extras
from mdkd_auto.core.errors import PlanError, PredictionError, SettingsError
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan
from mdkd_auto.core.settings import Architecture, Settings
from mdkd_auto.formats.read_write import Image
from mdkd_auto.losses.attention_transfer import attention_transfer_loss
from mdkd_auto.networks import faster_rcnn
from mdkd_auto.networks.detector import DetectorOutput, Objects
from mdkd_auto.networks.faster_rcnn import FasterRCNNHead, ResNetEncoder
from mdkd_auto.networks.fusion.levels import LevelFusionEncoder
from mdkd_auto.networks.model import Encoder
from mdkd_auto.networks.rf_detr import RFDETR_SIZES, RFDETREncoder, RFDETRHead, most_queries, side_multiple
from mdkd_auto.planners.detection import STEP
from mdkd_auto.preprocessing.box_geometry import file_boxes
from mdkd_auto.preprocessing.case import Prepared
from mdkd_auto.tasks.shared.classes import Classes
from mdkd_auto.tasks.shared.prediction import NOT_FINITE, PredictionOptions
from mdkd_auto.tasks.shared.whole_images import batch_of, patch_starts, prepare_whole
from mdkd_auto.training.interfaces import Score

HIT = 0.5  # intersection over union from which on a box is found
NETWORKS = (*faster_rcnn.SIZES, *RFDETR_SIZES)


def check_settings(settings: Settings, plan: ConfigurationPlan) -> None:
    """Raise SettingsError for networks that detection does not have, or not for the plan's input, or not together.

    Raises MissingPackageError before a training that could not be scored.
    """
    extras.require(extras.DETECTION, "training a detector")
    teacher = str(settings.teacher_architecture)
    student = settings.student_architecture or teacher
    for name, width in ((teacher, settings.width), (student, settings.student_width)):
        check_architecture(name, plan.patch_size[0])
        check_width(name, width)
    check_families(teacher, student)


def check_architecture(name: str, side: int) -> None:
    """Raise SettingsError for a network that detection does not have, or not for an input of so many voxels a side."""
    if name not in NETWORKS:
        raise SettingsError(f"network {name!r}: detection has {', '.join(NETWORKS)}")
    if name in RFDETR_SIZES and side % side_multiple(name):
        step = math.lcm(side_multiple(name), STEP)
        near = max(1, round(side / step)) * step
        raise SettingsError(
            f"network {name!r}: its input is a multiple of {side_multiple(name)} voxels a side, the "
            f"plan's is {side}; plan again with --input-size {near} --replan"
        )


def check_width(name: str, width: int | None) -> None:
    """Raise SettingsError for a width that is asked for."""
    if width is not None:
        raise SettingsError(f"width {width}: {name} has a width of its own; leave --width and --student-width out")


def check_families(teacher: str, student: str) -> None:
    """Raise SettingsError for a student of another family than its teachers."""
    families = [tuple(faster_rcnn.SIZES), tuple(RFDETR_SIZES)]
    own = next(names for names in families if teacher in names)
    if student not in own:
        raise SettingsError(
            f"network {student!r} cannot learn from {teacher!r}: teachers and student belong to one "
            f"family; give --student-arch one of {', '.join(own)}"
        )


class DetectionTask:
    """The parts that training needs, for one configuration (see training.interfaces.TrainingTask)."""

    distils_output = True

    def __init__(
        self,
        plan: ConfigurationPlan,
        classes: dict[str, Classes],
        settings: Settings,
        architecture: Architecture = "faster_rcnn_resnet50",
        width: int | None = None,
    ) -> None:
        check_architecture(architecture, plan.patch_size[0])
        check_width(architecture, width)
        self.plan, self.classes, self.own, self.architecture = plan, classes, settings.detection, architecture

    def outputs(self, dataset: str) -> int:
        return len(self.classes[dataset].channels)

    def source_and_target_outputs(self, source: str, target: str) -> tuple[int, dict[str, list[int]]]:
        """Each data set has classes of its own: the source's, then the target's."""
        first, second = self.outputs(source), self.outputs(target)
        return first + second, {source: list(range(first)), target: list(range(first, first + second))}

    def encoder(self, architecture: Architecture | None = None, width: int | None = None) -> Encoder:
        kind = architecture or self.architecture
        if kind in RFDETR_SIZES:
            return RFDETREncoder(kind, self.plan.patch_size[0], rate=self.own.encoder_rate)
        return ResNetEncoder(kind)

    def head(self, outputs: int, encoder: Encoder | None = None) -> nn.Module:
        given, plan = encoder or self.encoder(), self.plan
        if self.architecture in RFDETR_SIZES:
            if plan.queries < 1:
                raise PlanError(f"A detector needs one query or more; the plan has {plan.queries}")
            queries = min(plan.queries, most_queries(self.architecture, plan.patch_size[0]))
            return RFDETRHead(self.architecture, given.channels, outputs, queries)
        if len(plan.anchor_sizes) != len(given.channels) or not plan.anchor_ratios:
            found = f"{len(plan.anchor_sizes)} sizes and {len(plan.anchor_ratios)} ratios"
            raise PlanError(
                f"A detector needs an anchor size for each of its {len(given.channels)} levels, "
                f"and a ratio or more; the plan has {found}"
            )
        return FasterRCNNHead(
            self.architecture, given.channels, given.strides, outputs, plan.anchor_sizes, plan.anchor_ratios
        )

    def joint_encoder(self, teachers: Sequence[Encoder], weights: Sequence[float] | None) -> Encoder:
        return LevelFusionEncoder(teachers, weights)

    def pairs(self, student: Encoder, teacher: Encoder) -> list[tuple[int, int]]:
        """Level by level: detectors of one family have as many."""
        return [(level, level) for level in range(len(student.channels))]

    def head_projection(self, student: nn.Module, teacher: nn.Module) -> nn.Module:
        """From the student's embeddings of regions or queries to the teacher's, eq. (23)."""
        ours, theirs = (int(head.embedding) for head in (student, teacher))  # type: ignore[arg-type]
        return nn.Identity() if ours == theirs else nn.Linear(ours, theirs)

    def distilled(
        self,
        output: DetectorOutput,
        taught: DetectorOutput,
        maps: list[torch.Tensor],
        teacher_maps: list[torch.Tensor],
        projection: nn.Module,
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Eq. (19)-(23)."""
        head = output.distillation_losses(taught, self.own.logits_temperature, projection)
        return {
            "attention": (self.own.attention, attention_transfer_loss(maps, teacher_maps)),
            "logits": (self.own.logits, head.logits),
            "embeddings": (self.own.embeddings, head.embeddings),
        }

    def probabilities(self, output: DetectorOutput) -> torch.Tensor:
        return output.likelihoods()

    def loss(self, output: DetectorOutput, batch: Batch, dataset: str) -> torch.Tensor:
        return torch.stack(list(output.losses(objects_of(batch, self.classes[dataset])).values())).sum()

    def score(self, output: DetectorOutput, batch: Batch, dataset: str) -> Score:
        """R-precision, a class each: of an image with n objects, how many of its n likeliest boxes are hits.

        It needs no score threshold. Numerator: hits; denominator: objects.
        """
        count = self.outputs(dataset)
        hits, total = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for found, objects in zip(output.detected(), objects_of(batch, self.classes[dataset]), strict=True):
            for number in range(count):
                truth = objects.boxes[objects.classes == number]
                boxes = found.boxes[found.classes == number][: len(truth)]
                hits[number] += len(hit_objects(boxes, truth))
                total[number] += len(truth)
        return Score(hits, total)


def hit_objects(boxes: torch.Tensor, truth: torch.Tensor) -> set[int]:
    """True boxes (M, 4) that boxes (N, 4), the likeliest first, find: each box at most the one it overlaps most."""
    if not len(boxes) or not len(truth):
        return set()
    overlaps = box_iou(boxes.float(), truth.float())
    found: set[int] = set()
    for row in overlaps:
        free = [place for place in range(len(truth)) if place not in found and row[place] >= HIT]
        if free:
            found.add(max(free, key=lambda place: float(row[place])))
    return found


def objects_of(batch: Batch, classes: Classes) -> list[Objects]:
    """The true objects of each image, with the numbers of their classes."""
    numbers = numbers_of(classes)
    return [
        Objects(
            rows[:, :4],
            torch.tensor([numbers[int(value)] for value in rows[:, 4].tolist()], dtype=torch.long, device=rows.device),
        )
        for rows in batch.boxes
    ]


def numbers_of(classes: Classes) -> dict[int, int]:
    """Label value -> number of the class."""
    return {value: number for number, channel in enumerate(classes.channels) for value in channel.values}


# --- prediction -----------------------------------------------------------------------------------------------------


class FoundBoxes(NamedTuple):
    """What was found in one image, the highest score first; x1, y1, x2, y2 in pixels of the file."""

    boxes: NDArray[np.float64]  # (N, 4)
    classes: NDArray[np.int64]  # (N,) number of the class
    scores: NDArray[np.float64]  # (N,)


class Detector(NamedTuple):
    """A trained model with all it needs to find the boxes of an image."""

    model: nn.Module
    dataset_plan: DatasetPlan
    plan: ConfigurationPlan
    classes: Classes
    options: PredictionOptions

    def prepare(self, image: Image) -> Prepared:
        """The image in network space."""
        return prepare_whole(image, self.dataset_plan, self.plan)

    def found(self, image: Image) -> FoundBoxes:
        """See ``found_in``."""
        return self.found_in(self.prepare(image))

    @torch.no_grad()
    def found_in(self, prepared: Prepared) -> FoundBoxes:
        """The boxes of one image. ``options.mirror`` is not used: boxes of mirror images do not average.

        Raises PredictionError where a likelihood is NaN, which would else find nothing.
        """
        batch, geometry = batch_of(prepared, self.plan, self.options.device), prepared.geometry
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.options.low_precision):
            output = self.model(batch)
            if not output.likelihoods().isfinite().all():
                raise PredictionError(NOT_FINITE)
            detected = output.detected()[0]
        size = geometry.resampled_shape[:0:-1]  # x, y
        starts = patch_starts(size, self.plan.patch_size[::-1])
        corners = detected.boxes.cpu().numpy().astype(np.float64) - np.array(starts * 2)
        boxes = file_boxes(corners.clip(0, (*size, *size)), geometry)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return FoundBoxes(
            boxes[kept], detected.classes.cpu().numpy()[kept], detected.scores.cpu().numpy().astype(np.float64)[kept]
        )
