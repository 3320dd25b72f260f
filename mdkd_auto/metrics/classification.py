"""Classifier scores from scikit-learn, calibration, confidence intervals, and McNemar's test of two classifiers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn import metrics

from mdkd_auto.metrics.statistics import BLOCK, INTERVAL
from mdkd_auto.metrics.summary import Mean, MetricMean

CLASS_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "calibration_error", "calibrated_error")
CALIBRATION_BINS = 15  # Guo et al., 2017
TEMPERATURES = (0.05, 20.0)
INTERVAL_DRAWS = 1000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Intervals = dict[str, tuple[float, float] | None]  # one per CLASS_METRICS


def score_classes(logits: Floats, truth: Ints, temperature: float = 1.0) -> Mean:
    """Compute all scores of logits (N, K) against classes (N,).

    A score is None if it is not evaluable: AUROC without a class that has both cases and non-cases, everything without
    cases. Means over classes leave out classes without cases.
    """
    count = len(truth)
    if count == 0:
        return _mean(dict.fromkeys(CLASS_METRICS), 0)
    predicted = logits.argmax(1)
    present = np.unique(truth)
    return _mean(
        {
            "accuracy": float(metrics.accuracy_score(truth, predicted)),
            "balanced_accuracy": float(metrics.recall_score(truth, predicted, labels=present, average="macro")),
            "macro_f1": float(metrics.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)),
            "auroc": auroc(softmax(logits, axis=1), truth),
            "calibration_error": calibration_error(softmax(logits, axis=1), truth),
            "calibrated_error": calibration_error(softmax(logits / temperature, axis=1), truth),
        },
        count,
    )


def auroc(probabilities: Floats, truth: Ints) -> float | None:
    """One-vs-rest AUROC, averaged over classes with at least one case and one non-case."""
    areas = [
        metrics.roc_auc_score(truth == number, probabilities[:, number])
        for number in range(probabilities.shape[1])
        if 0 < np.count_nonzero(truth == number) < len(truth)
    ]
    return float(np.mean(areas)) if areas else None


def calibration_error(probabilities: Floats, truth: Ints, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Guo et al., 2017): |confidence - accuracy| per equal-width bin, weighted by cases."""
    return float(np.abs(_gaps(probabilities, truth, bins).sum(0)).sum() / len(truth))


def _gaps(probabilities: Floats, truth: Ints, bins: int = CALIBRATION_BINS) -> Floats:
    """Confidence minus correctness of each case in the bin of its confidence, zero in the others; (N, bins)."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return np.where(place[:, None] == np.arange(bins), (confidence - right)[:, None], 0.0)


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """Fit the temperature by maximum likelihood (Guo et al., 2017); 1 without cases."""
    if len(truth) == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def confusion(logits: Floats, truth: Ints) -> Ints:
    """Confusion matrix (K, K) in cases: rows are truth, columns are predictions."""
    result: Ints = metrics.confusion_matrix(truth, logits.argmax(1), labels=range(logits.shape[1]))
    return result


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float | None:
    """Exact two-sided p-value of McNemar (1947) over cases where a and b differ; None if they never differ."""
    only_a = sum(a_right and not b_right for a_right, b_right in zip(a, b, strict=True))
    only_b = sum(b_right and not a_right for a_right, b_right in zip(a, b, strict=True))
    return None if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b).pvalue)


# --- intervals ------------------------------------------------------------------------------------------------------


def class_intervals(
    logits: Floats,
    truth: Ints,
    patients: Sequence[str],
    temperature: float,
    seed: int = 0,
    draws: int = INTERVAL_DRAWS,
) -> Intervals:
    """Return a 95 % interval for each score of :func:`score_classes`; ``patients`` holds each case's patient.

    Percentile bootstrap (Efron and Tibshirani, 1993), resampling patients with all their cases, seeded by ``seed``.
    Draws in which a score is not evaluable are left out. None with fewer than two patients, or if fewer than half of
    the draws are evaluable.
    """
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)  # patient: (N,)
    if len(names) < 2:
        return dict.fromkeys(CLASS_METRICS)
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(truth))  # draws per block
    blocks = []
    for done in range(0, draws, rows):
        drawn = generator.integers(len(names), size=(min(rows, draws - done), len(names)))
        times = np.stack([np.bincount(indices, minlength=len(names)) for indices in drawn])  # (draw, patient)
        blocks.append(_weighted_scores(times[:, patient].astype(np.float64), logits, truth, temperature))
    return {name: _interval(np.concatenate([block[name] for block in blocks])) for name in CLASS_METRICS}


def _interval(values: Floats) -> tuple[float, float] | None:
    """Percentile interval over the draws of one score, NaN where not evaluable."""
    evaluable = values[~np.isnan(values)]
    if 2 * len(evaluable) < len(values):
        return None
    low, high = np.percentile(evaluable, INTERVAL)
    return float(low), float(high)


def _weighted_scores(weights: Floats, logits: Floats, truth: Ints, temperature: float) -> dict[str, Floats]:
    """Compute the scores of :func:`score_classes` for many draws at once, NaN where not evaluable.

    ``weights`` (D, N): how often each draw holds each case.
    """
    classes = np.arange(logits.shape[1])
    predicted = logits.argmax(1)
    is_true, is_predicted = truth[:, None] == classes, predicted[:, None] == classes  # (N, K)
    cases = weights.sum(1)
    true, answered = weights @ is_true, weights @ is_predicted  # (D, K): cases per class, true and predicted
    right = weights @ (is_true & is_predicted)
    probabilities = softmax(logits, axis=1)
    gaps = _gaps(probabilities, truth)
    calibrated_gaps = _gaps(softmax(logits / temperature, axis=1), truth)
    areas = np.stack([_weighted_auroc(weights, probabilities[:, number], truth == number) for number in classes], 1)
    return {
        "accuracy": right.sum(1) / cases,
        "balanced_accuracy": _mean_where(true > 0, right / np.maximum(true, 1)),
        "macro_f1": _mean_where(true > 0, 2 * right / np.maximum(true + answered, 1)),
        "auroc": _mean_where(~np.isnan(areas), areas),
        "calibration_error": np.abs(weights @ gaps).sum(1) / cases,
        "calibrated_error": np.abs(weights @ calibrated_gaps).sum(1) / cases,
    }


def _weighted_auroc(weights: Floats, values: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Fraction of pairs whose positive case ranks higher, ties count half (Hanley and McNeil, 1982); (D,).

    NaN for a draw without positive or without negative cases.
    """
    order = np.argsort(values[~positive])
    negatives = weights[:, ~positive][:, order]
    up_to = np.concatenate([np.zeros((len(weights), 1)), negatives.cumsum(1)], axis=1)  # cumulative, from the lowest
    sorted_values = values[~positive][order]
    below = np.searchsorted(sorted_values, values[positive], side="left")
    not_above = np.searchsorted(sorted_values, values[positive], side="right")
    positives = weights[:, positive]
    won = (positives * (up_to[:, below] + up_to[:, not_above])).sum(1) / 2
    pairs = positives.sum(1) * up_to[:, -1]
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def _mean_where(counts: NDArray[np.bool_], values: Floats) -> Floats:
    """Mean of each row over the columns that count, NaN if no column counts."""
    number = counts.sum(1)
    total = np.where(counts, values, 0.0).sum(1)
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)


def _mean(values: dict[str, float | None], count: int) -> Mean:
    return Mean(
        metrics={
            name: MetricMean(
                mean=value,
                std=None,
                evaluable=count if value is not None else 0,
                left_out=0 if value is not None else count,
            )
            for name, value in values.items()
        },
        cases=count,
        negative_cases=0,
        negative_cases_with_false_positives=0,
    )
