"""RF-DETR (Robinson et al., 2025): a DINOv2 with windowed attention, and a decoder of queries on its best tokens.

The networks come from the transformers library, cut in two: the encoder ends at the backbone's output taps, the head
begins with the projector that reads them. Weight names stay the library's.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from mdkd_auto.core import extras
from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.detector import (
    Described,
    Detected,
    DetectorOutput,
    Objects,
    Projection,
    Taught,
    as_it_is,
    embedding_distance,
)
from mdkd_auto.networks.model import Encoder

if TYPE_CHECKING:  # takes seconds; imported only when a network is built
    from transformers import RfDetrConfig, RfDetrDinov2Config

COLOURS = 3  # channels of published weights; a single grey channel is repeated
MOST_DETECTED = 100  # boxes per image, as in COCO's evaluation
CLASS_COST_ALPHA, CLASS_COST_GAMMA = 0.25, 2.0  # focal cost of the matching (LW-DETR)
LEAST_QUALITY = 0.01  # lower bound of a matched query's target (LW-DETR)
TINY_AREA = 1e-7  # avoids 0 / 0; fraction of the image


class RFDETRSize(NamedTuple):
    """The size of one network."""

    width: int  # channels of the backbone
    heads: int
    patch: int  # voxels per side of a token
    windows: int  # per side
    taps: tuple[int, ...]  # map after each of these layers; later layers are not built
    d_model: int
    decoder_layers: int
    self_heads: int
    cross_heads: int
    feedforward: int
    groups: int  # query groups, in training only
    queries: int = 300  # published; at most the number of tokens
    points: int = 2  # sampled per head of the deformable attention


RFDETR_SIZES = {
    "rfdetr_tiny": RFDETRSize(64, 4, 16, 2, (1, 2, 3, 4), 64, 2, 4, 4, 128, groups=2, queries=50),  # ours, for CPUs
    "rfdetr_nano": RFDETRSize(384, 6, 16, 2, (3, 6, 9, 12), 256, 2, 8, 16, 2048, groups=13),
    "rfdetr_small": RFDETRSize(384, 6, 16, 2, (3, 6, 9, 12), 256, 3, 8, 16, 2048, groups=13),
    "rfdetr_base": RFDETRSize(384, 6, 14, 4, (2, 5, 8, 11), 256, 3, 8, 16, 2048, groups=13),
}


def side_multiple(size: str) -> int:
    """The voxels an image's side must be a multiple of: whole tokens in whole windows."""
    return _size(size).patch * _size(size).windows


def most_queries(size: str, side: int) -> int:
    """Number of tokens of an image: each proposes one box, and queries are selected among these."""
    return (side // _size(size).patch) ** 2


class RFDETREncoder(Encoder):
    """(B, in_channels, side, side) -> the tapped maps, all of one stride. Raises SettingsError for an invalid side.

    ``side`` sets the grid of position embeddings; they are interpolated for other sides, which must be multiples of
    ``side_multiple``. ``rate``: learning rate relative to the head's.
    """

    def __init__(self, size: str, side: int, in_channels: int = 1, rate: float = 1.0) -> None:
        extras.require(extras.DETECTION, "RF-DETR")
        from transformers import RfDetrDinov2Backbone

        super().__init__()
        self.size, self.in_channels, self.rate = size, in_channels, rate
        self._check(side, side)
        width, taps, patch = _size(size).width, _size(size).taps, _size(size).patch
        colours = COLOURS if in_channels == 1 else in_channels
        self.body: nn.Module = RfDetrDinov2Backbone(_backbone_config(size, side, colours))
        self.channels = (width,) * len(taps)
        self.strides = ((patch, patch),) * len(taps)
        self.kernel_sizes = ((3, 3),) * len(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, side, side) -> four maps (B, width, side / patch, side / patch), the last the bottleneck."""
        self._check(*x.shape[2:])
        if self.in_channels == 1:
            x = x.expand(-1, COLOURS, -1, -1)
        return list(self.body(x).feature_maps)

    def _check(self, *sides: int) -> None:
        multiple = side_multiple(self.size)
        if len(sides) != 2 or len(set(sides)) > 1 or sides[0] % multiple or sides[0] <= 0:
            use = max(multiple, round(max(sides) / multiple) * multiple)
            raise SettingsError(
                f"{self.size}: images of {' x '.join(map(str, sides))} voxels; they must be square, the side a "
                f"multiple of {multiple} (patch x windows): use {use} x {use}"
            )


class RFDETRHead(nn.Module):
    """Encoder maps, or as many fused maps of any channels -> boxes and class scores of ``queries`` queries.

    Projector, selection of the best proposing tokens, decoder, class and box heads. Training uses ``groups`` groups of
    queries that do not see each other; inference keeps the first.
    """

    def __init__(
        self, size: str, channels: Sequence[int], classes: int, queries: int, groups: int | None = None
    ) -> None:
        extras.require(extras.DETECTION, "RF-DETR")
        from transformers import RfDetrConfig, RfDetrForObjectDetection

        super().__init__()
        values = _size(size)
        self.size = size
        self.embedding: int = values.d_model
        options: dict[str, Any] = {"num_labels": classes}
        self.config = RfDetrConfig(
            backbone_config=_backbone_config(size, values.patch, 1, sum(channels)),  # only the width matters
            d_model=values.d_model,
            decoder_layers=values.decoder_layers,
            decoder_ffn_dim=values.feedforward,
            decoder_self_attention_heads=values.self_heads,
            decoder_cross_attention_heads=values.cross_heads,
            decoder_n_points=values.points,
            num_queries=queries,
            group_detr=groups or values.groups,
            dropout=0.0,
            **options,
        )
        self.detector = RfDetrForObjectDetection(self.config)
        self.detector.model.backbone = _Projector(self.detector.model.backbone.projector)
        nn.init.zeros_(self.detector.model.reference_point_embed.weight)  # zero offsets to the proposals, as published

    def forward(self, maps: Sequence[Tensor]) -> "RFDETROutput":
        """Maps (B, channels[i], h, w) -> output for images of h x w patches. SettingsError if too few."""
        x = torch.cat(list(maps), 1)  # (B, sum of channels, h, w)
        height, width = x.shape[2:]
        if height * width < self.config.num_queries:
            raise SettingsError(
                f"{self.size}: {self.config.num_queries} queries, but an image has {height} x {width} tokens; use at "
                f"most {height * width} queries, or larger images"
            )
        output = self.detector.model(x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would shift boxes by a voxel or two
            hidden = output.intermediate_hidden_states.float()  # (layers, B, groups x queries, d_model)
            references = output.intermediate_reference_points[-1].float()
            logits, boxes = self.detector.predict_class_and_boxes(hidden, references)
            proposed = self.detector.predict_encoder_class_logits(output.enc_outputs_class.float())
        patch = _size(self.size).patch
        return RFDETROutput(
            torch.cat([proposed[None], logits]),
            torch.cat([output.enc_outputs_coord_logits.float()[None], boxes]),
            hidden[-1],
            (height * patch, width * patch),
            self.config,
        )


@dataclass(frozen=True)
class RFDETROutput:
    """RF-DETR's output for a batch, as ``detector.DetectorOutput`` describes. Stages: the proposals, then each layer.

    Q is groups x queries in training, otherwise queries.
    """

    logits: Tensor  # (stages, B, Q, K) float32
    boxes: Tensor  # (stages, B, Q, 4) float32: centre x, y, width, height as fractions of the image
    embeddings: Tensor  # (B, Q, d_model) float32: the queries after the last layer
    shape: tuple[int, int]  # voxels (y, x) of an image
    config: "RfDetrConfig"  # loss weights and matching costs

    def __len__(self) -> int:
        """Number of images in the batch."""
        return len(self.embeddings)

    def images(self, start: int, stop: int) -> "RFDETROutput":
        """The output for images start..stop-1."""
        selected = slice(start, stop)
        return replace(
            self, logits=self.logits[:, selected], boxes=self.boxes[:, selected], embeddings=self.embeddings[selected]
        )

    def of(self, classes: list[int]) -> "RFDETROutput":
        """Restrict the output to these classes."""
        return replace(self, logits=self.logits[..., classes])

    def losses(self, objects: Sequence[Objects]) -> dict[str, Tensor]:
        """Losses of eq. (8): classification, L1 and GIoU of matched queries, summed over stages, per object, weighted.

        Classification is cross-entropy: focal for queries without an object, towards the IoU for matched queries.
        """
        sizes = [len(image_objects.boxes) for image_objects in objects]
        boxes = torch.cat(
            [_as_shares(image_objects.boxes.to(self.boxes.device), self.shape) for image_objects in objects]
        )
        classes = torch.cat([image_objects.classes.to(self.boxes.device) for image_objects in objects])
        config = self.config
        classification, off, apart = self.logits.new_zeros(3).unbind()
        for logits, predicted in zip(self.logits, self.boxes, strict=True):
            image, query, which = self._matched(logits, predicted, boxes, classes, sizes)
            picked, true = predicted[image, query], boxes[which]
            iou, giou = _overlap(picked, true)
            matched = (image, query, classes[which])
            classification = classification + _classification(logits, matched, iou.detach(), config.focal_alpha)
            off = off + (picked - true).abs().sum()
            apart = apart + (1 - giou).sum()
        groups = self.logits.shape[2] // config.num_queries
        count = max(sum(sizes) * groups, 1)
        return {
            "classification": config.class_loss_coefficient * classification / count,
            "box": config.bbox_loss_coefficient * off / count,
            "giou": config.giou_loss_coefficient * apart / count,
        }

    @torch.no_grad()
    def _matched(
        self, logits: Tensor, predicted: Tensor, boxes: Tensor, classes: Tensor, sizes: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Image, query and object of each pair; every group of queries is matched to all objects of its image."""
        probability = logits.sigmoid()
        there = CLASS_COST_ALPHA * (1 - probability) ** CLASS_COST_GAMMA * -(probability + 1e-8).log()
        absent = (1 - CLASS_COST_ALPHA) * probability**CLASS_COST_GAMMA * -(1 - probability + 1e-8).log()
        starts = np.cumsum([0, *sizes]).tolist()
        costs = []  # per image: (Q, N), flattened
        for image, (start, stop) in enumerate(itertools.pairwise(starts)):
            own, true = predicted[image][:, None], boxes[start:stop][None]  # (Q, 1, 4), (1, N, 4)
            cost = self.config.class_cost * (there - absent)[image][:, classes[start:stop]]
            cost = cost + self.config.bbox_cost * (own - true).abs().sum(-1)
            costs.append((cost - self.config.giou_cost * _overlap(own, true)[1]).flatten())
        flat = _on_cpu(torch.cat(costs))  # one transfer per stage
        group = self.config.num_queries
        pairs = []
        for image, costs_of_image in enumerate(np.split(flat, np.cumsum([cost.numel() for cost in costs])[:-1])):
            groups = (
                costs_of_image.reshape(-1, group, sizes[image]) if sizes[image] else costs_of_image[:0]
            )  # (groups, queries, N)
            for number, cost_of_group in enumerate(groups):
                query, which = linear_sum_assignment(cost_of_group)
                pairs.append(np.stack([np.full_like(query, image), query + number * group, which + starts[image]]))
        found_pairs = np.concatenate(pairs, 1) if pairs else np.zeros((3, 0), np.int64)
        images, queries, objects = torch.from_numpy(found_pairs).to(predicted.device)
        return images, queries, objects

    def _first_group(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and boxes of the last layer, and embeddings, of the queries kept for inference."""
        queries = self.config.num_queries
        return self.logits[-1, :, :queries], self.boxes[-1, :, :queries], self.embeddings[:, :queries]

    def likelihoods(self) -> Tensor:
        """(B, queries): the score of each query's most probable class."""
        return self._first_group()[0].amax(-1).sigmoid()

    @torch.no_grad()
    def detected(self) -> list[Detected]:
        """The best (query, class) pairs of each image, at most ``MOST_DETECTED``; boxes are clipped to the image."""
        logits, boxes, _ = self._first_group()
        corners = self._in_voxels(boxes)
        scores = logits.float().sigmoid().flatten(1)  # (B, queries x K)
        best, places = scores.topk(min(MOST_DETECTED, scores.shape[1]))
        classes = logits.shape[-1]
        return [
            Detected(corners[image][place // classes], place % classes, score)
            for image, (place, score) in enumerate(zip(places, best, strict=True))
        ]

    @torch.no_grad()
    def described(self, boxes: Sequence[Tensor]) -> list[Described]:
        """All queries; ``boxes`` are ignored."""
        del boxes
        _, query_boxes, embeddings = self._first_group()
        order = self.likelihoods().argsort(dim=1, descending=True, stable=True)  # (B, queries)
        corners = self._in_voxels(query_boxes)
        return [Described(corners[image][indices], embeddings[image][indices]) for image, indices in enumerate(order)]

    def _in_voxels(self, boxes: Tensor) -> Tensor:
        """(..., 4) centre x, y, width, height as fractions -> x1, y1, x2, y2 in voxels, float32, clipped."""
        height, width = self.shape
        scale = torch.tensor([width, height, width, height], dtype=torch.float32, device=boxes.device)
        return (_corners(boxes).clamp(0, 1) * scale).float()

    def distillation_losses(
        self, teacher: DetectorOutput, temperature: float, project: Projection = as_it_is
    ) -> Taught:
        """Eq. (22), Bernoulli KL summed over classes, and eq. (23), between queries matched one to one.

        The matching cost combines boxes (L1 and GIoU) and scores; no gradient flows through it.
        """
        assert isinstance(teacher, RFDETROutput)
        (logits, boxes, embeddings), theirs = (
            self._first_group(),
            [output.detach() for output in teacher._first_group()],
        )
        mine, other = _same_queries(logits.detach(), boxes.detach(), theirs[0], theirs[1])
        image = torch.arange(len(self), device=logits.device)[:, None]
        own, goal = logits[image, mine] / temperature, theirs[0][image, other] / temperature  # (B, pairs, K)
        share = goal.sigmoid()
        divergence = share * (F.logsigmoid(goal) - F.logsigmoid(own))
        divergence = divergence + (1 - share) * (F.logsigmoid(-goal) - F.logsigmoid(-own))
        distance = embedding_distance(project(embeddings[image, mine]), theirs[2][image, other])
        return Taught(temperature**2 * divergence.sum(-1).mean(), distance)


class _Projector(nn.Module):
    """Replace the library's backbone and projector, keeping their names: the maps are already computed."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, sum of channels, h, w) and their mask -> (B, d_model, h, w) and the same mask."""
        return self.projector((maps,)), mask.bool()


def _size(size: str) -> RFDETRSize:
    if size not in RFDETR_SIZES:
        raise SettingsError(f"RF-DETR {size!r}: there are {', '.join(RFDETR_SIZES)}")
    return RFDETR_SIZES[size]


def _backbone_config(size: str, side: int, colours: int, only_width: int | None = None) -> "RfDetrDinov2Config":
    """The library's backbone settings; with ``only_width``, for a backbone without layers and one map of that width."""
    from transformers import RfDetrDinov2Config

    values = _size(size)
    options: dict[str, Any] = {
        "hidden_size": values.width,
        "num_attention_heads": values.heads,
        "num_hidden_layers": values.taps[-1],
        "out_indices": list(values.taps),
        "num_windows": values.windows,
    }
    if only_width is not None:
        options = {"hidden_size": only_width, "num_attention_heads": 1, "num_hidden_layers": 0, "out_indices": [0]}
    return RfDetrDinov2Config(
        patch_size=values.patch, image_size=side, num_channels=colours, use_mask_token=False, **options
    )


def _corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, y, width, height -> x1, y1, x2, y2."""
    centre, extent = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - extent / 2, centre + extent / 2], -1)


def _as_shares(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """(N, 4) x1, y1, x2, y2 in voxels -> centre x, y, width, height as fractions of the image (y, x)."""
    x1, y1, x2, y2 = boxes.float().reshape(-1, 4).unbind(-1)
    height, width = shape
    return torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], -1)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of boxes (centre x, y, width, height), broadcast: (..., 4) and (..., 4) -> (...)."""
    a, b = _corners(a), _corners(b)

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    low, high = a[..., :2], a[..., 2:]
    from_, to = b[..., :2], b[..., 2:]
    inter = area(torch.maximum(low, from_), torch.minimum(high, to))
    union = area(low, high) + area(from_, to) - inter
    hull = area(torch.minimum(low, from_), torch.maximum(high, to))
    iou = inter / union.clamp(min=TINY_AREA)
    return iou, iou - (hull - union) / hull.clamp(min=TINY_AREA)


def _classification(logits: Tensor, matched: tuple[Tensor, Tensor, Tensor], iou: Tensor, alpha: float) -> Tensor:
    """The library's class loss (IoU-aware cross-entropy, LW-DETR), summed, and finite for large logits too.

    A matched query has target t = p^alpha IoU^(1 - alpha); others have target 0 with focal weight p^2.
    """
    probability = logits.sigmoid()
    target = (probability[matched].detach() ** alpha * iou ** (1 - alpha)).clamp(min=LEAST_QUALITY)
    there = torch.zeros_like(logits).index_put(matched, target)
    absent = (probability**2).index_put(matched, 1 - target)
    return -(there * F.logsigmoid(logits) + absent * F.logsigmoid(-logits)).sum()


@torch.no_grad()
def _same_queries(logits: Tensor, boxes: Tensor, their_logits: Tensor, their_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Match our queries to theirs per image: two (B, pairs)."""
    own, theirs = boxes[:, :, None], their_boxes[:, None]  # (B, Q, 1, 4), (B, 1, Q, 4)
    cost = (own - theirs).abs().sum(-1) + 1 - _overlap(own, theirs)[1]  # (B, Q, Q)
    cost = cost + (logits.sigmoid()[:, :, None] - their_logits.sigmoid()[:, None]).abs().sum(-1)
    pairs = torch.from_numpy(np.stack([linear_sum_assignment(image) for image in _on_cpu(cost)])).to(logits.device)
    return pairs[:, 0], pairs[:, 1]


def _on_cpu(cost: Tensor) -> np.ndarray:
    """Cost as a finite array for the assignment: a diverged network must fail at its loss, where it is reported."""
    return torch.nan_to_num(cost.float(), nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
