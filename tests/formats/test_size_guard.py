import psutil
import pytest

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.size_guard import MOST_GROWTH, SPARE_BYTES, Rest, check_promise, check_resampling


def test_a_header_that_promises_more_than_the_file_holds() -> None:
    check_promise(100, most=100)
    with pytest.raises(ImageError, match="truncated: 99 bytes at most where its header promises 100") as caught:
        check_promise(100, most=99)
    assert caught.value.kind == "truncated"


def test_a_header_that_promises_more_than_the_memory() -> None:
    with pytest.raises(ImageError, match="more than this machine has"):
        check_promise(psutil.virtual_memory().total)


def test_resampling_that_invents_voxels() -> None:
    check_resampling((8, 8, 8), (8.0, 8.0, 8.0), (1.0, 1.0, 1.0))  # 512 for each: allowed
    with pytest.raises(ImageError, match=rf"513 times as many as it has, more than the {MOST_GROWTH}") as caught:
        check_resampling((8, 8, 8), (513.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert caught.value.kind == "spacing-unusual"


def test_resampling_that_does_not_fit_memory() -> None:
    with pytest.raises(ImageError, match="more than this machine's memory"):
        check_resampling((10**5, 10**5, 10**5), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))


def test_zeros_may_follow_the_voxels_but_no_slice() -> None:
    rest = Rest(promised=1000, of_slice=100)
    rest.add(b"\0" * 500)  # padding
    rest = Rest(promised=1000, of_slice=100)
    rest.add(b"x" * 99)  # less than a slice
    with pytest.raises(ImageError, match="promises 1000 bytes, but 100 or more follow"):
        rest.add(b"x")


def test_far_too_many_bytes_are_refused_even_if_they_are_zeros() -> None:
    rest = Rest(promised=10, of_slice=0)
    rest.add(b"\0" * (SPARE_BYTES + 10))
    with pytest.raises(ImageError, match="the header is wrong"):
        rest.add(b"\0")
