"""Anchors and queries, by hand."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from mdkd_auto.core.errors import PlanError
from mdkd_auto.core.records import CaseFingerprint, Dataset, Fingerprint, Plan
from mdkd_auto.planners.detection import (
    LEAST_ANCHOR,
    RATIOS,
    about_as_good,
    best_overlap,
    box_counts,
    choose_anchors,
    choose_queries,
)
from mdkd_auto.planners.group import plan_group
from mdkd_auto.planners.plan_request import PlanRequest


def test_overlaps_by_hand() -> None:
    boxes = np.array([[8.0, 8.0], [16.0, 4.0]])  # height, width
    overlaps = best_overlap(boxes, (8.0,), (1.0,))
    assert overlaps == pytest.approx([1.0, 32 / (64 + 64 - 32)])
    assert best_overlap(boxes, (8.0,), (4.0,))[1] == pytest.approx(1.0)


def test_anchors_span_the_boxes_of_every_data_set() -> None:
    few, many = np.full((3, 2), 100.0), np.full((1000, 2), 10.0)
    sizes, ratios, reasons = choose_anchors({"few": few, "many": many})
    assert sizes == pytest.approx((10, 21.5, 46.4, 100), abs=0.1)
    assert ratios == RATIOS
    assert [reason.decision for reason in reasons] == ["anchors"]
    assert "few 100%" in reasons[0].because


def test_small_boxes_are_said_and_long_ones_get_long_anchors() -> None:
    boxes = np.tile([[2.0, 10.0]], (10, 1))
    sizes, ratios, reasons = choose_anchors({"one": boxes})
    assert sizes[0] == LEAST_ANCHOR
    assert max(ratios) > max(RATIOS)
    assert reasons[1].decision == "small boxes"


def test_no_box_is_an_error() -> None:
    with pytest.raises(PlanError, match="nothing to detect"):
        choose_anchors({"one": np.zeros((0, 2))})


@pytest.mark.parametrize(("fullest", "side", "queries"), [(1, 256, 20), (33, 256, 99), (500, 512, 300), (33, 64, 16)])
def test_queries_are_never_more_than_tokens(fullest: int, side: int, queries: int) -> None:
    assert choose_queries(fullest, side)[0] == queries


def test_anchors_are_kept_while_they_place_as_many_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes = {"one": rng.uniform(10, 60, (200, 2))}
    sizes, ratios, _ = choose_anchors(boxes)
    near = tuple(1.02 * size for size in sizes)
    far = tuple(4 * size for size in sizes)
    assert about_as_good(boxes, (near, ratios), (sizes, ratios))
    assert not about_as_good(boxes, (far, ratios), (sizes, ratios))


def test_boxes_are_described_in_pixels_and_where_it_is_known_in_mm() -> None:
    def case(
        name: str, boxes: tuple[tuple[float, float], ...], spacing_mm: float | None, size: tuple[int, int] = (99, 99)
    ) -> CaseFingerprint:
        return CaseFingerprint(
            case_id=name,
            source_hash="",
            voxel_hash="",
            orientation="",
            shape=(1, *size),
            spacing_mm=(1.0, spacing_mm or 1.0, spacing_mm or 1.0),
            spacing_known=spacing_mm is not None,
            cropped_shape=(1, 99, 99),
            nonzero_fraction=1.0,
            integer_valued=True,
            image_minimum=(0.0,),
            image_maximum=(1.0,),
            image_percentiles=((0.0, 1.0),),
            labelled_voxels=1,
            foreground=(None,),
            lesions=(),
            boxes=boxes,
        )

    def said(*cases: CaseFingerprint) -> str:
        return box_counts(
            Fingerprint(
                dataset="Dataset001_A",
                channel_names=("CT",),
                is_2d=True,
                spacing_known=False,
                foreground=(None,),
                cases=cases,
                patients=len(cases),
                classes={"tumour": sum(len(one.boxes) for one in cases)},
            )
        ).because

    square, tall = ((10.0, 10.0),) * 3, ((16.0, 4.0),) * 3  # height, width; 10 and 8 pixels a side
    assert said(case("a", square, 0.5), case("b", (), 0.5)) == (
        "2 images of 2 patients outside the test part, of 99 x 99 pixels; 1 (50%) without a box; boxes an image: "
        "median 1.5, at most 3; boxes of 10, 10, 10 pixels a side (10, 50, 90 %), which are 5, 5, 5 mm; "
        "height / width 1, 1, 1"
    )
    text = said(case("a", square, None), case("b", tall, 0.5))
    assert "boxes of 8, 9, 10 pixels a side (10, 50, 90 %), which are 4, 4, 4 mm of the 3 whose spacing is" in text
    assert text.endswith("height / width 1, 2.5, 4")
    assert " mm" not in said(case("a", square, None))
    assert "5, 5, 5 mm; height" in said(case("a", ((10.0, 10.0),) * 300, 0.5))  # of all, however many
    sizes = [case("a", (), None, (512, 512)), case("b", square, None, (80, 60)), case("c", (), None, (96, 64))]
    text = said(*sizes)
    assert "of 80 x 60, 96 x 64, 512 x 512 pixels (smallest, median, largest); 2 (67%) without a box" in text
    assert "boxes an image: median 0, at most 3" in text


# --- the plan of a group --------------------------------------------------------------------------------------------


@pytest.fixture
def plan_of(dataset_of: Callable[..., Dataset], fingerprint_of: Callable[..., Fingerprint]) -> Callable[..., Plan]:
    """The plan of images of 128 x 256 pixels, of which each shows boxes of these heights and widths."""
    dataset = msgspec.structs.replace(dataset_of(1), task="detection")

    def make(*boxes: tuple[float, float], fullest: int = 1, previous: Plan | None = None, **requested: Any) -> Plan:
        made = fingerprint_of(dataset, (1, 128, 256), None, lesion_mm=None, count=60)
        shown = [boxes[number % len(boxes)] for number in range(60)]
        cases = tuple(msgspec.structs.replace(case, boxes=(box,)) for case, box in zip(made.cases, shown, strict=True))
        first = msgspec.structs.replace(cases[0], boxes=(shown[0],) * fullest)
        fingerprint = msgspec.structs.replace(made, cases=(first, *cases[1:]))
        return plan_group([dataset], {dataset.name: fingerprint}, PlanRequest(**requested), previous)

    return make


def test_anchors_are_in_voxels_of_the_input(plan_of: Callable[..., Plan]) -> None:
    """Boxes of 32 x 32 pixels on images whose longer side of 256 becomes 128 are 16 x 16 voxels there."""
    (part,) = plan_of((32.0, 32.0), input_size=128).configurations
    assert part.patch_size == (128, 128)
    assert part.anchor_sizes[0] == pytest.approx(16)
    assert plan_of((32.0, 32.0)).configurations[0].anchor_sizes[0] == pytest.approx(32)


def test_an_input_is_a_multiple_of_32(plan_of: Callable[..., Plan]) -> None:
    (part,) = plan_of((32.0, 32.0)).configurations
    assert part.patch_size == (256, 256)
    with pytest.raises(PlanError, match="expected a multiple of 32 from 64 on, like 96 or 128"):
        plan_of((32.0, 32.0), input_size=100)


@pytest.mark.parametrize("grown", [1.04, 0.96])
def test_anchors_of_the_same_input_are_kept_while_they_serve(grown: float, plan_of: Callable[..., Plan]) -> None:
    """Whether the rules would now make them larger or smaller."""
    first = plan_of((20.0, 20.0), (60.0, 60.0))
    again = plan_of((20.0 * grown, 20.0 * grown), (60.0 * grown, 60.0 * grown), previous=first)
    assert again.configurations[0].anchor_sizes == first.configurations[0].anchor_sizes
    assert "anchors kept" in [reason.decision for reason in again.configurations[0].reasons]
    other = plan_of((20.0, 20.0), (60.0, 60.0), previous=first, input_size=128)
    assert other.configurations[0].anchor_sizes[0] == pytest.approx(10)
    larger = plan_of((80.0, 80.0), (240.0, 240.0), previous=first)
    assert larger.configurations[0].anchor_sizes != first.configurations[0].anchor_sizes


def test_queries_are_kept_while_they_suffice(plan_of: Callable[..., Plan]) -> None:
    first = plan_of((32.0, 32.0), fullest=20)
    assert first.configurations[0].queries == 60
    assert plan_of((32.0, 32.0), fullest=10, previous=first).configurations[0].queries == 60
    assert plan_of((32.0, 32.0), fullest=30, previous=first).configurations[0].queries == 60
    assert plan_of((32.0, 32.0), fullest=61, previous=first).configurations[0].queries == 183
