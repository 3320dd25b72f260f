"""Files that change after a run was scored: labels, images, classes, boxes, predictions. No table mixes truths."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from mdkd_auto import pipeline
from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import file_hash, read_json, read_record, write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Plan
from mdkd_auto.core.settings import ClassificationSettings, DetectionSettings, Settings, replace
from mdkd_auto.demo.phantoms import PICTURES, SCENES, write_detection_datasets, write_pictures
from mdkd_auto.execution import run_job as run_module
from mdkd_auto.execution.run_job import run_jobs
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.formats.read_write import read_image
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.preprocessing.case import Prepared, prepare_image
from mdkd_auto.preprocessing.crop import cropped
from mdkd_auto.report import tabulate
from mdkd_auto.report.tables import Table
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.segmentation.training import Predictor

A, B = "Dataset901_RoundBright", "Dataset902_FlatFaint"
SMALL: dict[str, Any] = {
    "epochs": 1,
    "iterations_per_epoch": 1,
    "validation_batches": 1,
    "batch_size": 2,
    "width": 2,
    "device": "cpu",
}
SETTINGS = Settings(**SMALL)

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")


class Log(NamedTuple):
    """What was done since it was cleared."""

    trained: list[str]  # stages
    predicted: list[str]  # shapes of images

    def clear(self) -> None:
        self.trained.clear()
        self.predicted.clear()


def bright(prepared: Prepared) -> np.ndarray:
    """What the model of these tests finds: all that is above the mean of the image, at its own size."""
    labels = np.zeros(prepared.geometry.original_shape, np.uint8)
    inside = cropped(labels, prepared.geometry)
    nearest = np.ix_(
        *(np.arange(size) * length // size for size, length in zip(inside.shape, prepared.voxels.shape, strict=True))
    )
    inside[...] = prepared.voxels[nearest] > prepared.voxels.mean()
    return labels


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    """Every run finds the same, so that a difference between two is one of their truths; no figures are drawn."""
    done = Log([], [])
    train = run_module._run

    def trains(experiment: Experiment, job: Job, folder: Path, title: str) -> None:
        done.trained.append(job.stage)
        train(experiment, job, folder, title)

    def mask_of(_: Predictor, prepared: Prepared) -> np.ndarray:
        done.predicted.append(str(prepared.geometry.original_shape))
        return bright(prepared)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "_run", trains)
        patched.setattr(Predictor, "mask_of", mask_of)
        patched.setattr(pipeline, "draw_figures", lambda *_: None)
        patched.setattr(tabulate, "draw_figures", lambda *_: None)
        yield done


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, planned: Root, one_thread: None, no_curves: None, log: Log
) -> Root:
    root = Root(Path(shutil.copytree(planned.folder, tmp_path_factory.mktemp("scored") / "root")))
    shutil.rmtree(root.raw / "Dataset903_RaggedDark")  # two data sets are enough
    train(root, SETTINGS)
    return root


@pytest.fixture
def root(trained: Root, copied: Callable[[Root], Root], log: Log) -> Root:
    log.clear()
    return copied(trained)


def train(root: Root, settings: Settings) -> Table:
    table = pipeline.train(root, settings, A, (B,))
    assert table is not None
    return table


def name_of_test_case(root: Root) -> str:
    (name,) = read_json(root.splits(A))["test"]
    return str(name)


def label_of(root: Root) -> Path:
    return root.raw / A / "labelsTr" / f"{name_of_test_case(root)}.nii.gz"


def image_of(root: Root) -> Path:
    return root.raw / A / "imagesTr" / f"{name_of_test_case(root)}_0000.nii.gz"


def shift(path: Path) -> None:
    """Move what a NIfTI holds by eight voxels."""
    stored = nib.load(path)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(stored.dataobj), 8, axis=0), stored.affine), path)


def runs_of(root: Root) -> list[Path]:
    """All that are scored on the test part of A: teacher, joint teacher and student; the multi-head model as well."""
    return sorted(
        path.parent for path in root.results.glob("*/*/fold_0/test/**/summary.json") if read_json(path)["dataset"] == A
    )


def dice_by_hand(mask: Path, label: Path) -> float:
    found, truth = (np.asarray(nib.load(path).dataobj) > 0 for path in (mask, label))
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


# --- segmentation ---------------------------------------------------------------------------------------------------


def test_scores_say_what_they_were_computed_from(root: Root) -> None:
    name = name_of_test_case(root)
    for folder in runs_of(root):
        (evidence,) = read_json(folder / "summary.json")["evidence"].items()
        assert evidence[0] == name
        assert evidence[1]["images"] == [file_hash(image_of(root))]
        assert evidence[1]["label"] == file_hash(label_of(root))
        assert evidence[1]["prediction"] == file_hash(folder / f"{name}.nii.gz")


def test_scores_of_a_folder_say_it_too(root: Root, tmp_path: Path) -> None:
    name = name_of_test_case(root)
    (folder,) = (folder for folder in runs_of(root) if "Student" in str(folder))
    masks = tmp_path / "masks"
    masks.mkdir()
    shutil.copy(folder / f"{name}.nii.gz", masks / f"{name}_0000.nii.gz")
    pipeline.evaluate(masks, root.raw / A, allow_missing=True)
    (evidence,) = read_json(masks / "summary.json")["evidence"].items()
    expected = read_json(folder / "summary.json")["evidence"][name]
    assert evidence == (name, expected)


def test_a_corrected_test_label_scores_every_finished_run_again(root: Root, log: Log) -> None:
    """Planned again, then trained with one other setting: only the student is new, and no column keeps old scores."""
    shift(label_of(root))
    assert pipeline.plan_and_preprocess(root).problems == ()
    table = train(root, replace(SETTINGS, gamma=0.7))
    assert log.trained == ["student"]
    assert len(log.predicted) == 2  # the new student's validation and test image
    (row,) = table.rows
    expected = {dice_by_hand(folder / f"{name_of_test_case(root)}.nii.gz", label_of(root)) for folder in runs_of(root)}
    assert len(expected) == 1
    for summaries in row.summaries.values():
        ((scores,),) = ((one.metrics["foreground"] for one in summary.metric_per_case) for summary in summaries)
        assert {scores.dice} == expected
    assert row.comparisons["student"].mean_difference == 0
    old = read_json(next(root.results.glob(f"{A}/SourceTeacher*/fold_0/validation/summary.json")))
    assert old["evidence"].keys().isdisjoint([name_of_test_case(root)])


def test_a_corrected_label_needs_no_weights(root: Root, log: Log) -> None:
    shift(label_of(root))
    for weights in root.results.rglob("*.safetensors"):
        weights.unlink()
    train(root, SETTINGS)
    assert (log.trained, log.predicted) == ([], [])
    for folder in runs_of(root):
        (scores,) = read_json(folder / "summary.json")["metric_per_case"]
        assert scores["metrics"]["foreground"]["dice"] == dice_by_hand(
            folder / f"{scores['case_id']}.nii.gz", label_of(root)
        )


def test_another_image_is_predicted_again_and_nothing_else(root: Root, log: Log) -> None:
    shift(image_of(root))
    before = {path: path.stat().st_mtime_ns for path in root.results.glob("*/*/fold_0/validation/**/*.nii.gz")}
    pipeline.tables(root, SETTINGS)
    runs = runs_of(root)
    assert len(runs) == 4
    assert (log.trained, len(log.predicted)) == ([], 4)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    plan = read_record(root.plan("CT_segmentation"), Plan)
    image = prepare_image(read_image(image_of(root)), plan.dataset(A), plan.configuration("2d"))
    for folder in runs:
        assert np.array_equal(read_image(folder / f"{name_of_test_case(root)}.nii.gz").array, bright(image))
    log.clear()
    pipeline.tables(root, SETTINGS)
    assert log.predicted == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: shutil.copy(label_of(Root(path.parents[5])), path)])
def test_a_mask_that_is_gone_or_altered_is_predicted_again(
    root: Root, log: Log, spoil: Callable[[Path], object]
) -> None:
    (folder,) = (folder for folder in runs_of(root) if "Student" in str(folder))
    mask = folder / f"{name_of_test_case(root)}.nii.gz"
    whole = np.asarray(nib.load(mask).dataobj)
    spoil(mask)
    pipeline.tables(root, SETTINGS)
    assert len(log.predicted) == 1
    assert np.array_equal(np.asarray(nib.load(mask).dataobj), whole)


def test_a_lost_summary_is_made_again(root: Root, log: Log) -> None:
    (folder,) = (folder for folder in runs_of(root) if "JointTeacher" in str(folder))
    before = (folder / "summary.json").read_bytes()
    (folder / "summary.json").unlink()
    train(root, SETTINGS)
    assert (log.trained, len(log.predicted)) == ([], 1)
    assert (folder / "summary.json").read_bytes() == before


def test_without_weights_another_image_is_refused_by_the_runs_name(root: Root, log: Log) -> None:
    shift(image_of(root))
    (folder,) = (folder.parent for folder in runs_of(root) if "Student" in str(folder))
    (folder / "checkpoint_best.safetensors").unlink()
    before = (folder / "test" / "summary.json").read_bytes()
    with pytest.raises(TrainingError) as caught:
        train(root, SETTINGS)
    for words in (
        str(folder),
        "1 of 1 test cases",
        name_of_test_case(root),
        "delete the folder to train the run again",
        "checkpoint_best.safetensors, which is gone",
    ):
        assert words in str(caught.value)
    assert (folder / "test" / "summary.json").read_bytes() == before


def test_missing_weights_are_refused_before_anything_is_trained(root: Root, log: Log) -> None:
    """The multi-head model comes last; the student of another setting would be trained before."""
    shift(image_of(root))
    (weights,) = root.results.glob("*/MultiHead*/fold_0/checkpoint_best.safetensors")
    weights.unlink()
    with pytest.raises(TrainingError, match=r"MultiHead.*checkpoint_best\.safetensors, which is gone"):
        train(root, replace(SETTINGS, gamma=0.7))
    assert log.trained == []


def test_no_table_compares_scores_of_different_truths(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a label changes while the command runs."""
    (student,) = (folder for folder in runs_of(root) if "Student" in str(folder))
    content = read_json(student / "summary.json")
    content["evidence"][name_of_test_case(root)]["label"] = "0" * 64
    write_json(student / "summary.json", content)
    monkeypatch.setattr(tabulate, "renew_scores", lambda _: None)
    with pytest.raises(TrainingError) as caught:
        pipeline.tables(root, SETTINGS)
    said = str(caught.value)
    assert f"{A}: runs scored {name_of_test_case(root)} from different files" in said
    assert str(student.parent.relative_to(root.results)) in said
    assert "truth 000000000000" in said


def test_a_part_that_grows_or_shrinks_is_scored_as_it_is_now(root: Root, log: Log) -> None:
    """A second image of the patient who is tested on; then it is gone again."""
    name = name_of_test_case(root)
    before = {folder: (folder / "summary.json").read_bytes() for folder in runs_of(root)}
    for path in (image_of(root), label_of(root)):
        shutil.copy(path, path.with_name(path.name.replace(name, "second")))
    description = root.raw / A / "dataset.json"
    whole = description.read_text()
    description.write_text(whole.replace('"numTraining": 4', '"numTraining": 5'))
    (root.raw / A / "cases.csv").write_text(f"case_id,patient_id\nsecond,{name}\n")
    assert pipeline.plan_and_preprocess(root).problems == ()
    train(root, SETTINGS)
    assert (log.trained, len(log.predicted)) == ([], 4)
    for folder in runs_of(root):
        summary = read_json(folder / "summary.json")
        assert sorted(summary["evidence"]) == sorted([name, "second"])
        assert [one["case_id"] for one in summary["metric_per_volume"]] == [name]
    log.clear()
    for folder in ("imagesTr", "labelsTr"):
        next((root.raw / A / folder).glob("second*")).unlink()
    (root.raw / A / "cases.csv").unlink()
    description.write_text(whole)
    assert pipeline.plan_and_preprocess(root).problems == ()
    train(root, SETTINGS)
    assert (log.trained, log.predicted) == ([], [])
    assert {folder: (folder / "summary.json").read_bytes() for folder in before} == before


# --- classes and boxes ----------------------------------------------------------------------------------------------


def experiment_of(root: Root, group: str, settings: Settings) -> Experiment:
    groups, _ = find_groups(root)
    made = make_experiment(root, group, groups[group], settings, "2d")
    assert made is not None
    return made


def trained_alone(root: Root, group: str, settings: Settings, target: str) -> Path:
    experiment = experiment_of(root, group, settings)
    job = JobMaker(experiment).specific(target)
    run_jobs([(experiment, job)])
    return root.results / job.folder / "test"


def test_a_corrected_class_is_scored_again_from_the_stored_answer(tmp_path: Path, log: Log) -> None:
    target, group = PICTURES[0].name, "CXR_classification"
    settings = Settings(**SMALL, classification=ClassificationSettings(architecture="unet"))
    root = Root(tmp_path)
    write_pictures(root.raw, PICTURES[:1], cases=12)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    folder = trained_alone(root, group, settings, target)
    before = read_json(folder / "summary.json")
    name = before["answers"][0]["case_id"]
    table = root.raw / target / "cases.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    other = next(label for label in before["classes"] if label != before["classes"][before["answers"][0]["truth"]])
    for row in rows:
        row["label"] = other if row["case_id"] == name else row["label"]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    table.write_text("\n".join(lines) + "\n")
    weights = folder.parent / "checkpoint_best.safetensors"
    stored = weights.read_bytes()
    weights.unlink()
    log.clear()
    assert trained_alone(root, group, settings, target) == folder
    after = read_json(folder / "summary.json")
    assert after["answers"][0]["truth"] == before["classes"].index(other)
    assert [one["logits"] for one in after["answers"]] == [one["logits"] for one in before["answers"]]
    matrix = np.array(after["confusion"]) - np.array(before["confusion"])
    assert (matrix.sum(), abs(matrix).sum()) == (0, 2)
    assert f"{name},{other}," in (folder / "predictions.csv").read_text()
    assert log.trained == []

    text = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(text.replace("0.", "1.", 1))
    trained_alone(root, group, settings, target)
    assert (folder / "predictions.csv").read_text() == text

    image = root.raw / target / "imagesTr" / f"{name}_0000.png"
    Picture.fromarray(np.asarray(Picture.open(image))[::-1].copy()).save(image)
    with pytest.raises(TrainingError, match=rf"1 of \d+ test cases of {target} \({name}\)"):
        trained_alone(root, group, settings, target)
    weights.write_bytes(stored)
    trained_alone(root, group, settings, target)
    turned = read_json(folder / "summary.json")["answers"]
    changed = [one["case_id"] for one, was in zip(turned, after["answers"], strict=True) if one != was]
    assert changed == [name]


def test_a_corrected_box_is_scored_again_from_the_stored_boxes(tmp_path: Path, log: Log) -> None:
    target, group = SCENES[0].name, "CT_detection"
    settings = Settings(**{**SMALL, "width": None}, detection=DetectionSettings(architecture="faster_rcnn_small"))
    root = Root(tmp_path)
    write_detection_datasets(root.raw, SCENES[:1], cases=10)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    folder = trained_alone(root, group, settings, target)
    before = read_json(folder / "summary.json")
    (name, *_) = (one["case_id"] for one in before["answers"] if one["truth"])
    path = root.raw / target / "annotations.json"
    content = read_json(path)
    image = next(one["id"] for one in content["images"] if one["file_name"].startswith(name))
    box = next(one for one in content["annotations"] if one["image_id"] == image)
    box["bbox"][2] -= 2.0
    box["area"] = box["bbox"][2] * box["bbox"][3]
    write_json(path, content)
    (folder.parent / "checkpoint_best.safetensors").unlink()
    (folder / "detections.json").unlink()
    log.clear()
    trained_alone(root, group, settings, target)
    after = read_json(folder / "summary.json")
    for one, was in zip(after["answers"], before["answers"], strict=True):
        assert one["detected"] == was["detected"]
        assert (one["truth"] == was["truth"]) == (one["case_id"] != name)
    x1, y1, x2, y2 = next(one["truth"][0] for one in after["answers"] if one["case_id"] == name)
    assert [x1, y1, x2 - x1, y2 - y1] == pytest.approx(box["bbox"])
    assert (folder / "detections.json").is_file()
    assert log.trained == []

    validation = folder.parent / "validation" / "summary.json"  # as if interrupted before the test part
    write_json(validation, {**read_json(validation), "threshold": 0.875})
    trained_alone(root, group, settings, target)
    assert read_json(folder / "summary.json")["threshold"] == 0.875
