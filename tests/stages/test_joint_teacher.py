import pytest
import torch

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Topology
from mdkd_auto.core.settings import Settings
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Model
from mdkd_auto.stages.teacher import TeacherObjective
from mdkd_auto.tasks.segmentation.training import SegmentationTask
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes

TARGET, SOURCE = "Dataset001_Target", "Dataset002_v1.5"
PLAN = ConfigurationPlan(
    configuration="2d",
    datasets=(TARGET, SOURCE),
    spacing_mm=(1.0, 1.0),
    patch_size=(16, 16),
    batch_size=4,
    topology=Topology(features=(2, 4, 4), kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2))),
    reasons=(),
)
CLASSES = {
    TARGET: Classes(channels=(ClassChannel(name="lesion", values=(1,), written=1),), regions=False, ignore=None),
    SOURCE: Classes(
        channels=tuple(ClassChannel(name=str(value), values=(value,), written=value) for value in (1, 2)),
        regions=False,
        ignore=None,
    ),
}
TASK = SegmentationTask(PLAN, CLASSES, Settings())

pytestmark = pytest.mark.usefixtures("one_thread")


def batch(size: int = 4, classes: int = 1, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 16, 16, generator=generator)
    labels = torch.randint(0, classes + 1, (size, 16, 16), generator=generator).to(torch.int16)
    return Batch(images, labels, tuple(f"case_{index}" for index in range(size)))


def joint_teacher() -> Model:
    return Model(JointEncoder([TASK.encoder(), TASK.encoder()]), TASK.head(1))


def test_no_gradient_reaches_the_teachers_of_a_joint_teacher() -> None:
    objective = TeacherObjective(joint_teacher(), TASK, TARGET)
    (terms,) = objective.losses({TARGET: batch()}, 0.5)
    terms["total"].backward()
    encoder = objective.model.encoder
    assert isinstance(encoder, JointEncoder)
    assert all(parameter.grad is None for parameter in encoder.teachers.parameters())
    trained = [parameter for parameter in objective.trained().parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    assert len(trained) == len(list(encoder.fusions.parameters())) + len(list(objective.model.head.parameters()))
