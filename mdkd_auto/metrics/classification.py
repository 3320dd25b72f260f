"""Scores of a classifier: scikit-learn's, calibration, and McNemar's test of two classifiers on the same cases."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn import metrics

from mdkd_auto.metrics.summary import Mean, MetricMean

CLASS_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "calibration_error", "calibrated_error")
CALIBRATION_BINS = 15  # Guo et al., 2017
TEMPERATURES = (0.05, 20.0)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def score_classes(logits: Floats, truth: Ints, temperature: float = 1.0) -> Mean:
    """All scores of logits (N, K) against classes (N,).

    A score that N cases do not give is None: AUROC where no class has cases and others, everything without a case.
    Classes without a case do not count in the means over classes.
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
            "macro_f1": float(
                metrics.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
            ),
            "auroc": auroc(softmax(logits, axis=1), truth),
            "calibration_error": calibration_error(softmax(logits, axis=1), truth),
            "calibrated_error": calibration_error(softmax(logits / temperature, axis=1), truth),
        },
        count,
    )


def auroc(probabilities: Floats, truth: Ints) -> float | None:
    """One class against the rest, the mean over classes that have cases and are not all there is."""
    areas = [
        metrics.roc_auc_score(truth == number, probabilities[:, number])
        for number in range(probabilities.shape[1])
        if 0 < np.count_nonzero(truth == number) < len(truth)
    ]
    return float(np.mean(areas)) if areas else None


def calibration_error(probabilities: Floats, truth: Ints, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Guo et al., 2017): |confidence - accuracy| of bins of equal width, by their cases."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    errors = [
        np.count_nonzero(inside) * abs(confidence[inside].mean() - right[inside].mean())
        for inside in (place == number for number in range(bins))
        if inside.any()
    ]
    return float(sum(errors) / len(truth))


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """The temperature whose softmax gives ``truth`` the highest likelihood (Guo et al., 2017); 1 without a case."""
    if len(truth) == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def confusion(logits: Floats, truth: Ints) -> Ints:
    """Cases (K, K): rows the truth, columns the prediction."""
    result: Ints = metrics.confusion_matrix(truth, logits.argmax(1), labels=range(logits.shape[1]))
    return result


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float | None:
    """The exact two-sided p-value of McNemar (1947): which of two is right where they differ; None where nowhere."""
    only_a = sum(one and not other for one, other in zip(a, b, strict=True))
    only_b = sum(other and not one for one, other in zip(a, b, strict=True))
    return None if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b).pvalue)


def _mean(values: dict[str, float | None], count: int) -> Mean:
    return Mean(
        metrics={
            name: MetricMean(mean=value, std=None, evaluable=count if value is not None else 0,
                             left_out=0 if value is not None else count)
            for name, value in values.items()
        },
        cases=count, negative_cases=0, negative_cases_with_false_positives=0,
    )  # fmt: skip
