"""Cases that cannot be scored any more: named in summaries, tables and on the screen, and the exit status is 1."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdkd_auto import pipeline
from mdkd_auto.cli import evaluate, train
from mdkd_auto.core.errors import TrainingError
from mdkd_auto.core.files import read_json, write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import ClassificationSettings, DetectionSettings, Settings
from mdkd_auto.demo.phantoms import PICTURES, SCENES, Look, write_datasets, write_detection_datasets, write_pictures
from mdkd_auto.execution.evaluate_run import not_scored
from mdkd_auto.execution.run_job import run_jobs
from mdkd_auto.experiments.experiment import make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.report import tables as tables_module

A, B = "Dataset901_RoundBright", "Dataset902_FlatFaint"
SMALL: dict[str, Any] = {
    "epochs": 1,
    "iterations_per_epoch": 1,
    "validation_batches": 1,
    "batch_size": 2,
    "width": 2,
    "device": "cpu",
}
Command = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "draw_figures", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    looks: tuple[Look, ...],
    one_thread: None,
    no_curves: None,
    no_figures: None,
) -> Root:
    """Two data sets of eight cases, two of which are tested on; A has every run."""
    root = Root(tmp_path_factory.mktemp("lost"))
    write_datasets(root.raw, looks[:2], cases=8)
    assert pipeline.plan_and_preprocess(root).problems == ()
    write_json(root.folder / "settings.json", SMALL)
    pipeline.train(root, Settings(**SMALL), A, (B,))
    return root


@pytest.fixture
def root(trained: Root, copied: Callable[[Root], Root]) -> Root:
    return copied(trained)


def files_of(root: Root, case: str) -> tuple[Path, Path]:
    """Image and label."""
    folder = root.raw / A
    return folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "labelsTr" / f"{case}.nii.gz"


def names_of_test_part(root: Root) -> list[str]:
    return list(read_json(root.splits(A))["test"])


def tables(root: Root, command: Command) -> Any:
    return command(evaluate.main, "--root", root.folder, "--settings", root.folder / "settings.json")


def remove_label(root: Root, case: str) -> str:
    files_of(root, case)[1].unlink()
    return f"labelsTr/{case}.nii.gz: missing"


def remove_image(root: Root, case: str) -> str:
    files_of(root, case)[0].unlink()
    return f"labelsTr/{case}.nii.gz: no image"


def remove_both(root: Root, case: str) -> str:
    for file in files_of(root, case):
        file.unlink()
    return "splits.json names it, but the raw folder has no such case any more"


def break_label_off(root: Root, case: str) -> str:
    path = files_of(root, case)[1]
    path.write_bytes(path.read_bytes()[:60])
    return f"labelsTr/{case}.nii.gz: cannot be read (truncated"


def break_image_off(root: Root, case: str) -> str:
    path = files_of(root, case)[0]
    path.write_bytes(path.read_bytes()[:60])
    return f"imagesTr/{case}_0000.nii.gz: cannot be read (truncated"


def link_to_nothing(root: Root, case: str) -> str:
    path = files_of(root, case)[1]
    path.unlink()
    path.symlink_to("gone.nii.gz")
    return f"labelsTr/{case}.nii.gz: is a link to gone.nii.gz"


@pytest.mark.parametrize(
    "lose", [remove_label, remove_image, remove_both, break_label_off, break_image_off, link_to_nothing]
)
def test_a_lost_test_case_is_named_in_every_file_and_the_status_is_1(
    root: Root, command: Command, lose: Callable[[Root, str], str]
) -> None:
    lost, kept = names_of_test_part(root)
    why = lose(root, lost)
    said = tables(root, command)
    assert said.status == 1
    assert said.err.startswith("1 problem; the rest is done:")
    assert f"{A}, test case {lost}, not scored: " in said.err
    assert why in said.err
    (table,) = (root.results / "CT_segmentation").glob("table_*.md")
    assert f"- {A}, test case {lost}, not scored: " in table.read_text().split("## Not scored")[1]
    (row,) = read_json(table.with_suffix(".json"))
    (entry,) = row["not_scored"]
    assert (entry["part"], entry["case_id"]) == ("test", lost)
    assert sorted(entry["columns"]) == ["data-set-specific", "joint teacher", "multi-head", "student"]
    assert why in entry["problem"]
    lines = [line for line in csv.DictReader(table.with_suffix(".csv").open()) if line["level"] == "not scored"]
    assert {line["column"] for line in lines} == {*entry["columns"]}
    assert all(line["problem"].startswith(f"{lost}: ") for line in lines)
    runs = [
        path.parent for path in root.results.glob("*/*/fold_0/test/**/summary.json") if read_json(path)["dataset"] == A
    ]
    assert len(runs) == 4
    for folder in runs:
        summary = read_json(folder / "summary.json")
        assert [one["case_id"] for one in summary["metric_per_case"]] == [kept]
        assert list(summary["failed"]) == [lost]
        assert f"- not scored: {lost}: " in (folder / "summary.md").read_text()
        assert f"not scored,{lost}," in (folder / "summary.csv").read_text()
    again = tables(root, command)
    assert (again.status, again.err) == (1, said.err)
    assert "no longer hold" not in again.out


def test_without_any_test_case_no_earlier_score_stays(root: Root, command: Command) -> None:
    before = {path: path.read_bytes() for path in root.results.glob(f"{A}/*/fold_0/test/summary.json")}
    lost = names_of_test_part(root)
    for case in lost:
        remove_both(root, case)
    said = tables(root, command)
    assert said.status == 1
    assert all(f"test case {case}, not scored" in said.err for case in lost)
    (table,) = (root.results / "CT_segmentation").glob("table_*.md")
    assert "not evaluable: no case has a score in both columns" in table.read_text()
    for path in before:
        summary = read_json(path)
        assert summary["metric_per_case"] == []
        assert sorted(summary["failed"]) == sorted(lost)


def test_a_case_that_comes_back_is_scored_as_before(root: Root, command: Command) -> None:
    lost = names_of_test_part(root)[0]
    files = {path: path.read_bytes() for path in files_of(root, lost)}
    before = {path: path.read_bytes() for path in root.results.glob("*/*/fold_0/test/**/summary.*")}
    remove_both(root, lost)
    assert tables(root, command).status == 1
    for path, content in files.items():
        path.write_bytes(content)
    said = tables(root, command)
    assert (said.status, said.err) == (0, "")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_lost_case_of_training_is_refused_by_name(root: Root, command: Command, part: str) -> None:
    lost = read_json(root.splits(A))["folds"][0][part][0]
    remove_both(root, lost)
    for main, more in ((evaluate.main, ()), (train.main, (A, "--from", B))):
        said = command(main, "--root", root.folder, "--settings", root.folder / "settings.json", *more)
        assert said.status == 1
        assert f"cases for {part} can no longer be read; put their files back" in said.err
        assert f"{lost}: splits.json names it" in said.err
        assert f"{A}: 1 case of {root.splits(A)} can no longer be read" in said.out


def test_a_case_in_no_part_is_named_where_it_is_not_used(root: Root, command: Command) -> None:
    splits = read_json(root.splits(A))
    out = splits["test"].pop()
    write_json(root.splits(A), splits)
    said = tables(root, command)
    assert f"{A}: in no part of {root.splits(A)}, and so neither trained nor tested on: {out} (1 case)" in said.out


def test_a_data_set_that_has_errors_now_is_named(root: Root) -> None:
    """The table of the whole group lacks it, that of one target does not; nothing is trained here."""
    (root.raw / B / "dataset.json").write_text("{")
    groups, problems = find_groups(root)
    (group,) = groups
    experiment = make_experiment(root, group, groups[group], Settings(**SMALL), "2d", problems)
    assert experiment is not None
    (said,) = tables_module._left_out(experiment)
    assert said.startswith(f"{B}, left out though it is in the plan of CT_segmentation: ")
    assert "dataset.json" in said
    shutil.rmtree(root.raw / B)
    (said,) = tables_module._left_out(experiment._replace(problems=()))
    assert said.endswith(f"it is not among the data sets of {root.raw} any more")


def test_a_folder_of_masks_says_that_a_case_of_the_test_part_is_gone(root: Root, tmp_path: Path) -> None:
    lost, kept = names_of_test_part(root)
    (folder,) = root.results.glob(f"{A}/Student*/fold_0/test")
    for names, problems in (((lost, kept), 1), ((kept,), 0)):
        masks = tmp_path / f"masks_{len(names)}"
        masks.mkdir()
        for name in names:
            shutil.copy(folder / f"{name}.nii.gz", masks)
        if len(names) == 2:
            remove_both(root, lost)
        evaluated = pipeline.evaluate(masks, root.raw / A)
        assert len(evaluated.problems) == problems
        assert lost in (masks / "summary.md").read_text()
        assert "splits.json names it" in (masks / "summary.json").read_text()


# --- classes and boxes: one data set alone, which has no table ------------------------------------------------------


def run_alone(root: Root, group: str, settings: Settings, target: str) -> tuple[Path, list[str]]:
    """The test folder of a data set's own model, and what its scores lack."""
    groups, problems = find_groups(root)
    experiment = make_experiment(root, group, groups[group], settings, "2d", problems)
    assert experiment is not None
    job = JobMaker(experiment).specific(target)
    run_jobs([(experiment, job)])
    return root.results / job.folder / "test", not_scored(experiment, job)


def test_a_lost_test_case_of_classification_is_named(tmp_path: Path) -> None:
    target, group = PICTURES[0].name, "CXR_classification"
    settings = Settings(**SMALL, classification=ClassificationSettings(architecture="unet"))
    root = Root(tmp_path)
    write_pictures(root.raw, PICTURES[:1], cases=12)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    folder, unscored = run_alone(root, group, settings, target)
    assert unscored == []
    lost, kept = read_json(root.splits(target))["test"]
    table, image = root.raw / target / "cases.csv", root.raw / target / "imagesTr" / f"{lost}_0000.png"
    rows, picture = table.read_text(), image.read_bytes()
    header = rows.splitlines()[0].split(",")
    without_class = "".join(
        ("," * (len(header) - 1)).join((lost, "")) + "\n" if line.startswith(f"{lost},") else line
        for line in rows.splitlines(keepends=True)
    )
    table.write_text(without_class)
    folder, (said,) = run_alone(root, group, settings, target)
    assert said.startswith(f"{target}, test case {lost}, not scored: ")
    assert f"no class is given for {lost}" in said
    summary = read_json(folder / "summary.json")
    assert [one["case_id"] for one in summary["answers"]] == [kept]
    assert f"- not scored: {lost}: " in (folder / "summary.md").read_text()
    table.write_text(rows)
    image.write_bytes(picture[:60])
    _, (said,) = run_alone(root, group, settings, target)
    assert f"{lost}_0000.png: cannot be read" in said
    with pytest.raises(TrainingError, match=rf"cases are not scored; the rest is done:\n  {target}, test case {lost}"):
        pipeline.train_all_permutations(root, settings)
    image.write_bytes(picture)
    assert run_alone(root, group, settings, target)[1] == []


def test_a_lost_test_case_of_detection_is_named(tmp_path: Path) -> None:
    target, group = SCENES[0].name, "CT_detection"
    settings = Settings(**{**SMALL, "width": None}, detection=DetectionSettings(architecture="faster_rcnn_small"))
    root = Root(tmp_path)
    write_detection_datasets(root.raw, SCENES[:1], cases=10)
    assert pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64)).problems == ()
    assert run_alone(root, group, settings, target)[1] == []
    lost, kept = read_json(root.splits(target))["test"]
    (image,) = (root.raw / target / "imagesTr").glob(f"{lost}_0000.*")
    path = root.raw / target / "annotations.json"
    picture, whole = image.read_bytes(), read_json(path)
    image.unlink()
    folder, (said,) = run_alone(root, group, settings, target)
    assert f"test case {lost}, not scored: " in said
    assert f"lists {image.name}, which is not there" in said
    assert [one["case_id"] for one in read_json(folder / "summary.json")["answers"]] == [kept]
    assert f"- not scored: {lost}: " in (folder / "summary.md").read_text()
    image.write_bytes(picture)
    number = next(one["id"] for one in whole["images"] if one["file_name"] == image.name)
    write_json(
        path,
        {
            **whole,
            "images": [one for one in whole["images"] if one["id"] != number],
            "annotations": [one for one in whole["annotations"] if one["image_id"] != number],
        },
    )
    _, (said,) = run_alone(root, group, settings, target)
    assert f"{image.name}: is not listed in the annotations" in said
    write_json(path, whole)
    assert run_alone(root, group, settings, target)[1] == []
