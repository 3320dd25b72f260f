"""Faster R-CNN from torchvision's parts: a ResNet encoder; feature pyramid, region proposals and box heads.

Ren et al., 2015, with the feature pyramid of Lin et al., 2017. The parts are torchvision's; the control flow is ours:
a batch's output is computed once, then yields losses, detections, or distillation targets.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import (
    AnchorGenerator,
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from mdkd_auto.networks.detector import Described, Detected, Objects, Projection, Taught, as_it_is, embedding_distance
from mdkd_auto.networks.model import Encoder

GROUPS = 32  # groups of group normalisation, which suits the small batches of a CPU
BINS = 7  # per axis of a region's features
LEAST_SCORE, MOST_BOXES, OVERLAP = 0.01, 100, 0.5  # detection limits; OVERLAP: IoU above which the lower box is dropped


class Size(NamedTuple):
    """The size of one network."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: list[int]
    batch_norm: bool  # otherwise group normalisation
    pyramid: int  # channels
    embedding: int  # width of a region's embedding
    regions: int  # per image, sampled for the loss of the box heads
    proposals: int  # per image


SIZES = {
    "faster_rcnn_resnet50": Size(Bottleneck, [3, 4, 6, 3], True, 256, 1024, 512, 1000),  # torchvision's
    "faster_rcnn_resnet18": Size(BasicBlock, [2, 2, 2, 2], True, 128, 512, 128, 300),
    "faster_rcnn_small": Size(BasicBlock, [1, 1, 1, 1], False, 64, 256, 64, 100),  # ours, for CPUs
}


class ResNetEncoder(Encoder):
    """The four stages of a torchvision ResNet, strides 4 to 32; tensor names are torchvision's."""

    def __init__(self, name: str, in_channels: int = 1) -> None:
        super().__init__()
        self.name, size = name, SIZES[name]
        norm = None if size.batch_norm else partial(nn.GroupNorm, GROUPS)
        self.body = ResNet(size.block, size.blocks, norm_layer=norm)
        self.body.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")
        del self.body.fc, self.body.avgpool
        self.channels = tuple(width * size.block.expansion for width in (64, 128, 256, 512))
        self.strides = tuple((step, step) for step in (4, 8, 16, 32))
        self.kernel_sizes = ((3, 3),) * 4

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, y, x) -> four maps, (B, channels[i], y / stride, x / stride)."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
        maps = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            maps.append(x)
        return maps


class FasterRCNNHead(nn.Module):
    """Feature pyramid, region proposals, class and box per region, on maps of four levels.

    ``anchor_sizes``: side in voxels, one per level; ``anchor_ratios``: height / width.
    """

    def __init__(
        self,
        name: str,
        channels: Sequence[int],
        strides: Sequence[tuple[int, ...]],
        classes: int,
        anchor_sizes: Sequence[float],
        anchor_ratios: Sequence[float],
    ) -> None:
        super().__init__()
        size = SIZES[name]
        self.embedding: int = size.embedding
        self.strides = [step for step, _ in strides]
        self.levels = [str(level) for level in range(len(channels))]
        self.pyramid = FeaturePyramidNetwork(list(channels), size.pyramid)
        anchors = AnchorGenerator(
            tuple((float(side),) for side in anchor_sizes), (tuple(anchor_ratios),) * len(channels)
        )
        most = {"training": 2 * size.proposals, "testing": size.proposals}
        self.rpn = RegionProposalNetwork(
            anchors, RPNHead(size.pyramid, len(anchor_ratios)), 0.7, 0.3, 256, 0.5, most, most, 0.7
        )
        # a region whose side is BINS voxels of a level is pooled from that level
        pool = MultiScaleRoIAlign(self.levels, BINS, 2, canonical_scale=16 * BINS, canonical_level=4)
        self.regions = RoIHeads(
            pool,
            TwoMLPHead(size.pyramid * BINS**2, size.embedding),
            FastRCNNPredictor(size.embedding, classes + 1),
            0.5,
            0.5,
            size.regions,
            0.25,
            None,
            LEAST_SCORE,
            OVERLAP,
            MOST_BOXES,
        )

    def forward(self, maps: list[Tensor]) -> "FasterRCNNOutput":
        """Maps of four levels -> the head's output."""
        pyramid = list(self.pyramid(dict(zip(self.levels, maps, strict=True))).values())
        objectness, deltas = self.rpn.head(pyramid)
        return FasterRCNNOutput(
            self,
            [level.float() for level in pyramid],
            [level.float() for level in objectness],
            [level.float() for level in deltas],
        )

    @property
    def classes(self) -> int:
        """Number of classes without the background."""
        return self.regions.box_predictor.cls_score.out_features - 1


class Regions(NamedTuple):
    """Regions of a batch, concatenated image by image."""

    boxes: list[Tensor]  # one (N, 4) per image
    embeddings: Tensor  # (all N, E)
    logits: Tensor  # (all N, 1 + K), background first
    deltas: Tensor  # (all N, (1 + K) * 4)


class FasterRCNNOutput:
    """See :class:`networks.detector.DetectorOutput`. Boxes and losses are computed in float32."""

    def __init__(
        self,
        head: FasterRCNNHead,
        pyramid: list[Tensor],
        objectness: list[Tensor],
        deltas: list[Tensor],
        classes: list[int] | None = None,
    ) -> None:
        self.head, self.pyramid, self.objectness, self.deltas = head, pyramid, objectness, deltas
        self.classes = list(range(head.classes)) if classes is None else classes
        self.sides = tuple(int(length) * head.strides[0] for length in pyramid[0].shape[2:])  # y, x
        self._sampled: Regions | None = None

    def __len__(self) -> int:
        return len(self.pyramid[0])

    def images(self, start: int, stop: int) -> "FasterRCNNOutput":
        pyramid, objectness, deltas = (
            [level[start:stop] for level in levels] for levels in (self.pyramid, self.objectness, self.deltas)
        )
        return FasterRCNNOutput(self.head, pyramid, objectness, deltas, self.classes)

    def of(self, classes: list[int]) -> "FasterRCNNOutput":
        return FasterRCNNOutput(
            self.head, self.pyramid, self.objectness, self.deltas, [self.classes[number] for number in classes]
        )

    def likelihoods(self) -> Tensor:
        """(B, anchors): the probability that each anchor holds an object of any class."""
        return torch.sigmoid(torch.cat([level.flatten(1) for level in self.objectness], dim=1))

    def losses(self, objects: Sequence[Objects]) -> dict[str, Tensor]:
        rpn, heads = self.head.rpn, self.head.regions
        targets = [{"boxes": image_objects.boxes, "labels": image_objects.classes + 1} for image_objects in objects]
        objectness, deltas = self._flat
        labels, matched = rpn.assign_targets_to_anchors(self._anchors, targets)
        wanted = rpn.box_coder.encode(matched, self._anchors)
        objectness_loss, proposal_loss = rpn.compute_loss(objectness, deltas, labels, wanted)
        sampled, _, classes, wanted = heads.select_training_samples(self._proposals, targets)
        regions = self._sampled = self.pooled(sampled)
        class_loss, box_loss = fastrcnn_loss(regions.logits, regions.deltas, classes, wanted)
        return {"objectness": objectness_loss, "proposals": proposal_loss, "classes": class_loss, "boxes": box_loss}

    def detected(self) -> list[Detected]:
        regions = self.pooled(self._proposals)
        boxes, scores, labels = self.head.regions.postprocess_detections(
            regions.logits, regions.deltas, regions.boxes, [self.sides] * len(self)
        )
        return [
            Detected(*parts) for parts in zip(boxes, [image_labels - 1 for image_labels in labels], scores, strict=True)
        ]

    def described(self, boxes: Sequence[Tensor]) -> list[Described]:
        """The given boxes, then the proposals."""
        regions = [
            torch.cat([given.to(proposed), proposed]) for given, proposed in zip(boxes, self._proposals, strict=True)
        ]
        embeddings = self.pooled(regions).embeddings.split([len(one) for one in regions])
        return [Described(*one) for one in zip(regions, embeddings, strict=True)]

    def distillation_losses(
        self, teacher: "FasterRCNNOutput", temperature: float, project: Projection = as_it_is
    ) -> Taught:
        """On the regions sampled for the student's loss, or else its proposals; both heads get the same regions."""
        ours = self._sampled if self._sampled is not None else self.pooled(self._proposals)
        with torch.no_grad():
            theirs = teacher.pooled(ours.boxes)
        logits = F.kl_div(
            F.log_softmax(ours.logits / temperature, dim=1),
            F.log_softmax(theirs.logits / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return Taught(temperature**2 * logits, embedding_distance(project(ours.embeddings), theirs.embeddings))

    def pooled(self, boxes: list[Tensor]) -> Regions:
        """Run the box heads on given regions, one (N, 4) per image."""
        heads = self.head.regions
        levels = dict(zip(self.head.levels, self.pyramid, strict=True))
        features = heads.box_roi_pool(levels, boxes, [self.sides] * len(self))  # (all N, C, BINS, BINS)
        embeddings = heads.box_head(features).float()
        logits, deltas = heads.box_predictor(embeddings)
        chosen = [0, *(number + 1 for number in self.classes)]
        deltas = deltas.float().unflatten(1, (-1, 4))[:, chosen].flatten(1)
        return Regions(boxes, embeddings, logits.float()[:, chosen], deltas)

    @cached_property
    def _anchors(self) -> list[Tensor]:
        """One (anchors, 4) per image, identical for all."""
        generator, first = self.head.rpn.anchor_generator, self.pyramid[0]
        generator.set_cell_anchors(first.dtype, first.device)
        grids = [list(level.shape[2:]) for level in self.pyramid]
        steps = [[torch.tensor(step, device=first.device)] * 2 for step in self.head.strides]
        return [torch.cat(generator.grid_anchors(grids, steps))] * len(self)

    @cached_property
    def _flat(self) -> tuple[Tensor, Tensor]:
        """Objectness (all anchors, 1) and deltas (all anchors, 4) of the batch."""
        result: tuple[Tensor, Tensor] = concat_box_prediction_layers(list(self.objectness), list(self.deltas))
        return result

    @cached_property
    def _proposals(self) -> list[Tensor]:
        """The most probable regions of each image, without gradients."""
        rpn = self.head.rpn
        objectness, deltas = (output.detach() for output in self._flat)
        boxes = rpn.box_coder.decode(deltas, self._anchors).view(len(self), -1, 4)
        counts = [level[0].numel() for level in self.objectness]
        proposals, _ = rpn.filter_proposals(boxes, objectness, [self.sides] * len(self), counts)
        return list(proposals)
