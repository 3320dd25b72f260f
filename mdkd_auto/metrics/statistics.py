"""Compare two models on the same cases."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import PermutationMethod, bootstrap, rankdata, wilcoxon

from mdkd_auto.core.records import Record
from mdkd_auto.metrics.noise import CONFIDENCE, Array, Noise, noise_of

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percentiles: a 95 % interval
BLOCK = 1_000_000  # resampled differences in memory at once
FEWEST_DIFFERENCES = 6  # with five, the smallest two-sided p of the signed-rank test is 2 / 2**5 = 0.06
MOST_PERMUTED = 50  # differences; above this the normal approximation is accurate, with or without ties
PERMUTATIONS = 20_000
DECIMALS = 12  # means over trainings that differ only by rounding are ties
WANTED_GAIN = 0.02  # 2 points of DSC
RANKS_DISAGREE = "most differences have the opposite sign; a few large ones dominate the mean"


class Comparison(Record, frozen=True, kw_only=True):
    """Paired differences a - b over the units (patients or cases) evaluable in both, averaged over the replicates."""

    pairs: int
    left_out: int  # units not evaluable in a, in b, or in both
    mean_difference: float | None  # None without a pair
    interval: tuple[float, float] | None  # 95 %, of the mean difference; None with fewer than two pairs
    p_value: float | None  # two-sided, of ``test``; None for the reason in ``note``
    note: str  # the reason for a missing test, or RANKS_DISAGREE
    test: str = "Wilcoxon"
    replicates: int = 1  # trainings with different seeds or folds
    spread: float | None = None  # standard deviation of their mean differences; None for one, or if they share no unit
    detectable: float | None = None  # smallest mean difference detectable with a power of 80 %
    ranks_disagree: bool = False  # most differences have the opposite sign to their mean
    replicates_needed: int | None = None  # to detect WANTED_GAIN on these units; None: no number suffices


def replicated_comparison(
    a: Sequence[Sequence[float | None]],
    b: Sequence[Sequence[float | None]],
    seed: int = 0,
    folds: Sequence[int] | None = None,
) -> Comparison:
    """Compare two kinds of models, each trained several times, on the same units: scores (replicate, unit).

    Replicate i of a is paired with replicate i of b (the same seed and fold). ``folds``: the fold of each replicate;
    with several folds, the seeds of one fold, which share their training cases, are averaged to one training.
    Each unit contributes the mean of its differences. Interval: percentile bootstrap of their mean (Efron and
    Tibshirani, 1993), 10,000 resamples of units seeded by ``seed``; with several trainings their noise is added as
    Student's t (:class:`Noise`). Test: Wilcoxon signed-rank (Wilcoxon, 1945) over units without zero differences, by
    permutation if there are ties. Pass one score per patient: images of one patient are not independent. Raises
    ValueError for different shapes and non-finite scores.
    """
    if [len(row) for row in a] != [len(row) for row in b] or len({len(row) for row in a}) > 1 or not a:
        raise ValueError(
            f"Paired scores need equal lengths; a has {[len(row) for row in a]} and b has {[len(row) for row in b]}"
        )
    differences = np.array(
        [[_difference(x, y) for x, y in zip(ours, theirs, strict=True)] for ours, theirs in zip(a, b, strict=True)],
        dtype=np.float64,
    ).reshape(len(a), -1)  # (replicate, unit), NaN where not evaluable
    known = ~np.isnan(differences)
    evaluable, useful = known.any(0), known.any(1)
    left_out = int(np.count_nonzero(~evaluable))
    differences = differences[np.ix_(useful, evaluable)]
    if not differences.size:
        note = _signed_rank(np.empty(0)).note
        return Comparison(
            pairs=0, left_out=left_out, mean_difference=None, interval=None, p_value=None, note=note, replicates=len(a)
        )
    trainings = _independent(differences, np.asarray(folds)[useful] if folds is not None else None)
    units = np.nanmean(trainings, axis=0)
    noise = noise_of(trainings)
    test = _signed_rank(units)
    return Comparison(
        pairs=len(units),
        left_out=left_out,
        mean_difference=float(units.mean()),
        interval=_interval(units, noise, seed) if noise is not None else None,
        p_value=test.p_value,
        note=test.note,
        ranks_disagree=test.ranks_disagree,
        replicates=len(differences),
        spread=_spread(differences),
        detectable=noise.shown_by(noise.trainings) if noise is not None else None,
        replicates_needed=noise.trainings_to_show(WANTED_GAIN) if noise is not None else None,
    )


def _difference(x: float | None, y: float | None) -> float:
    if x is None or y is None:
        return math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"Scores must be finite, or None where not evaluable; found the pair ({x}, {y})")
    return x - y


def _independent(differences: Array, folds: np.ndarray | None) -> Array:
    """Average the seeds of each fold, one row per fold, if there are several folds; else keep one row per seed."""
    if folds is None or len(set(folds)) < 2:
        return differences
    rows = []
    for fold in sorted(set(folds)):
        seeds = differences[folds == fold]
        counts = (~np.isnan(seeds)).sum(0)
        rows.append(np.where(counts > 0, np.nansum(seeds, axis=0) / np.maximum(counts, 1), np.nan))
    return np.array(rows)


def _spread(differences: Array) -> float | None:
    if len(differences) < 2 or np.isnan(differences).any(0).all():
        return None
    return float(np.std(np.nanmean(differences, axis=1), ddof=1))


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjust the p-values of a family of tests (Holm, 1979), in the given order; None is skipped and stays None.

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


class _SignedRank(NamedTuple):
    """The p-value, or None and the reason."""

    p_value: float | None
    note: str
    ranks_disagree: bool = False


def _signed_rank(differences: Array) -> _SignedRank:
    unequal = np.round(differences, DECIMALS)
    unequal = unequal[unequal != 0]
    if len(differences) and not len(unequal):
        return _SignedRank(None, "no test: all differences are zero")
    if len(unequal) < FEWEST_DIFFERENCES:
        return _SignedRank(None, f"no test: {len(unequal)} nonzero differences, at least {FEWEST_DIFFERENCES} needed")
    ties = len(set(np.abs(unequal))) < len(unequal)
    permuted = ties and len(unequal) <= MOST_PERMUTED
    method = PermutationMethod(n_resamples=PERMUTATIONS, rng=0) if permuted else "auto"
    p_value = float(wilcoxon(unequal, alternative="two-sided", method=method).pvalue)
    rank_sum = float((np.sign(unequal) * rankdata(np.abs(unequal))).sum())
    disagree = bool(rank_sum * differences.mean() < 0)
    return _SignedRank(p_value, RANKS_DISAGREE if disagree else "", disagree)


def _interval(units: Array, noise: Noise, seed: int) -> tuple[float, float]:
    """Interval of the mean: bootstrap distances over units, widened on each side by the trainings' contribution."""
    mean = float(units.mean())
    found = bootstrap(
        (units,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BLOCK // len(units)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    variance = float(units.var(ddof=1))
    share = min(1.0, noise.of_units / variance) if variance > 0 else 0.0  # the trainings' contribution covers the rest
    added = noise.from_trainings(noise.trainings)
    below, above = (math.sqrt(share * (mean - float(end)) ** 2 + added) for end in (found.low, found.high))
    return mean - below, mean + above
