import itertools

import pytest

from mdkd_auto.core.settings import Settings
from mdkd_auto.training.schedules import contrastive_weight, curriculum, temperature


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.0), (9.99, 0.0), (10, 0.0), (15, 0.1), (35, 0.5), (60, 1.0), (61, 1.0), (300, 1.0)],
)
def test_curriculum_by_hand(epoch: float, expected: float) -> None:
    assert curriculum(epoch / 300, Settings()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("epoch", "expected"), [(9.99, 0.0), (10, 0.0), (22.5, 0.1464466), (35, 0.5), (60, 1.0)])
def test_a_ramp_of_half_a_cosine(epoch: float, expected: float) -> None:
    assert curriculum(epoch / 300, Settings(ramp="cosine")) == pytest.approx(expected, abs=1e-6)


def test_a_shorter_run_scales_warm_up_and_ramp() -> None:
    settings = Settings(epochs=30, iterations_per_epoch=10)  # warm-up of one epoch, ramp of five
    assert curriculum(9 / 300, settings) == 0
    assert curriculum(35 / 300, settings) == pytest.approx(0.5)


def test_no_warm_up_and_no_ramp() -> None:
    assert curriculum(0.0, Settings(warmup_epochs=0, ramp_epochs=0)) == 1
    assert curriculum(0.0, Settings(warmup_epochs=0, ramp_epochs=50)) == 0
    assert curriculum(9.9 / 300, Settings(ramp_epochs=0)) == 0
    assert curriculum(10 / 300, Settings(ramp_epochs=0)) == 1


def test_contrastive_weight_is_linear() -> None:
    values = [contrastive_weight(progress, Settings(beta=0.5)) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert values == pytest.approx([0.0, 0.125, 0.25, 0.5])


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1.0), (1, 0.99), (2, 0.9801), (100, 0.3660323), (300, 0.1)])
def test_temperature_by_hand(epoch: int, expected: float) -> None:
    assert temperature(epoch / 300, Settings()) == pytest.approx(expected, rel=1e-6)


def test_temperature_falls_to_its_floor() -> None:
    settings = Settings(temperature_start=2.0, temperature_minimum=0.3)
    values = [temperature(step / 100, settings) for step in range(101)]
    assert values[0] == 2.0
    assert values[-1] == 0.3
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
