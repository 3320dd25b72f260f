"""Normalise intensities as the plan decides."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import Normalisation

SMALLEST_STD = 1e-8  # a constant image becomes zeros, not NaN


def normalise(image: NDArray[Any], plan: Normalisation) -> NDArray[np.float32]:
    """Return a cropped image (z, y, x), normalised; a new array."""
    values: NDArray[np.float32] = image.astype(np.float32, order="C")
    if plan.scheme == "ct":
        np.clip(values, plan.lower, plan.upper, out=values)
        values -= np.float32(plan.mean)
        values /= np.float32(max(plan.std, SMALLEST_STD))
        return values
    mask = values != 0 if plan.masked else np.ones(values.shape, dtype=bool)
    inside = values[mask]
    if inside.size == 0:
        return values
    deviation = max(float(inside.std(dtype=np.float64)), SMALLEST_STD)
    values -= np.float32(inside.mean(dtype=np.float64))
    values /= np.float32(deviation)
    values[~mask] = 0
    return values


def air_value(plan: Normalisation) -> float | None:
    """Return the normalised value of air if intensities are clipped (CT): the lower clip. None otherwise."""
    return (plan.lower - plan.mean) / max(plan.std, SMALLEST_STD) if plan.scheme == "ct" else None
