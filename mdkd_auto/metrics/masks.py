"""Input checks of all mask metrics."""

import math

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def check_masks(prediction: Mask, truth: Mask, valid: Mask | None = None) -> None:
    """Raise ValueError unless all masks are boolean, (y, x) or (z, y, x), and of one shape."""
    if prediction.ndim not in (2, 3):
        raise ValueError(f"Masks are (y, x) or (z, y, x); the prediction has shape {prediction.shape}")
    for name, mask in (("truth", truth), ("valid mask", valid)):
        if mask is not None and mask.shape != prediction.shape:
            raise ValueError(f"The prediction has shape {prediction.shape} but the {name} has shape {mask.shape}")
    for name, mask in (("prediction", prediction), ("truth", truth), ("valid mask", valid)):
        if mask is not None and mask.dtype != np.bool_:
            raise ValueError(f"The {name} is {mask.dtype}, not bool; compare it with a label value first")


def in_plane(mask: Mask, spacing_mm: tuple[float, ...]) -> tuple[Mask, tuple[float, ...]]:
    """Drop the z axis of a single-slice mask (1, y, x) and of its spacing; others are unchanged.

    Raises ValueError unless the spacing has one positive, finite number per mask axis.
    """
    if len(spacing_mm) != mask.ndim or not all(step > 0 and math.isfinite(step) for step in spacing_mm):
        raise ValueError(f"A mask of shape {mask.shape} needs {mask.ndim} positive spacings, not {spacing_mm}")
    if mask.ndim == 3 and mask.shape[0] == 1:
        return mask[0], tuple(spacing_mm[1:])
    return mask, tuple(spacing_mm)
