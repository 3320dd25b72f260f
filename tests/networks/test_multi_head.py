import torch
from torch import nn

from mdkd_auto.networks.model import Encoder
from mdkd_auto.networks.multi_head import MultiHeadModel


class Doubling(Encoder):
    """One map per image: twice the image."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides, self.kernel_sizes = (1,), ((1, 1),), ((1, 1),)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [2 * x]


class Adding(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return maps[-1] + self.value


def test_each_data_set_has_its_own_head_on_one_encoder() -> None:
    model = MultiHeadModel(Doubling(), {"Dataset001_A": Adding(1.0), "Dataset002_v1.5": Adding(10.0)})
    images = torch.ones(2, 1, 4, 4)
    assert torch.equal(model.of("Dataset001_A")(images), torch.full((2, 1, 4, 4), 3.0))
    assert torch.equal(model.of("Dataset002_v1.5")(images), torch.full((2, 1, 4, 4), 12.0))
    assert model.of("Dataset001_A").encoder is model.of("Dataset002_v1.5").encoder


def test_a_dot_in_the_name_of_a_data_set_is_written_as_an_underscore() -> None:
    model = MultiHeadModel(Doubling(), {"Dataset001_A": Adding(1.0), "Dataset002_v1.5": Adding(10.0)})
    assert set(model.state_dict()) == {"heads.Dataset001_A.value", "heads.Dataset002_v1_5.value"}
