import pytest
import torch
from small_segmentation import TARGET, TASK, batch

from mdkd_auto.networks.model import Model
from mdkd_auto.stages.teacher import TeacherObjective

pytestmark = pytest.mark.usefixtures("one_thread")


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
