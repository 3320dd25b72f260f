"""Detection's parts: objects and scores of batches, whose outputs are whose, boxes brought back to a file's pixels."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from mdkd_auto.batches.boxes import NO_BOXES
from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.errors import PlanError, PredictionError, SettingsError
from mdkd_auto.core.records import ConfigurationPlan, DatasetPlan, Normalisation
from mdkd_auto.core.settings import DetectionSettings, Settings
from mdkd_auto.formats.read_write import Image
from mdkd_auto.networks.detector import Detected, Objects
from mdkd_auto.networks.discriminator import Discriminator
from mdkd_auto.networks.model import Model
from mdkd_auto.planners.topology import plan_topology
from mdkd_auto.preprocessing.case import plan_geometry
from mdkd_auto.stages.source_teacher import SourceTeacherObjective
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.stages.teacher import TeacherObjective
from mdkd_auto.tasks.detection.training import (
    DetectionTask,
    Detector,
    check_architecture,
    check_families,
    hit_objects,
    objects_of,
)
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.shared.whole_images import into_patch

FASTER, RFDETR = "faster_rcnn_small", "rfdetr_tiny"
SIDE = 64
PLAN = ConfigurationPlan(
    configuration="2d",
    datasets=("a", "b"),
    spacing_mm=(1.0, 1.0),
    patch_size=(SIDE, SIDE),
    batch_size=4,
    topology=plan_topology((SIDE, SIDE), (1.0, 1.0)),
    whole_images=True,
    anchor_sizes=(8.0, 12.0, 16.0, 24.0),
    anchor_ratios=(0.5, 1.0, 2.0),
    queries=12,
    reasons=(),
)
SETTINGS = Settings(device="cpu").for_task("detection")

pytestmark = pytest.mark.usefixtures("one_thread")


def classes_named(*names: str) -> Classes:
    """As dataset.json has them: values from 3 on, which are no places of outputs."""
    channels = tuple(ClassChannel(name=name, values=(number,), written=number) for number, name in enumerate(names, 3))
    return Classes(channels=channels, regions=False, ignore=None)


CLASSES = {"a": classes_named("tumour"), "b": classes_named("lesion", "cyst")}
Row = tuple[float, float, float, float, float]


def rows(*given: Row) -> torch.Tensor:
    return torch.tensor(given) if given else NO_BOXES


def batch(*boxes: torch.Tensor) -> Batch:
    """Noise with bright boxes."""
    images = 0.3 * torch.randn(len(boxes), 1, SIDE, SIDE)
    for image, some in zip(images, boxes, strict=True):
        for x1, y1, x2, y2 in some[:, :4].int().tolist():
            image[0, y1:y2, x1:x2] += 2
    return Batch(images, torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.int16), ("x",) * len(boxes), boxes=boxes)


def task(architecture: str = FASTER, settings: Settings = SETTINGS) -> DetectionTask:
    return DetectionTask(PLAN, CLASSES, settings, architecture)


def model_of(made: DetectionTask, outputs: int) -> Model:
    encoder = made.encoder()
    return Model(encoder, made.head(outputs, encoder))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Answer:
    """What a detector found, image by image; only what the score asks for."""

    def __init__(self, *found: Detected) -> None:
        self.found = list(found)

    def detected(self) -> list[Detected]:
        return self.found

    def likelihoods(self) -> torch.Tensor:
        return torch.stack([one.scores for one in self.found])


def found(*boxes: tuple[float, float, float, float], kinds: Sequence[int] | None = None) -> Detected:
    """The likeliest first."""
    scores = torch.linspace(0.9, 0.1, max(1, len(boxes)))[: len(boxes)]
    return Detected(
        torch.tensor(boxes).reshape(-1, 4), torch.tensor(kinds or [0] * len(boxes), dtype=torch.long), scores
    )


# --- objects and scores ---------------------------------------------------------------------------------------------


def test_classes_are_numbered_as_outputs() -> None:
    drawn = batch(rows((1, 2, 11, 12, 4), (20, 20, 30, 40, 3)), rows())
    first, second = objects_of(drawn, CLASSES["b"])
    assert first.classes.tolist() == [1, 0]
    assert first.boxes.tolist() == [[1, 2, 11, 12], [20, 20, 30, 40]]
    assert (first.classes.dtype, second.classes.dtype) == (torch.long, torch.long)
    assert (second.boxes.shape, second.classes.shape) == ((0, 4), (0,))


def test_each_object_is_found_once() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 25], [50, 50, 60, 54]])
    assert hit_objects(boxes, truth) == {0, 1}  # a second box on the first, exactly half the second, 0.4 of the third
    assert hit_objects(boxes[:0], truth) == hit_objects(boxes, truth[:0]) == set()


def test_a_box_takes_what_it_overlaps_most_of_what_is_free() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 2, 10, 12]])
    assert hit_objects(torch.tensor([[0.0, 2, 10, 12]]), truth) == {1}
    assert hit_objects(torch.tensor([[0.0, 2, 10, 12]] * 2), truth) == {0, 1}  # 8 / 12 with the one that is left


def test_score_is_r_precision() -> None:
    """Of n objects of a class, the n likeliest boxes of that class count; whatever their scores are."""
    drawn = batch(
        rows((0, 0, 10, 10, 3), (20, 20, 30, 30, 3), (40, 40, 50, 50, 4)),
        rows((0, 0, 10, 10, 4)),
        rows(),
    )
    here, there, cyst, nothing = (0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50), (0, 50, 10, 60)
    answer = Answer(
        found(here, nothing, there, cyst, kinds=[0, 0, 0, 1]),  # the third of its class comes too late
        found(here, here, kinds=[0, 1]),
        found(nothing),
    )
    score = task().score(answer, drawn, "b")  # type: ignore[arg-type]
    assert score.numerator.tolist() == [1, 2]
    assert score.denominator.tolist() == [2, 2]


@pytest.mark.parametrize("architecture", [FASTER, RFDETR])
def test_loss_and_score_of_a_model(architecture: str) -> None:
    made = task(architecture)
    drawn = batch(rows((4, 4, 20, 24, 3)), rows((30, 8, 44, 20, 4), (8, 40, 24, 60, 3)))
    output = model_of(made, 2)(drawn.images)
    torch.manual_seed(5)
    loss = made.loss(output, drawn, "b")
    torch.manual_seed(5)
    parts = output.losses([Objects(some[:, :4], some[:, 4].long() - 3) for some in drawn.boxes])
    torch.testing.assert_close(loss, sum(parts.values()))
    assert made.score(output, drawn, "b").denominator.tolist() == [2, 1]
    likely = made.probabilities(output)
    assert len(likely) == 2
    assert ((likely >= 0) & (likely <= 1)).all()


@pytest.mark.parametrize("architecture", [FASTER, RFDETR])
def test_images_without_a_box_train(architecture: str) -> None:
    made = task(architecture)
    objective = TeacherObjective(model_of(made, 1), made, "a")
    for drawn in (batch(rows(), rows()), batch(rows(), rows((4, 4, 20, 20, 3)))):
        (terms,) = objective.losses({"a": drawn}, 0.5)
        objective.model.zero_grad()
        terms["total"].backward()
        gradients = [weight.grad for weight in objective.model.parameters() if weight.grad is not None]
        assert terms["total"] > 0
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.abs().max() > 0 for gradient in gradients)
    assert objective.validate("a", batch(rows(), rows()))[1].denominator.tolist() == [0]


# --- teachers and students ------------------------------------------------------------------------------------------


def test_each_data_set_has_its_own_outputs() -> None:
    assert task().source_and_target_outputs("b", "a") == (3, {"b": [0, 1], "a": [2]})
    same = DetectionTask(PLAN, {"a": CLASSES["a"], "c": CLASSES["a"]}, SETTINGS, FASTER)
    assert same.source_and_target_outputs("a", "c") == (2, {"a": [0], "c": [1]})  # also for classes of one name


@pytest.mark.parametrize("architecture", [FASTER, RFDETR])
def test_a_source_teacher_learns_both(architecture: str) -> None:
    made = task(architecture)
    count, places = made.source_and_target_outputs("b", "a")
    model = model_of(made, count)
    objective = SourceTeacherObjective(model, Discriminator(model.encoder.channels[-1]), made, "b", "a", SETTINGS)
    source, target = batch(rows((4, 4, 20, 20, 4)), rows()), batch(rows((30, 30, 44, 50, 3)), rows((2, 2, 16, 14, 3)))
    (terms,) = objective.losses({"b": source, "a": target}, 0.5)
    assert {"source", "target", "domain", "total"} == set(terms)
    torch.testing.assert_close(terms["total"], terms["source"] + terms["target"] + terms["domain"])
    terms["total"].backward()
    assert all(weight.grad is not None for weight in objective.discriminator.parameters())

    model.eval()  # one group of queries
    with torch.no_grad():
        output = model(torch.cat([source.images, target.images]))
        part = output.images(2, 4).of(places["a"])
        torch.manual_seed(7)
        loss, score = objective.validate("a", target)
        torch.manual_seed(7)
        torch.testing.assert_close(made.loss(part, target, "a"), loss, rtol=1e-3, atol=1e-4)
    assert len(score.numerator) == 1
    assert all((some.classes == 0).all() for some in part.detected())


def student(architecture: str, settings: Settings = SETTINGS) -> StudentObjective:
    made = task(architecture, settings)
    joint = made.joint_encoder([made.encoder(), made.encoder()], None)
    return StudentObjective(model_of(made, 1), Model(joint, made.head(1, joint)), made, "a", settings, reliability=0.5)


@pytest.mark.parametrize("architecture", [FASTER, RFDETR])
def test_a_student_learns_the_head_and_its_teacher_nothing(architecture: str) -> None:
    """Eq. (24), with the joint teacher's reliability on all that is distilled; updates move the student alone."""
    own = DetectionSettings(attention=0.5, logits=2.0, embeddings=3.0, gamma=0.25, delta=0.75, beta=0.0)
    objective = student(architecture, Settings(device="cpu", detection=own).for_task("detection"))
    before = {name: value.clone() for name, value in objective.joint_teacher.state_dict().items()}
    began = {name: value.clone() for name, value in objective.trained().state_dict().items()}
    drawn = batch(rows((4, 4, 20, 20, 3)), rows(), rows((30, 30, 44, 50, 3)))
    optimiser = torch.optim.AdamW(objective.trained().parameters(), lr=1e-3)
    objective.trained().train()
    for number in range(2):
        (terms,) = objective.losses({"a": drawn}, 1.0)
        if number == 0:
            distilled = (
                own.gamma * terms["feature"]
                + own.delta * terms["similarity"]
                + own.attention * terms["attention"]
                + own.logits * terms["logits"]
                + own.embeddings * terms["embeddings"]
            )
            torch.testing.assert_close(terms["total"], terms["task"] + 0.5 * distilled)
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
    assert not any(weight.requires_grad for weight in objective.joint_teacher.parameters())
    assert all(weight.grad is None for weight in objective.joint_teacher.parameters())
    assert all(weight.grad is not None for weight in objective.projections.parameters())
    assert not objective.joint_teacher.training
    after = objective.joint_teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    ended = objective.trained().state_dict()
    assert any(not torch.equal(ended[name], value) for name, value in began.items() if name.startswith("model.head"))


def test_statistics_of_a_teachers_batch_norm_stay() -> None:
    objective = student("faster_rcnn_resnet18")
    before = {name: value.clone() for name, value in objective.joint_teacher.state_dict().items()}
    assert any(name.endswith("running_mean") for name in before)
    objective.trained().train()
    (terms,) = objective.losses({"a": batch(rows((4, 4, 20, 20, 3)), rows())}, 1.0)
    terms["total"].backward()
    assert all(torch.equal(objective.joint_teacher.state_dict()[name], value) for name, value in before.items())


def test_no_distillation_in_the_warm_up() -> None:
    (terms,) = student(FASTER).losses({"a": batch(rows((4, 4, 20, 20, 3)), rows())}, 0.0)
    assert set(terms) == {"total", "task"}


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("unet", 64, r"network 'unet': detection has faster_rcnn_resnet50, .*rfdetr_base"),
        ("rfdetr_base", 512, r"multiple of 56 voxels a side, the plan's is 512; .*--input-size 448 --replan"),
        ("rfdetr_base", 64, r"--input-size 224 --replan"),  # the least that planning and the network take
        ("rfdetr_nano", 336, r"multiple of 32 .*--input-size 3(20|52) --replan"),
    ],
)
def test_networks_that_detection_has_not_or_not_for_this_input(name: str, side: int, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check_architecture(name, side)


@pytest.mark.parametrize(("name", "side"), [("rfdetr_base", 448), ("rfdetr_tiny", 64), (FASTER, 352)])
def test_networks_that_fit(name: str, side: int) -> None:
    check_architecture(name, side)


@pytest.mark.parametrize(
    ("architecture", "lacking", "words"),
    [
        (FASTER, {"anchor_sizes": ()}, "each of its 4 levels, .* the plan has 0 sizes and 3 ratios"),
        (FASTER, {"anchor_sizes": (8.0, 16.0)}, "the plan has 2 sizes"),
        (FASTER, {"anchor_ratios": ()}, "0 ratios"),
        (RFDETR, {"queries": 0}, "one query or more; the plan has 0"),
    ],
)
def test_plans_that_make_no_detector(architecture: str, lacking: dict[str, object], words: str) -> None:
    plan = msgspec.structs.replace(PLAN, **lacking)
    with pytest.raises(PlanError, match=words):
        DetectionTask(plan, CLASSES, SETTINGS, architecture).head(1)


def test_a_plan_that_is_not_of_whole_images_is_refused() -> None:
    assert into_patch(np.ones((1, 60, SIDE), np.float32), (SIDE, SIDE)).shape == (SIDE, SIDE)
    with pytest.raises(PlanError, match="the image has 65 x 64 voxels for an input of 64 x 64"):
        into_patch(np.ones((1, 65, SIDE), np.float32), (SIDE, SIDE))


def test_families_do_not_mix() -> None:
    check_families("faster_rcnn_resnet50", FASTER)
    check_families("rfdetr_base", "rfdetr_nano")
    for teacher, other in ((FASTER, RFDETR), ("rfdetr_base", "faster_rcnn_resnet18")):
        with pytest.raises(SettingsError, match=f"'{other}' cannot learn from '{teacher}'.*one family.*--student-arch"):
            check_families(teacher, other)


def test_widths_are_the_networks_own() -> None:
    with pytest.raises(SettingsError, match="width 4: faster_rcnn_small has a width of its own"):
        DetectionTask(PLAN, CLASSES, SETTINGS, FASTER, width=4)


# --- prediction -----------------------------------------------------------------------------------------------------


class Fake(nn.Module):
    """A model that finds the same boxes in every image, and keeps what it was shown."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.answer, self.shown = found(*boxes), torch.zeros(0)

    def forward(self, x: torch.Tensor) -> Answer:
        self.shown = x
        return Answer(self.answer)


DATASET_PLAN = DatasetPlan(
    dataset="a", channel=0, channel_name="CT", transpose=(0, 1, 2), normalisation=Normalisation(scheme="zscore")
)


def detector(model: nn.Module) -> Detector:
    return Detector(model, DATASET_PLAN, PLAN, CLASSES["a"], PredictionOptions(torch.device("cpu")))


def image_of(array: np.ndarray) -> Image:
    return Image(array[None].astype(np.float32), (1.0, 1.0, 1.0), False, None)  # type: ignore[arg-type]


def test_boxes_come_back_to_the_files_pixels() -> None:
    """100 x 200 (y, x) is made 32 x 64 and lies in the middle of the patch, 16 voxels from its top."""
    model = Fake((0, 16, 64, 48), (8, 20, 24, 28), (32, 40, 40, 60), (-5, 10, 10, 20), (4, 2, 20, 15))
    boxes, kinds, scores = detector(model).found(image_of(1 + np.arange(20_000).reshape(100, 200)))
    assert model.shown.shape == (1, 1, SIDE, SIDE)
    scale = 200 / 64
    expected = [
        [0, 0, 200, 100],
        [8 * scale, 4 * scale, 24 * scale, 12 * scale],
        [32 * scale, 24 * scale, 40 * scale, 100],  # cut at the image's edge
        [0, 0, 10 * scale, 4 * scale],
    ]  # the last lies outside the image
    np.testing.assert_allclose(boxes, expected)
    assert kinds.tolist() == [0] * 4
    np.testing.assert_allclose(scores, model.answer.scores[:4])
    assert boxes.dtype == scores.dtype == np.float64


def test_a_tall_image_with_a_black_border() -> None:
    """The border is cropped away: 160 x 40 (y, x) at (20, 30) is made 64 x 16, 24 voxels from the left."""
    array = np.zeros((200, 100))
    array[20:180, 30:70] = 50 + np.arange(160 * 40).reshape(160, 40)
    boxes, _, _ = detector(Fake((24, 0, 40, 64), (28, 16, 36, 32))).found(image_of(array))
    np.testing.assert_allclose(boxes, [[30, 20, 70, 180], [40, 60, 60, 100]])
    geometry = plan_geometry(array[None], None, DATASET_PLAN, PLAN)
    assert geometry.resampled_shape == (1, 64, 16)


def test_what_is_bright_is_where_the_box_is() -> None:
    """The way there through the image, and the way back of its box, meet."""
    array = np.full((90, 120), 10.0)
    array[30:60, 45:75] = 200
    model = Fake((0, 0, 1, 1))
    detector(model).found(image_of(array))
    y, x = np.nonzero((model.shown[0, 0] > model.shown.mean() + model.shown.std()).numpy())
    seen = (float(x.min()), float(y.min()), float(x.max()) + 1, float(y.max()) + 1)
    boxes, _, _ = detector(Fake(seen)).found(image_of(array))
    np.testing.assert_allclose(boxes, [[45, 30, 75, 60]], atol=2)


def test_nothing_found() -> None:
    boxes, kinds, scores = detector(Fake()).found(image_of(1 + np.arange(64).reshape(8, 8)))
    assert (boxes.shape, kinds.shape, scores.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("architecture", [FASTER, RFDETR])
def test_an_answer_of_nan_is_not_an_image_without_a_box(architecture: str) -> None:
    model = model_of(task(architecture), 1).eval()
    image = image_of(1 + np.arange(64 * 64).reshape(64, 64))
    detector(model).found(image)
    next(model.encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(PredictionError, match="NaN or infinite; expected finite numbers"):
        detector(model).found(image)
