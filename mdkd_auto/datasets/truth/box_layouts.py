"""Detect the layout of box numbers from the position of all boxes of a data set.

Corners in place of x, y, width, height are valid numbers, yet every box is wrong. A single box is little evidence, but
all boxes together are: they leave their images as read, and fit in another layout.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mdkd_auto.core.records import Box
from mdkd_auto.formats.exif import Size

Four = tuple[float, float, float, float]

TOLERANCE = 1.0  # pixels a box may exceed its image: rounding, counting from 0 or 1
OUTLINE_TOLERANCE = 2.0  # pixels between a box and its outline: rounding and counting, at both ends
AREA_TOLERANCE = 0.01  # relative
ENOUGH_TO_COMPARE = 3  # boxes; with fewer an area may agree by chance
ENOUGH_TO_DOUBT = 4  # boxes
DOUBTED_SHARE = 0.1  # fraction of the boxes, and at least two, that leave their image
ENOUGH_FOR_REACH = 30  # boxes
SMALLER, LARGER = 0.5, 1.25  # reach of all boxes relative to their images, if boxes were drawn on another size
MISFIT_AREA = 1.05  # relative to the box: an object inside it has no larger area


class Layout(NamedTuple):
    """A box layout; ``corners`` converts its four numbers to x1, y1, x2, y2."""

    name: str
    corners: Callable[[Four], Four]
    swapped: bool = False  # y before x

    def numbers(self, box: Box) -> Four:
        """Write a box in this layout, for x, y, width, height and corners."""
        found = (box.x, box.y, box.width, box.height)
        return found if self is SIZES else _from_sizes(found)


class Contents(NamedTuple):
    """A box as written, with the outline and area of its annotation."""

    numbers: Four
    outline: Four | None  # x1, y1, x2, y2
    area: float | None


class Suspicion(NamedTuple):
    """Evidence against the expected layout: an error if certain, otherwise a warning."""

    certain: bool
    found: str
    remedy: str

    @property
    def kind(self) -> str:
        """Key of datasets/problems.py."""
        return "box-layout" if self.certain else "box-layout-doubtful"


def _from_sizes(numbers: Four) -> Four:
    x, y, width, height = numbers
    return x, y, x + width, y + height


def _from_centres(numbers: Four) -> Four:
    x, y, width, height = numbers
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _swapped(numbers: Four) -> Four:
    y1, x1, y2, x2 = numbers
    return x1, y1, x2, y2


SIZES = Layout("x, y, width, height", _from_sizes)
CORNERS = Layout("corners x1, y1, x2, y2", lambda numbers: numbers)
LAYOUTS = (
    CORNERS,
    SIZES,
    Layout("the centre's x and y, width, height", _from_centres),
    Layout("corners y1, x1, y2, x2", _swapped, swapped=True),
    Layout("y, x, height, width", lambda numbers: _from_sizes(_swapped(numbers)), swapped=True),
)


def suspect_places(boxes: Sequence[Box], sizes: Sequence[Size], written: Layout) -> Suspicion | None:
    """Check whether the boxes of a data set, each with its image's size, fit their images only in another layout.

    An error if more than half do; a doubt if all of them do, or if boxes seem drawn on images of another size.
    """
    if not boxes:
        return None
    numbers = [written.numbers(box) for box in boxes]
    if suspicion := _suspect_fractions(numbers, written):
        return suspicion
    count = len(numbers)
    fits = _fit(numbers, sizes, written)
    others = [(layout, _fit(numbers, sizes, layout)) for layout in LAYOUTS if layout is not written]
    misfits = count - sum(fits)
    found = f"do not lie in their image as {written.name}, but"
    likely, explained = _likeliest(
        [(layout, [there and not here for here, there in zip(fits, fit, strict=True)]) for layout, fit in others]
    )
    if explained * 2 > count:
        message = f"{explained} of {count} boxes {found} do as {likely}"
        return Suspicion(True, message, f"write {written.name}; the numbers seem to be {likely}")
    likely, explained = _likeliest(others)
    if count >= ENOUGH_TO_DOUBT and misfits >= max(2, DOUBTED_SHARE * count) and explained == count:
        message = f"{misfits} of {count} boxes {found} all do as {likely}"
        return Suspicion(False, message, f"look at some boxes: if they are {likely}, write {written.name}")
    return _suspect_scale([written.corners(one) for one in numbers], sizes, misfits)


def other_layouts(box: Box, size: Size, written: Layout) -> str:
    """Return the layouts in which a box that leaves its image would fit; "" if there are none."""
    numbers = [written.numbers(box)]
    likely, fitting = _likeliest(
        [(layout, _fit(numbers, [size], layout)) for layout in LAYOUTS if layout is not written]
    )
    return likely if fitting else ""


def _likeliest(flags_of: Sequence[tuple[Layout, Sequence[bool]]]) -> tuple[str, int]:
    """Return the layouts most boxes support, and the number of these boxes. Swapped axes last: squares fit both."""
    most = max(sum(flags) for _, flags in flags_of)
    best = [layout for layout, flags in flags_of if sum(flags) == most]
    return " or ".join(
        [candidate.name for candidate in best if not candidate.swapped] or [candidate.name for candidate in best]
    ), most


def _suspect_fractions(numbers: Sequence[Four], written: Layout) -> Suspicion | None:
    """Detect numbers from 0 to 1; formats that count from 1 have already subtracted 1."""
    small = sum(
        all(abs(number) <= 1 for number in box) and any(number != int(number) for number in box) for box in numbers
    )
    if small * 2 <= len(numbers):
        return None
    message = f"{small} of {len(numbers)} boxes have numbers from 0 to 1: fractions of the image"
    remedy = f"write {written.name} in pixels: times the image's width and height; YOLO's x and y are the box's centre"
    return Suspicion(True, message, remedy)


def _suspect_scale(corners: Sequence[Four], sizes: Sequence[Size], misfits: int) -> Suspicion | None:
    """Detect boxes drawn on larger or smaller images: far outside these, or only in their first quarter."""
    count = len(corners)
    pairs = list(zip(corners, sizes, strict=True))
    x, y = max(box[2] / size[0] for box, size in pairs), max(box[3] / size[1] for box, size in pairs)
    if count >= ENOUGH_TO_DOUBT and misfits * 2 > count and min(x, y) >= LARGER:
        message = f"{misfits} of {count} boxes leave their image; the furthest reach {x:.2g} times its width and "
        remedy = f"if they were drawn on images about {x / 2 + y / 2:.2g} times as large, scale them"
        return Suspicion(False, f"{message}{y:.2g} times its height", remedy)
    if count >= ENOUGH_FOR_REACH and misfits == 0 and max(x, y) <= SMALLER:
        message = f"all {count} boxes lie in the first {x:.0%} of the width and {y:.0%} of the height"
        remedy = "right where objects lie there alone; if they were drawn on smaller images, scale them"
        return Suspicion(False, message, remedy)
    return None


def suspect_contents(annotations: Sequence[Contents], written: Layout) -> Suspicion | None:
    """Check whether boxes agree with their objects' outlines, or else areas, only in another layout."""
    judged = [annotation for annotation in annotations if annotation.outline is not None or (annotation.area or 0) > 0]
    count = len(judged)
    if count < ENOUGH_TO_COMPARE:
        return None
    likely, explained = _likeliest(
        [
            (layout, [_agrees(annotation, layout) and not _agrees(annotation, written) for annotation in judged])
            for layout in LAYOUTS
            if layout is not written
        ]
    )
    if explained * 2 > count:
        message = (
            f"{explained} of {count} boxes agree with their segmentation or area as {likely}, not as {written.name}"
        )
        return Suspicion(True, message, f"write {written.name}; the numbers seem to be {likely}")
    larger = sum(_is_larger(annotation, written) for annotation in judged)
    if larger * 2 > count:
        message = f"the segmentation or area of {larger} of {count} objects is larger than their box"
        return Suspicion(False, message, "look at some boxes: were boxes or images resized, and the others not?")
    return None


def _fit(numbers: Sequence[Four], sizes: Sequence[Size], layout: Layout) -> list[bool]:
    """Whether boxes have an area and fit in their image."""
    fits = []
    for box, (width, height) in zip(numbers, sizes, strict=True):
        x1, y1, x2, y2 = layout.corners(box)
        inside = min(x1, y1) >= -TOLERANCE and x2 <= width + TOLERANCE and y2 <= height + TOLERANCE
        fits.append(inside and x2 > x1 and y2 > y1)
    return fits


def _agrees(contents: Contents, layout: Layout) -> bool:
    corners = layout.corners(contents.numbers)
    if contents.outline is not None:
        return all(abs(a - b) <= OUTLINE_TOLERANCE for a, b in zip(corners, contents.outline, strict=True))
    area = contents.area or math.nan
    return abs(_area(corners) - area) <= AREA_TOLERANCE * area


def _is_larger(contents: Contents, layout: Layout) -> bool:
    """Whether the object exceeds its box; boxes without an area are reported elsewhere."""
    corners = layout.corners(contents.numbers)
    if _area(corners) == 0:
        return False
    if contents.outline is None:
        return (contents.area or 0) > MISFIT_AREA * _area(corners)
    (x1, y1, x2, y2), (left, top, right, bottom) = corners, contents.outline
    return max(x1 - left, y1 - top, right - x2, bottom - y2) > OUTLINE_TOLERANCE


def _area(corners: Four) -> float:
    return max(corners[2] - corners[0], 0.0) * max(corners[3] - corners[1], 0.0)
