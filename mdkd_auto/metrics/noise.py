"""Estimate how far a mean difference of two kinds of models generalises to other patients and other trainings."""

import math
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t

CONFIDENCE = 0.95
POWER_ERRORS = 0.84  # standard errors beyond the interval's half width: a power of 80 %
MOST_TRAININGS = 1000

Array = npt.NDArray[np.float64]


class Noise(NamedTuple):
    """Variances of differences.

    A difference is modelled as mean + unit + training + residual, each with its own variance (two-way random effects,
    by the usual mean squares). Trainings are few, so their contribution uses Student's t with trainings - 1 degrees of
    freedom: resampling two or three of them would underestimate it.
    """

    of_units: float  # between units, minus the residual's contribution
    of_trainings: float  # between the trainings' means; 0 for one training
    units: int
    trainings: int
    apart: bool = False  # trainings share few units (folds without a test part): their means include unit noise

    def from_trainings(self, trainings: int) -> float:
        """Squared contribution of ``trainings`` trainings to the half width of the mean's 95 % interval."""
        return _quantile(trainings) ** 2 * self.of_trainings / trainings if trainings > 1 else 0.0

    def shown_by(self, trainings: int) -> float:
        """Smallest mean difference detectable with ``trainings`` trainings on these units at 80 % power.

        For one training, this compares these two trained models only.
        """
        half_width = math.sqrt(_quantile(self.units) ** 2 * self.of_units / self.units + self.from_trainings(trainings))
        return half_width + POWER_ERRORS * math.sqrt(self.of_units / self.units + self.of_trainings / trainings)

    def trainings_to_show(self, gain: float) -> int | None:
        """Number of trainings that detect ``gain`` on these units; None if no number does, or if it is unknown."""
        if self.trainings == 1 or self.apart:
            return None
        counts = range(2, MOST_TRAININGS)
        place = bisect_left(counts, -gain, key=lambda count: -self.shown_by(count))  # falls with more trainings
        return counts[place] if place < len(counts) else None


def noise_of(differences: Array) -> Noise | None:
    """Estimate from (training, unit), NaN where not evaluable, no unit all NaN; None with fewer than two units."""
    trainings, units = differences.shape
    if units < 2:
        return None
    if trainings == 1:
        return Noise(float(differences[0].var(ddof=1)), 0.0, units, 1)
    shared = differences[:, ~np.isnan(differences).any(0)]
    if shared.shape[1] < 2:
        return Noise(0.0, float(np.nanmean(differences, axis=1).var(ddof=1)), units, trainings, apart=True)
    by_unit, by_training = shared.mean(0), shared.mean(1)
    rest = float(((shared - by_unit - by_training[:, None] + shared.mean()) ** 2).sum())
    rest /= (trainings - 1) * (shared.shape[1] - 1)
    of_units = max(0.0, float(by_unit.var(ddof=1)) - rest / trainings)
    return Noise(of_units, float(by_training.var(ddof=1)), units, trainings)


def _quantile(count: int) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
