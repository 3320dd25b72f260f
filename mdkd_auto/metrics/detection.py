"""Detection scores over a set of images: COCO's average precision, FROC, precision and recall at a threshold.

A detection matches an unmatched true box of its class at an IoU of at least 0.5; higher scores match first. As in
COCO, a second detection of a box is a false positive, and the 100 best detections per image and class count. All
scores are pooled over images; only average precision is a mean over classes, those with a true box.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core import extras
from mdkd_auto.metrics.statistics import INTERVAL
from mdkd_auto.metrics.summary import Mean, MetricMean

DETECTION_METRICS = ("map_50", "map", "froc", "sensitivity", "precision", "f1")
IOU = 0.5
COCO_IOUS = tuple(float(value) for value in np.linspace(0.5, 0.95, 10))  # Lin et al., 2014
COCO_RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100  # per image and class, as in COCO
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per image, LUNA16 (Setio et al., 2017)
FALLBACK_THRESHOLD = 0.5
DRAWS, AVERAGE_PRECISION_DRAWS = 1000, 200
LARGEST_IOU = 1 - 1e-10  # COCO: equal boxes match at any threshold

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]


class Boxes(NamedTuple):
    """The true or detected boxes of one image."""

    boxes: Floats  # (N, 4): x1, y1, x2, y2 in pixels, x2 > x1 and y2 > y1
    classes: Ints  # (N,), from 0
    scores: Floats | None = None  # (N,); None for the truth


class Matches(NamedTuple):
    """Detections of all images by descending score, and whether each matches."""

    scores: Floats  # (D,)
    hits: Bools  # (D,): matches a true box
    images: Ints  # (D,), from 0
    classes: Ints  # (D,)
    truths: Ints  # (images, classes): true boxes


class BoxCounts(NamedTuple):
    """Counts at one score threshold."""

    true_positive: int
    false_positive: int
    false_negative: int


def score_boxes(truth: Sequence[Boxes], detections: Sequence[Boxes], threshold: float) -> Mean:
    """Compute all scores, image by image; sensitivity, precision and F1 count detections with scores >= ``threshold``.

    A score is None if not evaluable: average precision, FROC and sensitivity without a true box, precision without a
    detection, F1 without either. A case is an image; a negative case has no true box.
    """
    matched = matches(truth, detections)
    values = {
        **average_precision(truth, detections),
        "froc": froc(matched),
        **threshold_scores(counts_at(matched, threshold)),
    }
    count = len(truth)
    negative = matched.truths.sum(1) == 0
    false = image_counts(matched, threshold)[:, 1] > 0
    return Mean(
        metrics={
            name: MetricMean(
                mean=values[name],
                std=None,
                evaluable=0 if values[name] is None else count,
                left_out=count if values[name] is None else 0,
            )
            for name in DETECTION_METRICS
        },
        cases=count,
        negative_cases=int(negative.sum()),
        negative_cases_with_false_positives=int((negative & false).sum()),
    )


def score_intervals(
    truth: Sequence[Boxes], detections: Sequence[Boxes], groups: Sequence[str], threshold: float, seed: int = 0
) -> dict[str, Interval | None]:
    """Return the 95 % bootstrap interval of each score over patients; ``groups``: each image's patient."""
    levels = matches_at(truth, detections, COCO_IOUS)
    matched = levels[0]
    counts = image_counts(matched, threshold)

    def interval(value_of: Callable[[Ints], float | None], draws: int = DRAWS) -> Interval | None:
        return bootstrap_interval(value_of, groups, draws, seed)

    def at_threshold(name: str) -> Callable[[Ints], float | None]:
        return lambda drawn: threshold_scores(BoxCounts(*(drawn @ counts).tolist()))[name]

    return {
        "map_50": interval(lambda drawn: matched_precision((matched,), drawn), AVERAGE_PRECISION_DRAWS),
        "map": interval(lambda drawn: matched_precision(levels, drawn), AVERAGE_PRECISION_DRAWS),
        "froc": interval(lambda drawn: froc(matched, drawn)),
        **{name: interval(at_threshold(name)) for name in ("sensitivity", "precision", "f1")},
    }


# --- average precision ----------------------------------------------------------------------------------------------


def average_precision(truth: Sequence[Boxes], detections: Sequence[Boxes]) -> dict[str, float | None]:
    """COCO's ``map_50`` and ``map`` (IoU 0.50:0.95); None without a true box."""
    if not any(len(image.boxes) for image in truth):
        return {"map_50": None, "map": None}
    extras.require(extras.DETECTION, "average precision")
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        iou_thresholds=list(COCO_IOUS),  # torchmetrics' defaults are rounded to 32 bits
        rec_thresholds=COCO_RECALLS.tolist(),
        max_detection_thresholds=[1, 10, MAX_DETECTIONS],
        backend="faster_coco_eval",
    )
    metric.warn_on_many_detections = False
    metric.update([_tensors(image, _scores(image)) for image in detections], [_tensors(image) for image in truth])
    result = metric.compute()
    return {name: float(result[name]) for name in ("map_50", "map")}


def matched_precision(levels: Sequence[Matches], drawn: Ints | None = None) -> float | None:
    """COCO's average precision (101 recalls), averaged over classes and over matches at several IoUs.

    ``drawn``: how often each image counts (images,). None without a true box. Equals :func:`average_precision`, but is
    faster.
    """
    values = []
    for level in levels:
        weights = _weights(level, drawn)
        truths = weights @ level.truths  # (classes,)
        for number in np.flatnonzero(truths):
            rows = np.flatnonzero(level.classes == number)
            values.append(_class_precision(level.hits[rows], weights[level.images[rows]], float(truths[number])))
    return float(np.mean(values)) if values else None


def _class_precision(hits: Bools, weights: Ints, truths: float) -> float:
    """Average precision of one class: detections (D,) by descending score, each counted ``weights`` times."""
    true, all_ = np.cumsum(weights * hits), np.cumsum(weights)
    precision = np.maximum.accumulate((true / np.maximum(all_, 1))[::-1])[::-1]  # highest at this recall or above
    place = np.searchsorted(true / truths, COCO_RECALLS)
    return float(precision[place[place < len(hits)]].sum() / len(COCO_RECALLS))


def _tensors(image: Boxes, scores: Floats | None = None) -> dict[str, Any]:
    import torch

    tensors = {
        "boxes": torch.as_tensor(image.boxes, dtype=torch.float64).reshape(-1, 4),
        "labels": torch.as_tensor(image.classes, dtype=torch.int64),
    }
    return tensors if scores is None else {**tensors, "scores": torch.as_tensor(scores, dtype=torch.float64)}


# --- matching -------------------------------------------------------------------------------------------------------


def matches(truth: Sequence[Boxes], detections: Sequence[Boxes], iou: float = IOU) -> Matches:
    """Match detections as COCO does: per class, by descending score, each takes the best unmatched box.

    Raises ValueError if numbers of images differ or detections have no scores.
    """
    return matches_at(truth, detections, (iou,))[0]


def matches_at(truth: Sequence[Boxes], detections: Sequence[Boxes], ious: Sequence[float]) -> tuple[Matches, ...]:
    """:func:`matches` at each of several IoUs."""
    if len(truth) != len(detections):
        raise ValueError(f"The truth has {len(truth)} images, the detections {len(detections)}; expected as many")
    classes = 1 + max((int(image.classes.max()) for image in (*truth, *detections) if len(image.classes)), default=0)
    truths = np.zeros((len(truth), classes), dtype=np.int64)
    all_scores, all_hits, all_images, all_classes = [], [], [], []
    for number, (real, detected) in enumerate(zip(truth, detections, strict=True)):
        truths[number] = np.bincount(real.classes, minlength=classes)
        scores = _scores(detected)
        for kind in np.unique(detected.classes):
            rows = np.flatnonzero(detected.classes == kind)
            rows = rows[np.argsort(-scores[rows], kind="stable")[:MAX_DETECTIONS]]
            overlap = box_ious(detected.boxes[rows], real.boxes[real.classes == kind])
            all_scores.append(scores[rows])
            all_hits.append(np.stack([_greedy(overlap, iou) for iou in ious]))
            all_images.append(np.full(len(rows), number))
            all_classes.append(np.full(len(rows), kind))
    if not all_scores:
        none = np.zeros(0, dtype=np.int64)
        return (Matches(np.zeros(0), np.zeros(0, dtype=bool), none, none, truths),) * len(ious)
    together = np.concatenate(all_scores)
    order = np.argsort(-together, kind="stable")  # ties: the earlier image first, as in COCO
    images, kinds = np.concatenate(all_images)[order], np.concatenate(all_classes)[order]
    hits = np.concatenate(all_hits, axis=1)[:, order]  # (IoU, D)
    return tuple(Matches(together[order], level, images, kinds, truths) for level in hits)


def box_ious(a: Floats, b: Floats) -> Floats:
    """Intersection over union (A, B) of boxes (A, 4) and (B, 4), corners; 0 for two boxes without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(2)
    union = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def _greedy(overlap: Floats, iou: float) -> Bools:
    """Which detections, rows of ``overlap`` (D, T) by descending score, match a true box."""
    least = min(iou, LARGEST_IOU)
    hits = np.zeros(len(overlap), dtype=bool)
    free = overlap.copy()
    for row in np.flatnonzero((overlap >= least).any(1)):
        best = free.shape[1] - 1 - int(free[row, ::-1].argmax())  # ties: the last box, as in COCO
        if free[row, best] >= least:
            hits[row] = True
            free[:, best] = -1
    return hits


def _scores(image: Boxes) -> Floats:
    if image.scores is None:
        raise ValueError(f"{len(image.boxes)} detections without scores; expected one a box")
    return image.scores


def _weights(matched: Matches, drawn: Ints | None) -> Ints:
    return np.ones(len(matched.truths), dtype=np.int64) if drawn is None else drawn


# --- FROC and thresholds --------------------------------------------------------------------------------------------


def froc(matched: Matches, drawn: Ints | None = None) -> float | None:
    """Mean sensitivity at the seven rates (LUNA16's competition performance metric); None without a true box."""
    curve = froc_curve(matched, drawn)
    return None if curve is None else float(np.mean(curve))


def froc_curve(
    matched: Matches, drawn: Ints | None = None, rates: Sequence[float] = FROC_RATES
) -> tuple[float, ...] | None:
    """Sensitivity at each rate of false positives per image; ``drawn``: how often each image counts.

    Classes are pooled. Interpolation between :func:`froc_points` is linear, as in LUNA16's evaluation; beyond the last
    point its sensitivity is kept. None without a true box.
    """
    points = froc_points(matched, drawn)
    return None if points is None else tuple(float(value) for value in np.interp(rates, *points))


def froc_points(matched: Matches, drawn: Ints | None = None) -> tuple[Floats, Floats] | None:
    """False positives per image (ascending) and sensitivity, one point per threshold, best of ties; from (0, 0)."""
    weights = _weights(matched, drawn)
    truths = int((weights @ matched.truths).sum())
    if truths == 0:
        return None
    counted = weights[matched.images]
    ends = np.append(matched.scores[1:] != matched.scores[:-1], True)[: len(matched.scores)]  # ties share one point
    true = np.append(0, np.cumsum(counted * matched.hits)[ends])
    false = np.append(0, np.cumsum(counted * ~matched.hits)[ends])
    best = np.append(false[1:] != false[:-1], True)
    return false[best] / weights.sum(), true[best] / truths


def best_threshold(matched: Matches) -> float:
    """Return the score threshold with the highest pooled F1, the highest of ties; 0.5 without a match.

    Choose it on validation images, not on test images.
    """
    if not matched.hits.any():
        return FALLBACK_THRESHOLD
    ends = np.append(matched.scores[1:] != matched.scores[:-1], True)
    f1 = 2 * np.cumsum(matched.hits) / (np.arange(1, len(ends) + 1) + matched.truths.sum())
    return float(matched.scores[ends][f1[ends].argmax()])


def image_counts(matched: Matches, threshold: float) -> Ints:
    """BoxCounts of each image (images, 3), for detections with scores >= ``threshold``."""
    images, kept = len(matched.truths), matched.scores >= threshold
    true = np.bincount(matched.images[kept & matched.hits], minlength=images)
    detected = np.bincount(matched.images[kept], minlength=images)
    return np.stack([true, detected - true, matched.truths.sum(1) - true], axis=1)


def counts_at(matched: Matches, threshold: float) -> BoxCounts:
    """Counts over all images; see :func:`image_counts`."""
    return BoxCounts(*image_counts(matched, threshold).sum(0).tolist())


def threshold_scores(counts: BoxCounts) -> dict[str, float | None]:
    """Sensitivity, precision and F1; None for a zero denominator."""
    true, false, missed = counts
    return {
        "sensitivity": _ratio(true, true + missed),
        "precision": _ratio(true, true + false),
        "f1": _ratio(2 * true, 2 * true + false + missed),
    }


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


# --- intervals ------------------------------------------------------------------------------------------------------


def bootstrap_interval(
    value_of: Callable[[Ints], float | None], groups: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """95 % percentile interval (Efron and Tibshirani, 1993) of a pooled score, resampling patients.

    ``groups``: the patient of each image; all images of a patient are drawn together. ``value_of`` gets how often each
    image is drawn (images,). Draws without a value are left out. None with fewer than two patients, or if fewer than
    half of the draws have a value.
    """
    names, patient = np.unique(np.array(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(names), size=(draws, len(names)))
    values = [value_of(np.bincount(indices, minlength=len(names))[patient]) for indices in chosen]
    evaluable = [value for value in values if value is not None]
    if 2 * len(evaluable) < draws:
        return None
    low, high = np.percentile(evaluable, INTERVAL)
    return float(low), float(high)
