import pytest
import torch

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Topology
from mdkd_auto.core.settings import Settings
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


def test_a_teacher_learns_the_task_loss_alone() -> None:
    objective = TeacherObjective(Model(TASK.encoder(), TASK.head(1)), TASK, TARGET)
    drawn = batch()
    (terms,) = objective.losses({TARGET: drawn}, 0.0)
    assert set(terms) == {"total"}
    loss, score = objective.validate(TARGET, drawn)
    torch.testing.assert_close(loss, terms["total"])
    assert score.numerator.shape == score.denominator.shape == (1,)


def test_a_teacher_has_no_schedule() -> None:
    assert TeacherObjective(Model(TASK.encoder(), TASK.head(1)), TASK, TARGET).schedules(0.1) == {}
