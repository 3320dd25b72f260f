import pytest
import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Topology
from mdkd_auto.core.settings import Settings
from mdkd_auto.networks.multi_head import MultiHeadModel
from mdkd_auto.stages.multi_head import MultiHeadObjective
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


def both() -> dict[str, Batch]:
    return {SOURCE: batch(2, classes=2, seed=1), TARGET: batch(3, seed=2)}


def gradients(loss: torch.Tensor, module: nn.Module) -> list[torch.Tensor]:
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def test_parts_of_the_multi_head_model_add_up_to_the_mean_loss() -> None:
    encoder = TASK.encoder()
    model = MultiHeadModel(encoder, {TARGET: TASK.head(1), SOURCE: TASK.head(2)})
    objective = MultiHeadObjective(model, TASK, (TARGET, SOURCE))
    batches = both()
    for terms in objective.losses(batches, 0.0):
        terms["total"].backward()
    accumulated = [parameter.grad for parameter in model.parameters()]
    losses = {name: TASK.loss(model.of(name)(drawn.images), drawn, name) for name, drawn in batches.items()}
    mean = torch.stack(list(losses.values())).mean()
    for ours, reference in zip(accumulated, gradients(mean, model), strict=True):
        torch.testing.assert_close(ours, reference)
    parts = list(objective.losses(batches, 0.0))
    assert [set(part) for part in parts] == [{"total", SOURCE}, {"total", TARGET}]
    for part, name in zip(parts, batches, strict=True):
        torch.testing.assert_close(part[name], losses[name])
    torch.testing.assert_close(sum(part["total"] for part in parts), mean)
    assert objective.batch_fractions == {TARGET: 1.0, SOURCE: 1.0}
    assert tuple(objective.validated_on()) == (TARGET, SOURCE)


def test_a_head_never_learns_from_another_data_set() -> None:
    model = MultiHeadModel(TASK.encoder(), {TARGET: TASK.head(1), SOURCE: TASK.head(2)})
    objective = MultiHeadObjective(model, TASK, (TARGET, SOURCE))
    (terms,) = objective.losses({TARGET: batch()}, 0.0)
    assert all(gradient.abs().sum() == 0 for gradient in gradients(terms["total"], model.of(SOURCE).head))
    assert any(gradient.abs().sum() > 0 for gradient in gradients(terms["total"], model.of(TARGET).head))
    assert model.of(TARGET).encoder is model.of(SOURCE).encoder
