"""EXIF orientation: rotate a stored image upright, and its boxes with it; without numpy."""

import warnings
from typing import Any, NamedTuple

import msgspec

from mdkd_auto.core.records import Box

Size = tuple[int, int]  # width, height in pixels
ORIENTATION_TAG = 0x0112
UPRIGHT = 1


class Turn(NamedTuple):
    """Transpose rows and columns if set; then mirror the result."""

    swap: bool
    mirror_x: bool
    mirror_y: bool


TURNS = {  # EXIF 2.32, tag 274: position of the stored first row and column in the upright image
    1: Turn(False, False, False),
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}


class Frame(NamedTuple):
    """An image's stored size and orientation."""

    stored: Size
    orientation: int = UPRIGHT  # 1 to 8

    @property
    def upright(self) -> Size:
        """The size as displayed and as read."""
        width, height = self.stored
        return (height, width) if TURNS[self.orientation].swap else self.stored


def valid_orientation(value: Any) -> int:
    """Return the orientation in a header, or upright for values other than 1 to 8, as viewers do."""
    return value if isinstance(value, int) and value in TURNS else UPRIGHT


def orientation_of_exif(content: bytes) -> int:
    """Return the orientation of an EXIF block, with or without ``Exif`` prefix; upright if absent or damaged."""
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Corrupt EXIF data": the pixels do not depend on it
            exif.load(content)
            return valid_orientation(exif.get(ORIENTATION_TAG))
    except Exception:  # Pillow raises many types on damaged blocks
        return UPRIGHT


def turn_box(box: Box, frame: Frame) -> Box:
    """Map a box from the stored to the upright image."""
    turn, (width, height) = TURNS[frame.orientation], frame.upright
    x, y, w, h = box.x, box.y, box.width, box.height
    if turn.swap:
        x, y, w, h = y, x, h, w
    if turn.mirror_x:
        x = width - x - w
    if turn.mirror_y:
        y = height - y - h
    return msgspec.structs.replace(box, x=x, y=y, width=w, height=h)
