from collections.abc import Iterator

import numpy as np
import pytest

from mdkd_auto.preprocessing.slabs import resample_slabs


def in_slabs(volume: np.ndarray, *depths: int) -> Iterator[np.ndarray]:
    start = 0
    for depth in depths:
        yield volume[:, start : start + depth]
        start += depth


def whole(volume: np.ndarray, after: tuple[int, int, int], *depths: int, coarse: int | None = None) -> np.ndarray:
    before = volume.shape[1:]
    return np.concatenate(list(resample_slabs(in_slabs(volume, *depths), before, after, coarse)), axis=1)


def test_any_cut_gives_the_same_volume() -> None:
    volume = np.random.default_rng(0).random((2, 12, 5, 6)).astype(np.float32)
    for after in ((12, 5, 6), (30, 7, 4), (5, 5, 6)):
        expected = whole(volume, after, 12)
        assert expected.shape == (2, *after)
        for depths in ((1,) * 12, (5, 7), (11, 1)):
            np.testing.assert_allclose(whole(volume, after, *depths), expected, rtol=1e-6)


def test_the_same_size_is_the_same_volume() -> None:
    volume = np.random.default_rng(0).random((1, 4, 3, 3)).astype(np.float32)
    assert np.array_equal(whole(volume, (4, 3, 3), 2, 2), volume)


def test_a_coarse_axis_takes_the_nearest_plane() -> None:
    volume = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1)
    assert whole(volume, (6, 1, 1), 3, coarse=0).ravel().tolist() == [0, 0, 1, 1, 2, 2]


def test_slabs_that_do_not_make_up_the_volume() -> None:
    volume = np.zeros((1, 4, 3, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="only a part"):
        list(resample_slabs(in_slabs(volume, 2), (4, 3, 3), (8, 3, 3), None))
    with pytest.raises(ValueError, match="is no part of a volume"):
        list(resample_slabs(in_slabs(volume, 4), (4, 3, 5), (8, 3, 5), None))
