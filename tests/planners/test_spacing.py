"""Spacing votes worked by hand."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from mdkd_auto.planners.group_member import Member
from mdkd_auto.planners.spacing import (
    assume_spacing,
    choose_transpose,
    in_plane_spacing,
    lower_for_lesions,
    volume_spacing,
)


def member(
    name: str,
    spacing: tuple[float, float, float],
    shape: tuple[float, float, float] = (100, 200, 200),
    lesions: tuple[float, ...] = (),
) -> Member:
    return Member(
        name=name,
        is_2d=shape[0] == 1,
        spacings_mm=np.array([spacing]),
        shapes=np.array([shape], dtype=float),
        diameters_mm=np.array(lesions, dtype=float),
        specks=0,
    )


def test_each_data_set_has_one_vote_and_close_axes_are_made_equal() -> None:
    members = [member("a", (5, 0.5, 0.5)), member("b", (1, 1.0, 1.0)), member("c", (1, 0.8, 0.84))]
    spacing, _ = in_plane_spacing(members)
    assert spacing == pytest.approx([0.8198, 0.8198], abs=1e-4)  # median (0.8, 0.84), geometric mean


def test_axes_far_apart_stay_apart() -> None:
    spacing, _ = in_plane_spacing([member("a", (5, 0.5, 1.0))])
    assert spacing == pytest.approx([0.5, 1.0])


def test_small_lesions_lower_the_spacing() -> None:
    # median 1.0; b's lesion of 3.2 mm needs 0.8; finest data set 0.5; half 0.5
    members = [member("a", (1, 0.5, 0.5)), member("b", (1, 1, 1), lesions=(3.2,)), member("c", (1, 2, 2))]
    spacing, reasons = in_plane_spacing(members)
    assert spacing == pytest.approx([0.8, 0.8])
    assert "lesion of b is 3.2 mm" in reasons[1].because
    assert "lowered to that" in reasons[1].because


@pytest.mark.parametrize(
    ("lesion", "finest", "expected", "words"),
    [
        (40.0, 0.2, 1.0, "4 are enough"),
        (2.0, 0.7, 0.7, "no information"),
        (0.4, 0.2, 0.5, "because of the cost"),
    ],
)
def test_the_rule_that_bit_is_named(lesion: float, finest: float, expected: float, words: str) -> None:
    target = np.array([1.0, 1.0])
    spacing, reason = lower_for_lesions(target, np.full(2, finest), [member("a", (1, 1, 1), lesions=(lesion,))])
    assert spacing == pytest.approx([expected] * 2)
    rules = {"4 are enough", "lowered to that", "no information", "because of the cost"}
    assert {rule for rule in rules if rule in reason.because} == {words}


def test_tenth_percentile_and_not_the_smallest_lesion_votes() -> None:
    diameters = tuple(float(value) for value in range(4, 15))  # 10th percentile: 5
    spacing, _ = lower_for_lesions(np.full(2, 2.0), np.full(2, 0.1), [member("a", (1, 1, 1), lesions=diameters)])
    assert spacing == pytest.approx([1.25] * 2)


def test_strong_anisotropy_takes_the_tenth_percentile() -> None:
    thick = Member(
        name="a",
        is_2d=False,
        spacings_mm=np.array([[2.0, 0.5, 0.5], [5.0, 0.5, 0.5], [5.0, 0.5, 0.5]]),
        shapes=np.array([[20.0, 512.0, 512.0]] * 3),
        diameters_mm=np.zeros(0),
        specks=0,
    )
    spacing, reasons = volume_spacing([thick])
    assert spacing == pytest.approx([np.percentile([2, 5, 5], 10), 0.5, 0.5])
    assert "10th percentile" in reasons[0].because


@pytest.mark.parametrize(
    ("coarse", "slices"),
    [((2.0, 5.0, 5.0), 200), ((2.0, 5.0, 5.0), 171), ((1.0, 1.4, 1.4), 20), ((0.6, 1.5, 1.5), 20)],
)
def test_many_slices_or_voxels_hardly_longer_are_no_reason_for_it(coarse: tuple[float, ...], slices: int) -> None:
    """512 pixels are not more than three times 171 slices; 1.5 mm are not more than three times 0.5 mm."""
    several = Member(
        name="a",
        is_2d=False,
        spacings_mm=np.array([[size, 0.5, 0.5] for size in coarse]),
        shapes=np.array([[float(slices), 512.0, 512.0]] * 3),
        diameters_mm=np.zeros(0),
        specks=0,
    )
    spacing, reasons = volume_spacing([several])
    assert spacing == pytest.approx([np.median(coarse), 0.5, 0.5])
    assert "10th percentile" not in reasons[0].because


def test_an_assumed_field_of_view(dataset_of: Callable[..., Any], fingerprint_of: Callable[..., Any]) -> None:
    fingerprint = fingerprint_of(dataset_of(11), (1, 200, 256), None)
    spacing, reason = assume_spacing(fingerprint, "CT")
    assert spacing == (1.0, 1.5625, 1.5625)
    assert reason is not None
    assert "256 pixels" in reason.because
    known = fingerprint_of(dataset_of(11), (1, 200, 256), (1.0, 0.7, 0.7))
    assert assume_spacing(known, "CT") == (None, None)
    spacing, reason = assume_spacing(msgspec.structs.replace(known, spacing_known=False), "CT")
    assert spacing == (1.0, 1.5625, 1.5625)
    assert reason is not None
    assert reason.because.startswith("no physical spacing in test images; 256 pixels")


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((1.0, 1.0, 1.0), (0, 1, 2)),
        ((1.0, 3.0, 1.0), (1, 0, 2)),
        ((1.0, 1.0, 1.4), (0, 1, 2)),
        ((1.0, 0.5, 2.0), (2, 0, 1)),
    ],
)
def test_the_coarsest_axis_comes_first(
    spacing: tuple[float, ...],
    expected: tuple[int, ...],
    dataset_of: Callable[..., Any],
    fingerprint_of: Callable[..., Any],
) -> None:
    assert choose_transpose(fingerprint_of(dataset_of(1), (30, 40, 50), spacing), None)[0] == expected
