"""Sum losses in single precision at least, whatever the networks' precision."""

from torch import Tensor, dtype, float32, float64


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to single (sums over a patch overflow 65504); double is kept."""
    return values if values.dtype == float64 else values.float()


def summed_in(values: Tensor) -> dtype:
    """Return the dtype in which values are summed."""
    return float64 if values.dtype == float64 else float32
