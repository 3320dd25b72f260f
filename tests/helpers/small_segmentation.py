"""A small segmentation task of two data sets, as the stages train on it: networks of three levels, random batches."""

import torch
from torch import nn

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Topology
from mdkd_auto.core.settings import Settings
from mdkd_auto.networks.fusion.joint import JointEncoder
from mdkd_auto.networks.model import Model
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


def joint_teacher() -> Model:
    return Model(JointEncoder([TASK.encoder(), TASK.encoder()]), TASK.head(1))
