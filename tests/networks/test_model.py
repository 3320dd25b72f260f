import pytest
import torch
from torch import nn

from mdkd_auto.networks.model import Encoder, Model, paired_levels


class Halving(Encoder):
    """A map per level by average pooling."""

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = (1,) * len(strides)
        self.strides = tuple((stride, stride) for stride in strides)
        self.kernel_sizes = ((3, 3),) * len(strides)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(x, stride[0]) for stride in self.strides]


class Last(nn.Module):
    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return maps[-1]


def test_a_model_is_its_head_on_its_encoders_maps() -> None:
    model = Model(Halving((1, 2, 4)), Last())
    image = torch.arange(16.0).reshape(1, 1, 4, 4)  # (B, C, y, x)
    assert [tuple(level.shape) for level in model.features(image)] == [(1, 1, 4, 4), (1, 1, 2, 2), (1, 1, 1, 1)]
    assert model(image).item() == 7.5


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ((1, 2, 4), (1, 2, 4), [(0, 0), (1, 1), (2, 2)]),
        ((1, 2, 4, 8), (1, 4, 8), [(0, 0), (2, 1), (3, 2)]),
        ((2, 4), (1, 2, 32), [(0, 1), (1, 2)]),  # the bottlenecks pair whatever their strides
    ],
)
def test_levels_pair_by_stride(
    student: tuple[int, ...], teacher: tuple[int, ...], pairs: list[tuple[int, int]]
) -> None:
    assert paired_levels(Halving(student), Halving(teacher)) == pairs
