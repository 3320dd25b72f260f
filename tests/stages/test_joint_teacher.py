import pytest
from small_segmentation import TARGET, TASK, batch, joint_teacher

from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.stages.teacher import TeacherObjective

pytestmark = pytest.mark.usefixtures("one_thread")


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
