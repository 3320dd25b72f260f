"""Boxes turned with their pictures."""

import numpy as np
import pytest

from mdkd_auto.core.records import Box
from mdkd_auto.formats.exif import TURNS, Frame, turn_box
from mdkd_auto.formats.image import to_upright

# x, y, width, height on the stored picture of 10 x 6 -> the same box on the upright one, by hand.
TURNED = {
    1: (1, 2, 4, 3),
    2: (5, 2, 4, 3),
    3: (5, 1, 4, 3),
    4: (1, 1, 4, 3),
    5: (2, 1, 3, 4),
    6: (1, 1, 3, 4),
    7: (1, 5, 3, 4),
    8: (2, 5, 3, 4),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_a_box_turns_with_its_picture(orientation):
    box = turn_box(Box(class_name="a", x=1, y=2, width=4, height=3), Frame((10, 6), orientation))
    assert (box.x, box.y, box.width, box.height) == TURNED[orientation]
    stored = np.zeros((6, 10), bool)
    stored[2:5, 1:5] = True
    upright = to_upright(stored, orientation)
    assert upright.shape == Frame((10, 6), orientation).upright[::-1]
    x, y, width, height = TURNED[orientation]
    assert upright[y : y + height, x : x + width].all()
    assert upright.sum() == 12


def test_fractions_of_pixels_are_kept():
    box = turn_box(Box(class_name="a", x=0.25, y=1.5, width=2, height=0.75), Frame((10, 6), 6))
    assert (box.x, box.y, box.width, box.height) == (6 - 1.5 - 0.75, 0.25, 0.75, 2)


def test_every_orientation_is_there():
    assert sorted(TURNS) == list(range(1, 9))
