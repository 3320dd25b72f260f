import numpy as np
import pytest
from scipy.stats import bootstrap

from mdkd_auto.metrics.statistics import holm, paired_comparison


def test_hand_worked_signed_rank():
    """Six differences of one sign: p = 2 / 2**6."""
    a, b = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    result = paired_comparison(a, b)
    assert result.p_value == pytest.approx(2 / 64)
    assert result.mean_difference == pytest.approx(np.mean(a) - 0.4)
    assert (result.pairs, result.left_out, result.note) == (6, 0, "")


def test_pairs_that_are_not_evaluable_are_left_out():
    result = paired_comparison([0.5, None, 0.7, None], [0.4, 0.4, None, None])
    assert (result.pairs, result.left_out) == (1, 3)
    assert result.mean_difference == pytest.approx(0.1)
    assert result.interval is None


def test_no_test_says_why():
    few = paired_comparison([1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5)
    assert few.p_value is None
    assert "5 differences" in few.note
    equal = paired_comparison([0.5] * 8, [0.5] * 8)
    assert equal.p_value is None
    assert "all differences are zero" in equal.note
    assert equal.interval == (0, 0)
    nothing = paired_comparison([None], [0.5])
    assert (nothing.mean_difference, nothing.interval, nothing.p_value) == (None, None, None)


def test_interval_is_seeded_and_agrees_with_scipy():
    differences = np.random.default_rng(3).normal(0.1, 0.5, 40)
    result = paired_comparison(differences.tolist(), [0.0] * 40, seed=1)
    assert result == paired_comparison(differences.tolist(), [0.0] * 40, seed=1)
    assert result.interval != paired_comparison(differences.tolist(), [0.0] * 40, seed=2).interval
    peer = bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    assert result.interval == pytest.approx(tuple(peer.confidence_interval), abs=0.01)


def test_exchange_turns_the_sign():
    a, b = np.random.default_rng(4).random((2, 20))
    forth, back = paired_comparison(a.tolist(), b.tolist()), paired_comparison(b.tolist(), a.tolist())
    assert forth.mean_difference == pytest.approx(-back.mean_difference)
    assert forth.p_value == pytest.approx(back.p_value)
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]))


def test_many_cases_are_resampled_in_blocks():
    a = np.random.default_rng(5).normal(0, 1, 3000)
    lower, upper = paired_comparison(a.tolist(), [0.0] * 3000).interval
    error = a.std() / np.sqrt(3000)
    assert (lower, upper) == pytest.approx((a.mean() - 1.96 * error, a.mean() + 1.96 * error), abs=0.1 * error)


def test_unfit_scores():
    with pytest.raises(ValueError, match="a has 2 and b has 1"):
        paired_comparison([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="finite"):
        paired_comparison([float("nan")], [0.1])


def test_holm_hand_worked():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.9]) == (1, 1)
    assert holm([None, 0.01, None, 0.02]) == (None, 0.02, None, 0.02)
    assert holm([]) == ()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])
