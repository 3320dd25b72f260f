"""Which images are shown; truth and detections where they are, in their colours, from the threshold on."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as Pillow

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.records import Case
from mdkd_auto.formats.read_write import read_image
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.detection.pictures import chosen_images, draw_boxes, draw_detections, image_f1
from mdkd_auto.report.segmentation.overlays import PREDICTION_COLOUR, TRUTH_COLOUR
from mdkd_auto.tasks.detection.scoring import BoxAnswer, BoxSummary, Corners, boxes_from, summary_of_boxes
from mdkd_auto.tasks.shared.scored_part import TEST

TARGET = "Dataset031_Chests"
CLASSES = ("nodule", "mass")
SIZE = (100, 80)  # pixels, width and height
A: Corners = (10, 10, 30, 30)
B: Corners = (60, 40, 90, 70)
ELSEWHERE: Corners = (40, 5, 55, 20)


def answer(name: str, truth: Sequence[Corners], found: Sequence[tuple[Corners, float]]) -> BoxAnswer:
    return BoxAnswer(
        case_id=name,
        patient_id=name,
        truth=tuple(truth),
        truth_classes=(0,) * len(truth),
        detected=tuple(box for box, _ in found),
        detected_classes=(0,) * len(found),
        scores=tuple(score for _, score in found),
    )


FOUND = answer("found", [A], [(A, 0.9), (ELSEWHERE, 0.3)])
HALF = answer("half", [A, B], [(A, 0.9)])
MISSED = answer("missed", [A], [(ELSEWHERE, 0.8)])
UNSURE = answer("unsure", [A], [(A, 0.4)])
ALARM = answer("alarm", [], [(A, 0.9)])
QUIET = answer("quiet", [], [(A, 0.1)])


def summary(*answers: BoxAnswer, threshold: float = 0.5) -> BoxSummary:
    return summary_of_boxes(answers, CLASSES, TARGET, TEST, threshold, {})


# --- which images ---------------------------------------------------------------------------------------------------


def test_f1_of_images() -> None:
    answers = (FOUND, HALF, MISSED, UNSURE, ALARM, QUIET)
    assert image_f1(answers, 0.5) == [1, pytest.approx(2 / 3), 0, 0, 0, None]
    assert image_f1(answers, 0.3) == [pytest.approx(2 / 3), pytest.approx(2 / 3), 0, 1, 0, None]
    assert image_f1(answers, 0.95) == [0, 0, 0, 0, None, None]
    assert image_f1((), 0.5) == []


def test_worst_median_and_best() -> None:
    assert chosen_images(summary(FOUND, HALF, MISSED)) == {"worst": "missed", "median": "half", "best": "found"}
    assert chosen_images(summary(HALF, MISSED, FOUND, UNSURE)) == {"worst": "missed", "median": "half", "best": "found"}
    low = chosen_images(summary(HALF, MISSED, FOUND, UNSURE, threshold=0.3))
    assert low == {"worst": "missed", "median": "half", "best": "unsure"}
    assert chosen_images(summary(FOUND, MISSED)) == {"worst": "missed", "best": "found"}
    assert chosen_images(summary(FOUND)) == {"only": "found"}


def test_images_without_a_true_box_are_chosen_where_there_are_no_others() -> None:
    assert chosen_images(summary(ALARM, QUIET, HALF, FOUND)) == {"worst": "half", "best": "found"}
    assert chosen_images(summary(ALARM, QUIET)) == {"only": "alarm"}
    assert chosen_images(summary(QUIET)) == {}


# --- one image ------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Grey, brighter to the right."""
    path = tmp_path / "image.png"
    Pillow.fromarray(np.tile(np.linspace(0, 255, SIZE[0]).astype(np.uint8), (SIZE[1], 1))).save(path)
    return path


def edges_in(picture: np.ndarray, box: Corners, colour: str) -> int:
    """How many of a box's four edges have this colour in their middles; (y, x, RGB) from 0 to 1."""
    x1, y1, x2, y2 = np.array(box) * picture.shape[1] / SIZE[0]
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    places = [(x1, middle_y), (x2, middle_y), (middle_x, y1), (middle_x, y2)]
    near = [picture[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3] for x, y in places]
    return sum(bool((np.abs(some - to_rgb(colour)).max(-1) < 0.25).any()) for some in near)


def test_boxes_from_the_threshold_on_are_drawn_where_they_are(image: Path, tmp_path: Path) -> None:
    found = boxes_from([A, B, ELSEWHERE], [0, 1, 0], [0.9, 0.5, 0.49])
    draw_boxes(tmp_path / "drawn.png", read_image(image), found, CLASSES, threshold=0.5)
    with Pillow.open(tmp_path / "drawn.png") as drawn:
        picture = np.asarray(drawn.convert("RGB")) / 255
    assert picture.shape[0] / picture.shape[1] == pytest.approx(SIZE[1] / SIZE[0], abs=0.01)
    assert [edges_in(picture, box, PREDICTION_COLOUR) for box in (A, B, ELSEWHERE)] == [4, 4, 0]
    assert [edges_in(picture, box, TRUTH_COLOUR) for box in (A, B, ELSEWHERE)] == [0, 0, 0]
    grey = picture[-5]  # below all boxes
    assert np.allclose(grey, grey[:, :1])
    assert grey[-10, 0] > grey[10, 0] + 0.8


# --- truth beside what the columns find -----------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that are written."""
    written: list[Figure] = []
    write = Figure.savefig

    def savefig(figure: Figure, *given: Any, **more: Any) -> None:
        written.append(figure)
        write(figure, *given, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return written


def experiment_of(image: Path, *names: str) -> Any:
    """All that the picture reads of one: a data set whose cases have the same image."""
    cases = tuple(Case(case_id=name, images=(str(image),), patient_id=name) for name in names)
    plan = SimpleNamespace(dataset=lambda name: SimpleNamespace(channel=0, channel_name="CT"))
    return SimpleNamespace(datasets={TARGET: SimpleNamespace(cases=cases)}, plan=plan)


def row_of(**columns: BoxSummary) -> Row:
    summaries = {name.replace("_", "-"): (one,) for name, one in columns.items()}
    return Row(target=TARGET, sources=(), part=TEST, summaries=summaries, folders={}, checks={}, comparisons={})


def boxes_in(panel: Axes, colour: str) -> list[Corners]:
    return [
        (box.get_x(), box.get_y(), box.get_x() + box.get_width(), box.get_y() + box.get_height())
        for box in panel.patches
        if isinstance(box, Rectangle) and to_hex(box.get_edgecolor()) == colour
    ]


def test_truth_and_detections_of_each_column(image: Path, tmp_path: Path, figures: list[Figure]) -> None:
    """Each column has a threshold of its own; the images are chosen by the student."""
    student = summary(FOUND, HALF, MISSED, ALARM)
    other = summary(FOUND, answer("half", [A, B], []), answer("missed", [A], [(A, 0.2)]), ALARM, threshold=0.2)
    row = row_of(data_set_specific=other, student=student)
    draw_detections(tmp_path / "drawn.png", experiment_of(image, "found", "half", "missed", "alarm"), row)
    (figure,) = figures
    panels = np.array(figure.axes).reshape(3, 2)
    assert [panel.get_title() for panel in panels[:, 0]] == [
        "worst test image\nmissed\ndata-set-specific: F1 100",
        "median test image\nhalf\ndata-set-specific: F1 0",
        "best test image\nfound\ndata-set-specific: F1 67",
    ]
    assert [panel.get_title() for panel in panels[:, 1]] == ["student: F1 0", "student: F1 67", "student: F1 100"]
    for line, truth in zip(panels, ([A], [A, B], [A]), strict=True):
        assert [boxes_in(panel, TRUTH_COLOUR) for panel in line] == [truth, truth]
    assert [[boxes_in(panel, PREDICTION_COLOUR) for panel in line] for line in panels] == [
        [[A], [ELSEWHERE]],
        [[], [A]],
        [[A, ELSEWHERE], [A]],
    ]
    assert [text.get_text() for text in panels[2, 0].texts] == ["nodule 0.90", "nodule 0.30"]
    with Pillow.open(tmp_path / "drawn.png") as drawn:
        picture = np.asarray(drawn.convert("RGB")) / 255
    for colour in (TRUTH_COLOUR, PREDICTION_COLOUR):
        assert (np.abs(picture - to_rgb(colour)).max(-1) < 0.1).sum() > 100


def test_nothing_to_draw(image: Path, tmp_path: Path) -> None:
    with pytest.raises(MdkdError, match="Dataset031_Chests: no test image has a true or detected box"):
        draw_detections(tmp_path / "drawn.png", experiment_of(image, "quiet"), row_of(student=summary(QUIET)))
    with pytest.raises(MdkdError, match="case found is gone from the raw folder"):
        draw_detections(tmp_path / "drawn.png", experiment_of(image), row_of(student=summary(FOUND)))
    assert not (tmp_path / "drawn.png").exists()
