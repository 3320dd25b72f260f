"""What a detector's summary holds, shows and writes."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from mdkd_auto.core.files import read_json, read_record
from mdkd_auto.core.records import Box, Case
from mdkd_auto.metrics.detection import DETECTION_METRICS, Boxes
from mdkd_auto.tasks.detection.scoring import (
    BOX_TITLES,
    BoxAnswer,
    BoxSummary,
    Corners,
    box_answer_of,
    box_summary_markdown,
    coco_results,
    detected_boxes,
    detections_csv,
    summary_of_boxes,
    threshold_of,
    write_box_summary,
)

CLASSES = ("nodule", "mass")
A: Corners = (0, 0, 10, 10)
B: Corners = (20, 20, 30, 40)
ELSEWHERE: Corners = (50, 50, 60, 60)


def answer(
    name: str, patient: str, truth: Sequence[Corners], found: Sequence[tuple[Corners, float]], kind: int = 0
) -> BoxAnswer:
    """All of one class."""
    return BoxAnswer(
        case_id=name,
        patient_id=patient,
        truth=tuple(truth),
        truth_classes=(kind,) * len(truth),
        detected=tuple(box for box, _ in found),
        detected_classes=(kind,) * len(found),
        scores=tuple(score for _, score in found),
    )


ANSWERS = (
    answer("b", "p", [A, B], [(A, 0.9), (ELSEWHERE, 0.8)]),
    answer("a", "p", [A], [(A, 0.7)]),
    answer("c", "q", [], [(A, 0.6)]),
    answer("d", "r", [], [(A, 0.2)]),
)


def summary(answers: Sequence[BoxAnswer] = ANSWERS, threshold: float = 0.5) -> BoxSummary:
    return summary_of_boxes(answers, CLASSES, "Dataset031_Chests", "test", threshold, {"z": "no such file"})


def test_scores_by_hand() -> None:
    made = summary()
    values = {name: metric.mean for name, metric in made.scores.metrics.items()}
    average = (34 + 33 * 2 / 3) / 101
    assert values == pytest.approx(
        {
            "map_50": average,
            "map": average,
            "froc": (0.5 + 6 * 2 / 3) / 7,
            "sensitivity": 2 / 3,
            "precision": 0.5,
            "f1": 4 / 7,
        }
    )
    assert made.froc == pytest.approx((0.5, *[2 / 3] * 6))
    assert (made.scores.negative_cases, made.scores.negative_cases_with_false_positives) == (2, 1)
    assert threshold_of(ANSWERS) == 0.7
    assert made.overall(per_patient=False) == made.scores
    assert made.overall(per_patient=True) is None
    assert made.unit == ""
    assert tuple(made.intervals) == tuple(BOX_TITLES) == DETECTION_METRICS


def test_f1_of_each_patient_pools_the_images() -> None:
    # p: two right, one wrong, one missed; q: one wrong; r: its only detection is below the threshold
    assert summary().score_by_unit() == {"p": pytest.approx(4 / 6), "q": 0, "r": 1}
    assert summary(threshold=0.65).score_by_unit() == {"p": pytest.approx(4 / 6), "q": 1, "r": 1}
    assert summary([answer("a", "p", [A], [])]).score_by_unit() == {"p": 0}
    assert summary([]).score_by_unit() == {}


@pytest.mark.parametrize(
    ("answers", "evaluable"),
    [
        ([], set()),
        ([answer("a", "p", [], []), answer("b", "q", [], [])], set()),
        ([answer("a", "p", [], [(A, 0.9)])], {"precision", "f1"}),
        ([answer("a", "p", [A], [])], {"map_50", "map", "froc", "sensitivity", "f1"}),
    ],
    ids=["no image", "nothing anywhere", "negatives only", "no detections"],
)
def test_edges(tmp_path: Path, answers: list[BoxAnswer], evaluable: set[str]) -> None:
    made = summary(answers)
    assert {name for name, metric in made.scores.metrics.items() if metric.mean is not None} == evaluable
    assert all(made.scores.metrics[name].mean == 0 for name in evaluable)
    assert set(made.intervals.values()) == {None}  # of one patient, or of nothing
    write_box_summary(tmp_path, made)
    assert read_record(tmp_path / "summary.json", BoxSummary) == made
    assert "interval" not in (tmp_path / "summary.md").read_text()
    assert "nan" not in (tmp_path / "summary.json").read_text().lower()


def test_files(tmp_path: Path) -> None:
    made = summary()
    write_box_summary(tmp_path, made)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "detections.csv",
        "detections.json",
        "froc.png",
        "summary.json",
        "summary.md",
    ]
    assert read_record(tmp_path / "summary.json", BoxSummary) == made
    assert read_json(tmp_path / "detections.json")[:2] == [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.7},  # image a
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9},
    ]
    with Picture.open(tmp_path / "froc.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    write_box_summary(tmp_path / "other", made, answers=False)
    assert not (tmp_path / "other" / "detections.json").exists()


def test_the_summary_shows_scores_intervals_and_what_failed() -> None:
    made = summary()
    low, high = made.intervals["f1"] or (0, 0)
    text = box_summary_markdown(made)
    assert f"| F1 (%) | 57.1 ({100 * low:.1f} to {100 * high:.1f}) |" in text
    assert "4 images, 3 true boxes." in text
    assert "a score of at least 0.500, the best of validation images: 2 right, 2 wrong (IoU 0.5)." in text
    assert "Images without a true box: 2; of these 1 have false positives." in text
    assert "bootstrap over 3 patients (1,000 draws; mAP 200)" in text
    assert "| sensitivity (%) | 50.0 | 66.7 |" in text
    assert "- not scored: z: no such file" in text


def test_detections_without_truth() -> None:
    none = np.zeros(0)
    found = {
        "b": Boxes(np.array([A, (20.5, 20, 30, 40)], dtype=float), np.array([0, 1]), np.array([0.25, 0.75])),
        "a": Boxes(none.reshape(0, 4), none.astype(int), none),
    }
    assert coco_results(found) == [
        {"image_id": 2, "category_id": 2, "bbox": [20.5, 20, 9.5, 20], "score": 0.75},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.25},
    ]
    rows = list(csv.reader(io.StringIO(detections_csv(found, CLASSES, {"b": (0.5, 2.0)}))))
    assert rows == [
        ["case_id", "class", "score", "x", "y", "width", "height", "width_mm", "height_mm"],
        ["b", "mass", "0.75", "20.5000", "20.0000", "9.5000", "20.0000", "19.00", "10.00"],
        ["b", "nodule", "0.25", "0.0000", "0.0000", "10.0000", "10.0000", "20.00", "5.00"],
    ]
    assert [row[-2:] for row in csv.reader(io.StringIO(detections_csv(found, CLASSES)))][1:] == [["", ""]] * 2
    with pytest.raises(ValueError, match="1 detections without scores"):
        coco_results({"a": Boxes(np.array([A], dtype=float), np.array([0]))})


def test_answer_of_a_case() -> None:
    box = Box(class_name="mass", x=1, y=2, width=3, height=4)
    case = Case(case_id="a", images=("a.png",), patient_id="p", boxes=(box,))
    found = Boxes(np.array([B], dtype=float), np.array([1]), np.array([0.5]))
    made = box_answer_of(case, found, CLASSES, (0.5, 0.5))
    assert made == BoxAnswer(
        case_id="a",
        patient_id="p",
        truth=((1, 2, 4, 6),),
        truth_classes=(1,),
        detected=(B,),
        detected_classes=(1,),
        scores=(0.5,),
        spacing_mm=(0.5, 0.5),
    )
    assert [values.tolist() for values in detected_boxes(made)] == [[list(B)], [1], [0.5]]
    with pytest.raises(ValueError, match="a: expected the case's true boxes"):
        box_answer_of(Case(case_id="a", images=("a.png",), patient_id="p"), found, CLASSES, None)
