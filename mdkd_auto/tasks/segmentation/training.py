"""What segmentation brings: classes as binary channels, UNet encoder and head, Dice + BCE, masks and their scores.

Every class is one channel with its own sigmoid (eq. 10 for each), so one foreground, several classes and overlapping
regions all take the same way. A voxel gets the most probable class where any exceeds one half; regions are painted in
their stated order.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mdkd_auto.batches.sampling import INVALID, Batch
from mdkd_auto.core.errors import PredictionError, SettingsError
from mdkd_auto.core.records import Case, ConfigurationPlan, DatasetPlan, Topology
from mdkd_auto.core.settings import ONLINE, Architecture, Settings
from mdkd_auto.formats.image import rectangularity
from mdkd_auto.formats.read_write import Image, write_mask
from mdkd_auto.inference.cpu import quicker_on_cpu
from mdkd_auto.inference.sliding_window import sliding_window
from mdkd_auto.losses.overlap import dice_bce_loss
from mdkd_auto.metrics.summary import Scores, score_masks
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Encoder, paired_levels
from mdkd_auto.networks.tresunet import FULL_WIDTH, TResUNetEncoder, TResUNetHead, tresunet_topology
from mdkd_auto.networks.unet import UNetEncoder, UNetHead, scale_width
from mdkd_auto.preprocessing.case import Prepared, prepare_image, restore
from mdkd_auto.preprocessing.crop import cropped
from mdkd_auto.preprocessing.normalise import air_value
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes
from mdkd_auto.tasks.shared.prediction import NOT_FINITE, PredictionOptions, mask_ending, read_channel
from mdkd_auto.training.interfaces import Score

TOLERANCE_MM = 2.0  # of surface Dice; pixels where the spacing is unknown


class Network(NamedTuple):
    """How a kind of network is made: its topology from the plan's and a width, its encoder, its head."""

    topology: Callable[[Topology, int | None], Topology]
    encoder: Callable[[Topology, int, int], Encoder]  # of topology, input channels, spatial axes
    head: Callable[[Topology, int, int], nn.Module]  # of topology, spatial axes, outputs


def _unet_topology(plan: Topology, width: int | None) -> Topology:
    return scale_width(plan, width) if width else plan


def _tresunet_topology(plan: Topology, width: int | None) -> Topology:
    return tresunet_topology(plan, width or TRESUNET_WIDTH[len(plan.strides[0])])


TRESUNET_WIDTH = {2: 64, 3: 32}  # the paper's; in 3-D half, so that it needs no more memory than the UNet
NETWORKS: dict[Architecture, Network] = {
    "unet": Network(_unet_topology, UNetEncoder, UNetHead),
    "tresunet": Network(_tresunet_topology, TResUNetEncoder, TResUNetHead),
}


def check_settings(settings: Settings, plan: ConfigurationPlan) -> None:
    """Raise SettingsError for networks that segmentation does not have, and for widths or pretrained weights that they
    cannot have."""
    teacher = str(settings.teacher_architecture)
    student = settings.student_architecture or teacher
    for name, width in ((teacher, settings.width), (student, settings.student_width or settings.width)):
        check_architecture(name)
        NETWORKS[name].topology(plan.topology, width)
        if settings.pretrained is not None and name == "tresunet":
            check_pretrained(settings.pretrained, len(plan.patch_size), width)


def check_pretrained(source: str, axes: int, width: int | None) -> None:
    """Raise SettingsError where a TResUNet cannot begin with the weights of a ResNet-50."""
    if source == ONLINE:
        raise SettingsError(
            'pretrained is "online": no library has weights for a TResUNet; give those of a ResNet-50 '
            "with group normalisation as a safetensors file"
        )
    if axes == 3:
        raise SettingsError(
            f"pretrained: {source} holds a 2-D network's weights, and the TResUNet of this plan is "
            "3-D; leave pretrained out, or train -c 2d"
        )
    if width not in (None, FULL_WIDTH):
        raise SettingsError(
            f"pretrained: a ResNet-50 fits a TResUNet of width {FULL_WIDTH}, and this one has {width}; "
            "leave the width or pretrained out"
        )


def check_architecture(name: str) -> None:
    """Raise SettingsError for a network that segmentation does not have."""
    if name not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise SettingsError(f"network {name!r}: segmentation has {known}; -g chooses the group that a network is for")


class SegmentationTask:
    """The parts that training needs, for one configuration (see training.interfaces.TrainingTask)."""

    distils_output = False

    def __init__(
        self,
        plan: ConfigurationPlan,
        classes: dict[str, Classes],
        settings: Settings,
        distils: bool = False,
        architecture: Architecture = "unet",
        width: int | None = None,
    ) -> None:
        self.classes, self.settings = classes, settings
        self.use_bce = settings.task_loss == "dice_bce" or (settings.task_loss == "paper" and distils)
        check_architecture(architecture)
        self.network = NETWORKS[architecture]
        self.topology = self.network.topology(plan.topology, width)
        self.dimensions = len(plan.patch_size)

    def outputs(self, dataset: str) -> int:
        return len(self.classes[dataset].channels)

    def source_and_target_outputs(self, source: str, target: str) -> tuple[int, dict[str, list[int]]]:
        """Each data set has its own outputs: the source's, then the target's."""
        first, second = self.outputs(source), self.outputs(target)
        return first + second, {source: list(range(first)), target: list(range(first, first + second))}

    def joint_encoder(self, teachers: Sequence[Encoder], weights: Sequence[float] | None) -> Encoder:
        return JointEncoder(teachers, self.settings.fuse, weights, self.settings.attention_keys)

    def pairs(self, student: Encoder, teacher: Encoder) -> list[tuple[int, int]]:
        return paired_levels(student, teacher)

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
        return {}

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(output)

    def encoder(self, architecture: Architecture | None = None, width: int | None = None) -> Encoder:
        return self.network.encoder(self.topology, 1, self.dimensions)

    def head(self, outputs: int, encoder: Encoder | None = None) -> nn.Module:
        return self.network.head(self.topology, self.dimensions, outputs)

    def loss(self, output: torch.Tensor, batch: Batch, dataset: str) -> torch.Tensor:
        target, valid = channels_of(batch.labels, self.classes[dataset])
        dice, bce = dice_bce_loss(output, target, valid)
        return dice + bce if self.use_bce else dice

    def score(self, output: torch.Tensor, batch: Batch, dataset: str) -> Score:
        """Dice in parts, a class each, over the batch as one image."""
        target, valid = channels_of(batch.labels, self.classes[dataset])
        predicted = (output > 0) & (valid > 0)
        truth = (target > 0) & (valid > 0)
        axes = [axis for axis in range(output.ndim) if axis != 1]
        counts = (voxels.sum(axes).cpu() for voxels in (predicted & truth, predicted, truth))
        shared, found, there = (some.double() for some in counts)  # on the CPU: MPS has no float64
        return Score(2 * shared, found + there)


def channels_of(labels: torch.Tensor, classes: Classes) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B, *S) as one binary map a class (B, K, *S) float, and the voxels that count (B, 1, *S) float.

    Values are compared one by one: to put them into a tensor would wait for the device.
    """
    maps = [reduce(torch.logical_or, (labels == value for value in channel.values)) for channel in classes.channels]
    valid = labels != INVALID
    if classes.ignore is not None:
        valid &= labels != classes.ignore
    return torch.stack(maps, dim=1).float(), valid[:, None].float()


# --- prediction -----------------------------------------------------------------------------------------------------


class Predictor(NamedTuple):
    """A trained model with all it needs to turn an image into a mask."""

    model: nn.Module
    dataset_plan: DatasetPlan
    plan: ConfigurationPlan
    classes: Classes
    options: PredictionOptions

    def prepare(self, image: Image) -> Prepared:
        """The image in network space."""
        return prepare_image(image, self.dataset_plan, self.plan)

    def mask(self, image: Image) -> np.ndarray:
        """Label map (z, y, x) of an image, both in canonical orientation at the image's own size; see ``mask_of``."""
        return self.mask_of(self.prepare(image))

    def mask_of(self, prepared: Prepared) -> np.ndarray:
        """Label map (z, y, x) of a prepared image, in canonical orientation at the image's own size.

        Memory is bounded. With V voxels of the image, N after resampling and P in the planes that a patch is deep:
        about 0.4 GB, the network's own maps, and the larger of 6 V + 12 max(V, N) bytes (while the image is resampled)
        and 3 V + 4 N + 14 P K bytes for K classes (while it is predicted). 2 V of these are an int16 image.

        Raises PredictionError where a probability is NaN, which would else become background.
        """
        geometry = prepared.geometry
        slabs = sliding_window(
            self.model,
            prepared.voxels,
            self.plan.patch_size,
            step=self.options.step,
            mirror=self.options.mirror,
            device=self.options.device,
            low_precision=self.options.low_precision,
            air=air_value(self.dataset_plan.normalisation),
        )
        labels = np.zeros(geometry.original_shape, dtype=label_type(self.classes))
        inside = cropped(labels, geometry)  # a view
        first = 0
        for probabilities in restore(slabs, geometry):
            if np.isnan(probabilities.sum()):
                raise PredictionError(NOT_FINITE)
            stop = first + probabilities.shape[1]
            inside[first:stop] = decode(probabilities, self.classes)
            first = stop
        return labels


def predictor_of(
    model: nn.Module, dataset_plan: DatasetPlan, plan: ConfigurationPlan, classes: Classes, options: PredictionOptions
) -> Predictor:
    """A predictor; on a CPU its network is the quicker one, made once for all images."""
    if options.device.type == "cpu" and not options.low_precision:
        model = quicker_on_cpu(model)
    return Predictor(model, dataset_plan, plan, classes, options)


def label_type(classes: Classes) -> np.dtype[Any]:
    """The smallest type that holds every written value."""
    return np.min_scalar_type(max(channel.written for channel in classes.channels))


def decode(probabilities: np.ndarray, classes: Classes) -> np.ndarray:
    """Probabilities (K, z, y, x) to a label map (z, y, x); the first of equally probable classes."""
    labels = np.zeros(probabilities.shape[1:], dtype=label_type(classes))
    best = np.full(labels.shape, 0.5, dtype=probabilities.dtype)
    for channel, probability in zip(classes.channels, probabilities, strict=True):
        larger = probability > best
        labels[larger] = channel.written
        if not classes.regions:
            best[larger] = probability[larger]
    return labels


def predict_file(predictor: Predictor, case: Case, folder: Path) -> Path:
    """Predict one case from its files and write ``{case_id}`` with the image's ending; returns the mask's path.

    Raises ImageError for an unreadable image, PredictionError if the model's channel is missing.
    """
    return predict_image(predictor, case, read_channel(case, predictor.dataset_plan), folder)


def predict_image(predictor: Predictor, case: Case, image: Image, folder: Path) -> Path:
    """As :func:`predict_file`, of the image already read."""
    target = folder / f"{case.case_id}{mask_ending(case)}"
    write_mask(target, predictor.mask(image), image.header)
    return target


# --- scoring --------------------------------------------------------------------------------------------------------


def score_case(predicted: np.ndarray, truth: Image, classes: Classes) -> dict[str, Scores]:
    """Scores of each class of a predicted label map against the truth, at the image's own size and spacing.

    The map may hold what this program writes or, made by another, the data set's own values.
    """
    valid = truth.array != classes.ignore if classes.ignore is not None else None
    scores = {}
    for channel in classes.channels:
        values = _values_in_region(channel, classes) if classes.regions else (channel.written, *channel.values)
        scores[channel.name] = score_masks(
            np.isin(predicted, values),
            np.isin(truth.array, channel.values),
            truth.spacing_mm,
            valid,
            TOLERANCE_MM,
            rectangularity(truth.header),
        )
    return scores


def _values_in_region(channel: ClassChannel, classes: Classes) -> tuple[int, ...]:
    """The values in a mask that lie in a region: those of every region it contains, and its own that none writes."""
    inside = set(channel.values)
    painted = [other.written for other in classes.channels if set(other.values) <= inside]
    return (*painted, *(inside - {other.written for other in classes.channels}))
