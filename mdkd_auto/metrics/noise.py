"""How far the mean difference of two kinds of models holds beyond these patients and these trainings."""

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

    A difference is taken as mean + unit + training + rest, each with its own variance (two-way random effects, by the
    usual mean squares). Trainings are few, so their part is judged by Student's t with trainings - 1 degrees of
    freedom: resampling two or three of them would understate it.
    """

    of_units: float  # between units, less what the rest adds to it
    of_trainings: float  # between the trainings' means; 0 for one training
    units: int
    trainings: int
    apart: bool = False  # trainings hardly share units (folds without a test part): their means hold the units' noise

    def from_trainings(self, trainings: int) -> float:
        """Square of what so many trainings add to the half width of a 95 % interval of the mean."""
        return _quantile(trainings) ** 2 * self.of_trainings / trainings if trainings > 1 else 0.0

    def shown_by(self, trainings: int) -> float:
        """The mean difference that so many trainings on these units show, with a power of 80 %: an interval without 0.

        For one training, what these two trained models differ by.
        """
        half_width = math.sqrt(_quantile(self.units) ** 2 * self.of_units / self.units + self.from_trainings(trainings))
        return half_width + POWER_ERRORS * math.sqrt(self.of_units / self.units + self.of_trainings / trainings)

    def trainings_to_show(self, gain: float) -> int | None:
        """How many trainings show ``gain`` on these units; None where no number does, or it cannot be told."""
        if self.trainings == 1 or self.apart:
            return None
        counts = range(2, MOST_TRAININGS)
        place = bisect_left(counts, -gain, key=lambda count: -self.shown_by(count))  # ever less with more trainings
        return counts[place] if place < len(counts) else None


def noise_of(differences: Array) -> Noise | None:
    """Of (training, unit), NaN where not evaluable, none wholly so; None with fewer than two units."""
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
