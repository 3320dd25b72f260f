"""Whether one model is better than another on the same cases."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from mdkd_auto.records import Record

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percentiles: a 95 % interval
FEWEST_DIFFERENCES = 6  # with five, the smallest two-sided p of the signed-rank test is 2 / 2**5 = 0.06
BLOCK = 1_000_000  # resampled differences in memory at once


class Comparison(Record, frozen=True, kw_only=True):
    """Paired differences a - b over the cases evaluable in both."""

    pairs: int
    left_out: int  # cases not evaluable in a, in b, or in both
    mean_difference: float | None  # None without a pair
    interval: tuple[float, float] | None  # 95 %, of the mean difference; None with fewer than two pairs
    p_value: float | None  # two-sided; None where ``note`` says why
    note: str


def paired_comparison(a: Sequence[float | None], b: Sequence[float | None], seed: int = 0) -> Comparison:
    """Compare two models' scores, case by case; None marks a case that is not evaluable.

    Interval: percentile bootstrap of the mean difference over cases (Efron and Tibshirani, 1993), 10,000 resamples
    drawn from ``seed``. Test: Wilcoxon signed-rank (Wilcoxon, 1945), differences of zero left out. Pass one score a
    patient: images of one patient are not independent. Raises ValueError for lengths that differ and for scores that
    are not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"Paired scores need equal lengths; a has {len(a)} and b has {len(b)}")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    for x, y in pairs:
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"Scores must be finite, or None where not evaluable; found the pair ({x}, {y})")
    differences = np.array([x - y for x, y in pairs], dtype=np.float64)
    p_value, note = _signed_rank(differences)
    return Comparison(
        pairs=len(pairs),
        left_out=len(a) - len(pairs),
        mean_difference=float(differences.mean()) if pairs else None,
        interval=_bootstrap_interval(differences, seed) if len(pairs) > 1 else None,
        p_value=p_value,
        note=note,
    )


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
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(differences))  # resamples a block
    means = [
        differences[generator.integers(len(differences), size=(min(rows, RESAMPLES - done), len(differences)))].mean(1)
        for done in range(0, RESAMPLES, rows)
    ]
    lower, upper = np.percentile(np.concatenate(means), INTERVAL)
    return float(lower), float(upper)
