import numpy as np
import pytest
from scipy.stats import bootstrap, t

from mdkd_auto.metrics.statistics import RANKS_DISAGREE, Comparison, holm, replicated_comparison


def paired_comparison(a: list[float | None], b: list[float | None], seed: int = 0) -> Comparison:
    """Of one replicate."""
    return replicated_comparison([a], [b], seed)


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
    assert "5 nonzero differences" in few.note
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


def test_an_interval_reaches_further_on_the_side_of_the_rare_large_differences():
    """Nine differences of 0 and one of 1: the mean of a resample is that of ten draws with probability 0.1.

    P(no 1) = 0.9**10 = 0.35 > 0.025, so the lower end is 0; P(at most 2) = 0.930 and P(at most 3) = 0.987, so the upper
    end is 0.3. The interval is (mean - 0.1, mean + 0.2).
    """
    differences = [0.0] * 9 + [1.0]
    assert paired_comparison(differences, [0.0] * 10).interval == pytest.approx((0.0, 0.3))
    assert paired_comparison([0.0] * 10, differences).interval == pytest.approx((-0.3, 0.0))


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
    with pytest.raises(ValueError, match=r"a has \[2\] and b has \[1\]"):
        paired_comparison([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match=r"a has \[1, 2\] and b has \[1, 2\]"):
        replicated_comparison([[0.1], [0.1, 0.2]], [[0.1], [0.1, 0.2]])
    with pytest.raises(ValueError, match="finite"):
        paired_comparison([float("nan")], [0.1])


def test_holm_hand_worked():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.9]) == (1, 1)
    assert holm([None, 0.01, None, 0.02]) == (None, 0.02, None, 0.02)
    assert holm([]) == ()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])


def test_replicates_are_averaged_by_unit():
    a = [[0.6, 0.8, None], [0.8, None, None]]
    b = [[0.5, 0.7, 0.1], [0.5, 0.5, None]]
    found = replicated_comparison(a, b)
    assert (found.pairs, found.left_out, found.replicates) == (2, 1, 2)
    assert found.mean_difference == pytest.approx(((0.1 + 0.3) / 2 + 0.1) / 2)
    assert found.spread == pytest.approx(np.std([0.1, 0.3], ddof=1))


def test_the_noise_of_training_widens_the_interval():
    rng = np.random.default_rng(0)
    b = rng.uniform(0.3, 0.7, 40)
    quiet = [list(b + 0.02 + rng.normal(0, 0.01, 40)) for _ in range(3)]
    noisy = [list(np.array(row) + shift) for row, shift in zip(quiet, (-0.05, 0.0, 0.05), strict=True)]
    calm, loud = (replicated_comparison(rows, [list(b)] * 3) for rows in (quiet, noisy))
    assert calm.interval is not None
    assert loud.interval is not None
    assert calm.interval[0] > 0.01
    assert loud.interval[0] < 0 < loud.interval[1]
    assert calm.mean_difference == pytest.approx(loud.mean_difference)


def test_detectable_difference_is_found_four_times_in_five():
    """Drawn data whose true difference is the detectable one: about 80 % of the tests are significant."""
    rng = np.random.default_rng(1)
    wanted = (t.ppf(0.975, 29) + 0.84) * 0.1 / np.sqrt(30)
    found = [paired_comparison(list(rng.normal(wanted, 0.1, 30)), [0.0] * 30) for _ in range(60)]
    share = np.mean([one.p_value is not None and one.p_value < 0.05 for one in found])
    assert 0.65 < share < 0.95
    assert np.median([one.detectable for one in found]) == pytest.approx(wanted, rel=0.1)


def test_ties_are_tested_by_permutation() -> None:
    """Six differences of one sign and size: p = 2 / 2**6, however many are zero beside them."""
    for zeros in (0, 3, 8, 30):
        assert paired_comparison([1.0] * 6 + [0.0] * zeros, [0.0] * (6 + zeros)).p_value == pytest.approx(2 / 64)
    # means of three trainings that are equal but for rounding
    thirds = replicated_comparison([[0.1] * 7, [0.2] * 7, [0.3] * 7], [[0.2] * 7, [0.1] * 7, [0.3] * 7])
    assert thirds.note == "no test: all differences are zero"


def test_ranks_against_the_mean_are_told() -> None:
    """Most patients are a little worse, a few much better: the test is significant for the opposite of the mean."""
    found = paired_comparison([-0.005 - 0.0001 * unit for unit in range(80)] + [0.4] * 20, [0.0] * 100)
    assert found.mean_difference is not None
    assert found.mean_difference > 0
    assert found.note == RANKS_DISAGREE
    assert paired_comparison([0.1] * 10, [0.0] * 10).note == ""


def test_seeds_of_a_fold_are_one_training() -> None:
    rng = np.random.default_rng(7)
    folds = [0, 1, 0, 1, 0, 1]
    scores = rng.normal(np.array(folds)[:, None] * 0.05, 0.02, (6, 20))
    zero = [[0.0] * 20] * 6
    found = replicated_comparison(scores.tolist(), zero, folds=folds)
    by_fold = [scores[::2].mean(0).tolist(), scores[1::2].mean(0).tolist()]
    wanted = replicated_comparison(by_fold, zero[:2])
    assert found.interval == pytest.approx(wanted.interval)
    assert found.detectable == pytest.approx(wanted.detectable)
    assert found.replicates == 6
    assert found.spread == pytest.approx(np.std(scores.mean(1), ddof=1))
    assert found.interval[0] < replicated_comparison(scores.tolist(), zero).interval[0] - 0.05
    assert replicated_comparison(scores.tolist(), zero, folds=[3] * 6) == replicated_comparison(scores.tolist(), zero)


def test_folds_that_share_no_unit() -> None:
    """Cross-validation: the folds' means hold the patients' noise, and no number of trainings can be told."""
    scores = np.random.default_rng(5).normal(0, 0.045, 50)
    a = [[score if unit % 5 == fold else None for unit, score in enumerate(scores)] for fold in range(5)]
    b = [[0.0 if unit % 5 == fold else None for unit in range(50)] for fold in range(5)]
    found = replicated_comparison(a, b, folds=range(5))
    means = scores.reshape(10, 5).mean(0)
    half = t.ppf(0.975, 4) * means.std(ddof=1) / np.sqrt(5)
    assert found.interval == pytest.approx((scores.mean() - half, scores.mean() + half))
    assert (found.pairs, found.replicates) == (50, 5)
    assert (found.spread, found.replicates_needed) == (None, None)


def test_a_replicate_without_a_pair_does_not_count() -> None:
    found = replicated_comparison([[0.5, 0.6], [None, None]], [[0.4, 0.4], [0.1, 0.1]])
    assert (found.replicates, found.spread) == (1, None)
    assert found.mean_difference == pytest.approx(0.15)


@pytest.mark.parametrize("trainings", [1, 2, 3, 8])
def test_intervals_hold_what_they_promise(trainings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No true difference: about 95 in 100 intervals hold 0, however few the trainings."""
    monkeypatch.setattr("mdkd_auto.metrics.statistics.RESAMPLES", 500)
    rng = np.random.default_rng(trainings)

    def holds() -> bool:
        differences = 0.02 * (rng.normal(size=(1, 40)) + rng.normal(size=(trainings, 40)))
        if trainings > 1:
            differences += 0.02 * rng.normal(size=(trainings, 1))
        lower, upper = replicated_comparison(differences.tolist(), [[0.0] * 40] * trainings).interval
        return lower <= 0 <= upper

    assert 0.90 <= np.mean([holds() for _ in range(200)]) <= 0.99
