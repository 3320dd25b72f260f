"""What is counted without computing is what is kept when computing, and what the planner budgets for."""

import pytest
import torch

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan
from mdkd_auto.core.settings import Architecture, Settings
from mdkd_auto.networks.discriminator import Discriminator
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.planners.memory import feature_map_elements
from mdkd_auto.planners.topology import plan_topology
from mdkd_auto.stages.multi_head import MultiHeadObjective
from mdkd_auto.stages.source_teacher import SourceTeacherObjective
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.stages.teacher import TeacherObjective
from mdkd_auto.tasks.segmentation.training import SegmentationTask
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes
from mdkd_auto.training.interfaces import Objective
from mdkd_auto.training.memory import kept_numbers

TARGET, SOURCE = "Dataset001_Target", "Dataset002_Source"
FLAT, CUBES = (64, 64), (16, 32, 32)

pytestmark = pytest.mark.usefixtures("one_thread")


def plan_of(patch_size: tuple[int, ...]) -> ConfigurationPlan:
    spacing = (1.0,) * len(patch_size)
    return ConfigurationPlan(
        configuration="2d" if len(spacing) == 2 else "3d_fullres",
        datasets=(TARGET, SOURCE),
        spacing_mm=spacing,
        patch_size=patch_size,
        batch_size=2,
        topology=plan_topology(patch_size, spacing),
        reasons=(),
    )


def objective_of(
    kind: str, patch_size: tuple[int, ...], architecture: Architecture = "unet", width: int | None = None
) -> Objective:
    lesion = ClassChannel(name="lesion", values=(1,), written=1)
    classes = dict.fromkeys((TARGET, SOURCE), Classes(channels=(lesion,), regions=False, ignore=None))
    task = SegmentationTask(plan_of(patch_size), classes, Settings(), True, architecture, width)
    model = Model(task.encoder(), task.head(1))
    if kind == "teacher":
        return TeacherObjective(model, task, TARGET)
    if kind == "source_teacher":
        discriminator = Discriminator(model.encoder.channels[-1])
        model = Model(task.encoder(), task.head(2))
        return SourceTeacherObjective(model, discriminator, task, SOURCE, TARGET, Settings())
    if kind == "multi_head":
        heads = {name: task.head(1) for name in (TARGET, SOURCE)}
        return MultiHeadObjective(MultiHeadModel(task.encoder(), heads), task, (TARGET, SOURCE))
    joint = Model(JointEncoder([task.encoder() for _ in range(3)]), task.head(1))
    if kind == "joint_teacher":
        return TeacherObjective(joint, task, TARGET)
    return StudentObjective(model, joint, task, TARGET, Settings())


def really_kept(objective: Objective, patch_size: tuple[int, ...], size: int) -> int:
    """Bytes of an update with so many samples of each data set, the weights left out."""
    labels = torch.zeros(size, *patch_size, dtype=torch.int16)
    batches = {
        name: Batch(torch.randn(size, 1, *patch_size), labels, ("",) * size) for name in objective.batch_fractions
    }
    most = 0
    kept: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for _ in objective.losses(batches, 1.0):
            most = max(most, sum(kept.values()))
            kept.clear()
    return most


@pytest.mark.parametrize("kind", ["teacher", "source_teacher", "joint_teacher", "student", "multi_head"])
@pytest.mark.parametrize(("architecture", "patch_size"), [("unet", FLAT), ("tresunet", CUBES)])
def test_what_is_counted_is_kept(kind: str, architecture: Architecture, patch_size: tuple[int, ...]) -> None:
    objective = objective_of(kind, patch_size, architecture, width=4)
    one, two = (really_kept(objective, patch_size, size) for size in (1, 2))
    share = 0.5 if kind == "source_teacher" else 1.0
    assert kept_numbers(objective, patch_size) == pytest.approx((two - one) * share / 4, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "architecture", "patch_size", "expected"),
    [
        ("teacher", "unet", (256, 256), 2.0),
        ("teacher", "unet", (64, 96, 96), 2.0),
        ("source_teacher", "unet", (256, 256), 2.0),
        ("student", "unet", (256, 256), 2.4),
        ("joint_teacher", "unet", (256, 256), 2.9),
        ("joint_teacher", "unet", (64, 96, 96), 2.9),
        ("teacher", "tresunet", (256, 256), 3.8),
        ("joint_teacher", "tresunet", (256, 256), 3.87),
        ("teacher", "tresunet", (64, 96, 96), 1.45),
    ],
)
def test_networks_against_the_planner_s_count(
    kind: str, architecture: Architecture, patch_size: tuple[int, ...], expected: float
) -> None:
    """Numbers kept for each element that the planner counts: of a convolution and, once more, activated."""
    plan = plan_of(patch_size)
    kept = kept_numbers(objective_of(kind, patch_size, architecture), patch_size)
    assert kept / feature_map_elements(plan.patch_size, plan.topology) == pytest.approx(expected, rel=0.05)
