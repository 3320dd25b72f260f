import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_segmentation import CLASSES, PLAN, TARGET, TASK, batch, gradients, joint_teacher

from mdkd_auto.core.settings import Settings
from mdkd_auto.networks.model import Model
from mdkd_auto.stages import student as student_module
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.tasks.segmentation.training import SegmentationTask
from mdkd_auto.training.schedules import contrastive_weight, curriculum, temperature

pytestmark = pytest.mark.usefixtures("one_thread")


def student(settings: Settings) -> StudentObjective:
    return StudentObjective(Model(TASK.encoder(), TASK.head(1)), joint_teacher(), TASK, TARGET, settings)


@pytest.mark.parametrize("voxels", [1, 256, 600, 10_000])
def test_a_frozen_teacher_is_asked_in_parts(voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images of 16 x 16; the maps are those of the whole batch, and no image is left out."""
    teacher, images, sizes = joint_teacher().eval(), batch(5).images, []
    expected = teacher.features(images)
    teacher.encoder.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    monkeypatch.setattr(student_module, "VOXELS_AT_ONCE", voxels)
    for found, whole in zip(student_module.frozen_features(teacher, images), expected, strict=True):
        torch.testing.assert_close(found, whole)
        assert not found.requires_grad
    assert sizes == {1: [1] * 5, 256: [1] * 5, 600: [2, 2, 1], 10_000: [5]}[voxels]


def test_no_gradient_reaches_the_joint_teacher_of_a_student() -> None:
    objective = student(Settings())
    before = {name: value.clone() for name, value in objective.joint_teacher.state_dict().items()}
    objective.trained().train()
    (terms,) = objective.losses({TARGET: batch()}, 0.5)
    terms["total"].backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.joint_teacher.parameters())
    assert not any(module.training for module in objective.joint_teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in objective.joint_teacher.state_dict().items())
    assert all(parameter.grad is not None for parameter in objective.trained().parameters())
    trained = set(objective.trained().parameters())
    assert trained.isdisjoint(objective.joint_teacher.parameters())


@pytest.mark.parametrize("progress", [0.0, 9.9 / 300])
def test_warm_up_is_the_task_alone(progress: float) -> None:
    objective = student(Settings(alpha=0.7))
    drawn = batch()
    (terms,) = objective.losses({TARGET: drawn}, progress)
    assert set(terms) == {"total", "task"}
    torch.testing.assert_close(terms["total"], 0.7 * terms["task"])
    torch.testing.assert_close(terms["task"], objective.validate(TARGET, drawn)[0])


def slow_contrastive(student_maps: torch.Tensor, teacher_maps: torch.Tensor, tau: float) -> float:
    """Eq. (11) with loops."""

    def rows(maps: torch.Tensor) -> list[list[float]]:
        z = maps.mean((2, 3)).detach()
        found = []
        for i in range(len(z)):
            similar = [
                math.exp(float(z[i] @ z[j] / (z[i].norm() * z[j].norm())) / tau) for j in range(len(z)) if j != i
            ]
            found.append([value / sum(similar) for value in similar])
        return found

    pairs = zip(rows(teacher_maps), rows(student_maps), strict=True)
    return sum(q * math.log(q / p) for teacher, ours in pairs for q, p in zip(teacher, ours, strict=True)) / len(
        student_maps
    )


def test_student_by_hand() -> None:
    """Eq. (9) at epoch 35 of 300: w = 0.5, beta(e) = 0.5 * 35 / 300, tau = 0.99^35."""
    objective = student(Settings(alpha=0.9, beta=0.5, gamma=0.4, delta=0.2))
    drawn = batch()
    (terms,) = objective.losses({TARGET: drawn}, 35 / 300)
    ours, theirs = objective.model.features(drawn.images), objective.joint_teacher.features(drawn.images)
    contrastive = slow_contrastive(ours[-1], theirs[-1], 0.99**35)
    feature = sum(
        ((project(a) - b / (b**2).mean((1, 2, 3), keepdim=True).sqrt()) ** 2).mean().item()
        for project, a, b in zip(objective.projections, ours, theirs, strict=True)
    ) / len(ours)
    similarity = sum(
        (1 - F.cosine_similarity(a.mean((2, 3)), b.mean((2, 3)), dim=1)).mean().item()
        for a, b in zip(ours, theirs, strict=True)
    ) / len(ours)
    task = objective.validate(TARGET, drawn)[0].item()
    assert terms["contrastive"].item() == pytest.approx(contrastive, rel=1e-4)
    assert terms["feature"].item() == pytest.approx(feature)
    assert terms["similarity"].item() == pytest.approx(similarity)
    total = 0.9 * task + 0.5 * (0.5 * 35 / 300 * contrastive + 0.4 * feature + 0.2 * similarity)
    assert terms["total"].item() == pytest.approx(total)


@pytest.mark.parametrize("reliability", [0.25, 0.0])
def test_a_teacher_is_listened_to_as_far_as_it_is_reliable(reliability: float) -> None:
    """All that is distilled is scaled by its reliability, the task is not; one of 0 is not asked at all."""
    whole = student(Settings(alpha=0.9))
    scaled = StudentObjective(whole.model, whole.joint_teacher, TASK, TARGET, Settings(alpha=0.9), reliability)
    scaled.projections.load_state_dict(whole.projections.state_dict())
    (all_of_it,), (part_of_it,) = (one.losses({TARGET: batch()}, 0.5) for one in (whole, scaled))
    distilled = all_of_it["total"] - 0.9 * all_of_it["task"]
    assert distilled > 0.01
    torch.testing.assert_close(part_of_it["task"], all_of_it["task"])
    torch.testing.assert_close(part_of_it["total"] - 0.9 * part_of_it["task"], reliability * distilled)
    assert ("feature" in part_of_it) == (reliability > 0)


@pytest.mark.parametrize("progress", [0.0, 35 / 300, 1.0])
def test_what_is_distilled_from_the_output_is_added_with_the_curriculum(progress: float) -> None:
    """Each loss by its own share, all by the curriculum (0 in the warm-up, 1/2 at epoch 35, 1) and the reliability."""
    given: list[torch.Tensor] = []

    class Distilling(SegmentationTask):
        distils_output = True

        def distilled(self, output: Any, taught: Any, *rest: Any) -> dict[str, tuple[float, torch.Tensor]]:
            given.extend((output, taught))
            return {"attention": (0.3, torch.tensor(2.0)), "logits": (0.7, torch.tensor(5.0))}

    plain = student(Settings())
    task = Distilling(PLAN, CLASSES, Settings())
    more = StudentObjective(plain.model, plain.joint_teacher, task, TARGET, Settings(), reliability=0.5)
    more.projections.load_state_dict(plain.projections.state_dict())
    plain.reliability = 0.5
    (without,), (with_more,) = (one.losses({TARGET: batch()}, progress) for one in (plain, more))
    weight = 0.5 * curriculum(progress, Settings())
    assert weight == {0.0: 0, 35 / 300: 0.25, 1.0: 0.5}[progress]
    torch.testing.assert_close(with_more["total"] - without["total"], torch.tensor(weight * (0.3 * 2 + 0.7 * 5)))
    if progress:
        assert (with_more["attention"], with_more["logits"]) == (2.0, 5.0)
        torch.testing.assert_close(given[0], plain.model(batch().images))
        torch.testing.assert_close(given[1], plain.joint_teacher(batch().images))
        assert not given[1].requires_grad
    else:
        assert not given


def test_two_images_have_no_contrast() -> None:
    objective = student(Settings(gamma=0.0, delta=0.0))
    (terms,) = objective.losses({TARGET: batch(2)}, 0.9)
    assert "contrastive" not in terms
    torch.testing.assert_close(terms["total"], terms["task"])


def test_weights_of_zero_leave_the_task() -> None:
    (terms,) = student(Settings(beta=0.0, gamma=0.0, delta=0.0)).losses({TARGET: batch()}, 0.9)
    torch.testing.assert_close(terms["total"], terms["task"])


def test_a_narrower_student_is_projected() -> None:
    small = SegmentationTask(PLAN, CLASSES, Settings(), width=1)
    objective = StudentObjective(Model(small.encoder(), small.head(1)), joint_teacher(), small, TARGET, Settings())
    (terms,) = objective.losses({TARGET: batch()}, 0.5)
    for term in ("feature", "similarity"):
        assert all(gradient.abs().sum() > 0 for gradient in gradients(terms[term], objective.projections)[::2]), term


def test_schedules_are_those_of_the_losses() -> None:
    settings = Settings()
    student = StudentObjective(Model(TASK.encoder(), TASK.head(1)), joint_teacher(), TASK, TARGET, settings, 0.5)
    values = list(student.schedules(0.1).values())
    assert values == [0.5 * curriculum(0.1, settings), contrastive_weight(0.1, settings), temperature(0.1, settings)]


def test_a_student_behind_its_baseline_turns_distillation_down() -> None:
    """Means of three epochs; nothing while behind, then a sixteenth, doubled while not, never above one."""
    settings = Settings(turn_down=True, warmup_epochs=0.0)
    model = Model(TASK.encoder(), TASK.head(1))
    student = StudentObjective(model, joint_teacher(), TASK, TARGET, settings, 1.0, (0.2, 0.4, 0.6, 0.6, 0.6, 0.6))
    factors = []
    for score in (0.3, 0.2, 0.5, 0.7, 0.9, 0.9, 0.0):
        student.on_epoch_end(score)
        factors.append(student.turned_down)
    # sums of three: 0.3 > 0.2; 0.5 < 0.6; 1.0 < 1.2; 1.4 < 1.6; 2.1 > 1.8; 2.5 > 1.8; no seventh epoch of the baseline
    assert factors == [1.0, 0.0, 0.0, 0.0, 1 / 16, 1 / 8, 1 / 8]
    student.baseline_scores += (0.0,) * 10
    for _ in range(5):
        student.on_epoch_end(1.0)
    assert student.turned_down == 1.0
    student.turned_down = 0.5
    (whole,) = student.losses({TARGET: batch()}, 1.0)
    student.turned_down = 0.0
    (none,) = student.losses({TARGET: batch()}, 1.0)
    assert set(none) == {"total", "task", "turned_down"}
    assert whole["total"] > whole["task"]
    assert (whole["turned_down"], none["turned_down"]) == (0.5, 0.0)


def test_a_student_is_not_judged_in_the_warm_up() -> None:
    """Nothing is distilled there, so the factor stays 1 however little the student lags."""
    settings = Settings(turn_down=True, epochs=6, iterations_per_epoch=4, warmup_epochs=150.0)
    model = Model(TASK.encoder(), TASK.head(1))
    student = StudentObjective(model, joint_teacher(), TASK, TARGET, settings, 1.0, (0.5,) * 6)
    factors = []
    for _ in range(6):
        student.on_epoch_end(0.4999999)
        factors.append(student.turned_down)
    assert factors == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_without_the_setting_nothing_is_turned_down() -> None:
    student = StudentObjective(
        Model(TASK.encoder(), TASK.head(1)), joint_teacher(), TASK, TARGET, Settings(), 1.0, (0.9, 0.9)
    )
    student.on_epoch_end(0.1)
    assert student.turned_down == 1.0
    (terms,) = student.losses({TARGET: batch()}, 1.0)
    assert "turned_down" not in terms
