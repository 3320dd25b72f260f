import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.networks.detector import Objects
from mdkd_auto.networks.rf_detr import (
    RFDETR_SIZES,
    RFDETREncoder,
    RFDETRHead,
    RFDETROutput,
    most_queries,
    side_multiple,
)
from mdkd_auto.networks.weights.rf_detr import load_rf_detr

TINY, SIDE, QUERIES, CLASSES = "rfdetr_tiny", 128, 20, 3

pytestmark = pytest.mark.usefixtures("one_thread")


class Detector(NamedTuple):
    encoder: RFDETREncoder
    head: RFDETRHead

    def __call__(self, x: Tensor) -> RFDETROutput:
        output: RFDETROutput = self.head(self.encoder(x))
        return output

    def train(self, mode: bool = True) -> "Detector":
        self.encoder.train(mode)
        self.head.train(mode)
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.encoder.parameters()
        yield from self.head.parameters()


def build(seed: int = 0, classes: int = CLASSES, side: int = SIDE, queries: int = QUERIES) -> Detector:
    """A network whose weights all differ from their first values, as a trained one's do."""
    torch.manual_seed(seed)
    encoder = RFDETREncoder(TINY, side)
    head = RFDETRHead(TINY, encoder.channels, classes, queries)
    for parameter in head.parameters():
        nn.init.normal_(parameter, parameter.mean().item(), 0.1)
    return Detector(encoder, head)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build().train(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def objects_of(*boxes: tuple[float, float, float, float], kind: int = 0) -> Objects:
    return Objects(torch.tensor(boxes).reshape(-1, 4), torch.full((len(boxes),), kind))


SOME = [objects_of((10, 20, 50, 60), (70, 70, 120, 100)), objects_of(), objects_of((5, 5, 30, 25), kind=2)]


def test_shapes(detector: Detector, images: Tensor) -> None:
    maps = detector.encoder(images)
    assert [tuple(one.shape) for one in maps] == [(3, width, 8, 8) for width in detector.encoder.channels]
    assert detector.encoder.strides == ((16, 16),) * 4
    assert len(detector.encoder.kernel_sizes) == 4
    output = detector.head(maps)
    assert len(output) == 3
    assert output.logits.shape == (1 + RFDETR_SIZES[TINY].decoder_layers, 3, QUERIES, CLASSES)
    assert output.likelihoods().shape == (3, QUERIES)
    assert output.embeddings.shape == (3, QUERIES, RFDETR_SIZES[TINY].d_model)
    for found in output.detected():
        assert found.boxes.shape == (QUERIES * CLASSES, 4)
        assert found.boxes.dtype == torch.float32
        assert found.boxes.min() >= 0
        assert found.boxes.max() <= SIDE
        assert (found.scores.diff() <= 0).all()
        assert set(found.classes.tolist()) <= set(range(CLASSES))


def test_the_base_has_the_published_weights() -> None:
    encoder = RFDETREncoder("rfdetr_base", 224)
    head = RFDETRHead("rfdetr_base", encoder.channels, 91, 256)
    assert 29e6 < sum(value.numel() for value in [*encoder.parameters(), *head.parameters()]) < 33e6
    assert side_multiple("rfdetr_base") == 56
    assert most_queries("rfdetr_base", 224) == 256


def test_maps_of_any_channels_and_one_queries_for_each_token() -> None:
    head = RFDETRHead(TINY, (8, 24), CLASSES, queries=16)
    assert head([torch.randn(1, 8, 4, 4), torch.randn(1, 24, 4, 4)]).logits.shape == (3, 1, 32, CLASSES)
    with pytest.raises(SettingsError, match="at most 4 queries"):
        head([torch.randn(1, 8, 2, 2), torch.randn(1, 24, 2, 2)])


@pytest.mark.parametrize("shape", [(1, 1, 100, 100), (1, 1, 128, 96)])
def test_a_wrong_side_is_named(detector: Detector, shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="multiple of 32"):
        detector.encoder(torch.zeros(shape))
    with pytest.raises(SettingsError, match="multiple of 56"):
        RFDETREncoder("rfdetr_base", 100)
    with pytest.raises(SettingsError, match="rfdetr_nano"):
        RFDETREncoder("rfdetr_gigantic", 128)


def test_another_side_is_possible(detector: Detector) -> None:
    assert detector(torch.randn(1, 1, 96, 96)).shape == (96, 96)


@torch.no_grad()
def test_a_result_does_not_depend_on_its_neighbours(detector: Detector, images: Tensor) -> None:
    together, alone = detector(images), detector(images[1:2])
    torch.testing.assert_close(together.images(1, 2).boxes, alone.boxes, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together.images(1, 2).logits, alone.logits, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_slices(detector: Detector, images: Tensor) -> None:
    output = detector(images)
    part = output.images(1, 3)
    assert len(part) == 2
    for ours, whole in zip(part.detected(), output.detected()[1:], strict=True):
        torch.testing.assert_close(ours.boxes, whole.boxes)
    restricted = output.of([2, 0])
    assert torch.equal(restricted.logits, output.logits[..., [2, 0]])
    assert {kind for found in restricted.detected() for kind in found.classes.tolist()} == {0, 1}
    alone = restricted.of([0])
    assert all(torch.isfinite(value) for value in alone.losses([objects_of((1, 1, 9, 9)), *SOME[:2]]).values())


@pytest.mark.parametrize("training", [True, False])
def test_losses_are_the_librarys(images: Tensor, training: bool) -> None:
    from transformers.loss.loss_lw_detr import LwDetrForObjectDetectionLoss

    output = build().train(training)(images)
    config = output.config
    labels = [
        {
            "class_labels": one.classes,
            "boxes": torch.cat([(one.boxes[:, :2] + one.boxes[:, 2:]) / 2, one.boxes[:, 2:] - one.boxes[:, :2]], 1)
            / SIDE,
        }
        for one in SOME
    ]
    before, config.group_detr = config.group_detr, config.group_detr if training else 1
    expected, _, _ = LwDetrForObjectDetectionLoss(
        output.logits[-1],
        labels,
        "cpu",
        output.boxes[-1],
        config,
        output.logits[1:],
        output.boxes[1:],
        output.logits[0],
        output.boxes[0],
    )
    config.group_detr = before
    losses = output.losses(SOME)
    assert set(losses) == {"classification", "box", "giou"}
    torch.testing.assert_close(sum(losses.values()), expected, rtol=1e-4, atol=1e-4)


def test_every_weight_has_a_gradient(images: Tensor) -> None:
    detector = build().train()
    losses = detector(images).losses(SOME)
    torch.stack(list(losses.values())).sum().backward()
    for name, value in [*detector.encoder.named_parameters(), *detector.head.named_parameters()]:
        assert value.grad is not None, name
        assert torch.isfinite(value.grad).all(), name
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in detector.encoder.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_images_without_objects_train(images: Tensor, training: bool) -> None:
    detector = build().train(training)
    losses = detector(images).losses([objects_of()] * 3)
    assert losses["classification"] > 0
    assert losses["box"] == losses["giou"] == 0
    torch.stack(list(losses.values())).sum().backward()
    gradient = next(detector.encoder.parameters()).grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_losses_of_large_logits_are_finite(images: Tensor, detector: Detector) -> None:
    output = detector(images)
    for factor in (1e3, -1e3):
        losses = replace(output, logits=output.logits * factor).losses(SOME)
        assert all(torch.isfinite(value) for value in losses.values())


def test_bfloat16(images: Tensor) -> None:
    detector = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = detector(images)
    assert output.logits.dtype == output.boxes.dtype == output.embeddings.dtype == torch.float32
    losses = torch.stack(list(output.losses(SOME).values()))
    losses.sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in detector.parameters() if value.grad is not None)
    taught = output.distillation_losses(build(1)(images), 2.0)
    assert taught.logits.dtype == torch.float32


def test_training_is_deterministic(images: Tensor) -> None:
    def gradients() -> list[Tensor | None]:
        detector = build().train()
        torch.stack(list(detector(images).losses(SOME).values())).sum().backward()
        return [value.grad for value in detector.parameters()]

    for first, second in zip(gradients(), gradients(), strict=True):
        assert first is not None
        assert second is not None
        assert torch.equal(first, second)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(images: Tensor, detector: Detector) -> None:
    taught = detector(images).distillation_losses(detector(images), 2.0)
    assert taught.logits.abs() < 1e-6
    assert taught.embeddings == 0


def test_the_order_of_a_teachers_queries_does_not_matter(images: Tensor, detector: Detector) -> None:
    student, teacher = build(1).train()(images), detector(images)
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        teacher,
        logits=teacher.logits[:, :, order],
        boxes=teacher.boxes[:, :, order],
        embeddings=teacher.embeddings[:, order],
    )
    taught, again = student.distillation_losses(teacher, 2.0), student.distillation_losses(shuffled, 2.0)
    torch.testing.assert_close(again, taught)
    assert taught.logits > 0
    assert taught.embeddings > 0


def test_a_lesson_by_hand(detector: Detector, images: Tensor) -> None:
    """One class, queries far from each other: Bernoulli KL at T = 2, times 4, and the distance at unit scale."""
    output = detector(images[:1]).of([0])
    centres = torch.linspace(0.1, 0.9, QUERIES)
    boxes = torch.stack([centres, centres, torch.full_like(centres, 0.01), torch.full_like(centres, 0.01)], -1)
    boxes = boxes.expand_as(output.boxes)
    student = replace(output, boxes=boxes, logits=torch.zeros_like(output.logits), embeddings=output.embeddings * 0 + 5)
    teacher = replace(student, logits=student.logits + 2, embeddings=-3 * student.embeddings)
    taught = student.distillation_losses(teacher, 2.0)
    share = torch.tensor(1.0).sigmoid()
    expected = 4 * (share * (share / 0.5).log() + (1 - share) * ((1 - share) / 0.5).log())
    torch.testing.assert_close(taught.logits, expected)
    assert taught.embeddings.item() == pytest.approx(4)  # 1 against -1
    louder = replace(student, embeddings=7 * student.embeddings)
    assert student.distillation_losses(louder, 2.0).embeddings.item() == pytest.approx(0, abs=1e-10)


def test_a_lesson_reaches_the_student_alone(images: Tensor) -> None:
    student, teacher = build().train(), build(1)
    taught = student(images).distillation_losses(teacher(images), 2.0)
    (taught.logits + taught.embeddings).backward()
    assert all(value.grad is None for value in teacher.parameters())
    gradient = next(student.encoder.parameters()).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_teacher_of_another_width_is_learned_from_through_a_projection(images: Tensor, detector: Detector) -> None:
    output = detector(images)
    width = output.embeddings.shape[-1]
    wider = replace(output, embeddings=output.embeddings.repeat(1, 1, 2))
    twice = nn.Linear(width, 2 * width, bias=False)
    with torch.no_grad():
        twice.weight.copy_(torch.cat([torch.eye(width), torch.eye(width)]))
    assert output.distillation_losses(wider, 2.0, twice).embeddings.item() == pytest.approx(0, abs=1e-10)


def test_state(images: Tensor, detector: Detector) -> None:
    other = build(1).train(False)
    other.encoder.load_state_dict(detector.encoder.state_dict())
    other.head.load_state_dict(detector.head.state_dict())
    assert torch.equal(other(images).logits, detector(images).logits)


def embeddings_of(detector: Detector) -> Any:
    return detector.encoder.body.embeddings


def library_state(detector: Detector) -> dict[str, Tensor]:
    trunk = {f"model.backbone.backbone.{name}": value for name, value in detector.encoder.body.state_dict().items()}
    return trunk | detector.head.detector.state_dict()


def test_weights_of_the_library(images: Tensor, detector: Detector, tmp_path: Path) -> None:
    save_file(library_state(detector), tmp_path / "weights.safetensors")
    other = build(1).train(False)
    load_rf_detr(tmp_path / "weights.safetensors", other.encoder, [other.head])
    assert torch.equal(other(images).logits, detector(images).logits)


def test_weights_as_published(images: Tensor, tmp_path: Path) -> None:
    """The library writes the names of the first code, which the published files have, too."""
    from transformers import RfDetrConfig, RfDetrDinov2Config, RfDetrForObjectDetection

    ours = build(1).train(False)
    settings = ours.head.config.to_dict() | {"backbone_config": ours.encoder.body.config}
    assert isinstance(ours.encoder.body.config, RfDetrDinov2Config)
    published = RfDetrForObjectDetection(RfDetrConfig(**settings)).eval()
    published.save_pretrained(tmp_path)
    assert any(name.startswith("backbone.0.") for name in load_file(tmp_path / "model.safetensors"))
    load_rf_detr(tmp_path / "model.safetensors", ours.encoder, [ours.head])
    expected = published(images.expand(-1, 3, -1, -1))
    output = ours(images)
    torch.testing.assert_close(output.logits[-1], expected.logits)
    torch.testing.assert_close(output.boxes[-1], expected.pred_boxes)
    torch.testing.assert_close(output.logits[0], expected.enc_outputs_class)


def test_weights_of_other_classes_queries_and_sides(
    detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(library_state(detector), tmp_path / "weights.safetensors")
    other = build(1, classes=5, side=64, queries=8)
    with caplog.at_level(logging.INFO):
        load_rf_detr(tmp_path / "weights.safetensors", other.encoder, [other.head])
    assert "class_embed" in caplog.text
    assert "position_embeddings" not in caplog.text
    ours, theirs = other.head.detector.model.query_feat.weight, detector.head.detector.model.query_feat.weight
    assert torch.equal(ours[:8], theirs[:8])
    assert torch.equal(ours[8:], theirs[QUERIES : QUERIES + 8])
    grid = embeddings_of(detector).interpolate_pos_encoding(torch.zeros(1, 17, 64), 64, 64)
    torch.testing.assert_close(embeddings_of(other).position_embeddings, grid)


def test_weights_of_dinov2(detector: Detector, tmp_path: Path) -> None:
    state = {
        name.replace("q_proj", "attention.query")
        .replace("k_proj", "attention.key")
        .replace("v_proj", "attention.value")
        .replace("o_proj", "output.dense"): value
        for name, value in detector.encoder.body.state_dict().items()
    }
    name = "embeddings.patch_embeddings.projection.weight"
    state[name] = F.interpolate(state[name], size=(14, 14))
    save_file({**state, "embeddings.mask_token": torch.zeros(1, 64)}, tmp_path / "dinov2.safetensors")
    encoder = build(1).encoder
    load_rf_detr(tmp_path / "dinov2.safetensors", encoder)
    expected, found = detector.encoder.body.state_dict(), encoder.body.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items() if key != name)
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(SettingsError, match="no tensor"):
        load_rf_detr(tmp_path / "resnet.safetensors", encoder)


def test_proposals_begin_as_published() -> None:
    """Probability 0.01 and no correction, whatever the release of transformers; every group of queries."""
    head = RFDETRHead(TINY, (8, 8), 1, QUERIES)
    proposing = list(zip(head.detector.model.enc_out_class_embed, head.detector.model.enc_out_bbox_embed, strict=True))
    assert len(proposing) > 1
    for score, box in proposing:
        torch.testing.assert_close(score.bias.sigmoid(), torch.full_like(score.bias, 0.01))
        assert not box.layers[-1].weight.any()
        assert not box.layers[-1].bias.any()


def test_four_images_are_learnt(learn: Callable[..., None]) -> None:
    """Bright squares on noise: the best box of each image is found."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, SIDE, SIDE, generator=draws)
    truth = []
    for image in x:
        side = int(torch.randint(20, 50, (1,), generator=draws))
        left, top = torch.randint(0, SIDE - side, (2,), generator=draws).tolist()
        image[0, top : top + side, left : left + side] += 3
        truth.append(objects_of((left, top, left + side, top + side)))
    torch.manual_seed(0)
    encoder = RFDETREncoder(TINY, SIDE)
    detector = Detector(encoder, RFDETRHead(TINY, encoder.channels, 1, QUERIES)).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)

    def update() -> None:
        optimizer.zero_grad()
        torch.stack(list(detector.train()(x).losses(truth).values())).sum().backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()

    def learnt() -> bool:
        found = detector.train(False)(x).detected()
        return all(
            box_iou(one.boxes[:1], objects.boxes).item() > 0.5 and one.scores[0].item() > 0.5
            for one, objects in zip(found, truth, strict=True)
        )

    learn(update, learnt, 600)


def test_queries_are_described_the_likeliest_first(detector: Detector, images: Tensor) -> None:
    detector.train(False)
    with torch.no_grad():
        output = detector(images)
    described = output.described([torch.zeros(0, 4)] * len(images))
    assert len(described) == len(images)
    for number, (one, found) in enumerate(zip(described, output.detected(), strict=True)):
        likelihoods = output.likelihoods()[number]
        assert one.boxes.shape == (QUERIES, 4)
        torch.testing.assert_close(one.embeddings[0], output.embeddings[number, likelihoods.argmax()])
        torch.testing.assert_close(one.boxes[0], found.boxes[0])  # in voxels of the image, as what is detected
        torch.testing.assert_close(one.embeddings[-1], output.embeddings[number, likelihoods.argmin()])
