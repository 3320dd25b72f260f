"""Scores of classifiers against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics

from mdkd_auto.metrics.classification import (
    CLASS_METRICS,
    auroc,
    calibration_error,
    confusion,
    fit_temperature,
    mcnemar,
    score_classes,
)


def drawn(seed: int, cases: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=cases)
    return rng.normal(size=(cases, classes)) + 1.5 * np.eye(classes)[truth], truth


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scikit_learn(seed: int) -> None:
    logits, truth = drawn(seed)
    found = score_classes(logits, truth).metrics
    predicted, probabilities = logits.argmax(1), softmax(logits, axis=1)
    assert found["accuracy"].mean == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"].mean == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert found["macro_f1"].mean == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    area = metrics.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert found["auroc"].mean == pytest.approx(area)
    assert confusion(logits, truth).tolist() == metrics.confusion_matrix(truth, predicted).tolist()
    assert set(found) == set(CLASS_METRICS)
    assert found["accuracy"].evaluable == 60


def test_a_class_without_a_case_does_not_count() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2.0, 0], [2.0, 0, 0], [0, 0, 2.0]])
    truth = np.array([0, 1, 1, 0])  # none of the third
    found = score_classes(logits, truth).metrics
    assert found["balanced_accuracy"].mean == pytest.approx(0.5)
    assert found["macro_f1"].mean == pytest.approx((0.5 + 2 / 3) / 2)
    assert confusion(logits, truth).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]


def test_what_cannot_be_said_is_none() -> None:
    assert auroc(np.full((3, 2), 0.5), np.zeros(3, dtype=int)) is None
    empty = score_classes(np.zeros((0, 3)), np.zeros(0, dtype=int)).metrics
    assert all(value.mean is None and value.evaluable == 0 for value in empty.values())


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    truth = np.array([0, 1, 0, 1])
    # two of confidence 0.9, one right: |0.9 - 0.5|; two of 0.6, both right: |0.6 - 1|
    assert calibration_error(probabilities, truth, bins=10) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    assert calibration_error(np.eye(2), np.array([0, 1])) == 0


def test_the_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    true_logits = rng.normal(size=(4000, 3)) * 1.5
    truth = (rng.random(4000)[:, None] < softmax(true_logits, axis=1).cumsum(1)).argmax(1)
    assert fit_temperature(3 * true_logits, truth) == pytest.approx(3, rel=0.1)
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=int)) == 1
    found = score_classes(3 * true_logits, truth, temperature=3.0).metrics
    calibrated, raw = found["calibrated_error"].mean, found["calibration_error"].mean
    assert calibrated is not None
    assert raw is not None
    assert calibrated < 0.03
    assert raw > 0.1


def test_mcnemar_by_hand() -> None:
    a = [True] * 6 + [False] + [True] * 3
    b = [False] * 6 + [True] + [True] * 3  # they differ in 7 cases, a is right in 6
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 7) / 2**7)
    assert mcnemar(a, a) is None
