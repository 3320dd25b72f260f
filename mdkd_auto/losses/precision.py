"""Losses are summed in single precision, whatever precision the networks run in."""

from torch import Tensor, float64


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes single (sums over a patch overflow 65504); double stays double."""
    return values if values.dtype == float64 else values.float()
