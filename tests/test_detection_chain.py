"""Detection from raw folder to table, prediction and resume, on made-up pictures."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from mdkd_auto import pipeline
from mdkd_auto.cli import evaluate, plan_and_preprocess, predict, train
from mdkd_auto.core.files import read_json, read_record
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Fold, Plan, Splits
from mdkd_auto.core.settings import DetectionSettings, Settings
from mdkd_auto.datasets.raw_folder import read_dataset
from mdkd_auto.datasets.splits import read_splits, write_splits
from mdkd_auto.demo.phantoms import SCENES, scene, write_detection_datasets
from mdkd_auto.execution.run_folder import describe
from mdkd_auto.execution.run_job import make_objective, make_streams, run_jobs
from mdkd_auto.execution.teacher_weights import validation_score, weight
from mdkd_auto.experiments.experiment import make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.networks import faster_rcnn
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.report.comparison import COLUMNS
from mdkd_auto.report.detection.pictures import draw_boxes
from mdkd_auto.report.figures import DRAWINGS, figures_folder
from mdkd_auto.report.tables import Table
from mdkd_auto.stages.student import StudentObjective
from mdkd_auto.tasks.detection.scoring import BoxSummary, summary_of_boxes, write_box_summary
from mdkd_auto.training import loop as fitting

A, B = (look.name for look in SCENES[:2])
CASES = 20
BUDGET: dict[str, Any] = {
    "epochs": 2,
    "iterations_per_epoch": 3,
    "validation_batches": 1,
    "batch_size": 4,
    "device": "cpu",
}
# not weighed: so short a training may leave a joint teacher that is worth nothing, and a student that distils nothing
SETTINGS = Settings(**BUDGET, reliability=False, detection=DetectionSettings(architecture="faster_rcnn_small"))
RFDETR = Settings(
    **{**BUDGET, "epochs": 1, "iterations_per_epoch": 4}, reliability=False, teacher_architecture="rfdetr_tiny"
)

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")
Command = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def found_at_any_score() -> Iterator[None]:
    """Networks so little trained may find all scores too low."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(faster_rcnn, "LEAST_SCORE", 0.0)
        yield


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(tmp_path_factory.mktemp("scenes"))
    write_detection_datasets(root.raw, SCENES[:2], cases=CASES)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    return root


@pytest.fixture(scope="module")
def trained(planned: Root, one_thread: None) -> tuple[Root, Table]:
    table = pipeline.train(planned, SETTINGS, B)
    assert table is not None
    return planned, table


def run_of(trained: tuple[Root, Table], column: str = "student") -> Path:
    root, table = trained
    return root.results / table.rows[0].folders[column][0]


def stopped_and_resumed(root: Root, settings: Settings, target: str, run: Path, updates: int) -> None:
    """Train ``run`` anew, stopped by Ctrl-C after so many updates, then on to its end."""
    for name in ("finished.json", "checkpoint_final.safetensors", "checkpoint_best.safetensors", "progress.csv"):
        (run / name).unlink()
    original = fitting._Loop._update
    calls = []

    def stops(loop: fitting._Loop, *given: Any) -> Any:
        calls.append(loop.state.update)
        if len(calls) > updates:
            loop.save()
            raise KeyboardInterrupt
        return original(loop, *given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitting._Loop, "_update", stops)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(root, settings, target)
    assert calls == list(range(updates + 1))
    assert not (run / "finished.json").exists()
    pipeline.train(root, settings, target)


# --- plan -----------------------------------------------------------------------------------------------------------


def test_the_plan_suits_the_boxes(planned: Root) -> None:
    (part,) = read_record(planned.plan("CT_detection"), Plan).configurations
    assert part.whole_images
    assert (part.patch_size, part.datasets) == ((64, 64), (A, B))
    assert (len(part.anchor_sizes), part.queries) == (4, 16)  # as many queries as tokens
    text = planned.plan("CT_detection").with_suffix(".txt").read_text()
    assert f"{A}: boxes = tumour 23: 16 images of 16 patients outside the test part, of 80 x 80 pixels; 3 (19%)" in text
    assert f"{B}: boxes = lesion 11, cyst 12" in text


# --- Faster R-CNN ---------------------------------------------------------------------------------------------------


def test_one_target_has_its_line_and_figures(trained: tuple[Root, Table]) -> None:
    root, table = trained
    (row,) = table.rows
    assert (row.target, row.sources, row.part) == (B, (A,), "test")
    assert set(row.summaries) == set(COLUMNS)
    for (summary,) in row.summaries.values():
        tested = read_json(root.splits(B))["test"]
        assert summary.overall(per_patient=False).cases == len(tested)  # type: ignore[union-attr]
        assert set(summary.score_by_unit()) == set(tested)
        assert summary.classes == ("lesion", "cyst")  # type: ignore[union-attr]
    assert row.checks["joint teacher"]["check"] == "source_use"
    assert row.checks["student"]["check"] == "distillation"
    assert "**F1 (%)**" in table.markdown
    assert "**mAP@.50 (%)**" in table.markdown
    assert "points F1 against data-set-specific" in table.markdown
    names = {path.name for path in figures_folder(table.path).iterdir()}
    assert {f"{B}_detections.png", f"{B}_learning.png", "differences.png", "figures.json"} <= names
    assert names <= {*(f"{B}_{name}.png" for name in DRAWINGS["detection"]), "differences.png", "figures.json"}
    for path in figures_folder(table.path).glob("*.png"):
        with Pillow.open(path) as drawn:
            drawn.verify()
    assert table.path.with_suffix(".csv").is_file()


@pytest.mark.parametrize("column", ["data-set-specific", "student"])
def test_a_run_says_what_it_found(trained: tuple[Root, Table], column: str) -> None:
    run = run_of(trained, column)
    names = {path.name for path in (run / "test").iterdir()}
    assert names == {"summary.json", "summary.md", "detections.json", "detections.csv", "froc.png"}
    tested = sorted(read_json(trained[0].splits(B))["test"])
    summary, validation = (read_json(run / part / "summary.json") for part in ("test", "validation"))
    assert summary["threshold"] == validation["threshold"]
    assert [answer["case_id"] for answer in summary["answers"]] == tested
    truth = {case.case_id: case.boxes or () for case in read_dataset(trained[0].raw / B).cases}
    assert [len(answer["truth"]) for answer in summary["answers"]] == [len(truth[case]) for case in tested]
    assert any(not truth[case] for case in tested)
    results = read_json(run / "test" / "detections.json")
    rows = list(csv.DictReader((run / "test" / "detections.csv").open()))
    assert len(results) == len(rows) == sum(len(answer["detected"]) for answer in summary["answers"]) > 0
    for found, line in zip(results, rows, strict=True):
        assert tested[found["image_id"] - 1] == line["case_id"]
        assert ("lesion", "cyst")[found["category_id"] - 1] == line["class"]
        x, y, width, height = found["bbox"]
        assert [float(line[name]) for name in ("x", "y", "width", "height")] == pytest.approx(found["bbox"], abs=6e-5)
        assert float(line["score"]) == found["score"]
        assert 0 <= x < x + width <= 96.001  # in pixels of the file
        assert 0 <= y < y + height <= 64.001
        assert 0 < found["score"] <= 1
        assert line["width_mm"] == ""
    described = read_json(run / "run.json")
    assert (described["task"], described["job"]["architecture"]) == ("detection", "faster_rcnn_small")


def test_a_source_teacher_answers_the_targets_classes(trained: tuple[Root, Table]) -> None:
    root, _ = trained
    (run,) = root.results.glob(f"{B}/SourceTeacher-931*/fold_0")
    summary = read_json(run / "validation" / "summary.json")
    assert summary["classes"] == ["lesion", "cyst"]
    assert {kind for answer in summary["answers"] for kind in answer["detected_classes"]} <= {0, 1}
    assert not (run / "test").exists()


def test_new_images_are_searched(
    trained: tuple[Root, Table], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other sizes, in colour and in 16 bits; a broken one does not stop the others."""
    from faster_coco_eval import COCO

    drawn_from: list[float] = []  # the score from which on a picture shows boxes

    def drawn_boxes(path: Path, image: Any, found: Any, classes: Any, threshold: float) -> None:
        drawn_from.append(threshold)
        draw_boxes(path, image, found, classes, threshold)

    monkeypatch.setattr("mdkd_auto.prediction.draw_boxes", drawn_boxes)
    new, out, run = tmp_path / "new", tmp_path / "out", run_of(trained)
    new.mkdir()
    grey, _, _ = scene(SCENES[1]._replace(size=(70, 120)), 2, np.random.default_rng(5))
    Pillow.fromarray(grey).save(new / "grey.png")
    Pillow.fromarray(np.stack([grey] * 3, axis=-1)).save(new / "colour.bmp")
    Pillow.fromarray(grey.astype(np.uint16) * 200).save(new / "deep_0000.png")
    Pillow.fromarray(np.zeros((40, 30), np.uint8)).save(new / "black.png")
    (new / "broken.png").write_bytes(b"\x89PNG\r\n")
    said = command(predict.main, "-i", new, "-o", out, "-m", run, "--device", "cpu")
    assert said.status == 1
    assert "broken" in said.err
    assert "Traceback" not in said.err
    names = ["black", "colour", "deep", "grey"]
    pictures = [f"{name}.png" for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*pictures, "detections.csv", "detections.json", "prediction.json"]
    )
    for name in pictures:
        with Pillow.open(out / name) as drawn:
            drawn.verify()
    used = read_json(out / "prediction.json")
    assert used["classes"] == ["lesion", "cyst"]
    assert used["threshold"] == read_json(run / "validation" / "summary.json")["threshold"] > 0
    assert drawn_from == [used["threshold"]] * len(names)
    assert used["images"] == {str(number): name for number, name in enumerate(names, start=1)}

    results = read_json(out / "detections.json")
    sizes = {1: (30, 40), 2: (120, 70), 3: (120, 70), 4: (120, 70)}
    images = [{"id": number, "width": width, "height": height} for number, (width, height) in sizes.items()]
    categories = [{"id": number, "name": name} for number, name in enumerate(used["classes"], start=1)]
    truth = COCO({"images": images, "annotations": [], "categories": categories})
    assert len(truth.loadRes(results).anns) == len(results)
    for found in results:
        (width, height), (x, y, w, h) = sizes[found["image_id"]], found["bbox"]
        assert min(x, y) >= 0
        assert min(w, h) > 0
        assert (x + w, y + h) <= (width + 1e-3, height + 1e-3)
    rows = list(csv.DictReader((out / "detections.csv").open()))
    assert [row["case_id"] for row in rows] == [names[found["image_id"] - 1] for found in results]
    assert {row["width_mm"] for row in rows} == {""}  # these formats have no spacing, and none is made up
    boxes = [[found["bbox"] for found in results if found["image_id"] == number] for number in (2, 3, 4)]
    np.testing.assert_allclose(boxes[0], boxes[2], atol=0.05)  # three equal colours are grey
    np.testing.assert_allclose(boxes[1], boxes[2], atol=0.05)  # a z-score knows no scale


def test_answers_are_scored(trained: tuple[Root, Table], command: Command, tmp_path: Path) -> None:
    """The run's own answers, one image without a detection among them, give the run's own scores."""
    root, _ = trained
    own, out = tmp_path / "run" / "test", tmp_path / "scores"
    shutil.copytree(run_of(trained) / "test", own)
    ours = read_record(own / "summary.json", BoxSummary)
    first, *others = ours.answers
    quiet = msgspec.structs.replace(first, detected=(), detected_classes=(), scores=())
    ours = summary_of_boxes([quiet, *others], ours.classes, ours.dataset, ours.part, ours.threshold, {})
    write_box_summary(own, ours)
    before = {path: path.read_bytes() for path in own.iterdir()}
    said = command(evaluate.main, "-i", own, "-l", root.raw / B, "-o", out)
    assert said.status == 0, said.err
    theirs = read_record(out / "summary.json", BoxSummary)
    assert theirs.threshold == ours.threshold
    assert [answer.case_id for answer in theirs.answers] == [answer.case_id for answer in ours.answers]
    for name, metric in ours.scores.metrics.items():
        assert theirs.scores.metrics[name].mean == pytest.approx(metric.mean, abs=1e-6), name
    assert not (out / "detections.csv").exists()  # the answers are another's, and stay where they are

    (own.parent / "run.json").write_text("{}")
    said = command(evaluate.main, "-i", own, "-l", root.raw / B)
    assert said.status == 1
    assert "holds the scores of the run" in said.err
    assert {path: path.read_bytes() for path in own.iterdir()} == before


def test_predicted_and_scored_the_validation_images_give_their_scores(
    trained: tuple[Root, Table], command: Command, tmp_path: Path
) -> None:
    """The threshold is the score of one of their boxes, which counts in files too."""
    (root, _), run = trained, run_of(trained)
    ours = read_record(run / "validation" / "summary.json", BoxSummary)
    images = tmp_path / "images"
    images.mkdir()
    for answer in ours.answers:
        shutil.copy(root.raw / B / "imagesTr" / f"{answer.case_id}_0000.png", images)
    said = command(predict.main, "-i", images, "-o", tmp_path / "out", "-m", run, "--device", "cpu")
    assert said.status == 0, said.err
    said = command(evaluate.main, "-i", tmp_path / "out", "-l", root.raw / B)
    assert said.status == 0, said.err
    theirs = read_record(tmp_path / "out" / "summary.json", BoxSummary)
    assert theirs.threshold == ours.threshold
    assert [len(answer.detected) for answer in theirs.answers] == [len(answer.detected) for answer in ours.answers]
    for name in ("sensitivity", "precision", "f1"):
        assert theirs.scores.metrics[name].mean == ours.scores.metrics[name].mean, name


def test_it_goes_on_where_it_was_stopped(trained: tuple[Root, Table], copied: Callable[[Root], Root]) -> None:
    """Stopped within an epoch of the student, it ends with the same weights and scores, bit by bit."""
    before = run_of(trained)
    root = copied(trained[0])
    run = run_of((root, trained[1]))
    files = (
        "checkpoint_final.safetensors",
        "checkpoint_best.safetensors",
        "test/detections.json",
        "test/summary.json",
        "validation/summary.json",
        "checks.json",
    )
    stopped_and_resumed(root, SETTINGS, B, run, updates=4)
    for name in files:
        assert (run / name).read_bytes() == (before / name).read_bytes(), name
    history = [
        [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(path.open())]
        for path in (run / "progress.csv", before / "progress.csv")
    ]
    assert history[0] == history[1]
    assert float(history[0][-1]["logits"]) > 0  # it distils


def test_nothing_is_trained_twice(trained: tuple[Root, Table]) -> None:
    root, table = trained
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitting._Loop, "_update", lambda *_: pytest.fail("trained again"))
        again = pipeline.train(root, SETTINGS, B)
    assert again is not None
    assert again.path == table.path
    assert again.markdown == table.markdown


def test_a_students_teacher_is_the_joint_one_and_frozen(trained: tuple[Root, Table]) -> None:
    """As the run builds them: no gradient and no change; images without a box are among what it sees."""
    root, _ = trained
    groups, _ = find_groups(root)
    experiment = make_experiment(root, "CT_detection", groups["CT_detection"], SETTINGS, "2d")
    assert experiment is not None
    job = next(job for job in JobMaker(experiment).permutation(B, (A,)) if job.stage == "student")
    record = describe(experiment, job)
    objective, streams = make_objective(experiment, record), make_streams(experiment, record)
    assert isinstance(objective, StudentObjective)
    before = {name: value.clone() for name, value in objective.joint_teacher.state_dict().items()}
    batches = [streams.training[B].batch(index, 4) for index in range(12)]
    assert any(len(rows) == 0 for batch in batches for rows in batch.boxes)
    objective.trained().train()
    optimiser = torch.optim.AdamW(objective.trained().parameters(), lr=1e-3)
    for batch in batches[:2]:
        (terms,) = objective.losses({B: batch}, 1.0)
        assert {"task", "feature", "similarity", "attention", "logits", "embeddings"} <= set(terms)
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
    assert all(weight.grad is None for weight in objective.joint_teacher.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in objective.model.parameters())
    after = objective.joint_teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_validation_without_a_box(planned: Root, copied: Callable[[Root], Root]) -> None:
    """Nothing to score there: the threshold is that for want of a better one, and training goes on all the same."""
    root = copied(planned)
    empty = tuple(sorted(case.case_id for case in read_dataset(root.raw / A).cases if not case.boxes))
    splits = read_splits(root.splits(A))
    train_on = tuple(case for case in splits.folds[0].train if case not in empty)
    write_splits(root.splits(A), Splits(test=(), folds=(Fold(train=train_on, val=empty),)))
    groups, _ = find_groups(root)
    experiment = make_experiment(root, "CT_detection", groups["CT_detection"], SETTINGS, "2d")
    assert experiment is not None
    job = JobMaker(experiment).specific(A)
    run_jobs([(experiment, job)])
    summary = read_json(root.results / job.folder / "validation" / "summary.json")
    assert summary["threshold"] == 0.5
    assert summary["scores"]["metrics"]["map_50"]["mean"] is None
    assert "Images without a true box: 4" in (root.results / job.folder / "validation" / "summary.md").read_text()
    assert read_json(root.results / job.folder / "finished.json")["best_validation_score"] == 0
    assert validation_score(experiment, job.folder) == 0
    assert weight(0.0, 0.0) == 1  # neither teacher is worse than the other


# --- RF-DETR --------------------------------------------------------------------------------------------------------


def test_rf_detr_from_end_to_end(
    planned: Root, copied: Callable[[Root], Root], command: Command, tmp_path: Path
) -> None:
    root = copied(planned)
    table = pipeline.train(root, RFDETR, A)
    assert table is not None
    (row,) = table.rows
    assert set(row.summaries) == set(COLUMNS)
    assert (figures_folder(table.path) / f"{A}_detections.png").is_file()
    run = run_of((root, table))
    assert "rfdetr_tiny" in str(run)
    files = [run / "checkpoint_final.safetensors", run / "test" / "detections.json", run / "test" / "summary.json"]
    before = [path.read_bytes() for path in files]
    assert len(json.loads(before[1])) > 0
    stopped_and_resumed(root, RFDETR, A, run, updates=2)
    assert [path.read_bytes() for path in files] == before
    assert float(list(csv.DictReader((run / "progress.csv").open()))[-1]["logits"]) > 0  # it distils
    said = command(
        predict.main,
        "-i",
        root.raw / A / "imagesTr" / "case_000_0000.png",
        "-o",
        tmp_path / "out",
        "-m",
        run,
        "--device",
        "cpu",
    )
    assert said.status == 0, said.err
    found = read_json(tmp_path / "out" / "detections.json")
    assert {one["image_id"] for one in found} == {1}
    assert read_json(tmp_path / "out" / "prediction.json")["images"] == {"1": "case_000"}


# --- what does not go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--teacher-arch", "unet"), "network 'unet': detection has faster_rcnn_resnet50"),
        (("--student-arch", "tresunet"), "network 'tresunet': detection has"),
        (
            ("--teacher-arch", "faster_rcnn_small", "--student-arch", "rfdetr_tiny"),
            "network 'rfdetr_tiny' cannot learn from 'faster_rcnn_small': teachers and student belong to one family",
        ),
        (("--student-arch", "rfdetr_tiny"), "cannot learn from 'faster_rcnn_resnet50'"),
        (("--teacher-arch", "rfdetr_base"), "--input-size 224 --replan"),
        (("--teacher-arch", "faster_rcnn_small", "--width", "4"), "width 4: faster_rcnn_small has a width of its own"),
        (("--student-arch", "faster_rcnn_small", "--student-width", "4"), "width 4: faster_rcnn_small has a width"),
    ],
)
def test_networks_that_do_not_fit(planned: Root, command: Command, flags: tuple[str, ...], words: str) -> None:
    """Said before anything is trained, also by a dry run."""
    there = set(planned.results.rglob("*"))
    for more in ((), ("--dry-run",)):
        said = command(train.main, "--root", planned.folder, A, "--device", "cpu", *flags, *more)
        assert said.status == 1
        assert words in said.err
        assert "Traceback" not in said.err
    assert there == set(planned.results.rglob("*"))


def test_a_dry_run_lists_what_is_to_do(planned: Root, command: Command) -> None:
    said = command(
        train.main,
        "--root",
        planned.folder,
        A,
        "--device",
        "cpu",
        "--dry-run",
        "--batch-size",
        "1",
        "--teacher-arch",
        "faster_rcnn_small",
    )
    assert said.status == 0, said.err
    assert "CT_detection, 2d: 5 jobs" in said.out


def test_the_advice_for_another_input_is_sound(planned: Root, copied: Callable[[Root], Root], command: Command) -> None:
    root = copied(planned)
    shutil.rmtree(root.results, ignore_errors=True)
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", "1", "--input-size", "224", "--replan")
    assert said.status == 0, said.err
    said = command(
        train.main,
        "--root",
        root.folder,
        A,
        "--device",
        "cpu",
        "--teacher-arch",
        "rfdetr_base",
        "--dry-run",
        "--batch-size",
        "1",
    )
    assert said.status == 0, said.err
