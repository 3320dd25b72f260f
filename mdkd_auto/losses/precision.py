"""Losses are summed in single precision, whatever precision the networks run in."""

from torch import Tensor, dtype, float32, float64


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes single (sums over a patch overflow 65504); double stays double."""
    return values if values.dtype == float64 else values.float()


def summed_in(values: Tensor) -> dtype:
    """The precision in which values are summed."""
    return float64 if values.dtype == float64 else float32
