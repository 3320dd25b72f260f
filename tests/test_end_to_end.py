"""From raw folders to a table and masks, on tiny phantoms: what is done is not done again, what fails is named."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture
from safetensors.numpy import load_file

from mdkd_auto import pipeline
from mdkd_auto.cli import plan_and_preprocess, predict, train
from mdkd_auto.core.errors import PredictionError
from mdkd_auto.core.files import read_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.demo.phantoms import Look, write_datasets, write_new_images
from mdkd_auto.execution.run_folder import read_run
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preprocessing.case_store import read_case_record
from mdkd_auto.report.comparison import COLUMNS
from mdkd_auto.report.figures import DRAWINGS, figures_folder
from mdkd_auto.report.tables import Table

BUDGET = {"epochs": 2, "iterations_per_epoch": 3, "validation_batches": 1, "width": 4, "batch_size": 4, "device": "cpu"}
SETTINGS = Settings(**BUDGET)  # type: ignore[arg-type]
CASES, CONFIGURATIONS = 4, 2
A, B, C = "Dataset901_RoundBright", "Dataset902_FlatFaint", "Dataset903_RaggedDark"

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")


class Trained(NamedTuple):
    """A root in which every permutation is trained."""

    root: Root
    table: Table

    def student(self, target: str) -> Path:
        row = next(row for row in self.table.rows if row.target == target)
        return self.root.results / row.folders["student"][0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, planned: Root, one_thread: None) -> Trained:
    """Not to be changed: see ``copied``."""
    root = Root(Path(shutil.copytree(planned.folder, tmp_path_factory.mktemp("trained") / "root")))
    (table,) = pipeline.train_all_permutations(root, SETTINGS)
    return Trained(root, table)


def state(folder: Path, pattern: str) -> dict[Path, int]:
    """Files and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern) if path.is_file()}


def weights(run: Path) -> dict[str, np.ndarray]:
    return dict(load_file(run / "checkpoint_best.safetensors"))


# --- all permutations -----------------------------------------------------------------------------------------------


def test_table_has_four_columns_for_three_targets(trained: Trained) -> None:
    table = trained.table
    assert [row.target for row in table.rows] == [A, B, C]
    for row in table.rows:
        assert set(row.summaries) == set(COLUMNS)
        assert row.part == "test"
        for (summary,) in row.summaries.values():
            assert summary.failed == {}
            assert len(summary.metric_per_case) == 1
        assert set(row.comparisons) == {"student"}
        assert set(row.checks) == {"joint teacher", "student"}
    assert "| target | multi-head | data-set-specific | joint teacher | student |" in table.markdown
    assert table.path.with_suffix(".csv").is_file()
    drawn = figures_folder(table.path)
    for row in table.rows:
        for name in DRAWINGS["segmentation"].keys() - {"tsne"}:  # some lesions fill too few voxels for it
            with Picture.open(drawn / f"{row.target}_{name}.png") as picture:
                assert picture.format == "PNG"
    assert set(read_json(drawn / "figures.json")) == {A, B, C}


def test_a_run_folder_holds_the_whole_run(trained: Trained) -> None:
    run = trained.student(A)
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "run.json",
        "plan.json",
        "finished.json",
        "checks.json",
        "progress.csv",
        "progress.png",
        "checkpoint_best.safetensors",
        "checkpoint_final.safetensors",
        "validation",
        "test",
    }
    assert "checkpoint_latest.safetensors" not in names
    assert not [name for name in names if name.startswith(".tmp")]
    test = read_json(trained.root.splits(A))["test"]
    for name in test:
        mask = nib.load(run / "test" / f"{name}.nii.gz")
        image = nib.load(trained.root.raw / A / "imagesTr" / f"{name}_0000.nii.gz")
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)


def test_training_again_trains_nothing(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    before = state(trained.root.results, "*/*__*/fold_0/**/*")
    assert len([path for path in before if path.name == "finished.json"]) == 16
    with caplog.at_level(logging.INFO):
        (table,) = pipeline.train_all_permutations(trained.root, SETTINGS)
    assert state(trained.root.results, "*/*__*/fold_0/**/*") == before
    assert table.markdown == trained.table.markdown
    assert table.path == trained.table.path
    assert caplog.text.count("done before") == 16
    assert "no longer matches" not in caplog.text


def test_planning_again_preprocesses_nothing(trained: Trained) -> None:
    before = state(trained.root.preprocessed, "*/*/*")
    outcome = pipeline.plan_and_preprocess(trained.root)
    assert (outcome.done, outcome.skipped, outcome.problems) == (0, 3 * CASES * CONFIGURATIONS, ())
    assert state(trained.root.preprocessed, "*/*/*") == before
    text = trained.root.plan("CT_segmentation").with_suffix(".txt").read_text()
    assert "Changes since the last plan:\n  none" in text


def test_the_tables_alone(trained: Trained) -> None:
    (table,) = pipeline.tables(trained.root, SETTINGS)
    assert table.markdown == trained.table.markdown


def test_the_same_command_elsewhere_gives_the_same_weights(
    trained: Trained, tmp_path: Path, looks: tuple[Look, ...]
) -> None:
    root = Root(tmp_path / "elsewhere")
    write_datasets(root.raw, looks, cases=CASES)
    pipeline.plan_and_preprocess(root)
    table = pipeline.train(root, SETTINGS, "901")
    assert table is not None
    here = trained.student(A)
    there = root.results / table.rows[0].folders["student"][0]
    assert there.relative_to(root.results) == here.relative_to(trained.root.results)
    expected, found = weights(here), weights(there)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name
    other = weights(trained.student(B))
    assert any(value.tobytes() != other[name].tobytes() for name, value in expected.items())


# --- prediction -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_alone(trained: Trained, tmp_path: Path) -> Path:
    """Nothing but a student's run folder, elsewhere."""
    return Path(shutil.copytree(trained.student(A), tmp_path / "carried" / "fold_0"))


@pytest.fixture
def new_images(tmp_path: Path, looks: tuple[Look, ...]) -> Path:
    """Two images as the scanner's, the second turned, shifted and of another size and spacing."""
    folder = tmp_path / "new"
    write_new_images(folder, looks[0])
    array = np.asarray(nib.load(folder / "new_001_0000.nii.gz").dataobj)[:28, :25, :]
    affine = np.array([[0, -5.0, 0, 80.5], [-4.5, 0, 0, 70.25], [0, 0, 7.5, -33.0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(array, affine), folder / "new_001_0000.nii.gz")
    return folder


def test_masks_lie_as_the_images_do(
    run_alone: Path, new_images: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    outcome = pipeline.predict(new_images, tmp_path / "masks", run_alone, device="cpu")
    assert (outcome.done, outcome.skipped, outcome.problems) == (2, 0, ())
    said = command(predict.main, "-i", new_images, "-o", tmp_path / "by_command", "-m", run_alone, "--device", "cpu")
    assert said.status == 0, said.err
    for name in ("new_000", "new_001"):
        image = nib.load(new_images / f"{name}_0000.nii.gz")
        mask = nib.load(tmp_path / "masks" / f"{name}.nii.gz")
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)
        assert set(np.unique(mask.dataobj)) <= {0, 1}
        same = nib.load(tmp_path / "by_command" / f"{name}.nii.gz")
        assert np.array_equal(np.asarray(mask.dataobj), np.asarray(same.dataobj))
    assert read_json(tmp_path / "masks" / "prediction.json")["run"] == str(run_alone)

    before = state(tmp_path / "masks", "*.nii.gz")
    (tmp_path / "masks" / "new_000.nii.gz").unlink()
    again = pipeline.predict(new_images, tmp_path / "masks", run_alone, device="cpu", keep_existing=True)
    assert (again.done, again.skipped) == (1, 1)
    kept = tmp_path / "masks" / "new_001.nii.gz"
    assert state(tmp_path / "masks", "*.nii.gz")[kept] == before[kept]


def test_a_damaged_image_does_not_stop_the_rest(
    run_alone: Path, new_images: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    whole = (new_images / "new_000_0000.nii.gz").read_bytes()
    (new_images / "new_000_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    said = command(predict.main, "-i", new_images, "-o", tmp_path / "masks", "-m", run_alone, "--device", "cpu")
    assert said.status == 1
    assert "images done: 1" in said.out
    assert "1 problem; the rest is done:" in said.err
    assert "new_000_0000.nii.gz" in said.err
    assert {path.name for path in (tmp_path / "masks").glob("*.nii.gz")} == {"new_001.nii.gz"}


def test_the_student_of_a_target_is_found(trained: Trained) -> None:
    assert pipeline.find_student(trained.root, "901") == trained.student(A)


def test_a_multi_head_model_needs_to_know_which_head(trained: Trained, new_images: Path, tmp_path: Path) -> None:
    run = trained.root.results / trained.table.rows[0].folders["multi-head"][0]
    with pytest.raises(PredictionError, match="for which data set"):
        pipeline.predict(new_images, tmp_path / "masks", run, device="cpu")
    assert pipeline.predict(new_images, tmp_path / "masks", run, device="cpu", dataset=B).done == 2


# --- change and damage ----------------------------------------------------------------------------------------------


def test_an_added_data_set_redoes_only_its_own(
    trained: Trained, copied: Callable[[Root], Root], another_look: Look, caplog: pytest.LogCaptureFixture
) -> None:
    root = copied(trained.root)
    before = state(root.preprocessed, "*/*/*.b2nd")
    write_datasets(root.raw, (another_look,), cases=CASES, seed=5)
    outcome = pipeline.plan_and_preprocess(root)
    assert (outcome.done, outcome.skipped) == (CASES * CONFIGURATIONS, 3 * CASES * CONFIGURATIONS)
    after = state(root.preprocessed, "*/*/*.b2nd")
    assert {path: time for path, time in after.items() if path in before} == before

    caplog.clear()
    with caplog.at_level(logging.INFO):
        pipeline.train_all_permutations(root, SETTINGS, dry_run=True)
    lines = caplog.text.splitlines()
    jobs = [line for line in lines if line.startswith("[")]
    assert len(jobs) == 4 + 12 + 4 + 4 + 1
    done = [line for line in jobs if ": done" in line]
    assert len(done) == 3 + 6
    assert all("teacher of Dataset90" in line or "source teacher" in line for line in done)
    assert not any("904" in line for line in done)
    overtaken = [line for line in lines if "no longer matches, kept but not used" in line]
    assert len(overtaken) == 3 + 3 + 1
    assert "sources: " in caplog.text
    assert "Dataset904_Added" in caplog.text


def test_a_damaged_case_stops_everything_or_is_left_out(
    tmp_path: Path, looks: tuple[Look, ...], command: Callable[..., Any]
) -> None:
    root = Root(tmp_path / "root")
    write_datasets(root.raw, looks, cases=CASES)
    damaged = root.raw / B / "imagesTr" / "case_002_0000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", 1)
    assert said.status == 1
    assert str(damaged) in said.err
    assert "1 error, 0 warnings" in said.err
    assert "Traceback" not in said.out + said.err
    assert not root.plan("CT_segmentation").exists()

    said = command(plan_and_preprocess.main, "--root", root.folder, "-j", 1, "--exclude-broken")
    assert said.status == 0
    assert f"left out: case case_002 of {B}" in said.out
    for name in (A, B, C):
        for configuration in ("2d", "3d_fullres"):
            stored = {path.stem for path in root.cases(name, configuration).glob("*.json")}
            assert stored == {f"case_{index:03d}" for index in range(CASES) if (name, index) != (B, 2)}
            for case in stored:
                assert read_case_record(root.cases(name, configuration), case).case_id == case


# --- classes and volumes --------------------------------------------------------------------------------------------


def split_lesions(folder: Path) -> None:
    """Two classes for one: the lesion's upper half becomes value 2."""
    for path in (folder / "labelsTr").iterdir():
        image = nib.load(path)
        label = np.asarray(image.dataobj).copy()
        upper = np.arange(label.shape[2]) >= label.shape[2] // 2
        label[(label > 0) & upper] = 2
        nib.save(nib.Nifti1Image(label, image.affine), path)
    description = read_json(folder / "dataset.json")
    description["labels"] = {"background": 0, "core": 1, "rim": 2}
    (folder / "dataset.json").write_text(json.dumps(description))


def test_two_class_sets_in_one_group(tmp_path: Path, looks: tuple[Look, ...], command: Callable[..., Any]) -> None:
    root = Root(tmp_path / "root")
    write_datasets(root.raw, looks[:2], cases=CASES)
    split_lesions(root.raw / B)
    pipeline.plan_and_preprocess(root, request=PlanRequest(configurations=("2d",)))
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({**BUDGET, "epochs": 1}))
    said = command(train.main, B, "--from", A, "--keep-classes", "--settings", settings, "--root", root.folder)
    assert said.status == 0, said.err
    run = pipeline.find_student(root, B)
    classes = read_run(run).classes
    assert [channel.name for channel in classes[B].channels] == ["core", "rim"]
    assert [channel.name for channel in classes[A].channels] == ["lesion"]
    summary = read_json(run / "test" / "summary.json")
    assert set(summary["mean"]) == {"core", "rim"}
    assert len(list((root.results / B).glob("*/fold_0/finished.json"))) == 4  # two teachers, joint teacher, student
    (mask,) = (run / "test").glob("*.nii.gz")
    assert set(np.unique(nib.load(mask).dataobj)) <= {0, 1, 2}


def test_volumes(planned: Root, copied: Callable[[Root], Root]) -> None:
    root = copied(planned)
    settings = Settings(**{**BUDGET, "epochs": 1, "batch_size": 2})  # type: ignore[arg-type]
    table = pipeline.train(root, settings, C, (A,), configuration="3d_fullres")
    assert table is not None
    (row,) = table.rows
    assert set(row.summaries) == set(COLUMNS)
    run = root.results / row.folders["student"][0]
    assert run.parent.name.startswith("Student-901__UNet-")
    assert run.parent.name.endswith("__3d_fullres")
    (case,) = row.summaries["student"][0].metric_per_case
    assert nib.load(run / "test" / f"{case.case_id}.nii.gz").shape == (32, 32, 6)
    assert (figures_folder(table.path) / f"{C}_overlays.png").is_file()
    assert (figures_folder(table.path) / f"{C}_attention.png").is_file()


def test_volumes_of_data_sets_of_unequal_size(
    tmp_path: Path, looks: tuple[Look, ...], command: Callable[..., Any]
) -> None:
    """From volumes to table and masks in 3-D; one data set has a single case to train on, another eight."""
    root = Root(tmp_path / "root")
    for number, (look, cases) in enumerate(zip(looks, (3, 14, 5), strict=True)):
        write_datasets(root.raw, (look,), cases=cases, seed=number)
    pipeline.plan_and_preprocess(root, request=PlanRequest(configurations=("3d_fullres",)))
    trained_on = {name: len(read_json(root.splits(name))["folds"][0]["train"]) for name in (A, B, C)}
    assert trained_on == {A: 1, B: 8, C: 3}
    settings = Settings(**{**BUDGET, "epochs": 1, "iterations_per_epoch": 2, "batch_size": 3})  # type: ignore[arg-type]
    (table,) = pipeline.train_all_permutations(root, settings, configuration="3d_fullres")
    assert [row.target for row in table.rows] == [A, B, C]
    for row in table.rows:
        assert set(row.summaries) == set(COLUMNS)
        tested = read_json(root.splits(row.target))["test"]
        for (summary,) in row.summaries.values():
            assert summary.failed == {}
            assert {case.case_id for case in summary.metric_per_case} == set(tested)
        run = root.results / row.folders["student"][0]
        for case in tested:
            mask, image = (
                nib.load(path)
                for path in (
                    run / "test" / f"{case}.nii.gz",
                    root.raw / row.target / "imagesTr" / f"{case}_0000.nii.gz",
                )
            )
            assert mask.shape == image.shape
    new = tmp_path / "new"
    write_new_images(new, looks[0], cases=1)
    said = command(predict.main, "-i", new, "-o", tmp_path / "masks", "-m", run, "--device", "cpu")
    assert said.status == 0, said.err
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 1


# --- ablations ------------------------------------------------------------------------------------------------------


def test_controls_of_one_target(trained: Trained, copied: Callable[[Root], Root]) -> None:
    """The teachers are there; what the controls need beside them is trained, and all stand in one table."""
    root = copied(trained.root)
    before = state(root.results, f"{A}/Teacher*/fold_0/finished.json")
    (table,) = pipeline.ablate(root, SETTINGS, "controls", targets=(A,))
    (row,) = table.rows
    columns = (
        "data-set-specific",
        "student",
        "self-distilled",
        "untrained sources",
        "fine-tuned from 902",
        "fine-tuned from 903",
    )
    assert tuple(row.summaries) == columns
    further = [f"student against {control}" for control in columns[2:]]
    assert list(row.comparisons) == [*columns[1:], *further]
    assert table.path.name.startswith("table_controls_2d_fold_0__")
    judged, asked = (
        table.markdown.split("## Is a gain really the other data sets'?")[1]
        .split("## Checks")[0]
        .split("## Is the student ahead of its controls?")
    )
    assert judged.count(" against data-set-specific (n=") == len(columns[1:])
    for control in columns[2:]:
        assert f"- {A} (test): student " in asked
        assert f" points DSC against {control} (n=" in asked
    assert "Ahead of self-distilled: the gain is the other data sets'" in asked
    assert state(root.results, f"{A}/Teacher*/fold_0/finished.json").items() >= before.items()
    assert row.folders["student"][0] == trained.table.rows[0].folders["student"][0]

    own = weights(root.results / trained.table.rows[1].folders["data-set-specific"][0])
    continued = weights(root.results / row.folders["fine-tuned from 902"][0])
    assert set(own) == set(continued)
    assert any(not np.array_equal(own[name], continued[name]) for name in own)


def test_a_tresunet_teaches_a_small_unet(planned: Root, copied: Callable[[Root], Root]) -> None:
    root = copied(planned)
    changes = {"teacher_architecture": "tresunet", "student_architecture": "unet", "student_width": 2, "epochs": 1}
    settings = Settings(**{**BUDGET, **changes})  # type: ignore[arg-type]
    table = pipeline.train(root, settings, C, (A,))
    assert table is not None
    (row,) = table.rows
    assert "Student-901__UNet-" in row.folders["student"][0]
    assert "Teacher__UNet-" in row.folders["data-set-specific"][0]  # the baseline has the student's network
    assert "JointTeacher-901__TResUNet-" in row.folders["joint teacher"][0]
    teachers = list((root.results / C).glob("Teacher__*"))
    assert len(teachers) == 2
    assert (figures_folder(table.path) / f"{C}_attention.png").is_file()
    small = weights(root.results / row.folders["student"][0])
    assert max(value.size for value in small.values()) < 10_000
