"""Boxes in another layout, seen by where they lie."""

import pytest

from mdkd_auto.core.records import Box
from mdkd_auto.datasets.truth.box_layouts import (
    CORNERS,
    SIZES,
    Contents,
    Four,
    Layout,
    Suspicion,
    suspect_contents,
    suspect_places,
)

WIDTH, HEIGHT = 300, 200
# x, y, width, height; six of them are in the right half of their image
OBJECTS = [
    (20, 30, 40, 20),
    (200, 120, 50, 40),
    (250, 20, 40, 60),
    (160, 150, 30, 40),
    (270, 170, 20, 25),
    (180, 60, 60, 30),
    (220, 140, 70, 50),
    (90, 100, 30, 30),
]


def boxes_of(rows: list[Four], layout: Layout = SIZES) -> list[Box]:
    """Boxes as a reader of ``layout`` makes them of these numbers."""
    sizes = rows if layout is SIZES else [(a, b, c - a, d - b) for a, b, c, d in rows]
    return [Box(class_name="cyst", x=x, y=y, width=width, height=height) for x, y, width, height in sizes]


def suspect(rows: list[Four], layout: Layout = SIZES) -> Suspicion | None:
    return suspect_places(boxes_of(rows, layout), [(WIDTH, HEIGHT)] * len(rows), layout)


AS_CORNERS = [(x, y, x + w, y + h) for x, y, w, h in OBJECTS]


def test_sound_boxes_are_not_suspected() -> None:
    assert suspect(OBJECTS) is None
    assert suspect(AS_CORNERS, CORNERS) is None
    assert suspect([]) is None


@pytest.mark.parametrize(
    ("rows", "layout", "words"),
    [
        (AS_CORNERS, SIZES, "corners x1, y1, x2, y2"),  # 6 of 8 leave their image: 250 + 290 > 300
        (OBJECTS, CORNERS, "x, y, width, height"),  # 7 of 8 end before they begin
        ([(y, x, h, w) for x, y, w, h in OBJECTS if x > 190], SIZES, "y, x, height, width"),
        ([(y1, x1, y2, x2) for x1, y1, x2, y2 in AS_CORNERS if x2 > 200], CORNERS, "corners y1, x1, y2, x2"),
        (
            [(150, 100, 200, 150), (160, 100, 220, 120), (140, 90, 200, 160)],
            SIZES,
            "corners x1, y1, x2, y2 or the centre's x and y, width, height",
        ),
        ([(150, 100, 140, 150), (160, 100, 150, 120), (180, 90, 170, 160)], SIZES, "the centre's x and y, width"),
    ],
)
def test_more_than_half_of_the_boxes_lie_as_another_layout(rows: list[Four], layout: Layout, words: str) -> None:
    suspicion = suspect(rows, layout)
    assert suspicion is not None
    assert suspicion.kind == "box-layout"
    assert f"as {words}" in suspicion.found
    assert f"the numbers seem to be {words}" in suspicion.remedy
    assert f"write {layout.name}" in suspicion.remedy


@pytest.mark.parametrize("layout", [SIZES, CORNERS])
def test_fractions_of_the_image(layout: Layout) -> None:
    rows = [
        (x / WIDTH, y / HEIGHT, a / WIDTH, b / HEIGHT) for x, y, a, b in (OBJECTS if layout is SIZES else AS_CORNERS)
    ]
    suspicion = suspect(rows, layout)
    assert suspicion is not None
    assert (suspicion.certain, suspicion.found[:29]) == (True, "8 of 8 boxes have numbers fro")
    assert "YOLO" in suspicion.remedy
    assert suspect([(0, 0, 1, 1)] * 3, SIZES) is None  # one pixel


def test_just_half_is_not_enough() -> None:
    """As corners all eight fit, so that there is a doubt, and 4 of 8 leave their image."""
    rows = [*AS_CORNERS[:1], *[(10, 10, 30 + n, 20) for n in range(3)], *AS_CORNERS[1:5]]
    suspicion = suspect([(float(a), float(b), float(c), float(d)) for a, b, c, d in rows])
    assert suspicion is not None
    assert suspicion.kind == "box-layout-doubtful"
    assert suspicion.found[:65] == "4 of 8 boxes do not lie in their image as x, y, width, height, bu"
    assert suspicion.found.endswith("but all do as corners x1, y1, x2, y2")
    assert "if they are corners x1, y1, x2, y2" in suspicion.remedy


def test_some_boxes_over_the_edge_are_no_other_layout() -> None:
    rows = [*OBJECTS[:6], (290, 20, 30, 30), (100, 190, 30, 40)]
    assert suspect(rows) is None  # as corners 290 > 30


def test_boxes_of_larger_and_of_smaller_images() -> None:
    larger = suspect([(4 * x, 4 * y, 4 * w, 4 * h) for x, y, w, h in OBJECTS])
    assert larger is not None
    assert not larger.certain
    assert larger.remedy == "if they were drawn on images about 3.9 times as large, scale them"
    smaller = suspect([(x / 3, y / 3, w / 3, h / 3) for x, y, w, h in OBJECTS * 4])
    assert smaller is not None
    assert smaller.found == "all 32 boxes lie in the first 32% of the width and 32% of the height"
    assert suspect([(x / 3, y / 3, w / 3, h / 3) for x, y, w, h in OBJECTS * 3]) is None  # too few to say


def test_numbers_beyond_all_images_are_no_error_of_ours() -> None:
    assert suspect([(1e308, 1e308, 1e308, 1e308)] * 5) is not None


def contents(boxes: list[Four], outlines: list[Four | None], areas: list[float | None]) -> Suspicion | None:
    return suspect_contents([Contents(*one) for one in zip(boxes, outlines, areas, strict=True)], SIZES)


def test_boxes_that_their_contents_contradict() -> None:
    none: list[Four | None] = [None] * 3
    unknown: list[float | None] = [None] * 3
    outlines: list[Four | None] = [(50, 50, 90, 70), (10, 80, 30, 90), (5, 6, 80, 70)]
    sizes: list[Four] = [(50, 50, 40, 20), (10, 80, 20, 10), (5, 6, 75, 64)]
    assert contents(sizes, outlines, unknown) is None
    assert contents(sizes, none, [800, 200, 4800]) is None
    centres = contents([(70, 60, 40, 20), (20, 85, 20, 10), (42.5, 38, 75, 64)], outlines, unknown)
    assert centres is not None
    assert "as the centre's x and y, width, height, not as x, y, width, height" in centres.found
    halved = contents([(x / 2, y / 2, w / 2, h / 2) for x, y, w, h in sizes], none, [800, 200, 4800])
    assert halved is not None
    assert (halved.kind, halved.found[:35]) == ("box-layout-doubtful", "the segmentation or area of 3 of 3 ")
    assert contents(sizes[:2], outlines[:2], unknown[:2]) is None  # too few
