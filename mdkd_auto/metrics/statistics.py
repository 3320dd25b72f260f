"""Whether one model is better than another on the same cases."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from mdkd_auto.records import Record

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percentiles: a 95 % interval
FEWEST_DIFFERENCES = 6  # with five, the smallest two-sided p of the signed-rank test is 2 / 2**5 = 0.06
BLOCK = 1_000_000  # resampled differences in memory at once
WANTED_GAIN = 0.02  # 2 points of DSC
STANDARD_ERRORS = 2.80  # 1.96 for 5 % two-sided and 0.84 for a power of 80 %


class Comparison(Record, frozen=True, kw_only=True):
    """Paired differences a - b over the units (patients, or cases) evaluable in both, means over the replicates."""

    pairs: int
    left_out: int  # units not evaluable in a, in b, or in both
    mean_difference: float | None  # None without a pair
    interval: tuple[float, float] | None  # 95 %, of the mean difference; None with fewer than two pairs
    p_value: float | None  # two-sided, of ``test``; None where ``note`` says why
    note: str
    test: str = "Wilcoxon"
    replicates: int = 1  # trainings with other seeds or folds
    spread: float | None = None  # standard deviation of the replicates' mean differences; None for one replicate
    detectable: float | None = None  # the mean difference that such data show with a power of 80 %
    replicates_needed: int | None = None  # for WANTED_GAIN to be shown on these units; None: no number would do


def replicated_comparison(
    a: Sequence[Sequence[float | None]], b: Sequence[Sequence[float | None]], seed: int = 0
) -> Comparison:
    """Compare two kinds of models, each trained several times, on the same units: scores (replicate, unit).

    Replicate i of a is paired with replicate i of b (the same seed and fold). A unit counts with the mean of its
    differences. Interval: percentile bootstrap of the mean difference (Efron and Tibshirani, 1993), 10,000 resamples
    drawn from ``seed``, of units and, where there are several, of replicates, so that it holds the noise of training.
    Test: Wilcoxon signed-rank (Wilcoxon, 1945) over units, differences of zero left out. Pass one score a patient:
    images of one patient are not independent. Raises ValueError for shapes that differ and for scores that are not
    finite.
    """
    if [len(row) for row in a] != [len(row) for row in b] or len({len(row) for row in a}) > 1 or not a:
        raise ValueError(
            f"Paired scores need equal lengths; a has {[len(row) for row in a]} and b has {[len(row) for row in b]}"
        )
    differences = np.array(
        [[_difference(x, y) for x, y in zip(ours, theirs, strict=True)] for ours, theirs in zip(a, b, strict=True)],
        dtype=np.float64,
    ).reshape(len(a), -1)  # (replicate, unit), NaN where not evaluable
    evaluable = ~np.isnan(differences).all(0)
    left_out = int(np.count_nonzero(~evaluable))
    differences = differences[:, evaluable]
    units = np.nanmean(differences, axis=0) if differences.size else np.empty(0)
    p_value, note = _signed_rank(units)
    return Comparison(
        pairs=len(units),
        left_out=left_out,
        mean_difference=float(units.mean()) if len(units) else None,
        interval=_bootstrap_interval(differences, seed) if len(units) > 1 else None,
        p_value=p_value,
        note=note,
        replicates=len(a),
        spread=_spread(differences),
        detectable=_detectable(differences, units),
        replicates_needed=replicates_needed(differences, WANTED_GAIN),
    )


def _difference(x: float | None, y: float | None) -> float:
    if x is None or y is None:
        return math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"Scores must be finite, or None where not evaluable; found the pair ({x}, {y})")
    return x - y


def _spread(differences: npt.NDArray[np.float64]) -> float | None:
    means = [float(np.nanmean(row)) for row in differences if not np.isnan(row).all()]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def _detectable(differences: npt.NDArray[np.float64], units: npt.NDArray[np.float64]) -> float | None:
    """2.8 standard errors, those of a two-sided test at 5 % with a power of 80 %; the noise of training included."""
    if len(units) < 2:
        return None
    variance = float(units.var(ddof=1)) / len(units)
    variance += (_spread(differences) or 0.0) ** 2 / len(differences)
    return STANDARD_ERRORS * math.sqrt(variance)


def replicates_needed(differences: npt.NDArray[np.float64], gain: float) -> int | None:
    """How many trainings show a mean difference of ``gain`` on these units with a power of 80 %; (replicate, unit).

    A difference is taken as mean + unit + replicate + rest, each with its own variance (two-way random effects, by the
    usual mean squares). The mean of R replicates over n units then has variance
    unit / n + replicate / R + rest / (n R), and the first term no number of replicates removes: None. None also with
    fewer than two replicates or units.
    """
    replicates, units = differences.shape
    if min(replicates, units) < 2:
        return None
    filled = np.where(np.isnan(differences), np.nanmean(differences, axis=0), differences)
    by_unit, by_replicate = filled.mean(0), filled.mean(1)
    rest = float((filled - by_unit - by_replicate[:, None] + filled.mean()).var()) * replicates * units
    rest /= (replicates - 1) * (units - 1)
    of_units = max(0.0, float(by_unit.var(ddof=1)) - rest / replicates)
    of_replicates = max(0.0, float(by_replicate.var(ddof=1)) - rest / units)
    left = (gain / STANDARD_ERRORS) ** 2 - of_units / units
    return max(1, math.ceil((of_replicates + rest / units) / left)) if left > 0 else None


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjusted p-values of a family of tests (Holm, 1979), in the order given; None is left out and stays None.

    Raises ValueError for a value outside [0, 1].
    """
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"A p-value lies in [0, 1]; found {p}")
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[index] = largest
    return tuple(adjusted)


def _signed_rank(differences: npt.NDArray[np.float64]) -> tuple[float | None, str]:
    """The p-value, or None and the reason."""
    unequal = int(np.count_nonzero(differences))
    if len(differences) and unequal == 0:
        return None, "no test: all differences are zero"
    if unequal < FEWEST_DIFFERENCES:
        return None, f"no test: {unequal} differences other than zero, at least {FEWEST_DIFFERENCES} needed"
    return float(wilcoxon(differences, alternative="two-sided").pvalue), ""


def _bootstrap_interval(differences: npt.NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Of the mean over units of the mean over replicates; (replicate, unit), NaN where not evaluable."""
    generator = np.random.default_rng(seed)
    replicates, units = differences.shape
    rows = max(1, BLOCK // differences.size)  # resamples a block
    means = []
    for done in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - done)
        drawn = generator.integers(units, size=(count, units))
        if replicates == 1:
            means.append(differences[0][drawn].mean(1))
            continue
        chosen = generator.integers(replicates, size=(count, replicates))
        sample = differences[chosen[:, :, None], drawn[:, None, :]]  # (resample, replicate, unit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a unit that none of the drawn replicates could evaluate
            means.append(np.nanmean(np.nanmean(sample, axis=1), axis=1))
    lower, upper = np.nanpercentile(np.concatenate(means), INTERVAL)
    return float(lower), float(upper)
