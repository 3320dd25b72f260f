"""The number that says how well two classes lie apart, and the interval of a difference."""

import numpy as np
import pytest
from scipy.stats import t

from mdkd_auto.report.neighbours import balanced_accuracy, difference_interval, neighbour_votes, scaled


def clusters(distance: float, patients: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """50 voxels of each class in each patient; the classes' means lie so far apart."""
    rng = np.random.default_rng(0)
    foreground = np.arange(100 * patients) % 2 == 0
    features = rng.normal(size=(len(foreground), 8)).astype(np.float32)
    features[foreground, 0] += distance
    return features, foreground, np.arange(len(foreground)) // 100


def accuracy(features: np.ndarray, foreground: np.ndarray, patients: np.ndarray) -> float | None:
    return balanced_accuracy(neighbour_votes(features, foreground, patients), foreground)


def test_separate_and_mixed_classes() -> None:
    assert accuracy(*clusters(20.0)) == 1.0
    assert accuracy(*clusters(0.0)) == pytest.approx(0.5, abs=0.1)


def test_neighbours_are_those_of_other_patients() -> None:
    """In each of two patients the classes lie apart, but the other way round in the other."""
    features, foreground, patients = clusters(0.0, patients=2)
    features[:, 0] += np.where(foreground == (patients == 0), 1000, -1000)
    found = accuracy(features, foreground, patients)
    assert found is not None
    assert found < 0.05  # by neighbours in its own patient it would be 1


def test_how_much_of_a_class_others_have_does_not_matter() -> None:
    """Nothing but noise, and patients of whom one has most of the foreground: still chance."""
    features, _, patients = clusters(0.0)
    foreground = np.random.default_rng(1).random(len(patients)) < np.where(patients == 0, 0.9, 0.3)
    assert accuracy(features, foreground, patients) == pytest.approx(0.5, abs=0.1)


def test_without_a_class_in_other_patients_there_is_no_vote() -> None:
    features, foreground, patients = clusters(20.0)
    assert accuracy(features, foreground, np.zeros_like(patients)) is None
    assert accuracy(features, np.ones_like(foreground), patients) is None
    only_first = foreground & (patients == 0)
    votes = neighbour_votes(features, only_first, patients)
    assert np.isnan(votes[patients == 0]).all()
    assert not np.isnan(votes[patients != 0]).any()


def test_balanced_accuracy_by_hand() -> None:
    foreground = np.array([True, True, False, False, False, False])
    votes = np.array([1.0, 0.0, 1.0, 1.0, 1.0, np.nan])
    assert balanced_accuracy(votes, foreground) == 0.75
    assert balanced_accuracy(votes[2:], foreground[2:]) is None


def test_scale_of_a_channel_does_not_matter() -> None:
    features = np.array([[0.0, 5.0, 1.0], [2000.0, 5.0, 3.0]], dtype=np.float32)
    assert scaled(features).tolist() == [[-1, 0, -1], [1, 0, 1]]


def test_interval_of_a_difference() -> None:
    _, foreground, patients = clusters(0.0, patients=6)
    rng = np.random.default_rng(0)
    good, poor = np.ones(len(foreground)), (rng.random(len(foreground)) < 0.5).astype(float)
    assert difference_interval([good], [good], foreground, patients) == (0.0, 0.0)
    # Two runs, of which one finds nothing: their noise is more than that of the patients.
    half = balanced_accuracy(poor, foreground)
    assert half is not None
    of_runs = t.ppf(0.975, 1) * (1 - half) / 2  # standard error of two runs that differ by 1 - half
    low, high = difference_interval([good, poor], [poor, poor], foreground, patients) or (0, 0)
    assert (high - low) / 2 == pytest.approx(of_runs, rel=0.02)
    assert (low + high) / 2 == pytest.approx((1 - half) / 2, abs=0.02)
    interval = difference_interval([good, good], [poor], foreground, patients)
    assert interval is not None
    score = balanced_accuracy(poor, foreground)
    assert score is not None
    assert interval[0] < 1 - score < interval[1]
    assert 0.02 < interval[1] - interval[0] < 0.2
    assert difference_interval([good, good], [poor], foreground, patients) == interval
    assert difference_interval([good], [poor], foreground, np.zeros_like(patients)) is None
