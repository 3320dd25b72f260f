"""What classifiers look at, and their embeddings, on networks whose answers are known."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mdkd_auto.networks.model import Encoder, Model
from mdkd_auto.report.classification import pictures as class_pictures
from mdkd_auto.report.classification.pictures import (
    Scored,
    _telling_case,
    draw_class_embedding,
    embedded_cases,
    embeddings,
    grad_cam,
)
from mdkd_auto.report.neighbours import named_accuracy, named_by_neighbours

COLUMNS = ("data-set-specific", "student")


class Quarters(Encoder):
    """Two channels: the mean of the image in blocks of 8 x 8, and its negative."""

    channels, strides, kernel_sizes = (2,), ((8, 8),), ((1, 1),)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> list[Tensor]:
        blocks = self.scale * nn.functional.avg_pool2d(x, 8)
        return [torch.cat([blocks, -blocks], dim=1)]


class Mean(nn.Module):
    """Class 0 says bright, class 1 dark."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1].flatten(2).mean(2)


@pytest.fixture
def model() -> Model:
    return Model(Quarters(), Mean()).eval()


def test_grad_cam_points_at_what_speaks_for_a_class(model: Model) -> None:
    image = np.zeros((16, 16), dtype=np.float32)
    image[:8, 8:] = 4.0  # the bright quarter
    bright = grad_cam(model, image, target=0)
    assert bright.shape == (16, 16)
    assert bright.max() == 1
    assert np.unravel_index(bright.argmax(), bright.shape)[0] < 8 <= np.unravel_index(bright.argmax(), bright.shape)[1]
    assert bright[12, 3] == pytest.approx(0, abs=1e-6)
    dark = grad_cam(model, -image, target=1)
    np.testing.assert_allclose(dark, bright, atol=1e-6)


def test_nothing_speaks_for_a_class(model: Model) -> None:
    assert not grad_cam(model, -np.ones((16, 16), dtype=np.float32), target=0).any()


def test_embeddings_are_what_the_head_reads(model: Model) -> None:
    images = [np.full((16, 16), value, dtype=np.float32) for value in range(5)]
    points = embeddings(model, images, batch_size=2)
    assert points.tolist() == [[value, -value] for value in range(5)]


def test_of_many_cases_some_of_each_class_are_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_pictures, "MOST_CASES", 100)
    truth = np.repeat([0, 1, 2], [300, 50, 20])
    shown = embedded_cases(truth, 3)
    assert np.bincount(truth[shown]).tolist() == [33, 33, 20]  # the rare class whole
    assert (np.diff(shown) > 0).all()
    assert shown.tolist() == embedded_cases(truth, 3).tolist()
    assert embedded_cases(truth[:100], 3).tolist() == list(range(100))
    assert len(embedded_cases(np.arange(400) % 20, 20)) == 20 * 15  # neighbours can still be asked


def test_the_picture_of_many_cases_reads_and_names_those_it_shows(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str] = []

    def picture(*arguments: object) -> np.ndarray:
        read.append(str(arguments[2]))
        return np.full((16, 16), float(arguments[2]) % 7, dtype=np.float32)  # type: ignore[arg-type]

    said: list[str] = []

    def kept(figure: Figure, path: Path, **_: object) -> None:
        said.extend((figure.get_suptitle(), figure.get_supxlabel()))
        path.touch()

    monkeypatch.setattr(class_pictures, "MOST_CASES", 60)
    monkeypatch.setattr(class_pictures, "_scored", lambda _: scored_cases([0, 1, 2] * 40, ([], []), []))
    monkeypatch.setattr(class_pictures, "column_model", lambda *_: model)
    monkeypatch.setattr(class_pictures, "_picture", picture)
    monkeypatch.setattr(Figure, "savefig", kept)
    plan = SimpleNamespace(configuration=lambda _: SimpleNamespace(patch_size=(16, 16)))
    row = SimpleNamespace(target="Dataset021_Chests", part="test")
    experiment = SimpleNamespace(plan=plan, configuration="2d")
    numbers = draw_class_embedding(tmp_path / "tsne.png", experiment, row)  # type: ignore[arg-type]
    assert len(read) == 2 * 60
    assert said[0] == "Dataset021_Chests: embeddings of 60 of 120 test cases by t-SNE"
    assert said[1].endswith("\nCases drawn with seed 0, at most 20 of each class.")
    assert (numbers["cases"], numbers["scored_cases"]) == (60, 120)


def scored_cases(truth: list[int], right: tuple[list[bool], list[bool]], confidence: list[float]) -> Scored:
    return Scored(
        tuple(map(str, range(len(truth)))),
        np.array(truth),
        ("a", "b", "c"),
        np.arange(len(truth)),
        {column: np.array(some) for column, some in zip(COLUMNS, right, strict=True)},
        np.array(confidence),
    )


def test_the_case_that_only_one_gets_right_is_shown() -> None:
    right = ([True] * 6, [True, False, True, True, True, True])
    cases = scored_cases([0, 0, 0, 1, 1, 1], right, [0.9, 0.4, 0.8, 0.9, 0.7, 0.8])
    assert _telling_case(cases, 0) == 1
    assert _telling_case(cases, 1) == 5  # of median confidence
    assert _telling_case(cases, 2) is None


def test_neighbours_name_the_class_of_three_clusters() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [40, 20, 20])
    points = (rng.normal(size=(80, 3)) + 8 * np.eye(3)[truth]).astype(np.float32)
    named = named_by_neighbours(points, truth, np.arange(80), 3)
    assert (named == truth).mean() > 0.95
    shuffled = rng.permutation(truth)
    by_chance = named_by_neighbours(points, shuffled, np.arange(80), 3)
    assert (by_chance == shuffled).mean() < 0.6
    score = named_accuracy(points, truth, np.arange(80), 3)
    assert score is not None
    assert score > 0.9
    assert (named_by_neighbours(points, np.zeros(80, dtype=int), np.arange(80), 2) == -1).all()
