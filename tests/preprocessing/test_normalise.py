import numpy as np
import pytest

from mdkd_auto.core.records import Normalisation
from mdkd_auto.preprocessing.normalise import air_value, normalise

CT = Normalisation(scheme="ct", lower=-100.0, upper=300.0, mean=50.0, std=25.0)


def test_ct_is_clipped_then_standardised_by_the_plans_numbers() -> None:
    image = np.array([[[-1000, -100, 50, 100, 3000]]], dtype=np.int16)
    assert normalise(image, CT).tolist() == [[[-6.0, -6.0, 0.0, 2.0, 10.0]]]
    assert air_value(CT) == -6.0


def test_z_score_by_the_images_own_numbers() -> None:
    image = np.array([[[0.0, 2.0, 4.0]]], dtype=np.float32)
    plan = Normalisation(scheme="zscore", masked=False)
    assert normalise(image, plan).ravel() == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5])
    assert air_value(plan) is None


def test_masked_z_score_leaves_zeros_zero() -> None:
    image = np.array([[[0.0, 10.0, 20.0]]], dtype=np.float32)
    assert normalise(image, Normalisation(scheme="zscore", masked=True)).ravel() == pytest.approx([0.0, -1.0, 1.0])


@pytest.mark.parametrize("masked", [False, True])
def test_a_constant_image_becomes_zeros(masked: bool) -> None:
    for value in (0.0, 7.0):
        found = normalise(np.full((1, 2, 2), value, dtype=np.float32), Normalisation(scheme="zscore", masked=masked))
        assert found.dtype == np.float32
        assert not found.any()


def test_the_image_itself_is_left_alone() -> None:
    image = np.full((1, 2, 2), 40.0, dtype=np.float32)
    normalise(image, CT)
    assert (image == 40.0).all()
