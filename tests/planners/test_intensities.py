"""Histograms give exactly what numpy gives on all voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdkd_auto.planners.intensities import histogram, percentile, pool, statistics


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(0, 10_000), st.booleans())
def test_pooled_statistics_equal_numpys(sizes: list[int], seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(20, 400, size).astype(np.float32) for size in sizes]
    if whole:
        parts = [np.rint(part / 100).astype(np.float32) for part in parts]
    voxels = np.concatenate(parts).astype(np.float64)
    pooled = pool([histogram(part, whole) for part in parts])
    found = statistics(pooled)
    assert found is not None
    for percent, value in ((0.5, found.percentile_00_5), (50, found.median), (99.5, found.percentile_99_5)):
        assert value == pytest.approx(np.percentile(voxels, percent), rel=1e-12, abs=1e-9)
    assert found.mean == pytest.approx(voxels.mean(), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(voxels.std(), rel=1e-9, abs=1e-9)
    assert (found.count, found.minimum, found.maximum) == (voxels.size, voxels.min(), voxels.max())


def test_percentile_between_two_values() -> None:
    assert percentile(histogram(np.array([1.0, 1.0, 3.0]), True), 75.0) == 2.0  # rank 1.5 of 1, 1, 3


def test_no_voxels_have_no_statistics() -> None:
    assert statistics(histogram(np.zeros(0), True)) is None
