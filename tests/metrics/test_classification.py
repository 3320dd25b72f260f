"""Scores of classifiers against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics

from mdkd_auto.metrics.classification import (
    CLASS_METRICS,
    auroc,
    calibration_error,
    class_intervals,
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
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(sure, np.array([0, 1])) == pytest.approx(0.05, rel=0.01)  # never wrong: the sharpest allowed
    assert fit_temperature(sure, np.array([1, 0])) == pytest.approx(20, rel=0.01)  # never right: the flattest
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


def grouped(cases: int, patients: int) -> list[str]:
    """Cases of patients, dealt out unevenly."""
    return [f"p{number**2 % patients}" for number in range(cases)]


def slow_intervals(
    logits: np.ndarray, truth: np.ndarray, patients: list[str], temperature: float, seed: int, draws: int
) -> dict[str, tuple[float, float] | None]:
    """Every draw as a list of cases, scored by score_classes, which is scikit-learn's."""
    generator = np.random.default_rng(seed)
    names = sorted(set(patients))
    values: dict[str, list[float]] = {name: [] for name in CLASS_METRICS}
    for _ in range(draws):
        cases: list[int] = []
        for one in generator.integers(len(names), size=len(names)):
            cases += [case for case, patient in enumerate(patients) if patient == names[one]]
        for name, score in score_classes(logits[cases], truth[cases], temperature).metrics.items():
            values[name] += [] if score.mean is None else [score.mean]
    return {
        name: (float(np.percentile(found, 2.5)), float(np.percentile(found, 97.5))) if len(found) >= draws / 2 else None
        for name, found in values.items()
    }


@pytest.mark.parametrize("block", [1_000_000, 200])  # all draws at once, or a few at a time
@pytest.mark.parametrize(("cases", "classes"), [(60, 4), (12, 3), (9, 2)])
def test_intervals_of_whole_patients_are_those_of_a_loop(
    cases: int, classes: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdkd_auto.metrics.classification.BLOCK", block)
    logits, truth = drawn(1, cases, classes)
    logits = logits.round(0)  # many ties
    patients = grouped(cases, 11)
    assert 1 < len(set(patients)) < cases
    found = class_intervals(logits, truth, patients, 1.5, seed=3, draws=40)
    for name, expected in slow_intervals(logits, truth, patients, 1.5, 3, 40).items():
        assert found[name] == pytest.approx(expected), name


@pytest.mark.parametrize("seed", range(5))
def test_the_auroc_of_a_draw_is_that_of_scikit_learn(seed: int) -> None:
    logits, truth = drawn(seed, 40, 3)
    logits = logits.round(0)  # many ties
    patients = [f"p{number:02}" for number in range(40)]
    cases = np.random.default_rng(seed).integers(40, size=40)
    probabilities = softmax(logits[cases], axis=1)
    expected = metrics.roc_auc_score(truth[cases], probabilities, multi_class="ovr", average="macro")
    assert class_intervals(logits, truth, patients, 1.0, seed, draws=1)["auroc"] == pytest.approx((expected,) * 2)


def test_intervals_contain_the_scores() -> None:
    logits, truth = drawn(0, 400)
    patients = [f"p{number}" for number in range(400)]
    found = class_intervals(logits, truth, patients, 1.0)
    for name, score in score_classes(logits, truth).metrics.items():
        interval, value = found[name], score.mean
        assert interval is not None
        assert value is not None
        assert 0 <= interval[0] < value < interval[1] <= 1, name
    share = float(np.mean(logits.argmax(1) == truth))
    half = 1.96 * np.sqrt(share * (1 - share) / 400)  # Wald's interval, which the bootstrap nears
    assert found["accuracy"] == pytest.approx((share - half, share + half), abs=0.01)
    assert found == class_intervals(logits, truth, patients, 1.0)
    assert found != class_intervals(logits, truth, patients, 1.0, seed=1)


def test_copies_of_a_patients_case_do_not_narrow_an_interval() -> None:
    logits, truth = drawn(0, 30)
    patients = [f"p{number}" for number in range(30)]
    once = class_intervals(logits, truth, patients, 1.0)
    copied = class_intervals(np.tile(logits, (5, 1)), np.tile(truth, 5), patients * 5, 1.0)
    for name in CLASS_METRICS:
        assert copied[name] == pytest.approx(once[name]), name


def test_intervals_of_two_patients_by_hand() -> None:
    """One right in both cases, one in none: a quarter of the draws gives 0, a quarter 1, and the rest a half."""
    logits, truth = np.array([[1.0, 0], [0, 1.0], [1.0, 0], [0, 1.0]]), np.array([0, 1, 1, 0])
    found = class_intervals(logits, truth, ["a", "a", "b", "b"], 1.0)
    assert [found[name] for name in ("accuracy", "auroc")] == [(0, 1), (0, 1)]


def test_intervals_where_all_answers_are_right() -> None:
    truth = np.array([0, 1, 2] * 5)
    found = class_intervals(9 * np.eye(3)[truth], truth, grouped(15, 13), 1.0)
    assert [found[name] for name in CLASS_METRICS[:4]] == [(1, 1)] * 4


def test_no_interval_of_one_patient_or_of_few_draws() -> None:
    logits, truth = drawn(0, 10)
    assert class_intervals(logits, truth, ["a"] * 10, 1.0) == dict.fromkeys(CLASS_METRICS)
    assert class_intervals(logits[:0], truth[:0], [], 1.0) == dict.fromkeys(CLASS_METRICS)
    patients = [f"p{number}" for number in range(10)]
    assert class_intervals(logits, np.zeros(10, dtype=int), patients, 1.0)["auroc"] is None  # one class
    logits, truth, patients = logits[:3, :2], np.array([0, 1, 1]), ["a", "b", "b"]
    several = [class_intervals(logits, truth, patients, 1.0, seed, draws=9) for seed in range(8)]
    assert several == [slow_intervals(logits, truth, patients, 1.0, seed, draws=9) for seed in range(8)]
    assert all(one["accuracy"] is not None for one in several)
    assert {one["auroc"] is None for one in several} == {True, False}  # each draw has an AUROC with probability 1/2
