import math

import numpy as np
import pytest
from scipy.stats import t

from mdkd_auto.metrics.noise import Noise, noise_of


def test_variances_by_hand() -> None:
    # Two units that do not differ, trainings with means +1 and -1: no unit variance, that of the trainings 2.
    assert noise_of(np.array([[1.0, 1.0], [-1.0, -1.0]])) == Noise(0.0, 2.0, 2, 2)
    # Units at +1 and -1 in every training: unit variance 2, none of the trainings.
    assert noise_of(np.array([[1.0, -1.0], [1.0, -1.0]])) == Noise(2.0, 0.0, 2, 2)
    # All is rest: mean squares of units and trainings 0, of the rest 4; units and trainings hold none of it.
    assert noise_of(np.array([[1.0, -1.0], [-1.0, 1.0]])) == Noise(0.0, 0.0, 2, 2)
    assert noise_of(np.array([[1.0, 2.0, 3.0]])) == Noise(1.0, 0.0, 3, 1)
    assert noise_of(np.array([[1.0], [2.0]])) is None


def test_what_is_neither_of_units_nor_of_trainings_by_hand() -> None:
    """Three trainings of three units; rows, columns and the whole have mean 0, so all squares are of the rest.

    Sum of squares 12 on (3 - 1) (3 - 1) degrees of freedom: 3. A unit's mean of three trainings holds 1 of it, so units
    that differ by 2, 0 and -2 (variance 4) leave 3.
    """
    rest = np.array([[1.0, -2.0, 1.0], [-2.0, 1.0, 1.0], [1.0, 1.0, -2.0]]) * (12 / 18) ** 0.5
    assert noise_of(rest + np.array([2.0, 0.0, -2.0])) == pytest.approx(Noise(3.0, 0.0, 3, 3))


def test_variances_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 3, (1, 2000)) + rng.normal(0, 2, (500, 1)) + rng.normal(0, 5, (500, 2000))
    found = noise_of(drawn)
    assert found is not None
    assert (found.of_units, found.of_trainings) == pytest.approx((9, 4), rel=0.15)


def test_units_that_some_trainings_lack() -> None:
    """The variances are those of the units that all have; without two of these, those of the trainings' means."""
    whole = np.random.default_rng(1).normal(size=(3, 8))
    holed = np.hstack([whole, np.array([[1.0], [np.nan], [np.nan]])])
    assert noise_of(holed) == noise_of(whole)._replace(units=9)  # type: ignore[union-attr]
    apart = np.array([[1.0, 3.0, np.nan, np.nan], [np.nan, np.nan, 4.0, 8.0]])
    assert noise_of(apart) == Noise(0.0, 8.0, 4, 2, apart=True)


def test_what_is_shown_by_hand() -> None:
    # Units of variance 9, 9 of them: standard error 1, t of 8 degrees of freedom.
    alone = Noise(9.0, 0.0, 9, 1)
    assert alone.shown_by(1) == pytest.approx(t.ppf(0.975, 8) + 0.84)
    assert alone.trainings_to_show(100.0) is None
    # Three trainings of variance 3 add a standard error of 1, with t of 2 degrees of freedom: 4.30.
    three = Noise(9.0, 3.0, 9, 3)
    assert three.shown_by(3) == pytest.approx(math.hypot(t.ppf(0.975, 8), 4.3027) + 0.84 * math.sqrt(2), rel=1e-4)


def test_trainings_to_show() -> None:
    noise = Noise(0.0, 1.0, 40, 3)
    for gain in (0.3, 1.0, 4.0):
        count = noise.trainings_to_show(gain)
        assert count is not None
        assert noise.shown_by(count) <= gain < noise.shown_by(count - 1)
    assert noise.trainings_to_show(1000.0) == 2
    assert Noise(40.0, 1.0, 40, 3).trainings_to_show(1.0) is None  # the units alone stand in the way
    assert noise._replace(apart=True).trainings_to_show(1000.0) is None


def test_trainings_to_show_keep_their_promise() -> None:
    """Simulated experiments of so many trainings find the gain in about 80 %."""
    noise, gain = Noise(0.02**2, 0.03**2, 40, 3), 0.02
    count = noise.trainings_to_show(gain)
    assert count is not None
    rng = np.random.default_rng(0)
    units, trainings = rng.normal(0, 0.02, (3000, 40)), rng.normal(0, 0.03, (3000, count))
    means = gain + units.mean(1) + trainings.mean(1)
    errors = np.hypot(
        t.ppf(0.975, 39) * units.std(1, ddof=1) / math.sqrt(40),
        t.ppf(0.975, count - 1) * trainings.std(1, ddof=1) / math.sqrt(count),
    )
    assert 0.76 < np.mean(means > errors) < 0.84
