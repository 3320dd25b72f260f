"""Record the ranges of a data set's training images with a model, and compare new images with them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdkd_auto.core.records import CaseFingerprint, DatasetPlan, IntTriple, Record, Triple
from mdkd_auto.formats.image import Image
from mdkd_auto.planners.group_member import case_spacing
from mdkd_auto.planners.intensities import image_percentiles

# Beyond these factors an image counts as unlike the training images. No held-out image of 16 public data sets exceeds
# them; all of another modality do, unless both were converted to 8 bits: benchmarks/unlike_training.py.
SPACING_FACTOR = 1.5
SIZE_FACTOR = 2.0
INTENSITY_FACTOR = 3.0
LEAST_MARGIN = 0.1  # fraction of the contrast, at both ends of an intensity range: three times 0 is 0
_ROUNDING = 1e-6  # relative


class Range(NamedTuple):
    """A minimum and a maximum."""

    lower: float
    upper: float


class TrainingRanges(Record, frozen=True, kw_only=True):
    """Minimum and maximum over the training images of one data set, for the one channel a model reads."""

    spacing_mm: tuple[Triple, Triple] | None  # canonical (z, y, x); None if neither files nor plan give one
    shape: tuple[IntTriple, IntTriple]  # voxels, canonical (z, y, x)
    percentile_00_5: Range  # over all voxels of an image
    percentile_99_5: Range


class Unlike(Record, frozen=True, kw_only=True):
    """One property of an image outside the range of the training images."""

    field: str  # e.g. "spacing z (mm)"
    found: float
    training: Range | None  # None: not allowed in any image
    allowed: Range | None  # ``training`` with tolerance

    def __str__(self) -> str:
        if self.training is None:
            return f"{self.field} {self.found:g}"
        return f"{self.field} {self.found:g} (training images: {self.training.lower:g} to {self.training.upper:g})"


def training_ranges(cases: Sequence[CaseFingerprint], plan: DatasetPlan) -> TrainingRanges | None:
    """Ranges over the training ``cases``; None without cases."""
    if not cases:
        return None
    spacings = [case_spacing(case, plan.assumed_spacing_mm) for case in cases]
    known = plan.assumed_spacing_mm is not None or all(case.spacing_known for case in cases)
    lower, upper = zip(*(case.image_percentiles[plan.channel] for case in cases), strict=True)
    shapes = [case.shape for case in cases]
    return TrainingRanges(
        spacing_mm=(_by_axis(np.min, spacings), _by_axis(np.max, spacings)) if known else None,
        shape=(_by_axis(np.min, shapes), _by_axis(np.max, shapes)),
        percentile_00_5=Range(min(lower), max(lower)),
        percentile_99_5=Range(min(upper), max(upper)),
    )


def unlike_training(image: Image, ranges: TrainingRanges | None) -> tuple[Unlike, ...]:
    """Compare an image, holding only the channel the model reads, with all training images.

    Without ``ranges``, only a constant image is reported. Spacing is not compared for a file without spacing, nor
    thickness for a single slice.
    """
    lowest = float(image.array.min())
    if lowest == float(image.array.max()):
        found = Unlike(field="standard deviation", found=0.0, training=None, allowed=None)
        return (found, *(_outside(image, ranges, lowest, lowest) if ranges is not None else ()))
    if ranges is None:
        return ()
    return tuple(_outside(image, ranges, *image_percentiles(image.array)))


def _outside(image: Image, ranges: TrainingRanges, lower: float, upper: float) -> Iterator[Unlike]:
    """Yield spacing, size and intensities (p0.5 ``lower``, p99.5 ``upper``) that are out of range."""
    size = image.array.shape
    for axis, name in enumerate("zyx"):
        if ranges.spacing_mm is not None and image.spacing_known and (size[axis] > 1 or axis > 0):
            spans = Range(*(edge[axis] for edge in ranges.spacing_mm))
            yield from _compared(f"spacing {name} (mm)", image.spacing_mm[axis], spans, _scaled(spans, SPACING_FACTOR))
    for axis, name in enumerate("zyx"):
        spans = Range(*(float(edge[axis]) for edge in ranges.shape))
        yield from _compared(f"size {name} (voxels)", float(size[axis]), spans, _scaled(spans, SIZE_FACTOR))
    margin = LEAST_MARGIN * (ranges.percentile_99_5.upper - ranges.percentile_00_5.lower)
    for name, value, spans in (("p0.5", lower, ranges.percentile_00_5), ("p99.5", upper, ranges.percentile_99_5)):
        yield from _compared(f"intensity {name}", value, spans, widened(spans, margin))


def _compared(field: str, found: float, training: Range, allowed: Range) -> Iterator[Unlike]:
    slack = _ROUNDING * max(abs(allowed.lower), abs(allowed.upper))
    if not allowed.lower - slack <= found <= allowed.upper + slack:
        yield Unlike(field=field, found=found, training=training, allowed=allowed)


def _scaled(spans: Range, factor: float) -> Range:
    """Widen a range of positive lengths by a factor."""
    return Range(spans.lower / factor, spans.upper * factor)


def widened(spans: Range, margin: float) -> Range:
    """Widen an intensity range: move each end out by a factor of 3, and by at least ``margin``."""
    lower, upper = spans
    farther_down = lower / INTENSITY_FACTOR if lower > 0 else lower * INTENSITY_FACTOR
    farther_up = upper * INTENSITY_FACTOR if upper > 0 else upper / INTENSITY_FACTOR
    return Range(min(farther_down, lower - margin), max(farther_up, upper + margin))


def _by_axis(extreme: Callable[..., Any], values: Sequence[Sequence[float]]) -> Any:
    """Minimum or maximum of each column."""
    return tuple(extreme(values, axis=0).tolist())
