"""Detections in another layout than x, y, width, height that lie inside their images as both: the truth tells."""

import numpy as np
import pytest

from mdkd_auto.tasks.detection.box_hits import suspect_hits
from mdkd_auto.tasks.detection.scoring import BoxAnswer

# x1, y1, x2, y2 in the first third of an image of 100 x 100 pixels, so that each layout stays inside it
TRUTH = ((10.0, 12.0, 30.0, 28.0), (14.0, 5.0, 29.0, 22.0), (20.0, 16.0, 33.0, 30.0), (11.0, 18.0, 25.0, 31.0))


def answers(found: list[tuple[float, ...]], scores: tuple[float, ...] = (0.9,) * 4) -> list[BoxAnswer]:
    """One image for each true box; ``found`` is read as x, y, width, height."""
    return [
        BoxAnswer(
            case_id=str(number),
            patient_id="",
            truth=(truth,),
            truth_classes=(0,),
            scores=(score,),
            detected=((x, y, x + width, y + height),),
            detected_classes=(0,),
        )
        for number, (truth, (x, y, width, height), score) in enumerate(zip(TRUTH, found, scores, strict=True))
    ]


SIZED = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in TRUTH]
CORNERS = [tuple(box) for box in TRUTH]
CENTRED = [((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) for x1, y1, x2, y2 in TRUTH]


def test_boxes_as_they_should_be_are_not_suspected() -> None:
    assert suspect_hits(answers(SIZED)) is None
    assert suspect_hits([]) is None


@pytest.mark.parametrize(
    ("found", "name"), [(CORNERS, "corners x1, y1, x2, y2"), (CENTRED, "the centre's x and y, width, height")]
)
def test_all_that_hit_as_another_layout_are_certain(found: list[tuple[float, ...]], name: str) -> None:
    suspicion = suspect_hits(answers(found))
    assert suspicion is not None
    assert suspicion.certain
    assert suspicion.found == f"4 of the 4 likeliest boxes hit a true box as {name}, 0 as x, y, width, height"


def test_some_that_do_are_doubted_and_fewer_are_chance() -> None:
    suspicion = suspect_hits(answers([*CORNERS[:3], SIZED[3]]))
    assert suspicion is not None
    assert not suspicion.certain  # 3 as corners, 1 as they are read
    assert suspect_hits(answers([*CORNERS[:2], (60.0, 60.0, 5.0, 5.0), (60.0, 60.0, 5.0, 5.0)])) is None


def test_only_the_likeliest_boxes_count() -> None:
    """Of many unlikely boxes some hit as anything."""
    made = [
        BoxAnswer(
            case_id="",
            patient_id="",
            truth=(truth,),
            truth_classes=(0,),
            scores=(0.1, 0.9),
            detected=((x, y, x + width, y + height), (60.0, 60.0, 70.0, 70.0)),
            detected_classes=(0, 0),
        )
        for truth, (x, y, width, height) in zip(TRUTH, CORNERS, strict=True)
    ]
    assert suspect_hits(made) is None


def test_boxes_of_another_class_hit_nothing() -> None:
    made = [
        BoxAnswer(
            case_id=one.case_id,
            patient_id="",
            truth=one.truth,
            truth_classes=(1,),
            scores=one.scores,
            detected=one.detected,
            detected_classes=(0,),
        )
        for one in answers(CORNERS)
    ]
    assert suspect_hits(made) is None


def test_random_detectors_are_not_refused() -> None:
    """Boxes anywhere, many per image, against true boxes anywhere."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> tuple[tuple[float, ...], ...]:
        low, size = rng.uniform(0, 60, (count, 2)), rng.uniform(5, 40, (count, 2))
        return tuple(map(tuple, np.hstack([low, low + size]).tolist()))

    made = [
        BoxAnswer(
            case_id="",
            patient_id="",
            truth=boxes(3),
            truth_classes=(0,) * 3,
            detected=boxes(100),
            detected_classes=(0,) * 100,
            scores=tuple(rng.uniform(size=100)),
        )
        for _ in range(100)
    ]
    suspicion = suspect_hits(made)
    assert suspicion is None or not suspicion.certain
