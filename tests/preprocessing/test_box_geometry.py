"""Boxes into the preprocessed image and back, by hand and by a property."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdkd_auto.core.records import Box, CaseGeometry
from mdkd_auto.preprocessing.box_geometry import file_boxes, stored_boxes

GEOMETRY = CaseGeometry(  # 100 x 200 pixels (y, x), of which rows 10-90 and columns 20-180 are left, made half as large
    original_shape=(1, 100, 200),
    transpose=(0, 1, 2),
    crop=((0, 1), (10, 90), (20, 180)),
    spacing_mm=(1.0, 1.0, 1.0),
    resampled_shape=(1, 40, 80),
    resampled_spacing_mm=(1.0, 2.0, 2.0),
)
LABELS = {"tumour": (1,), "cyst": (2,)}


def box(x: float, y: float, width: float, height: float, name: str = "tumour") -> Box:
    return Box(class_name=name, x=x, y=y, width=width, height=height)


def test_a_box_is_cropped_and_scaled() -> None:
    (stored,) = stored_boxes([box(40, 30, 20, 10, "cyst")], LABELS, GEOMETRY)
    assert stored.label == 2
    assert stored.corners == pytest.approx((10, 10, 20, 15))


def test_what_was_cropped_away_is_cut_or_left_out() -> None:
    stored = stored_boxes([box(0, 30, 40, 10), box(0, 0, 10, 10)], LABELS, GEOMETRY)
    assert [one.corners for one in stored] == [pytest.approx((0, 10, 10, 15))]


def test_axes_that_change_places_take_their_boxes_along() -> None:
    turned = CaseGeometry(
        original_shape=(1, 100, 200),
        transpose=(0, 2, 1),
        crop=((0, 1), (0, 200), (0, 100)),
        spacing_mm=(1.0, 1.0, 1.0),
        resampled_shape=(1, 100, 50),
        resampled_spacing_mm=(1.0, 2.0, 2.0),
    )
    (stored,) = stored_boxes([box(40, 30, 20, 10)], LABELS, turned)
    assert stored.corners == pytest.approx((15, 20, 20, 30))
    assert file_boxes(np.array([stored.corners]), turned)[0] == pytest.approx((40, 30, 60, 40))


@given(st.floats(20, 150), st.floats(10, 70), st.floats(1, 30), st.floats(1, 20))
def test_the_way_back_undoes_the_way_in(x: float, y: float, width: float, height: float) -> None:
    (stored,) = stored_boxes([box(x, y, width, height)], LABELS, GEOMETRY)
    assert file_boxes(np.array([stored.corners]), GEOMETRY)[0] == pytest.approx((x, y, x + width, y + height))


def test_no_box_stays_none() -> None:
    assert stored_boxes([], LABELS, GEOMETRY) == ()
    assert file_boxes(np.zeros((0, 4)), GEOMETRY).shape == (0, 4)
