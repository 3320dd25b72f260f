"""Objects and background in a detector's embeddings, on networks whose answers are known, and drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor, nn

from mdkd_auto import pipeline
from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.demo.phantoms import SCENES, write_detection_datasets
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.metrics.detection import Boxes
from mdkd_auto.networks.detector import Described
from mdkd_auto.networks.model import Model
from mdkd_auto.preparation import find_groups
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.detection import embedding as box_embedding
from mdkd_auto.report.detection.embedding import (
    COLUMNS,
    Points,
    Seen,
    Shown,
    draw_box_embedding,
    looked_at,
    shared_points,
    stored_image,
)
from mdkd_auto.report.figures import DRAWINGS
from mdkd_auto.report.neighbours import named_accuracy
from mdkd_auto.tasks.detection.scoring import box_answer_of, summary_of_boxes
from mdkd_auto.tasks.detection.training import DetectionTask

TARGET = SCENES[1].name  # two classes, wider than high

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    root = Root(tmp_path_factory.mktemp("boxes"))
    write_detection_datasets(root.raw, SCENES[1:2], cases=24)
    assert pipeline.plan_and_preprocess(root).problems == ()
    groups, _ = find_groups(root)
    ((name, datasets),) = groups.items()
    made = make_experiment(root, name, datasets, Settings(device="cpu"), "2d")
    assert made is not None
    return made


@pytest.fixture(scope="module")
def row(experiment: Experiment) -> Row:
    """All cases are scored; nothing is found."""
    none = Boxes(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0))
    dataset = experiment.datasets[TARGET]
    names = tuple(dataset.labels)
    answers = [box_answer_of(case, none, names, None) for case in dataset.cases]
    summary = summary_of_boxes(answers, names, TARGET, "test", 0.5, {})
    return Row(
        target=TARGET,
        sources=(),
        part="test",
        summaries=dict.fromkeys(COLUMNS, (summary,)),
        folders={},
        checks={},
        comparisons={},
    )


def detector(experiment: Experiment, architecture: str, seed: int = 0) -> Model:
    """With random weights."""
    plan = experiment.plan.configuration("2d")
    task = DetectionTask(plan, {TARGET: experiment.classes(TARGET)}, experiment.settings, architecture)
    torch.manual_seed(seed)
    encoder = task.encoder()
    return Model(encoder, task.head(task.outputs(TARGET), encoder)).eval()


class Told(nn.Module):
    """A detector that is told what it sees in each image."""

    def __init__(self, *described: Described) -> None:
        super().__init__()
        self.known, self.weight = described, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> "Told":
        self.start = int(x[0].mean())  # an image's grey is its number
        return self

    def described(self, boxes: Sequence[Tensor]) -> list[Described]:
        return list(self.known[self.start : self.start + len(boxes)])


def shown(number: int, boxes: list[list[float]], patient: str = "p", kind: int = 0) -> Shown:
    patch = np.full((8, 8), number, dtype=np.float32)
    return Shown(patch, torch.tensor(boxes).reshape(-1, 4), (kind,) * len(boxes), patient)


def test_stored_boxes_lie_on_their_objects(experiment: Experiment) -> None:
    """The image is centred in the patch, and so are its boxes."""
    cases = [case for case in experiment.datasets[TARGET].cases if case.boxes][:4]
    for case in cases:
        one = stored_image(experiment, TARGET, case.case_id, "p")
        assert one.patch.shape == experiment.plan.configuration("2d").patch_size
        assert len(one.boxes) == len(one.classes) == len(case.boxes or ())
        objects = np.zeros(one.patch.shape, dtype=bool)
        for x1, y1, x2, y2 in one.boxes.round().int().tolist():
            objects[y1:y2, x1:x2] = True
        padding = one.patch == one.patch.min()
        assert one.patch[objects].mean() > one.patch[~objects & ~padding].mean() + 0.5
        bright = np.argwhere(one.patch > np.quantile(one.patch, 0.99))
        assert np.mean([objects[y, x] for y, x in bright]) > 0.95


def test_what_a_model_sees() -> None:
    places = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [20, 20, 24, 24], [3, 3, 7, 7], [30, 30, 31, 31]])
    one = Described(places, torch.arange(5.0)[:, None])
    images = [
        shown(0, [[0, 0, 4, 5], [0, 0, 4, 4], [50, 50, 60, 60]]),  # the last is seen nowhere
        shown(1, [[20, 20, 24, 24]]),
    ]
    seen = looked_at(Told(one, one), images, batch_size=1)  # type: ignore[arg-type]
    np.testing.assert_equal(seen.objects[:, 0], [1, 0, np.nan, 2])
    # places 2 and 4; place 3 overlaps an object of the first image by 0.03, and is none of them
    assert seen.background[:, 0].tolist() == [2, 3, 0, 1]
    assert seen.images.tolist() == [0, 0, 1, 1]


def test_a_place_is_at_one_object() -> None:
    same = [[0.0, 0, 4, 4], [0, 0, 4, 4.5]]
    told = Told(Described(torch.tensor(same[:1]), torch.ones(1, 2)))
    objects = looked_at(told, [shown(0, same)]).objects  # type: ignore[arg-type]
    assert np.isnan(objects).all(1).tolist() == [False, True]


def test_both_models_show_the_same_objects() -> None:
    images = [shown(number, [[0, 0, 4, 4]] * 3, f"p{number}", kind=number == 5) for number in range(6)]
    values = np.arange(18, dtype=np.float32)[:, None]
    ours, theirs = values.copy(), values + 100
    ours[0], theirs[4] = np.nan, np.nan
    background = Seen(ours, np.ones((30, 1), np.float32), np.arange(30) % 6)
    kinds, points = shared_points({"a": background, "b": background._replace(objects=theirs)}, images)
    assert kinds == [0]  # the other class is one patient's
    wanted = [number for number in range(15) if number not in (0, 4)]
    assert points["a"].embeddings[points["a"].labels == 1, 0].tolist() == wanted
    assert points["b"].embeddings[points["b"].labels == 1, 0].tolist() == [100 + number for number in wanted]
    assert points["a"].patients[points["a"].labels == 1].tolist() == [number // 3 for number in wanted]
    assert (points["a"].labels == 0).sum() == len(wanted)


def test_too_few_are_refused() -> None:
    images = [shown(number, [[0, 0, 4, 4]] * 3, f"p{number}") for number in range(6)]
    none = Seen(np.full((18, 1), np.nan, np.float32), np.ones((30, 1), np.float32), np.zeros(30, dtype=np.int64))
    with pytest.raises(MdkdError, match="0 objects that both models have a place at"):
        shared_points({"a": none}, images)
    crowded = Seen(np.ones((18, 1), np.float32), np.ones((9, 1), np.float32), np.zeros(9, dtype=np.int64))
    with pytest.raises(MdkdError, match="9 places of the a model overlap no object; a picture needs 10"):
        shared_points({"a": crowded}, images)
    with pytest.raises(MdkdError, match="0 objects"):
        shared_points({"a": looked_at(Told(), [])}, [])  # type: ignore[arg-type]


def test_neighbours_tell_clusters_apart() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 20, 20])
    points = (rng.normal(size=(80, 3)) + 8 * np.eye(3)[labels]).astype(np.float32)
    apart = named_accuracy(*Points(points, labels, np.arange(80)), 3)
    by_chance = named_accuracy(*Points(points, rng.permutation(labels), np.arange(80)), 3)
    assert apart is not None
    assert apart > 0.95
    assert by_chance is not None
    assert by_chance < 0.6
    assert named_accuracy(*Points(points, labels, np.zeros(80, dtype=np.int64)), 3) is None
    few = np.r_[0:54]  # 14 of a class: the 15th neighbour is always of another
    assert named_accuracy(*Points(points[few], labels[few], few), 2) is None


def test_it_is_drawn(experiment: Experiment, row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {column: detector(experiment, "faster_rcnn_small", seed) for seed, column in enumerate(COLUMNS)}
    monkeypatch.setattr(box_embedding, "column_model", lambda _experiment, _row, column: models[column])
    said = DRAWINGS["detection"]["tsne"](tmp_path / "tsne.png", experiment, row)
    assert isinstance(said, dict)
    counts = [len(case.boxes) for case in experiment.datasets[TARGET].cases if case.boxes]
    stored = sum(counts)
    assert (said["objects"], said["classes"], said["patients"]) == (stored, ["lesion", "cyst"], len(counts))
    assert said["background"] == dict.fromkeys(COLUMNS, stored)
    assert set(said["balanced_accuracy"]) == set(COLUMNS)
    with Picture.open(tmp_path / "tsne.png") as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 100
    assert draw_box_embedding(tmp_path / "again.png", experiment, row) == said


def test_queries_of_random_weights_are_at_too_few_objects(
    experiment: Experiment, row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = detector(experiment, "rfdetr_tiny")
    monkeypatch.setattr(box_embedding, "column_model", lambda *_: model)
    with pytest.raises(MdkdError, match=f"{TARGET}: [0-9]+ objects that both models have a place at"):
        draw_box_embedding(tmp_path / "tsne.png", experiment, row)
    alone = Row(**{**{name: getattr(row, name) for name in row.__struct_fields__}, "summaries": {}})
    with pytest.raises(MdkdError, match="no finished data-set-specific model"):
        draw_box_embedding(tmp_path / "tsne.png", experiment, alone)
    assert not (tmp_path / "tsne.png").exists()
