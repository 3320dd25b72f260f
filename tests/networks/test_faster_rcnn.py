"""Faster R-CNN: shapes, torchvision's own answer, what is asked of a detection head, and that it learns."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from mdkd_auto.networks.detector import Objects
from mdkd_auto.networks.faster_rcnn import SIZES, FasterRCNNHead, FasterRCNNOutput, ResNetEncoder

SMALL = "faster_rcnn_small"
ANCHORS, RATIOS = (8.0, 16.0, 32.0, 64.0), (0.5, 1.0, 2.0)
NOTHING = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


class Detector(nn.Module):
    def __init__(self, classes: int = 1, name: str = SMALL) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(name)
        self.head = FasterRCNNHead(name, self.encoder.channels, self.encoder.strides, classes, ANCHORS, RATIOS)

    def forward(self, x: torch.Tensor) -> FasterRCNNOutput:
        result: FasterRCNNOutput = self.head(self.encoder(x))
        return result


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector()


def scene(count: int = 4, side: int = 64) -> tuple[torch.Tensor, list[Objects]]:
    """Bright squares on noise; the first image shows none."""
    generator = torch.Generator().manual_seed(1)
    images = 0.3 * torch.randn(count, 1, side, side, generator=generator)
    objects = [NOTHING]
    for image in images[1:]:
        y, x = torch.randint(4, side - 24, (2,), generator=generator).tolist()
        image[0, y : y + 20, x : x + 20] += 2
        objects.append(Objects(torch.tensor([[x, y, x + 20, y + 20]]).float(), torch.zeros(1, dtype=torch.long)))
    return images, objects


@pytest.mark.parametrize(("name", "millions"), [("faster_rcnn_resnet50", 23.5), ("faster_rcnn_resnet18", 11.2)])
def test_published_encoders_have_torchvisions_weights(name: str, millions: float) -> None:
    encoder = ResNetEncoder(name)
    count = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.05)
    maps = encoder.eval()(torch.zeros(1, 1, 64, 96))
    assert [tuple(level.shape[1:]) for level in maps] == [
        (width, 64 // step, 96 // step) for width, (step, _) in zip(encoder.channels, encoder.strides, strict=True)
    ]


def test_anchors_and_boxes_are_torchvisions(detector: Detector) -> None:
    """torchvision's own FasterRCNN with the same weights finds the same boxes."""
    detector.eval()
    size = SIZES[SMALL]

    class Backbone(nn.Module):
        out_channels = size.pyramid

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            maps = detector.encoder(x)
            result: dict[str, torch.Tensor] = detector.head.pyramid(dict(zip(detector.head.levels, maps, strict=True)))
            return result

    peer = FasterRCNN(
        Backbone(),
        rpn_anchor_generator=AnchorGenerator(tuple((a,) for a in ANCHORS), (RATIOS,) * 4),
        rpn_head=detector.head.rpn.head,
        box_roi_pool=detector.head.regions.box_roi_pool,
        box_head=detector.head.regions.box_head,
        box_predictor=detector.head.regions.box_predictor,
        rpn_pre_nms_top_n_test=size.proposals,
        rpn_post_nms_top_n_test=size.proposals,
        box_score_thresh=0.01,
        min_size=64,
        max_size=64,
        image_mean=[0.0],
        image_std=[1.0],
    ).eval()
    images, _ = scene()
    with torch.no_grad():
        ours, theirs = detector(images).detected(), peer(list(images))
    assert sum(len(one.scores) for one in ours) > 0
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.boxes, other["boxes"])
        torch.testing.assert_close(mine.scores, other["scores"])
        assert (mine.classes + 1 == other["labels"]).all()


def test_it_learns_and_an_empty_image_trains(detector: Detector, learn: Callable[..., None]) -> None:
    images, objects = scene()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=1e-3)

    def update() -> None:
        optimiser.zero_grad()
        torch.stack(list(detector.train()(images).losses(objects).values())).sum().backward()
        optimiser.step()

    @torch.no_grad()
    def learnt() -> bool:
        nothing, *found = detector.eval()(images).detected()
        if (nothing.scores > 0.5).any() or any(len(one.scores) == 0 or one.scores[0] <= 0.5 for one in found):
            return False
        pairs = zip(found, objects[1:], strict=True)
        return all((one.boxes[0] - truth.boxes[0]).abs().max().item() < 5 for one, truth in pairs)

    learn(update, learnt, 300, every=15)


def test_only_empty_images_have_a_finite_loss(detector: Detector) -> None:
    losses = detector(torch.randn(2, 1, 64, 64)).losses([NOTHING, NOTHING])
    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()


def test_images_do_not_depend_on_their_neighbours(detector: Detector) -> None:
    detector.eval()
    images, _ = scene()
    with torch.no_grad():
        together, alone = detector(images).detected()[2], detector(images[2:3]).detected()[0]
        part = detector(images).images(2, 3).detected()[0]
    torch.testing.assert_close(together.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(together.boxes, part.boxes, rtol=1e-4, atol=1e-3)


def test_some_classes_are_a_detector_of_these_alone() -> None:
    torch.manual_seed(0)
    detector = Detector(classes=3).eval()
    images, _ = scene()
    with torch.no_grad():
        output = detector(images)
        part = output.of([2]).detected()
        regions = output.pooled(output._proposals)
        predictor = detector.head.regions.box_predictor
        predictor.cls_score.weight.data = predictor.cls_score.weight[[0, 3]]
        predictor.cls_score.bias.data = predictor.cls_score.bias[[0, 3]]
        predictor.bbox_pred.weight.data = predictor.bbox_pred.weight.unflatten(0, (4, 4))[[0, 3]].flatten(0, 1)
        predictor.bbox_pred.bias.data = predictor.bbox_pred.bias.unflatten(0, (4, 4))[[0, 3]].flatten()
        alone = FasterRCNNOutput(detector.head, output.pyramid, output.objectness, output.deltas, [0]).detected()
    assert sum(len(one.scores) for one in part) > 0
    for ours, theirs in zip(part, alone, strict=True):
        torch.testing.assert_close(ours, theirs)
    scores = torch.softmax(regions.logits[:, [0, 3]], dim=1)[:, 1]
    assert max(float(one.scores.max()) for one in part) == pytest.approx(float(scores.max()), abs=1e-5)
    assert output.of([1, 2]).of([1]).classes == [2]


def test_a_student_learns_row_by_row_from_the_same_regions(detector: Detector) -> None:
    """A teacher with the student's own weights teaches nothing; the regions are those that its loss drew."""
    images, objects = scene()
    ours, theirs = detector(images), detector(images)
    ours.losses(objects)
    same = ours.distillation_losses(theirs, 2.0)
    assert same.logits.item() == pytest.approx(0, abs=1e-6)
    assert same.embeddings.item() == pytest.approx(0, abs=1e-6)
    torch.manual_seed(1)
    teacher = Detector().eval().requires_grad_(False)
    taught = ours.distillation_losses(teacher(images), 2.0)
    assert ours._sampled is not None
    regions = teacher(images).pooled(ours._sampled.boxes)
    assert len(regions.logits) == len(ours._sampled.logits)
    slow = sum(
        float((p * (p / q).log()).sum())
        for q, p in zip(torch.softmax(ours._sampled.logits / 2, 1), torch.softmax(regions.logits / 2, 1), strict=True)
    )
    assert taught.logits.item() == pytest.approx(4 * slow / len(regions.logits), rel=1e-3)
    (taught.logits + taught.embeddings).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert detector.head.regions.box_head.fc6.weight.grad is not None


def test_bfloat16_gives_boxes_in_single_precision(detector: Detector) -> None:
    images, objects = scene()
    with torch.autocast("cpu", torch.bfloat16):
        output = detector(images)
        losses = output.losses(objects)
        found = output.detected()
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    assert found[0].boxes.dtype == torch.float32


def test_given_boxes_and_proposals_are_described(detector: Detector) -> None:
    detector.eval()
    images, objects = scene()
    with torch.no_grad():
        output = detector(images)
        described = output.described([one.boxes for one in objects])
        own = output.pooled([one.boxes for one in objects]).embeddings
    assert len(own) == len(images) - 1  # the first image shows none
    torch.testing.assert_close(torch.cat([one.embeddings[:1] for one in described[1:]]), own)
    for one, truth, proposed in zip(described, objects, output._proposals, strict=True):
        assert len(one.boxes) == len(one.embeddings)
        assert torch.equal(one.boxes, torch.cat([truth.boxes, proposed]))
    alone = output.images(2, 3).described([objects[2].boxes])[0]
    torch.testing.assert_close(alone.embeddings, described[2].embeddings, rtol=1e-4, atol=1e-4)
