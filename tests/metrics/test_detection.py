"""Scores of detectors by hand, against COCO's own evaluation, and against slow clear references."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mdkd_auto.metrics.detection import (
    COCO_IOUS,
    DETECTION_METRICS,
    FALLBACK_THRESHOLD,
    FROC_RATES,
    BoxCounts,
    Boxes,
    _greedy,
    average_precision,
    best_threshold,
    bootstrap_interval,
    box_ious,
    counts_at,
    froc,
    froc_curve,
    image_counts,
    matched_precision,
    matches,
    matches_at,
    score_boxes,
    score_intervals,
    threshold_scores,
)

Images = tuple[list[Boxes], list[Boxes]]


def boxes(*rows: Sequence[float], classes: Sequence[int] | None = None, scores: Sequence[float] | None = None) -> Boxes:
    return Boxes(
        np.array(rows, dtype=np.float64).reshape(-1, 4),
        np.array(classes or [0] * len(rows), dtype=np.int64),
        None if scores is None else np.array(scores, dtype=np.float64),
    )


NOTHING, FOUND_NOTHING = boxes(), boxes(scores=[])
A, B, ELSEWHERE = (0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)


def drawn(seed: int, images: int = 25, classes: int = 3, most: int = 6, noise: int = 4) -> Images:
    """Images of true boxes, shifted detections of most of them, and others; scores of two digits, so that some tie."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for number in range(images):
        count = 0 if number % 5 == 0 else int(rng.integers(most + 1))
        corner = rng.integers(0, 60, size=(count, 2)).astype(float)
        real = np.concatenate([corner, corner + rng.integers(5, 25, size=(count, 2))], axis=1)
        kinds = rng.integers(classes, size=count)
        truth.append(Boxes(real, kinds))
        near = np.repeat(real, 2, axis=0)[rng.random(2 * count) < 0.7]
        near_kinds = np.repeat(kinds, 2)[: len(near)]
        near = near + rng.normal(0, 2, size=near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        others = rng.uniform(0, 60, size=(0 if number % 7 == 0 else noise, 2))
        found = np.concatenate([near, np.concatenate([others, others + 15], axis=1)])
        found_kinds = np.concatenate([near_kinds, rng.integers(classes, size=len(others))])
        detections.append(Boxes(found, found_kinds, np.round(rng.random(len(found)), 2)))
    return truth, detections


def coco_eval(truth: list[Boxes], detections: list[Boxes]) -> dict[str, float]:
    """pycocotools."""

    def rows(images: list[Boxes]) -> list[dict[str, object]]:
        return [
            {
                "image_id": image,
                "category_id": int(kind) + 1,
                "iscrowd": 0,
                "area": (x2 - x1) * (y2 - y1),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": 0.0 if found.scores is None else float(found.scores[number]),
            }
            for image, found in enumerate(images, start=1)
            for number, ((x1, y1, x2, y2), kind) in enumerate(zip(found.boxes.tolist(), found.classes, strict=True))
        ]

    kinds = {int(kind) + 1 for image in (*truth, *detections) for kind in image.classes}
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        real.dataset = {
            "images": [{"id": number} for number in range(1, len(truth) + 1)],
            "categories": [{"id": kind} for kind in sorted(kinds)],
            "annotations": [{**row, "id": number} for number, row in enumerate(rows(truth), start=1)],
        }
        real.createIndex()
        evaluation = COCOeval(real, real.loadRes(rows(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"map": float(evaluation.stats[0]), "map_50": float(evaluation.stats[1])}


# --- average precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_coco(seed: int) -> None:
    truth, detections = drawn(seed)
    expected = coco_eval(truth, detections)
    assert average_precision(truth, detections) == pytest.approx(expected, abs=1e-7)  # torchmetrics' are of 32 bits


@pytest.mark.parametrize("seed", range(4))
def test_ours_of_the_bootstrap_equals_torchmetrics(seed: int) -> None:
    truth, detections = drawn(seed)
    expected = average_precision(truth, detections)
    levels = matches_at(truth, detections, COCO_IOUS)
    assert matched_precision(levels[:1]) == pytest.approx(expected["map_50"], abs=1e-6)
    assert matched_precision(levels) == pytest.approx(expected["map"], abs=1e-6)


def test_of_an_image_and_class_the_hundred_best_count() -> None:
    truth, detections = drawn(7, images=6, classes=2, noise=260)
    expected = coco_eval(truth, detections)
    assert average_precision(truth, detections) == pytest.approx(expected, abs=1e-7)
    assert matched_precision(matches_at(truth, detections, COCO_IOUS)) == pytest.approx(expected["map"], abs=1e-6)


def test_average_precision_by_hand() -> None:
    truth = [boxes(A, B)]
    detections = [boxes(A, ELSEWHERE, B, scores=[0.9, 0.8, 0.7])]
    # precision 1 up to a recall of 0.5 (51 of 101 recalls), 2/3 beyond
    expected = (51 + 50 * 2 / 3) / 101
    assert average_precision(truth, detections) == pytest.approx({"map_50": expected, "map": expected})
    assert matched_precision((matches(truth, detections),)) == pytest.approx(expected)


def test_a_class_without_a_true_box_does_not_count() -> None:
    truth = [boxes(A, classes=[1])]
    detections = [boxes(A, B, classes=[1, 0], scores=[0.5, 0.9])]
    assert average_precision(truth, detections) == pytest.approx({"map_50": 1, "map": 1})
    assert matched_precision((matches(truth, detections),)) == pytest.approx(1)


def test_weights_are_copies_of_images() -> None:
    truth, detections = drawn(3)
    times = np.random.default_rng(0).integers(3, size=len(truth))
    copies = [number for number, count in enumerate(times) for _ in range(count)]
    copied = matches([truth[number] for number in copies], [detections[number] for number in copies])
    matched = matches(truth, detections)
    assert froc_curve(matched, times) == pytest.approx(froc_curve(copied))
    assert BoxCounts(*(times @ image_counts(matched, 0.5))) == counts_at(copied, 0.5)
    assert matched_precision((matched,), times) == pytest.approx(matched_precision((copied,)), abs=1e-7)


# --- matching -------------------------------------------------------------------------------------------------------


def test_ious_by_hand() -> None:
    a = np.array([A, (5, 0, 15, 10), (3, 3, 3, 3)], dtype=float)
    assert box_ious(a, a) == pytest.approx(np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]))


def test_matching_by_hand() -> None:
    truth = [boxes(A, B, classes=[0, 1]), NOTHING]
    detections = [
        boxes(A, (0, 0, 10, 5), A, B, scores=[0.6, 0.9, 0.7, 0.8], classes=[0, 0, 0, 0]),
        boxes(A, scores=[0.5]),
    ]
    found = matches(truth, detections)
    assert found.scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    # 0.9 has an IoU of exactly 0.5 and takes the box; B is of another class; the others come too late
    assert found.hits.tolist() == [True, False, False, False, False]
    assert found.images.tolist() == [0, 0, 0, 0, 1]
    assert found.truths.tolist() == [[1, 1], [0, 0]]
    assert matches(truth, detections, iou=0.6).hits.tolist() == [False, False, True, False, False]


def slow_hits(truth: list[Boxes], detections: list[Boxes], iou: float) -> dict[tuple[int, int, float, float], bool]:
    """Whether each detection (image, class, score, x1) hits, box by box."""
    result = {}
    for image, (real, found) in enumerate(zip(truth, detections, strict=True)):
        assert found.scores is not None
        taken: set[int] = set()
        for row in sorted(range(len(found.boxes)), key=lambda row: -found.scores[row]):
            best, largest = None, iou
            for other in range(len(real.boxes)):
                if other in taken or real.classes[other] != found.classes[row]:
                    continue
                (a, b, c, d), (e, f, g, h) = found.boxes[row], real.boxes[other]
                inside = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
                value = inside / ((c - a) * (d - b) + (g - e) * (h - f) - inside)
                if value >= largest:
                    best, largest = other, value
            if best is not None:
                taken.add(best)
            result[image, int(found.classes[row]), float(found.scores[row]), float(found.boxes[row, 0])] = (
                best is not None
            )
    return result


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
def test_matching_equals_a_slow_reference(iou: float) -> None:
    truth, detections = drawn(11)
    found = matches(truth, detections, iou)
    slow = slow_hits(truth, detections, iou)
    assert sorted(zip(found.images, found.classes, found.scores, found.hits, strict=True)) == sorted(
        (image, kind, score, hit) for (image, kind, score, _), hit in slow.items()
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="The truth has 2 images, the detections 1"):
        matches([NOTHING, NOTHING], [FOUND_NOTHING])
    with pytest.raises(ValueError, match="1 detections without scores"):
        matches([NOTHING], [boxes(A)])


# --- FROC and thresholds --------------------------------------------------------------------------------------------


def four_images() -> Images:
    """By falling score: hit, miss, hit, miss, miss, of three true boxes in two of four images."""
    truth = [boxes(A, B), boxes(A), NOTHING, NOTHING]
    detections = [
        boxes(A, ELSEWHERE, scores=[0.9, 0.8]),
        boxes(A, scores=[0.7]),
        boxes(A, scores=[0.6]),
        boxes(A, scores=[0.5]),
    ]
    return truth, detections


def test_froc_by_hand() -> None:
    matched = matches(*four_images())
    # (false positives per image, sensitivity): (0, 1/3), (0.25, 2/3), (0.5, 2/3), (0.75, 2/3)
    assert froc_curve(matched) == pytest.approx((0.5, *[2 / 3] * 6))
    assert froc(matched) == pytest.approx((0.5 + 6 * 2 / 3) / 7)


def test_equal_scores_are_one_point() -> None:
    matched = matches([boxes(A)], [boxes(ELSEWHERE, A, scores=[0.5, 0.5])])
    # from (0, 0) straight to (1, 1), whichever of the two came first
    assert froc_curve(matched) == pytest.approx((0.125, 0.25, 0.5, 1, 1, 1, 1))


@pytest.mark.parametrize("seed", range(3))
def test_froc_equals_a_slow_reference(seed: int) -> None:
    truth, detections = drawn(seed)
    matched = matches(truth, detections)
    total = sum(len(image.boxes) for image in truth)
    best = {0.0: 0.0}  # sensitivity by false positives per image
    for threshold in sorted(set(matched.scores), reverse=True):
        above = matched.scores >= threshold
        rate = float((above & ~matched.hits).sum()) / len(truth)
        best[rate] = max(best.get(rate, 0.0), float((above & matched.hits).sum()) / total)
    rates = sorted(best)
    expected = []
    for rate in FROC_RATES:
        below = max(known for known in rates if known <= rate)
        above = min((known for known in rates if known > rate), default=None)
        share = 0.0 if above is None else (rate - below) / (above - below)
        expected.append(best[below] + share * (best[above] - best[below] if above is not None else 0.0))
    assert froc_curve(matched) == pytest.approx(tuple(expected))


def test_counts_and_scores_at_a_threshold() -> None:
    matched = matches(*four_images())
    assert counts_at(matched, 0.7) == BoxCounts(true_positive=2, false_positive=1, false_negative=1)
    expected = {"sensitivity": 2 / 3, "precision": 2 / 3, "f1": 4 / 6}
    assert threshold_scores(counts_at(matched, 0.7)) == pytest.approx(expected)
    assert counts_at(matched, 0.95) == BoxCounts(0, 0, 3)
    assert image_counts(matched, 0.6).tolist() == [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert threshold_scores(BoxCounts(0, 0, 3)) == {"sensitivity": 0, "precision": None, "f1": 0}
    assert threshold_scores(BoxCounts(0, 0, 0)) == {"sensitivity": None, "precision": None, "f1": None}


def test_best_threshold() -> None:
    assert best_threshold(matches(*four_images())) == 0.7  # F1 of 0.5, 0.4, 0.67, 0.57, 0.5
    late = matches([boxes(A, B, ELSEWHERE)], [boxes(A, A, A, B, scores=[0.9, 0.8, 0.7, 0.6])])
    assert counts_at(late, 0.9) == BoxCounts(1, 0, 2)  # F1 1/2
    assert counts_at(late, 0.6) == BoxCounts(2, 2, 1)  # F1 4/7
    assert best_threshold(late) == 0.6
    equal = matches([boxes(A, B)], [boxes(A, ELSEWHERE, (40, 0, 45, 5), B, scores=[0.9, 0.8, 0.7, 0.6])])
    assert threshold_scores(counts_at(equal, 0.9))["f1"] == threshold_scores(counts_at(equal, 0.6))["f1"]  # 2/3, 4/6
    assert best_threshold(equal) == 0.9
    assert best_threshold(matches([boxes(A)], [FOUND_NOTHING])) == FALLBACK_THRESHOLD
    assert best_threshold(matches([NOTHING], [boxes(A, scores=[0.3])])) == FALLBACK_THRESHOLD
    assert best_threshold(matches([], [])) == FALLBACK_THRESHOLD


# --- all together ---------------------------------------------------------------------------------------------------


def test_score_boxes_by_hand() -> None:
    mean = score_boxes(*four_images(), threshold=0.6)
    values = {name: metric.mean for name, metric in mean.metrics.items()}
    assert tuple(values) == DETECTION_METRICS
    average = (34 + 33 * 2 / 3) / 101  # precision 1 up to a recall of 1/3, 2/3 up to 2/3
    assert values == pytest.approx(
        {"map_50": average, "map": average, "froc": 4.5 / 7, "sensitivity": 2 / 3, "precision": 0.5, "f1": 4 / 7}
    )
    assert (mean.cases, mean.negative_cases, mean.negative_cases_with_false_positives) == (4, 2, 1)
    assert {metric.evaluable for metric in mean.metrics.values()} == {4}


@pytest.mark.parametrize("images", [0, 2])
def test_nothing_anywhere(images: int) -> None:
    mean = score_boxes([NOTHING] * images, [FOUND_NOTHING] * images, threshold=0.5)
    assert all(metric.mean is None and metric.left_out == images for metric in mean.metrics.values())
    assert mean.negative_cases == images


def test_negatives_only() -> None:
    values = score_boxes([NOTHING], [boxes(A, scores=[0.8])], threshold=0.5).metrics
    assert {name for name, metric in values.items() if metric.mean is not None} == {"precision", "f1"}
    assert values["precision"].mean == values["f1"].mean == 0


def test_no_detections() -> None:
    values = score_boxes([boxes(A), NOTHING], [FOUND_NOTHING] * 2, threshold=0.5).metrics
    assert {name: metric.mean for name, metric in values.items()} == {
        "map_50": 0,
        "map": 0,
        "froc": 0,
        "sensitivity": 0,
        "precision": None,
        "f1": 0,
    }


# --- intervals ------------------------------------------------------------------------------------------------------


def test_equal_boxes_match_at_any_threshold() -> None:
    """Rounding may leave an overlap just below 1."""
    assert _greedy(np.array([[1 - 1e-12, 0.9]]), 1.0).tolist() == [True]
    assert _greedy(np.array([[1 - 1e-8, 0.9]]), 1.0).tolist() == [False]


@pytest.mark.parametrize(("without", "known"), [(0, True), (50, True), (51, False), (100, False)])
def test_an_interval_needs_a_value_of_half_the_draws(without: int, known: bool) -> None:
    calls = iter(range(100))
    found = bootstrap_interval(lambda counts: None if next(calls) < without else 0.5, ["a", "b", "c"], draws=100)
    assert found == ((0.5, 0.5) if known else None)


def test_patients_are_drawn_whole() -> None:
    seen = []

    def value_of(drawn: np.ndarray) -> float:
        seen.append(drawn.tolist())
        return float(drawn[0])

    groups = ["p", "q", "p", "r"]
    assert bootstrap_interval(value_of, groups, draws=50) == bootstrap_interval(value_of, groups, draws=50)
    assert all(first == third and first + second + last == 3 for first, second, third, last in seen)
    assert bootstrap_interval(value_of, ["p", "p"]) is None
    assert bootstrap_interval(lambda drawn: None, groups) is None


def test_interval_of_a_share() -> None:
    hits = np.arange(200) < 60  # 0.3 of 200 patients: a standard error of 0.0324
    interval = bootstrap_interval(lambda drawn: float(drawn @ hits) / 200, [str(number) for number in range(200)])
    assert interval == pytest.approx((0.3 - 1.96 * 0.0324, 0.3 + 1.96 * 0.0324), abs=0.01)


def test_intervals_hold_the_scores() -> None:
    truth, detections = drawn(5)
    groups = [f"p{number // 2}" for number in range(len(truth))]
    scores = score_boxes(truth, detections, 0.4).metrics
    intervals = score_intervals(truth, detections, groups, 0.4)
    assert tuple(intervals) == DETECTION_METRICS
    for name, interval in intervals.items():
        assert interval is not None
        assert interval[0] < scores[name].mean < interval[1], name
    none = score_intervals([NOTHING] * 2, [FOUND_NOTHING] * 2, ["a", "b"], 0.5)
    assert set(none.values()) == {None}


def test_torchmetrics_is_not_loaded_before_it_is_needed() -> None:
    heavy = "{'torch', 'torchmetrics', 'faster_coco_eval'}"
    code = f"import sys, mdkd_auto.metrics.detection; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
