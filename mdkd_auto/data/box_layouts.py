"""How the four numbers of a box are written, judged by where the boxes of a whole data set lie.

Corners in the place of x, y, width, height are valid numbers, and every box is wrong. One box says little about this,
all of a data set say much: boxes leave their images as read, and lie inside them as something else.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.records import Box

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Size = tuple[int, int]  # width, height

TOLERANCE = 1.0  # pixels that a box may reach beyond its image: rounding, counting from 0 or 1
OUTLINE_TOLERANCE = 2.0  # pixels between a box and its outline: rounding and counting, at both ends
AREA_TOLERANCE = 0.01  # of the area
ENOUGH_TO_COMPARE = 3  # boxes; with fewer an area may agree by chance
ENOUGH_TO_DOUBT = 4  # boxes
DOUBTED_SHARE = 0.1  # of the boxes, and two at least, leave their image
ENOUGH_FOR_REACH = 30  # boxes
SMALLER, LARGER = 0.5, 1.25  # furthest reach of all boxes against their images, of boxes drawn on another size
MISFIT_AREA = 1.05  # of the box: what lies inside it has no larger area


class Layout(NamedTuple):
    """A way to write a box; ``corners`` turns its numbers (N, 4) into x1, y1, x2, y2."""

    name: str
    corners: Callable[[Floats], Floats]
    swapped: bool = False  # y before x

    def numbers(self, boxes: Sequence[Box]) -> Floats:
        """The boxes as this layout writes them, for x, y, width, height and corners."""
        rows = [(box.x, box.y, box.width, box.height) for box in boxes]
        found = np.array(rows, dtype=np.float64).reshape(-1, 4)
        return found if self is SIZES else _from_sizes(found)


class Suspicion(NamedTuple):
    """What speaks against the layout that a file should have: as certain as an error needs, or only a doubt."""

    certain: bool
    found: str
    remedy: str

    @property
    def kind(self) -> str:
        """Of data/problems.py."""
        return "box-layout" if self.certain else "box-layout-doubtful"


def _from_sizes(numbers: Floats) -> Floats:
    x, y, width, height = numbers.T
    return np.stack([x, y, x + width, y + height], axis=1)


def _from_centres(numbers: Floats) -> Floats:
    x, y, width, height = numbers.T
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def _swapped(numbers: Floats) -> Floats:
    return numbers[:, [1, 0, 3, 2]]


SIZES = Layout("x, y, width, height", _from_sizes)
CORNERS = Layout("corners x1, y1, x2, y2", lambda numbers: numbers)
LAYOUTS = (
    CORNERS,
    SIZES,
    Layout("the centre's x and y, width, height", _from_centres),
    Layout("corners y1, x1, y2, x2", _swapped, swapped=True),
    Layout("y, x, height, width", lambda numbers: _from_sizes(_swapped(numbers)), swapped=True),
)


@np.errstate(over="ignore", invalid="ignore")  # of numbers beyond all images
def suspect_places(boxes: Sequence[Box], sizes: Sequence[Size], written: Layout) -> Suspicion | None:
    """Whether the boxes of a data set, each with its image's size, lie in their images as another layout only.

    An error where more than half do; a doubt where all of them do, or where boxes seem drawn on images of another size.
    """
    if not boxes:
        return None
    numbers, limits = written.numbers(boxes), np.array(sizes, dtype=np.float64)
    if suspicion := _suspect_fractions(numbers, written):
        return suspicion
    count, corners = len(boxes), written.corners(numbers)
    fits = _fit(corners, limits)
    others = [(layout, _fit(layout.corners(numbers), limits)) for layout in LAYOUTS if layout is not written]
    likely, explained = _likeliest([(layout, ~fits & fit) for layout, fit in others])
    misfits = count - np.count_nonzero(fits)
    found = f"do not lie in their image as {written.name}, but"
    if explained * 2 > count:
        words = f"{explained} of {count} boxes {found} do as {likely}"
        return Suspicion(True, words, f"write {written.name}; the numbers seem to be {likely}")
    likely, explained = _likeliest([(layout, fit) for layout, fit in others])
    if count >= ENOUGH_TO_DOUBT and misfits >= max(2, DOUBTED_SHARE * count) and explained == count:
        words = f"{misfits} of {count} boxes {found} all do as {likely}"
        return Suspicion(False, words, f"look at some boxes: if they are {likely}, write {written.name}")
    return _suspect_scale(corners, limits, misfits)


def _likeliest(flags_of: Sequence[tuple[Layout, Flags]]) -> tuple[str, int]:
    """The layouts that most boxes speak for, and the number of these boxes. Swapped axes last: squares do not tell."""
    counts = [(layout, int(np.count_nonzero(flags))) for layout, flags in flags_of]
    most = max(count for _, count in counts)
    best = [layout for layout, count in counts if count == most]
    return " or ".join([one.name for one in best if not one.swapped] or [one.name for one in best]), most


def _suspect_fractions(numbers: Floats, written: Layout) -> Suspicion | None:
    """Numbers from 0 to 1; formats that count from 1 have taken 1 from them already."""
    small = (np.abs(numbers) <= 1).all(axis=1) & (numbers != np.round(numbers)).any(axis=1)
    if np.count_nonzero(small) * 2 <= len(numbers):
        return None
    words = f"{np.count_nonzero(small)} of {len(numbers)} boxes have numbers from 0 to 1: fractions of the image"
    remedy = f"write {written.name} in pixels: times the image's width and height; YOLO's x and y are the box's centre"
    return Suspicion(True, words, remedy)


def _suspect_scale(corners: Floats, limits: Floats, misfits: int) -> Suspicion | None:
    """Boxes that were drawn on larger or smaller images: far beyond these, or in their first quarter alone."""
    count = len(corners)
    reach = (corners[:, 2:] / limits).max(axis=0)  # x, y
    if count >= ENOUGH_TO_DOUBT and misfits * 2 > count and reach.min() >= LARGER:
        words = f"{misfits} of {count} boxes leave their image, the furthest reach {reach[0]:.2g} times its width and "
        return Suspicion(
            False, f"{words}{reach[1]:.2g} times its height",
            f"if they were drawn on images about {reach.mean():.2g} times as large, scale them",
        )  # fmt: skip
    if count >= ENOUGH_FOR_REACH and misfits == 0 and reach.max() <= SMALLER:
        words = f"all {count} boxes lie in the first {reach[0]:.0%} of the width and {reach[1]:.0%} of the height"
        return Suspicion(
            False, words, "right where objects lie there alone; if they were drawn on smaller images, scale them"
        )
    return None


@np.errstate(over="ignore", invalid="ignore")
def suspect_contents(numbers: Floats, outlines: Floats, areas: Floats, written: Layout) -> Suspicion | None:
    """Whether boxes (N, 4) agree with their objects' outlines (N, 4: x1, y1, x2, y2) and areas (N,) otherwise alone.

    NaN where there is no outline or no area; an outline goes before the area.
    """
    outlined: Flags = np.isfinite(outlines).all(axis=1)
    judged: Flags = outlined | (np.isfinite(areas) & (areas > 0))
    if np.count_nonzero(judged) < ENOUGH_TO_COMPARE:
        return None
    numbers, outlines, areas, outlined = numbers[judged], outlines[judged], areas[judged], outlined[judged]
    count = len(numbers)
    agrees = _agree(written.corners(numbers), outlines, areas, outlined)
    likely, explained = _likeliest(
        [(layout, ~agrees & _agree(layout.corners(numbers), outlines, areas, outlined))
         for layout in LAYOUTS if layout is not written]
    )  # fmt: skip
    if explained * 2 > count:
        words = f"{explained} of {count} boxes agree with their segmentation or area as {likely}, not as {written.name}"
        return Suspicion(True, words, f"write {written.name}; the numbers seem to be {likely}")
    leaving = np.count_nonzero(_leave(written.corners(numbers), outlines, areas, outlined))
    if leaving * 2 > count:
        words = f"the segmentation or area of {leaving} of {count} objects is larger than their box"
        return Suspicion(False, words, "look at some boxes: were boxes or images resized, and the others not?")
    return None


def _fit(corners: Floats, limits: Floats) -> Flags:
    """Whether boxes have an area and lie in their image."""
    first, last = corners[:, :2], corners[:, 2:]
    inside = (first >= -TOLERANCE) & (last <= limits + TOLERANCE) & (last > first)
    return np.asarray(inside.all(axis=1))


def _agree(corners: Floats, outlines: Floats, areas: Floats, outlined: Flags) -> Flags:
    near = (np.abs(corners - outlines) <= OUTLINE_TOLERANCE).all(axis=1)
    alike = np.asarray(np.abs(_area(corners) - areas) <= AREA_TOLERANCE * areas)
    return np.where(outlined, near, alike)


def _leave(corners: Floats, outlines: Floats, areas: Floats, outlined: Flags) -> Flags:
    beyond = np.concatenate([corners[:, :2] - outlines[:, :2], outlines[:, 2:] - corners[:, 2:]], axis=1)
    larger = np.asarray(areas > MISFIT_AREA * _area(corners))
    return np.where(outlined, (beyond > OUTLINE_TOLERANCE).any(axis=1), larger)


def _area(corners: Floats) -> Floats:
    sides = corners[:, 2:] - corners[:, :2]
    return np.asarray(sides.clip(0).prod(axis=1))
