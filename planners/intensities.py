"""Exact intensity statistics from sorted unique values and their counts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import Intensities

COUNTING_RANGE = 1 << 20  # integers within this range are counted, not sorted
LOW_PERCENT, HIGH_PERCENT = 0.5, 99.5


class Histogram(NamedTuple):
    """Sorted unique values and their counts."""

    values: NDArray[Any]
    counts: NDArray[np.int64]


def histogram(voxels: NDArray[Any], integer_valued: bool) -> Histogram:
    """Exact histogram of a 1-D array."""
    if voxels.size and integer_valued:
        low, high = int(voxels.min()), int(voxels.max())
        if high - low < COUNTING_RANGE:
            counts = np.bincount(voxels.astype(np.int64) - low)
            present = np.flatnonzero(counts)
            return Histogram((present + low).astype(np.float64), counts[present].astype(np.int64))
    values, counts = np.unique(voxels, return_counts=True)
    return Histogram(values, counts.astype(np.int64))


def pool(histograms: Sequence[Histogram]) -> Histogram:
    """Merge histograms."""
    values, inverse = np.unique(np.concatenate([item.values for item in histograms]), return_inverse=True)
    counts = np.concatenate([item.counts for item in histograms])
    pooled = np.zeros(values.size, dtype=np.int64)
    np.add.at(pooled, inverse.ravel(), counts)
    return Histogram(values, pooled)


def statistics(counted: Histogram) -> Intensities | None:
    """Mean, standard deviation (population), extremes and percentiles; None without voxels."""
    total = int(counted.counts.sum())
    if total == 0:
        return None
    values = counted.values.astype(np.float64)
    mean = float(np.dot(values, counted.counts) / total)
    variance = float(np.dot((values - mean) ** 2, counted.counts) / total)
    lower, median, upper = (percentile(counted, percent) for percent in (LOW_PERCENT, 50.0, HIGH_PERCENT))
    return Intensities(
        count=total,
        mean=mean,
        std=variance**0.5,
        minimum=float(values[0]),
        maximum=float(values[-1]),
        percentile_00_5=lower,
        median=median,
        percentile_99_5=upper,
    )


def percentile(counted: Histogram, percent: float) -> float:
    """Equal ``numpy.percentile(all voxels, percent)`` with linear interpolation."""
    cumulative = np.cumsum(counted.counts)
    total = int(cumulative[-1])
    position = (total - 1) * percent / 100
    below = int(np.floor(position))
    above = min(below + 1, total - 1)
    low, high = (float(counted.values[np.searchsorted(cumulative, rank, side="right")]) for rank in (below, above))
    return low + (high - low) * (position - below)


def image_percentiles(image: NDArray[Any]) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles of an image (z, y, x), slice by slice if values can be counted."""
    lowest, highest = image.min(), image.max()
    if image.dtype.kind in "iu" and image.dtype.itemsize < 8 and int(highest) - int(lowest) < COUNTING_RANGE:
        counts = np.zeros(int(highest) - int(lowest) + 1, dtype=np.int64)
        for plane in image:
            counts += np.bincount(plane.ravel().astype(np.int64) - int(lowest), minlength=counts.size)
        present = np.flatnonzero(counts)
        whole = Histogram((present + int(lowest)).astype(np.float64), counts[present])
        return percentile(whole, LOW_PERCENT), percentile(whole, HIGH_PERCENT)
    lower, upper = np.percentile(image, (LOW_PERCENT, HIGH_PERCENT))
    return float(lower), float(upper)
