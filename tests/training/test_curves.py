"""Schedules on the epoch axis, and the picture of a run."""

import csv
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image as Picture

from mdkd_auto.training.curves import draw_curves, schedule_lines, turned_down_line, write_history

HISTORY = [
    {"epoch": epoch, "total": loss, "validation_loss": loss, "validation_score": 0.5, "learning_rate": 1e-3}
    for epoch, loss in ((1.0, 1.0), (2.0, 0.5))
]


def linear(progress: float) -> dict[str, float]:
    return {"w": progress, "tau": 1 - progress}


def test_a_score_in_the_log_reads_back_as_it_was(tmp_path: Path) -> None:
    scores = [1 / 3, 0.1 + 0.2, 0.0]
    write_history(tmp_path / "progress.csv", [{**HISTORY[0], "validation_score": score} for score in scores])
    with open(tmp_path / "progress.csv", encoding="utf-8", newline="") as file:
        assert [float(row["validation_score"]) for row in csv.DictReader(file)] == scores


def test_schedules_end_where_the_run_did() -> None:
    lines = schedule_lines(linear, last_epoch=2, of_epochs=8)
    epochs, values = lines["w"]
    assert (epochs[0], epochs[-1]) == (0.0, 2.0)
    assert (values[0], values[-1]) == (0.0, pytest.approx(0.25))
    assert lines["tau"][1][-1] == pytest.approx(0.75)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 300])
def test_the_axis_counts_whole_epochs(epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[float] = []

    def kept(figure: Figure, path: Path, **_: object) -> None:
        ticks.extend(tick for axes in figure.axes for tick in axes.get_xticks())
        path.touch()

    monkeypatch.setattr(Figure, "savefig", kept)
    history = [{**HISTORY[0], "epoch": float(epoch)} for epoch in range(1, epochs + 1)]
    draw_curves(tmp_path / "progress.png", history, "a run", linear, epochs)
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_a_run_without_schedules_has_no_panel_for_them(tmp_path: Path) -> None:
    heights = []
    for schedules in (None, lambda _: {}, linear):
        draw_curves(tmp_path / "progress.png", HISTORY, "a run", schedules, 8)
        with Picture.open(tmp_path / "progress.png") as picture:
            heights.append(picture.size[1])
    assert heights[0] == heights[1] < heights[2]


def test_how_far_a_student_was_turned_down_is_drawn_with_the_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = [{**row, "turned_down": factor} for row, factor in zip(HISTORY, (1.0, 0.5), strict=True)]
    assert list(turned_down_line(turned).values()) == [([0.0, 1.0, 1.0, 2.0], [1.0, 1.0, 0.5, 0.5])]
    assert list(turned_down_line([HISTORY[0], turned[1]]).values()) == [([1.0, 2.0], [0.5, 0.5])]
    assert turned_down_line(HISTORY) == {}
    drawn: list[list[object]] = []

    def kept(figure: Figure, path: Path, **_: object) -> None:
        drawn.extend([line.get_label() for line in axes.lines] for axes in figure.axes)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", kept)
    draw_curves(tmp_path / "progress.png", turned, "a run", linear, 8)
    losses, *_, schedules = drawn
    assert losses == ["total", "validation"]
    assert schedules == ["w", "tau", *turned_down_line(turned)]
