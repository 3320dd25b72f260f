"""Classification's parts: outputs, shared classes, losses and scores of batches, and what learns from what."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import nn

from mdkd_auto.batches.sampling import INVALID, Batch
from mdkd_auto.core.errors import PredictionError, SettingsError
from mdkd_auto.core.files import read_record
from mdkd_auto.core.records import Case, ConfigurationPlan, Dataset, DatasetPlan, Normalisation
from mdkd_auto.core.settings import ClassificationSettings, Settings
from mdkd_auto.formats.read_write import Header, Image, read_image
from mdkd_auto.losses.classification import cross_entropy
from mdkd_auto.networks.discriminator import Discriminator
from mdkd_auto.networks.fusion.tokens import FusionAttentionEncoder
from mdkd_auto.networks.medvit import MedViTEncoder, PooledAttention
from mdkd_auto.networks.model import Model
from mdkd_auto.planners.topology import plan_topology
from mdkd_auto.stages.source_teacher import SourceTeacherObjective
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.tasks.classification.scoring import ClassSummary, score_classes_of_part
from mdkd_auto.tasks.classification.training import (
    ClassificationTask,
    Classifier,
    check_settings,
    distilled_pairs,
    has_width,
    outputs_of_labels,
)
from mdkd_auto.tasks.shared.classes import classes_of
from mdkd_auto.tasks.shared.evidence import Evidence, Work
from mdkd_auto.tasks.shared.prediction import PredictionOptions
from mdkd_auto.tasks.shared.scored_part import Part, Seen
from mdkd_auto.tasks.shared.whole_images import into_patch

PLAN = ConfigurationPlan(
    configuration="2d",
    datasets=("a", "b"),
    spacing_mm=(1.0, 1.0),
    patch_size=(32, 32),
    batch_size=4,
    topology=plan_topology((32, 32), (1.0, 1.0)),
    whole_images=True,
    reasons=(),
)
OWN = ClassificationSettings(joint_channels=16)
SETTINGS = Settings(device="cpu", classification=OWN).for_task("classification")


def dataset(name: str, *classes: str) -> Dataset:
    return Dataset(
        name=name,
        folder="",
        task="classification",
        modality="CXR",
        channel_names=("CXR",),
        file_ending="",
        cases=(),
        labels={label: (value,) for value, label in enumerate(classes)},
    )


CLASSES = {
    "a": classes_of(dataset("a", "well", "sick"), keep_classes=False),
    "b": classes_of(dataset("b", "covid", "well", "other"), keep_classes=False),
}
COUNTS = {"a": (6, 2), "b": (1, 1, 1)}


def task(settings: Settings = SETTINGS, distils: bool = False, **changes: object) -> ClassificationTask:
    return ClassificationTask(PLAN, CLASSES, settings, distils, counts=COUNTS, **{"width": 2, **changes})  # type: ignore[arg-type]


def batch(*classes: int) -> Batch:
    """Pictures with a frame of what lies outside."""
    labels = torch.full((len(classes), 32, 32), INVALID, dtype=torch.int16)
    for number, value in enumerate(classes):
        labels[number, 4:20, 3:] = value
    return Batch(torch.randn(len(classes), 1, 32, 32), labels, ("x",) * len(classes))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_every_class_has_an_output_whatever_keep_classes_says() -> None:
    assert [channel.name for channel in CLASSES["b"].channels] == ["covid", "well", "other"]
    assert outputs_of_labels(batch(2, 0, 1).labels, CLASSES["b"]).tolist() == [2, 0, 1]


def test_classes_of_one_name_share_their_output() -> None:
    count, places = task().source_and_target_outputs("b", "a")
    assert count == 4
    assert places == {"b": [0, 1, 2], "a": [1, 3]}  # covid, well, other, sick


def test_a_source_teacher_learns_both_through_shared_outputs() -> None:
    made = task()
    encoder = made.encoder()
    model = Model(encoder, made.head(4, encoder))
    objective = SourceTeacherObjective(model, Discriminator(encoder.channels[-1]), made, "b", "a", SETTINGS)
    source, target = batch(2, 1), batch(0, 1)
    (terms,) = objective.losses({"b": source, "a": target}, 0.5)
    output = model(torch.cat([source.images, target.images]))
    expected = cross_entropy(output[2:][:, [1, 3]], torch.tensor([0, 1]), made.weights["a"])
    torch.testing.assert_close(terms["target"], expected)
    assert {"source", "target", "domain", "total"} == set(terms)


def test_loss_is_weighted_by_class_and_in_the_papers_way_for_students_alone() -> None:
    output, drawn = torch.randn(2, 2), batch(0, 1)
    weighted = cross_entropy(output, torch.tensor([0, 1]), torch.tensor([8 / 12, 2.0]))
    plain = cross_entropy(output, torch.tensor([0, 1]))
    paper = Settings(task_loss="paper").for_task("classification")
    torch.testing.assert_close(task().loss(output, drawn, "a"), weighted)
    torch.testing.assert_close(task(paper).loss(output, drawn, "a"), plain)
    torch.testing.assert_close(task(paper, distils=True).loss(output, drawn, "a"), weighted)


def test_score_is_the_balanced_accuracy_in_parts() -> None:
    output = torch.tensor([[2.0, 0], [2.0, 0], [2.0, 0], [0, 2.0]])
    score = task().score(output, batch(0, 0, 1, 1), "a")
    assert (score.numerator / score.denominator).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("distilled", "expected"),
    [("late-1", [(4, 2)]), ("late-3", [(2, 0), (3, 1), (4, 2)]), ("early-2", [(3, 0), (4, 1)])],
)
def test_the_last_levels_learn_the_first_or_last_blocks(distilled: str, expected: list[tuple[int, int]]) -> None:
    assert distilled_pairs(ClassificationSettings(distilled=distilled), levels=5, blocks=3) == expected


def test_more_layers_than_there_are() -> None:
    with pytest.raises(SettingsError, match=r"5 levels and the joint teacher 3 fusion blocks; take K of at most 3"):
        distilled_pairs(ClassificationSettings(distilled="late-4"), levels=5, blocks=3)


def student(settings: Settings) -> StudentObjective:
    made = task(settings, distils=True)
    encoder = made.encoder()
    joint = made.joint_encoder([task().encoder(), task().encoder()], None)
    return StudentObjective(
        Model(encoder, made.head(2, encoder)), Model(joint, made.head(2, joint)), made, "a", settings, reliability=0.5
    )


def test_a_student_learns_logits_too() -> None:
    """Eq. (16), with the joint teacher's reliability on all that is distilled."""
    objective = student(SETTINGS)
    (terms,) = objective.losses({"a": batch(0, 1, 1)}, 1.0)
    assert {"total", "task", "feature", "similarity", "logits"} <= set(terms)
    distilled = OWN.logits * terms["logits"] + OWN.gamma * terms["feature"] + OWN.delta * terms["similarity"]
    torch.testing.assert_close(terms["total"], terms["task"] + 0.5 * distilled)
    terms["total"].backward()
    assert all(weight.grad is None for weight in objective.joint_teacher.parameters())
    assert all(weight.grad is not None for weight in objective.projections.parameters())


def plan_of_volumes() -> ConfigurationPlan:
    topology = plan_topology((32,) * 3, (1.0,) * 3)
    return msgspec.structs.replace(PLAN, configuration="3d_fullres", patch_size=(32,) * 3, topology=topology)


def test_volumes_take_the_plans_encoder() -> None:
    volumes = plan_of_volumes()
    made = ClassificationTask(volumes, CLASSES, SETTINGS, width=2)
    encoder = made.encoder()
    assert made.head(2, encoder)(encoder(torch.randn(2, 1, 32, 32, 32))).shape == (2, 2)
    with pytest.raises(SettingsError, match="takes 2-D images; for volumes use unet"):
        ClassificationTask(volumes, CLASSES, SETTINGS, architecture="medvit_small")


def test_networks_that_do_not_take_the_plans_size_are_refused_before_anything_is_trained() -> None:
    plan = msgspec.structs.replace(PLAN, datasets=("Dataset021_A", "Dataset022_B"))
    own = ClassificationSettings(architecture="unet", architecture_of={"022": "vit_tiny_patch16_224"})
    with pytest.raises(SettingsError, match="'vit_tiny_patch16_224': made for 224 x 224 pixels, fails for"):
        check_settings(Settings(classification=own).for_task("classification"), plan)
    check_settings(Settings(classification=own).for_task("classification"), PLAN)  # of other data sets
    check_settings(SETTINGS, plan)


def test_a_network_with_its_own_width_takes_none() -> None:
    with pytest.raises(SettingsError, match="width 2: medvit_small has a width of its own"):
        task(architecture="medvit_small").encoder()
    assert task(architecture="medvit_small", width=None).encoder().channels[-1] == 1024
    assert task(architecture="efficientnet_b0", width=None).encoder().channels[-1] == 320


def drop_rates(module: nn.Module) -> set[float]:
    return {part.p for part in module.modules() if isinstance(part, nn.Dropout)}


def test_dropout_and_moment_exchange_go_from_the_settings_into_the_networks() -> None:
    own = ClassificationSettings(dropout=0.3, attention_dropout=0.2, moment_exchange=True, joint_channels=16)
    made = task(Settings(classification=own).for_task("classification"), architecture="medvit_small", width=None)
    encoder = made.encoder()
    assert isinstance(encoder, MedViTEncoder)
    assert encoder.moment_exchange
    assert drop_rates(encoder) == drop_rates(made.head(2, encoder)) == {0.3}
    attending = [part for part in encoder.modules() if isinstance(part, PooledAttention)]
    assert {part.attention_dropout for part in attending} == {0.2}
    joint = made.joint_encoder([encoder], None)
    assert isinstance(joint, FusionAttentionEncoder)
    assert drop_rates(joint.blocks) == {0.3}
    assert {part.dropout for part in joint.modules() if isinstance(part, nn.MultiheadAttention)} == {0.3}
    plain = task(architecture="medvit_small", width=None).encoder()
    assert drop_rates(plain) == {0.0}
    assert not plain.moment_exchange
    assert drop_rates(made.head(2, made.encoder("efficientnet_b0"))) == {0.3}


class Corners(nn.Module):
    """Logits: the upper left and the lower left quarter's sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = x[:, 0, ..., : x.shape[-1] // 2]  # (B, y, x / 2)
        return torch.stack([half.sum((1, 2)) for half in left.chunk(2, dim=1)], dim=1)


def classifier(plan: ConfigurationPlan = PLAN, mirror: bool = False) -> Classifier:
    of_a = DatasetPlan(
        dataset="a", channel=0, channel_name="CXR", transpose=(0, 1, 2), normalisation=Normalisation(scheme="zscore")
    )
    return Classifier(Corners(), of_a, plan, CLASSES["a"], PredictionOptions(torch.device("cpu"), mirror=mirror))


def image(*shape: int) -> Image:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Image(array, (1.0, 1.0, 1.0), False, Header(".nii.gz", array.shape))  # type: ignore[arg-type]


def test_pictures_are_mirrored_left_to_right_alone() -> None:
    given = image(1, 32, 32)
    plain, mirrored = (classifier(mirror=mirror).logits(given) for mirror in (False, True))
    turned = classifier().logits(replace(given, array=given.array[..., ::-1]))
    np.testing.assert_allclose(mirrored, (plain + turned) / 2, atol=1e-4)
    assert abs(plain - mirrored).min() > 1


def test_an_image_has_the_axes_of_the_plan() -> None:
    with pytest.raises(PredictionError, match=r"10 slices or pages \(10 x 32 x 40 voxels\); the model takes 2-D"):
        classifier().logits(image(10, 32, 40))
    with pytest.raises(PredictionError, match=r"one slice \(1 x 32 x 40 voxels\); the model takes volumes"):
        classifier(plan_of_volumes()).logits(image(1, 32, 40))
    assert classifier().logits(image(1, 32, 40)).shape == (2,)


class Given(nn.Module):
    """Image by image the logits that it is given."""

    def __init__(self, *logits: tuple[float, float]) -> None:
        super().__init__()
        self.logits = iter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([next(self.logits)])


def seen_from(case: Case, predictor: Classifier, grey: bool) -> Seen:
    found = read_image(Path(case.images[0]))
    return Seen(predictor.prepare(found), found.header, found.spacing_mm, found.spacing_known)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_case_whose_answer_is_not_finite_is_listed(tmp_path: Path, wrong: float) -> None:
    cases = []
    for name in "abc":
        Picture.fromarray(np.arange(1, 65, dtype=np.uint8).reshape(8, 8)).save(tmp_path / f"{name}.png")
        path = str(tmp_path / f"{name}.png")
        cases.append(Case(case_id=name, images=(path,), class_name="sick", patient_id=name))
    made = classifier()._replace(model=Given((0.0, 1.0), (0.0, wrong), (1.0, 0.0)))
    work = {case.case_id: Work(Evidence(images=(), label="", rules=""), "predict") for case in cases}
    part = Part(
        "validation",
        dataset("a", "well", "sick"),
        cases,
        made.classes,
        made.dataset_plan,
        made,
        tmp_path / "out",
        work,
        seen_from,
    )
    score_classes_of_part(part, None)
    summary = read_record(tmp_path / "out" / "summary.json", ClassSummary)
    assert [answer.case_id for answer in summary.answers] == ["a", "c"]
    assert list(summary.failed) == ["b"]
    assert "NaN or infinite" in summary.failed["b"]


def test_an_image_lies_in_the_middle_of_the_patch() -> None:
    patch = into_patch(np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3), (4, 5))
    assert patch.tolist() == [[1, 1, 1, 1, 1], [1, 1, 2, 3, 1], [1, 4, 5, 6, 1], [1, 1, 1, 1, 1]]


def checked(**changes: Any) -> None:
    own = {name: changes.pop(name) for name in ("distilled", "fusion_blocks", "architecture_of") if name in changes}
    settings = Settings(device="cpu", classification=ClassificationSettings(joint_channels=16, **own), **changes)
    plan = msgspec.structs.replace(PLAN, datasets=("Dataset021_A", "Dataset022_B"))
    check_settings(settings.for_task("classification"), plan)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture_of": {"022": "resnet999"}}, "network 'resnet999': neither ours nor timm's"),
        ({"distilled": "late-9"}, "late-9: the student has 4 levels and the joint teacher 3 fusion blocks"),
        ({"fusion_blocks": 2}, "late-3: .* 2 fusion blocks; take K of at most 2"),
        ({"distilled": "early-5", "fusion_blocks": 9, "student_architecture": "unet"}, "the student has 4 levels"),
        ({"width": 8}, "width 8: medvit_small has a width of its own; leave --width out"),
        ({"width": 8, "student_architecture": "efficientnet_b0"}, "efficientnet_b0, medvit_small have widths of their"),
        ({"width": 8, "student_architecture": "unet", "student_width": 4}, "width 8: medvit_small has a width of its"),
        (
            {"teacher_architecture": "unet", "student_architecture": "efficientnet_b0", "student_width": 8},
            "width 8: efficientnet_b0 has a width of its own; leave --student-width out",
        ),
    ],
)
def test_what_classification_cannot_train(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        checked(**changes)


def test_a_width_is_of_those_that_have_one() -> None:
    checked()
    checked(teacher_architecture="unet", student_architecture="efficientnet_b0", width=8)
    checked(student_architecture="unet", width=8)
    checked(architecture_of={"022": "unet"}, width=8)
    checked(distilled="early-5", fusion_blocks=5, student_architecture="efficientnet_b0")
    assert [has_width(name) for name in ("unet", "efficientnet_b0", "medvit_small")] == [True, False, False]
