"""Commands: where the root comes from, and a user's mistakes as messages instead of tracebacks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.cli import ablate, demo, doctor, evaluate, plan_and_preprocess, predict, train, train_all_permutations
from mdkd_auto.core.files import read_json, write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.execution.run_folder import Finished
from mdkd_auto.experiments.ablations import ABLATIONS

Command = Callable[..., Any]
Copy = Callable[[Root], Root]
SMALL = ("--width", 4, "--batch-size", 2, "--device", "cpu")
COMMANDS = (plan_and_preprocess, train_all_permutations, train, ablate, predict, evaluate, doctor, demo)


def refused(said: Any, *words: object) -> None:
    """Exit status 1, and one message on stderr with all the words."""
    assert said.status == 1
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.out + said.err
    for word in words:
        assert str(word) in said.err


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_give_up_their_core(given: dict[str, str], spins: str) -> None:
    """OpenMP reads it as PyTorch is imported: it is set before, unless the user has."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    code = "import os, sys, mdkd_auto.cli; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [spins, "False"]


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """An empty working folder, and no root in the environment."""
    monkeypatch.delenv("MDKD_ROOT", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


EMPTY = [
    (evaluate, ("-i", "masks", "-l", ""), "the argument after -l"),
    (evaluate, ("-i", "", "-l", "011"), "the argument after -i"),
    (evaluate, ("-i", "masks", "-l", "011", "-o", "  "), "the argument after -o"),
    (evaluate, ("-i", "masks", "--labels="), "the value of --labels"),
    (predict, ("-i", "", "-o", "masks", "-m", "run"), "the argument after -i"),
    (predict, ("-i", "images", "-o", "", "-m", "run"), "the argument after -o"),
    (predict, ("-i", "images", "-o", "masks", "-m", ""), "the argument after -m"),
    (predict, ("-i", "images", "-o", "masks", "--head", ""), "the argument after --head"),
    (train, ("",), "the first argument"),
    (train, ("011", "--from", "012", ""), "the argument after 012"),
    (train_all_permutations, ("-g", ""), "the argument after -g"),
    (plan_and_preprocess, ("--root=",), "the value of --root"),
    (plan_and_preprocess, ("--patient-pattern", ""), "the argument after --patient-pattern"),
    (ablate, ("",), "the first argument"),
    (ablate, ("labels", "--settings", ""), "the argument after --settings"),
    (doctor, ("--root", ""), "the argument after --root"),
    (demo, ("--root", " "), "the argument after --root"),
]


@pytest.mark.parametrize(("made", "arguments", "where"), EMPTY)
def test_an_argument_without_text_is_named(
    command: Command, tmp_path: Path, made: Any, arguments: tuple[str, ...], where: str
) -> None:
    refused(command(made.main, *arguments), f"{where} is empty; expected a name or a path")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_root_of_the_environment_without_text_is_none(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDKD_ROOT", " ")
    assert f"root: {tmp_path / 'here' / 'mdkd_data'} (default)" in command(train.main, "011").out


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_of_every_command_does_not_wait_for_torch() -> None:
    names = [module.__name__ for module in COMMANDS]
    program = f"""
import importlib, sys
for name in {names!r}:
    try:
        importlib.import_module(name).main(["--help"])
    except SystemExit as end:
        assert end.code == 0, name
heavy = {{"torch", "scipy", "matplotlib", "nibabel", "SimpleITK", "pandas", "skimage"}}
print("heavy:", sorted(heavy & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("usage: ") == len(COMMANDS)
    assert answer.stdout.splitlines()[-1] == "heavy: []"


# --- the root folder ------------------------------------------------------------------------------------------------


def test_root_flag_over_environment_over_default(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = tmp_path / "here" / "mdkd_data"
    said = command(plan_and_preprocess.main)
    refused(said, default / "raw", "does not exist")
    assert f"root: {default} (default)" in said.out

    monkeypatch.setenv("MDKD_ROOT", str(tmp_path / "from_environment"))
    said = command(plan_and_preprocess.main)
    refused(said, tmp_path / "from_environment" / "raw")
    assert f"root: {tmp_path / 'from_environment'} (MDKD_ROOT)" in said.out

    said = command(plan_and_preprocess.main, "--root", "relative")
    refused(said, tmp_path / "here" / "relative" / "raw")
    assert f"root: {tmp_path / 'here' / 'relative'} (--root)" in said.out


def test_an_empty_variable_is_none(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDKD_ROOT", "")
    assert f"root: {tmp_path / 'here' / 'mdkd_data'} (default)" in command(plan_and_preprocess.main).out


# --- raw folder, groups and targets ---------------------------------------------------------------------------------


def test_an_empty_raw_folder(command: Command, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    refused(command(plan_and_preprocess.main, "--root", tmp_path), tmp_path / "raw", "DatasetNNN_Name")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--spacing-mm", "1", "2"), "expected one number above 0, or three: z y x"),
        (("--spacing-mm", "nan"), "expected one number above 0, or three: z y x"),
        (("--spacing-mm", "1e4"), "too few for a network; ask for a finer one"),
        (("--patch-size", "64", "64"), "--patch-size 64 64: expected one number from 1 to 4096, or three: z y x"),
        (("--patch-size", "0"), "expected one number from 1 to 4096, or three: z y x; 2-D takes the last two"),
        (("--patch-size", "9" * 400), "--patch-size 999999999999: expected one number from 1 to 4096"),
        (("--patch-size", "4"), "2d: a patch of 4 x 4 voxels is too small for a network; ask with --patch-size"),
        (("--patch-size", "512"), "3d_fullres: a patch of 512 x 512 x 512 voxels needs about"),
        (("--patch-size", "64", "--spacing-mm", "200"), "leaves images of 1 x 1 voxels, too few for a network"),
        (("--input-size", "64"), "--input-size is for classification and detection, and there is no such group here"),
        (("--test-fraction", "1.5"), "test fraction 1.5: expected a share of the patients, 0 or more and below 1"),
        (("--test-fraction", "nan"), "test fraction nan: expected a share"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_impossible_spacings_and_shares(
    command: Command, planned: Root, copied: Callable[[Root], Root], arguments: tuple[str, ...], said: str
) -> None:
    refused(command(plan_and_preprocess.main, "--root", copied(planned).folder, "--plan-only", *arguments), said)


def test_another_share_than_was_dealt_out_is_said(
    command: Command, planned: Root, copied: Callable[[Root], Root]
) -> None:
    root = copied(planned)
    before = root.splits("Dataset901_RoundBright").read_bytes()
    said = command(plan_and_preprocess.main, "--root", root.folder, "--plan-only", "--test-fraction", "0.9")
    assert said.status == 0
    assert "Dataset901_RoundBright: 1 of 4 patients are tested on, not the share of 0.9 asked for" in said.out
    assert root.splits("Dataset901_RoundBright").read_bytes() == before
    assert "asked for" not in command(plan_and_preprocess.main, "--root", root.folder, "--plan-only").out


@pytest.mark.parametrize("module", [plan_and_preprocess, train_all_permutations, evaluate])
def test_unknown_group(command: Command, planned: Root, module: Any) -> None:
    refused(command(module.main, "--root", planned.folder, "-g", "PET"), "no group 'PET'", "found: CT_segmentation")


def test_unknown_target_or_source(command: Command, planned: Root) -> None:
    names = ("Dataset901_RoundBright", "Dataset902_FlatFaint")
    refused(command(train.main, "--root", planned.folder, "777"), "'777' names no data set", *names)
    said = command(train.main, "--root", planned.folder, "901", "--from", "901")
    refused(said, "Dataset901_RoundBright is the target; give other data sets as sources; found: Dataset902_FlatFaint")


def test_sources_that_are_there_but_no_sources(command: Command, planned: Root, copied: Copy) -> None:
    root = copied(planned)
    other, broken = root.raw / "Dataset905_Other", root.raw / "Dataset906_Broken"
    shutil.copytree(root.raw / "Dataset902_FlatFaint", other)
    write_json(other / "dataset.json", {**read_json(other / "dataset.json"), "channel_names": {"0": "MRI"}})
    broken.mkdir()
    (broken / "dataset.json").write_text("{")
    said = command(train.main, "--root", root.folder, "901", "--from", "905")
    refused(said, "Dataset905_Other is in group MRI_segmentation; sources are in that of the target, CT_segmentation")
    said = command(train.main, "--root", root.folder, "901", "--from", "906")
    refused(said, "Dataset906_Broken cannot be used here: it has errors")
    refused(command(train.main, "--root", root.folder, "906"), "Dataset906_Broken cannot be used here: it has errors")
    said = command(ablate.main, "controls", "--root", root.folder, "-g", "CT", "-t", "905", "--dry-run")
    refused(said, "Dataset905_Other cannot be used here")


def test_a_target_by_number_or_name(command: Command, planned: Root) -> None:
    for target in ("901", "RoundBright", "Dataset901_RoundBright"):
        said = command(train.main, "--root", planned.folder, target, "--from", "902", "--dry-run", *SMALL)
        assert said.status == 0, said.err
        assert "student of Dataset901_RoundBright from 902 (2d, fold 0): to do" in said.out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("901", ("'901'", "DATASET=CHANNEL", "001=T1c")),
        ("901=", ("DATASET=CHANNEL",)),
        ("777=CT", ("'777' names no data set",)),
        ("901=T1c", ("T1c", "CT")),
    ],
)
def test_bad_channel(
    command: Command, planned: Root, copied: Callable[[Root], Root], given: str, words: tuple[str, ...]
) -> None:
    refused(command(plan_and_preprocess.main, "--root", copied(planned).folder, "--channel", given, "-j", 1), *words)


# --- plans and settings ---------------------------------------------------------------------------------------------


def test_no_plan_yet(command: Command, planned: Root, copied: Callable[[Root], Root]) -> None:
    root = copied(planned)
    root.plan("CT_segmentation").unlink()
    for arguments in ((train_all_permutations.main,), (train.main, "901"), (evaluate.main,)):
        refused(command(*arguments, "--root", root.folder), root.plan("CT_segmentation"), "mdkd_plan_and_preprocess")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, ("settings.json", "unknown setting epoch", "epochs")),
        ({"epochs": "many"}, ("settings.json", "$.epochs")),
        ({"epochs": 0}, ("epochs is 0", "1 or more")),
        ({"fold": 7}, ("fold is 7", "3 folds")),
    ],
)
def test_bad_settings_file(
    command: Command, planned: Root, tmp_path: Path, content: dict[str, object], words: tuple[str, ...]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    said = command(train_all_permutations.main, "--root", planned.folder, "--settings", path, "--dry-run")
    refused(said, *words)


def test_bad_settings_flags(command: Command, planned: Root, tmp_path: Path) -> None:
    refused(command(train.main, "--root", planned.folder, "901", "--epochs", 0), "epochs is 0")
    refused(command(train.main, "--root", planned.folder, "901", "--precision", "fp8"), "fp8")
    refused(command(train.main, "--root", planned.folder, "901", "--settings", tmp_path / "no.json"), "does not exist")


def test_a_device_that_is_not_there(command: Command, planned: Root) -> None:
    said = command(train.main, "--root", planned.folder, "901", "--device", "abacus", "--dry-run")
    refused(said, "device 'abacus'", "cpu")


def test_dry_run_lists_all_and_trains_nothing(command: Command, planned: Root) -> None:
    said = command(train_all_permutations.main, "--root", planned.folder, "--dry-run", *SMALL)
    assert said.status == 0
    assert "CT_segmentation, 2d: 16 jobs" in said.out
    assert said.out.count(": to do, about ") == 16
    assert not planned.results.exists()


# --- prediction and evaluation --------------------------------------------------------------------------------------


def finished_student(root: Root, folder: str, score: float) -> Path:
    """A run folder as ``find_student`` sees it."""
    run = root.results / folder / "fold_0"
    record = Finished(
        updates=1,
        seconds=1.0,
        seconds_per_update=1.0,
        best_validation_loss=1.0,
        best_validation_score=score,
        validation_share=0.1,
        parts=1,
    )
    write_json(run / "finished.json", record)
    return run


def test_no_student_yet(command: Command, planned: Root, tmp_path: Path) -> None:
    for target in ((), ("-t", "901")):
        said = command(predict.main, "--root", planned.folder, "-i", tmp_path, "-o", tmp_path / "out", *target)
        refused(said, "no finished student", "mdkd_train_all_permutations")


def test_several_students_are_listed_best_first(command: Command, tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    poor = finished_student(root, "Dataset901_A/Student-902__UNet-0badcafe__2d", 0.2)
    good = finished_student(root, "Dataset901_A/Student-902-903__UNet-1badcafe__2d", 0.6)
    deep = finished_student(root, "Dataset901_A/Student-902__UNet-2badcafe__3d_fullres", 0.4)
    other = finished_student(root, "Dataset902_B/Student-901__UNet-3badcafe__2d", 0.9)
    common = (predict.main, "--root", root.folder, "-i", tmp_path, "-o", tmp_path / "out")
    said = command(*common, "-t", "901")
    refused(said, "3 finished students fit")
    places = [said.err.index(f"-m {run}") for run in (good, deep, poor)]
    assert places == sorted(places)
    assert "0.600" in said.err
    assert str(other) not in said.err
    refused(command(*common, "-t", "901", "-c", "2d"), "2 finished students fit")
    refused(command(*common, "-t", "777"), "'777' names no data set", "Dataset901_A, Dataset902_B")
    said = command(*common, "-t", "902", "-c", "3d_fullres")
    refused(said, "no finished 3d_fullres student of Dataset902_B, but 2d; give -c 2d, or train with -c 3d_fullres")
    (root.raw / "Dataset904_D").mkdir(parents=True)
    said = command(*common, "-t", "904")
    refused(said, "Dataset904_D has no finished student; train one with mdkd_train 904; found: Dataset901_A, ")
    assert "names no data set" not in said.err
    said = command(*common, "-t", "901", "-c", "3d_fullres")  # the only one; it has no run.json
    assert f"model: {deep}" in said.out


def test_not_a_run_folder(command: Command, tmp_path: Path) -> None:
    said = command(predict.main, "-i", tmp_path, "-o", tmp_path / "out", "-m", tmp_path)
    refused(said, tmp_path, "not a run folder", "run.json", "fold_0")
    assert not (tmp_path / "out").exists()


def test_answers_do_not_lie_among_the_images(command: Command, tmp_path: Path) -> None:
    """Of every task, before the model is read: a picture of boxes would replace its image."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_text("an image")
    (tmp_path / "link").symlink_to(images)
    for given, out in ((images, images), (images / "a.png", images), (images, tmp_path / "link")):
        said = command(predict.main, "-i", given, "-o", out, "-m", tmp_path)
        refused(said, out, "holds the images", "another folder", "-o")
    refused(command(predict.main, "-i", images, "-o", images / "out", "-m", tmp_path), "not a run folder")
    assert [path.name for path in images.iterdir()] == ["a.png"]
    assert (images / "a.png").read_text() == "an image"


def test_a_step_of_nothing(command: Command, tmp_path: Path) -> None:
    refused(command(predict.main, "-i", tmp_path, "-o", tmp_path, "--step", 0), "--step is 0.0")


def test_evaluate_masks(command: Command, planned: Root, tmp_path: Path) -> None:
    dataset = planned.raw / "Dataset901_RoundBright"
    masks = tmp_path / "masks"
    masks.mkdir()
    refused(command(evaluate.main, "-i", masks), "-i and -l go together")
    refused(command(evaluate.main, "-i", masks, "-l", dataset), masks, "case_000", ".nii.gz")
    refused(command(evaluate.main, "-i", tmp_path / "nowhere", "-l", dataset), "nowhere: is not there; a folder")
    refused(command(evaluate.main, "-i", dataset / "dataset.json", "-l", dataset), "dataset.json: is a file; a folder")
    for name in ("case_000", "case_001"):
        (masks / f"{name}.nii.gz").write_bytes((dataset / "labelsTr" / f"{name}.nii.gz").read_bytes())
    said = command(evaluate.main, "-i", masks, "-l", dataset, "-o", tmp_path / "scores", "--allow-missing")
    assert said.status == 0
    assert "**Incomplete:** 2 of 4 cases have a mask." in said.out
    assert "| all classes | 100.0 (n=2) |" in said.out
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"summary.json", "summary.csv", "summary.md"}
    assert len(list(masks.iterdir())) == 2

    small = nib.Nifti1Image(np.zeros((8, 8, 6), dtype=np.uint8), np.diag([6.0, 6.0, 6.0, 1.0]))
    nib.save(small, masks / "case_001.nii.gz")
    said = command(evaluate.main, "-i", masks, "-l", dataset)
    assert said.status == 1
    assert "2 problems; the rest is done:" in said.err
    assert "2 of 4 cases have a mask; missing: case_002, case_003. Add them, or" in said.err
    assert "case_001" in said.err
    assert "| all classes | 100.0 (n=1) |" in said.out


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Root, Path]:
    """A root with a data set of four pictures with masks, and a folder with a right mask of each."""
    root, masks = Root(tmp_path / "root"), tmp_path / "masks"
    folder = root.raw / "Dataset061_Cells"
    for part in (folder / "imagesTr", folder / "labelsTr", masks):
        part.mkdir(parents=True)
    write_json(
        folder / "dataset.json",
        {"channel_names": {"0": "EM"}, "labels": {"background": 0, "cell": 1}, "numTraining": 4, "file_ending": ".png"},
    )
    for number, name in enumerate("abcd"):
        cell = np.zeros((16, 16), dtype=np.uint8)
        cell[2 + number : 8, 4:9] = 1
        for path in (
            folder / "imagesTr" / f"{name}_0000.png",
            folder / "labelsTr" / f"{name}.png",
            masks / f"{name}.png",
        ):
            Pillow.fromarray(cell).save(path)
    return root, masks


@pytest.mark.parametrize("given", ["061", "61", "Cells", "Dataset061_Cells", "{folder}/", "{folder}/labelsTr"])
def test_a_data_set_is_given_by_folder_labels_name_or_number(
    command: Command, labelled: tuple[Root, Path], given: str
) -> None:
    root, masks = labelled
    named = given.format(folder=root.raw / "Dataset061_Cells")
    said = command(evaluate.main, "-i", masks, "-l", named, "--root", root.folder)
    assert said.status == 0, said.err
    assert "4 of 4 cases have a mask." in said.out
    assert read_json(masks / "summary.json")["foreground_mean"]["metrics"]["dice"]["mean"] == 1


def test_labels_that_are_not_there(command: Command, labelled: tuple[Root, Path], tmp_path: Path) -> None:
    root, masks = labelled
    for given, *words in (
        ("062", "'062' names no data set; found: Dataset061_Cells"),
        (tmp_path / "nowhere", "nowhere: does not exist; expected the folder of a raw data set"),
        (masks, "masks: has no dataset.json; expected"),
        (masks / "a.png", "a.png: is a file; expected"),
    ):
        refused(command(evaluate.main, "-i", masks, "-l", given, "--root", root.folder), *words)
    refused(
        command(evaluate.main, "-i", masks, "-l", "061", "--root", tmp_path / "other"),
        "061: not a folder, and",
        tmp_path / "other" / "raw",
        "--root",
    )
    assert not (masks / "summary.json").exists()


def test_cases_without_a_mask_end_with_1_unless_they_are_a_part(command: Command, labelled: tuple[Root, Path]) -> None:
    root, masks = labelled
    (masks / "d.png").unlink()
    (masks / "other.png").write_bytes((masks / "a.png").read_bytes())
    given = ("-i", masks, "-l", root.raw / "Dataset061_Cells")
    said = command(evaluate.main, *given)
    assert said.status == 1
    assert "Dataset061_Cells: 3 of 4 cases have a mask; missing: d." in said.err
    for name in ("summary.json", "summary.csv", "summary.md"):
        text = (masks / name).read_text()
        assert "other.png" in text
        assert "is no case of Dataset061_Cells" in text
    assert read_json(masks / "summary.json")["coverage"]["missing"] == ["d"]
    assert "without an answer,d," in (masks / "summary.csv").read_text()
    assert command(evaluate.main, *given, "--allow-missing").status == 0
    write_json(root.splits("Dataset061_Cells"), {"test": [*"abc"], "folds": [{"train": ["d"], "val": ["gone"]}]})
    said = command(evaluate.main, *given)
    assert said.status == 0, said.err
    assert "3 of 3 cases of the test part have a mask (the data set has 4)." in said.out


def test_a_broken_case_does_not_keep_the_others_from_being_scored(
    command: Command, labelled: tuple[Root, Path]
) -> None:
    root, masks = labelled
    folder = root.raw / "Dataset061_Cells"
    (folder / "labelsTr" / "b.png").unlink()
    (folder / "labelsTr" / "c.png").write_bytes(b"not a picture")
    given = ("-i", masks, "-l", folder)
    said = command(evaluate.main, *given)
    assert said.status == 1
    assert "2 problems; the rest is done:" in said.err
    summary = read_json(masks / "summary.json")
    assert [case["case_id"] for case in summary["metric_per_case"]] == ["a", "d"]
    assert summary["failed"].keys() == {"b", "c"}
    assert "missing" in summary["failed"]["b"]
    said = command(evaluate.main, *given, "--exclude-broken")
    assert said.status == 0, said.err
    assert "not scored: b: " in said.out
    for name in "abcd":
        Pillow.fromarray(np.full((16, 16), 7, dtype=np.uint8)).save(masks / f"{name}.png")
    said = command(evaluate.main, *given)
    assert said.status == 1
    assert f"Dataset061_Cells: nothing is scored; {masks / 'summary.json'} only says why" in said.err
    for name in "ad":
        shutil.copyfile(folder / "labelsTr" / f"{name}.png", masks / f"{name}.png")
    (masks / "b.png").unlink()
    said = command(evaluate.main, *given, "--exclude-broken")
    assert said.status == 0, said.err
    assert "warning: b is broken and has no answer" in said.out


def test_scores_take_no_other_files_place(command: Command, labelled: tuple[Root, Path], tmp_path: Path) -> None:
    root, masks = labelled
    folder = root.raw / "Dataset061_Cells"
    refused(command(evaluate.main, "-i", folder / "labelsTr", "-l", folder), "labelsTr: lies in the raw data set", "-i")
    refused(command(evaluate.main, "-i", masks, "-l", folder, "-o", folder / "scores"), "scores: lies in the raw", "-o")
    (masks / "summary.json").write_text('{"foreground_mean": {"Dice": 1.0}}')  # as of nnU-Net
    refused(command(evaluate.main, "-i", masks, "-l", folder), "summary.json: is not of mdkd_evaluate", "-o")
    assert "Dice" in (masks / "summary.json").read_text()
    assert command(evaluate.main, "-i", masks, "-l", folder, "-o", tmp_path / "scores").status == 0
    assert command(evaluate.main, "-i", masks, "-l", folder, "-o", tmp_path / "scores").status == 0
    for name in "abcd":
        (masks / f"{name}.png").unlink()
    said = command(evaluate.main, "-i", masks, "-l", folder, "-o", tmp_path / "scores")
    refused(said, "no mask is named as a case")
    assert f"{tmp_path / 'scores' / 'summary.json'}: stays, and is of an earlier call" in said.out


@pytest.mark.parametrize("part", ["test", "validation", "validation/Dataset901_RoundBright", "."])
def test_a_runs_own_scores_stay(command: Command, planned: Root, tmp_path: Path, part: str) -> None:
    """Tables read them, and mdkd_predict reads thresholds and temperatures there."""
    run = tmp_path / "fold_0"
    own = run / part
    own.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (own / "summary.json").write_text("the run's")
    dataset = planned.raw / "Dataset901_RoundBright"
    shutil.copyfile(dataset / "labelsTr" / "case_000.nii.gz", own / "case_000.nii.gz")
    before = sorted(own.iterdir())
    said = command(evaluate.main, "-i", own, "-l", dataset)
    refused(said, own, "holds the scores of the run", run, "another folder", "-o")
    refused(command(evaluate.main, "-i", tmp_path, "-l", dataset, "-o", own), "holds the scores of the run")
    assert sorted(own.iterdir()) == before
    assert (own / "summary.json").read_text() == "the run's"
    for out in (tmp_path / "scores", run / "new_masks"):
        assert command(evaluate.main, "-i", own, "-l", dataset, "-o", out, "--allow-missing").status == 0
        assert (out / "summary.json").is_file()


def test_ablations_are_listed(command: Command, planned: Root) -> None:
    said = command(ablate.main, "everything", "--root", planned.folder)
    refused(said, "no ablation 'everything'", "controls: Is a gain really the other data sets'?", "reliability")
    refused(command(ablate.main, "--root", planned.folder), "no ablation given", "controls: Is a gain")
    listed = command(ablate.main, "--list")
    assert listed.status == 0
    lines = [line.strip() for line in listed.out.splitlines()]
    assert lines[0] == "target-labels: Should source teachers see the target's labels (r of eq. 2)?"
    assert "fusion: Which levels should be fused? (segmentation)" in lines
    assert len(lines) == len(ABLATIONS)
    said = command(ablate.main, "controls", "--root", planned.folder, "-t", "901", "--dry-run", *SMALL)
    assert said.status == 0, said.err
    # teacher, two source teachers, joint teacher and student; self-distilled pair; pair of untrained sources; two
    # sources' own teachers and what is fine-tuned from them
    assert "CT_segmentation, 2d: 13 jobs" in said.out
    assert not planned.results.exists()


def test_seeds_and_folds(command: Command, planned: Root) -> None:
    arguments = ("--root", planned.folder, "--dry-run", *SMALL)
    said = command(train_all_permutations.main, *arguments, "--seeds", 2, "--folds", 2)
    assert "CT_segmentation, 2d: 64 jobs" in said.out
    refused(command(train_all_permutations.main, *arguments, "--folds", 9), "fold is 3", "3 folds")
    refused(command(train_all_permutations.main, *arguments, "--seeds", 0), "seeds is 0")


def test_a_data_set_with_fewer_folds(command: Command, planned: Root, copied: Copy) -> None:
    """It is a target in its own folds alone, and one line says so."""
    root = copied(planned)
    path = root.splits("Dataset902_FlatFaint")
    splits = read_json(path)
    write_json(path, {**splits, "folds": splits["folds"][:1]})
    arguments = ("--root", root.folder, "--dry-run", *SMALL, "--folds", 3)
    said = command(train_all_permutations.main, *arguments)
    assert said.status == 0, said.err
    assert "CT_segmentation, 2d: 38 jobs" in said.out  # of three targets in one fold, of two in the others: 16 + 2 x 11
    line = "Dataset902_FlatFaint has 1 fold: no replicates for its missing folds as a target; as a source its last fold"
    assert said.out.count(line) == 1
    assert command(train.main, "902", *arguments).out.count("student of Dataset902_FlatFaint") == 1
    alone = ("--root", root.folder, "--dry-run", *SMALL, "--fold", 2)
    for refusing in (command(train.main, "902", *alone), command(ablate.main, "controls", "-t", "902", *alone)):
        refused(refusing, "fold is 2", "Dataset902_FlatFaint has 1 fold", "--fold 0")
    said = command(ablate.main, "controls", *alone)
    assert "student of Dataset903_RaggedDark" in said.out
    assert "student of Dataset902_FlatFaint" not in said.out


def test_no_table_before_training(command: Command, planned: Root) -> None:
    refused(command(evaluate.main, "--root", planned.folder), "no finished student", "settings")
