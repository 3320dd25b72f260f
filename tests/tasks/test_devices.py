"""What a task computes on devices that have no float64."""

from typing import Any

import pytest
import torch

from mdkd_auto.batches.sampling import Batch
from mdkd_auto.core.records import ConfigurationPlan, Topology
from mdkd_auto.core.settings import Settings
from mdkd_auto.tasks.classification.training import ClassificationTask
from mdkd_auto.tasks.segmentation.training import SegmentationTask
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes

A = "Dataset001_A"
CLASSES = {
    A: Classes(
        channels=tuple(ClassChannel(name=name, values=(value,), written=value) for value, name in enumerate("abc")),
        regions=False,
        ignore=None,
    )
}
PLAN = ConfigurationPlan(
    configuration="2d",
    datasets=(A,),
    spacing_mm=(1.0, 1.0),
    patch_size=(8, 8),
    batch_size=4,
    reasons=(),
    topology=Topology(features=(4,), kernel_sizes=((3, 3),), strides=((1, 1),)),
)


class OnMPS(torch.Tensor):
    """As a tensor on Apple's GPU; what is computed from it lies there too."""

    def double(self) -> Any:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def cpu(self) -> Any:
        return self.as_subclass(torch.Tensor)


def segmentation() -> tuple[Any, torch.Tensor]:
    return SegmentationTask(PLAN, CLASSES, Settings()), torch.randn(4, 3, 8, 8)


def classification() -> tuple[Any, torch.Tensor]:
    settings = Settings().for_task("classification")
    return ClassificationTask(PLAN, CLASSES, settings, counts={A: (2, 1, 1)}), torch.randn(4, 3)


@pytest.mark.parametrize("made", [segmentation, classification])
def test_scores_need_no_float64_on_the_device(made: Any) -> None:
    task, output = made()
    labels = torch.tensor([0, 1, 2, 0])[:, None, None].expand(4, 8, 8).short()
    batch = Batch(torch.zeros(4, 1, 8, 8), labels, tuple("abcd"))
    expected = task.score(output, batch, A)
    there = batch._replace(images=batch.images.as_subclass(OnMPS), labels=labels.as_subclass(OnMPS))
    with pytest.raises(TypeError, match="float64"):
        there.labels.sum().double()
    for ours, theirs in zip(task.score(output.as_subclass(OnMPS), there, A), expected, strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours, theirs)
