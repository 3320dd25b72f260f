import torch

from mdkd_auto.losses.precision import at_least_float32, summed_in


def test_half_precision_becomes_single_and_double_stays() -> None:
    for kind, wanted in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ):
        values = torch.ones(3, dtype=kind)
        assert at_least_float32(values).dtype == wanted
        assert summed_in(values) == wanted


def test_a_sum_beyond_half_precision() -> None:
    values = torch.full((70_000,), 1.0, dtype=torch.float16)
    assert at_least_float32(values).sum().item() == 70_000  # float16 ends at 65504
