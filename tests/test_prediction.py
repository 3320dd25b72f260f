"""New images that are unlike the training images, badly named, or not there: what prediction says, for every task."""

import csv
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from mdkd_auto import pipeline
from mdkd_auto.cli import predict
from mdkd_auto.core.errors import PredictionError
from mdkd_auto.core.files import read_json, write_json
from mdkd_auto.core.paths import Root, RunFolder
from mdkd_auto.core.settings import ClassificationSettings, DetectionSettings, Settings, replace
from mdkd_auto.demo.phantoms import (
    PICTURES,
    SCENES,
    Look,
    write_detection_datasets,
    write_new_images,
    write_new_scenes,
    write_pictures,
)
from mdkd_auto.execution.run_folder import build_model, describe, make_task, read_run
from mdkd_auto.experiments.experiment import make_experiment
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.formats.read_write import read_image, same_geometry
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.preparation import find_groups
from mdkd_auto.training.checkpoints import save_weights

A, B = "Dataset901_RoundBright", "Dataset902_FlatFaint"
SETTINGS = Settings(
    device="cpu",
    batch_size=2,
    classification=ClassificationSettings(architecture="unet"),
    detection=DetectionSettings(architecture="faster_rcnn_small"),
)
Command = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def warnings_are_kept(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield


def untrained(root: Root, folder: Path, multi_head: bool = False) -> Path:
    """The run folder of a model with random weights, as training would leave it."""
    groups, _ = find_groups(root)
    ((group, datasets),) = groups.items()
    settings = SETTINGS if "detection" in group else replace(SETTINGS, width=4)
    experiment = make_experiment(root, group, datasets, settings, "2d")
    assert experiment is not None
    maker = JobMaker(experiment)
    names = tuple(experiment.datasets)
    run = describe(experiment, maker.multi_head(names) if multi_head else maker.specific(names[0]))
    write_json(RunFolder(folder).description, run)
    save_weights(RunFolder(folder).best, build_model(run, make_task(run)))
    return folder


@pytest.fixture(scope="module")
def segments(planned: Root, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(planned, tmp_path_factory.mktemp("segments"))


@pytest.fixture(scope="module")
def classifies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Root(tmp_path_factory.mktemp("pictures"))
    write_pictures(root.raw, PICTURES[:1], cases=12)
    pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64))
    return untrained(root, root.folder / "run")


@pytest.fixture(scope="module")
def detects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Root(tmp_path_factory.mktemp("scenes"))
    write_detection_datasets(root.raw, SCENES[:1], cases=10)
    pipeline.plan_and_preprocess(root, request=PlanRequest(input_size=64))
    return untrained(root, root.folder / "run")


def save_volume(path: Path, array: np.ndarray, spacing_mm: tuple[float, float, float] = (6.0, 6.0, 6.0)) -> None:
    """(x, y, z)"""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([*spacing_mm, 1.0])), path)  # type: ignore[attr-defined]


def save_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path)


def fields_in(out: Path) -> dict[str, list[str]]:
    """Case -> what of it is unlike the training images, as prediction.json has it."""
    unlike = read_json(out / "prediction.json")["unlike_training"]
    return {case: [one["field"] for one in some] for case, some in unlike.items()}


# --- images unlike the training images ------------------------------------------------------------------------------


def test_volumes_unlike_the_training_images_are_named(
    segments: Path, looks: tuple[Look, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new, out = tmp_path / "new", tmp_path / "out"
    write_new_images(new, looks[0])  # as those trained on
    rng = np.random.default_rng(0)
    save_volume(new / "magnetic.nii.gz", rng.integers(1, 300, (32, 32, 6)))
    save_volume(new / "noise.nii.gz", rng.integers(1, 1 << 16, (32, 32, 6)))
    save_volume(new / "constant.nii.gz", np.full((32, 32, 6), -500))
    template = np.asarray(nib.load(new / "new_000_0000.nii.gz").dataobj)  # type: ignore[attr-defined]
    save_volume(new / "tiny.nii.gz", template, (0.001, 0.001, 0.001))
    save_volume(new / "large.nii.gz", np.tile(template, (3, 1, 1)))
    outcome = pipeline.predict(new, out, segments, device="cpu")
    assert (outcome.done, outcome.problems) == (7, ())
    assert fields_in(out) == {
        "constant": ["standard deviation", "intensity p99.5"],
        "large": ["size x (voxels)"],
        "magnetic": ["intensity p0.5"],
        "noise": ["intensity p0.5", "intensity p99.5"],
        "tiny": ["spacing z (mm)", "spacing y (mm)", "spacing x (mm)"],
    }
    (wide,) = read_json(out / "prediction.json")["unlike_training"]["large"]
    assert wide == {"field": "size x (voxels)", "found": 96.0, "training": [32.0, 32.0], "allowed": [16.0, 64.0]}
    said = [line for line in caplog.messages if "unlike the training images" in line]
    assert said[1] == "large: unlike the training images: size x (voxels) 96 (training images: 32 to 32)"
    assert said[-1].startswith("5 of 7 images unlike the training images")

    (new / "large.nii.gz").unlink()
    (out / "tiny.nii.gz").unlink()
    pipeline.predict(new, out, segments, device="cpu", keep_existing=True)
    assert list(fields_in(out)) == ["constant", "magnetic", "noise", "tiny"]  # kept masks, and the one made now


def test_each_head_has_its_own_ranges(planned: Root, looks: tuple[Look, ...], tmp_path: Path) -> None:
    run, new, out = untrained(planned, tmp_path / "run", multi_head=True), tmp_path / "new", tmp_path / "out"
    ranges = read_run(run).ranges
    assert [some.spacing_mm for some in ranges.values()] == [((z, 6, 6), (z, 6, 6)) for z in (6.0, 7.0, 8.0)]
    write_new_images(new, looks[1]._replace(spacing_mm=(11.0, 6.0, 6.0)), cases=1)
    pipeline.predict(new, out, run, device="cpu", dataset=A)
    assert fields_in(out) == {"new_000": ["spacing z (mm)"]}  # 6 * 1.5 < 11
    pipeline.predict(new, out, run, device="cpu", dataset="Dataset903_RaggedDark")
    assert fields_in(out) == {}  # 8 * 1.5 > 11


@pytest.mark.parametrize("task", ["classifies", "detects"])
def test_pictures_unlike_the_training_images_are_named(
    task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run, new, out = request.getfixturevalue(task), tmp_path / "new", tmp_path / "out"
    write_new_scenes(new, SCENES[0], cases=1)
    if task == "classifies":
        raw = run.parent / "raw" / PICTURES[0].name / "imagesTr"
        (new / "new_000_0000.png").write_bytes((raw / "case_000_0000.png").read_bytes())
    rng = np.random.default_rng(0)
    save_picture(new / "noise.png", rng.integers(1, 1 << 16, (72, 72)).astype(np.uint16))
    save_picture(new / "constant.png", np.full((72, 72), 90, np.uint8))
    save_picture(new / "grey.png", np.full((72, 72, 3), 90, np.uint8))  # in colour, as read: one value
    assert pipeline.predict(new, out, run, device="cpu").done == 4
    found = fields_in(out)
    assert found.keys() == {"noise", "constant", "grey"}
    assert found["noise"][-1] == "intensity p99.5"
    assert found["constant"][0] == found["grey"][0] == "standard deviation"


@pytest.mark.parametrize("given", [{}, None])
def test_a_run_without_ranges_says_so_once(
    classifies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: object
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = read_json(classifies / "run.json")
    del record["ranges"]
    if given is not None:  # the fingerprint was missing when the run was trained
        record["ranges"] = given
    write_json(run / "run.json", record)
    (run / "checkpoint_best.safetensors").symlink_to(classifies / "checkpoint_best.safetensors")
    for name in "ab":
        save_picture(tmp_path / "new" / f"{name}.png", np.arange(72 * 72, dtype=np.uint16).reshape(72, 72))
    pipeline.predict(tmp_path / "new", tmp_path / "out", run, device="cpu")
    assert len([line for line in caplog.messages if "keeps no ranges of its training images" in line]) == 1
    used = read_json(tmp_path / "out" / "prediction.json")
    assert (used["training_ranges"], used["unlike_training"]) == (None, {})


def test_only_the_training_cases_of_the_fold_make_the_ranges(planned: Root, segments: Path) -> None:
    fold = read_json(planned.splits(A))["folds"][0]
    cases = {case["case_id"]: case for case in read_json(planned.fingerprint(A))["cases"]}
    trained = [cases[name]["image_percentiles"][0] for name in fold["train"]]
    ranges = read_run(segments).ranges
    assert list(ranges) == [A]
    assert ranges[A].percentile_00_5 == (min(low for low, _ in trained), max(low for low, _ in trained))
    assert ranges[A].percentile_99_5 == (min(high for _, high in trained), max(high for _, high in trained))


@pytest.mark.parametrize("task", ["classifies", "detects"])
def test_pictures_that_exif_turns_are_named(
    task: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, new = request.getfixturevalue(task), tmp_path / "new"
    pixels = np.random.default_rng(0).integers(0, 255, (72, 80)).astype(np.uint8)
    save_picture(new / "as_stored.jpg", pixels)
    exif = Picture.Exif()
    exif[0x0112] = 6
    Picture.fromarray(pixels).save(new / "phone.jpg", exif=exif)
    pipeline.predict(new, tmp_path / "out", run, device="cpu")
    assert read_json(tmp_path / "out" / "prediction.json")["turned_by_exif"] == {"phone": 6}
    (said,) = [line for line in caplog.messages if "EXIF" in line]
    assert said.startswith("1 of 2 pictures turned upright")
    assert said.endswith("in the upright frame:\n  phone")


# --- headers --------------------------------------------------------------------------------------------------------


def test_a_header_that_contradicts_itself_or_is_odd(
    segments: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One image has other sizes in its s-form than in its q-form, the other a tilted gantry."""
    new = tmp_path / "new"
    save_volume(new / "tilted.nii.gz", np.random.default_rng(0).integers(-900, 300, (32, 32, 6)))
    tilted = nib.load(new / "tilted.nii.gz")  # type: ignore[attr-defined]
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[1, 2] = 3.0
    nib.save(nib.Nifti1Image(np.asarray(tilted.dataobj), affine), new / "tilted.nii.gz")  # type: ignore[attr-defined]
    two = nib.Nifti1Image(np.asarray(tilted.dataobj), np.diag([6.0, 6.0, 6.0, 1.0]))
    content = bytearray(two.to_bytes())
    content[280:296] = np.array([1, 0, 0, 0], "<f4").tobytes()  # srow_x
    (new / "two.nii").write_bytes(content)
    outcome = pipeline.predict(new, tmp_path / "out", segments, device="cpu")
    assert outcome.done == 1
    (problem,) = outcome.problems
    assert "two.nii: its voxel sizes contradict each other: s-form 1 x 6 x 6, q-form" in problem
    assert "--spacing-from" in problem
    decided = pipeline.predict(new, tmp_path / "decided", segments, device="cpu", spacing_from="pixdim")
    assert (decided.done, decided.problems) == (2, ())
    used = read_json(tmp_path / "decided" / "prediction.json")
    assert used["spacing_from"] == "pixdim"
    assert list(used["remarks"]) == ["tilted"]
    assert "not at right angles but 26.6 degrees off" in used["remarks"]["tilted"][0]
    assert any("tilted: its axes are not at right angles" in line for line in caplog.messages)
    mask = read_image(tmp_path / "decided" / "two.nii", spacing_from="pixdim")
    assert same_geometry(mask, read_image(new / "two.nii", spacing_from="pixdim")) is None


def test_images_that_cannot_be_read_are_listed_in_full_and_of_many_only_the_first_are_said_at_once(
    classifies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for number in range(25):
        (new / f"broken_{number:02}.png").write_bytes(b"no picture")
    outcome = pipeline.predict(new, tmp_path / "out", classifies, device="cpu")
    assert (outcome.done, len(outcome.problems)) == (0, 25)
    assert sum("no PNG, JPEG, BMP or TIFF" in line for line in caplog.messages) == 10


def test_an_image_whose_unit_is_metre_by_mistake_is_left_out(segments: Path, tmp_path: Path) -> None:
    """Voxels of 600 m: more of the plan's than any machine's memory holds."""
    new = tmp_path / "new"
    save_volume(new / "sound.nii.gz", np.random.default_rng(0).integers(-900, 300, (32, 32, 6)))
    save_volume(new / "large.nii.gz", np.random.default_rng(0).integers(-900, 300, (32, 32, 6)), (600.0, 600.0, 600.0))
    large = nib.load(new / "large.nii.gz")  # type: ignore[attr-defined]
    large.header.set_xyzt_units("meter")
    (new / "large.nii").write_bytes(large.to_bytes())
    (new / "large.nii.gz").unlink()
    outcome = pipeline.predict(new, tmp_path / "out", segments, device="cpu")
    assert outcome.done == 1
    (problem,) = outcome.problems
    assert problem.startswith("large: from its spacing 6e+05 x 6e+05 x 6e+05 mm to the plan's ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["prediction.json", "sound.nii.gz"]


# --- names, links and folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["segments", "classifies", "detects"])
def test_unsafe_names_and_links_to_nothing_are_left_out_by_name(
    task: str, request: pytest.FixtureRequest, tmp_path: Path, command: Command, looks: tuple[Look, ...]
) -> None:
    run, new, out = request.getfixturevalue(task), tmp_path / "new", tmp_path / "out"
    (new / "series" / "deep").mkdir(parents=True)
    (new / "empty").mkdir()
    if task == "segments":
        write_new_images(new, looks[0], cases=1)
        image = new / "new_000_0000.nii.gz"
        ending = ".nii.gz"
    else:
        image, ending = new / "new_000_0000.png", ".png"
        save_picture(image, np.random.default_rng(0).integers(0, 255, (72, 72)).astype(np.uint8))
    for name in ("=cmd|A0", "@SUM(1)", "+1", "-1", "two\nlines", "red\x1b[31m", "M\udcfcller", "series/deep/x"):
        (new / f"{name}{ending}").write_bytes(image.read_bytes())
    (new / f"gone{ending}").symlink_to(tmp_path / "moved" / f"gone{ending}")
    (new / "later").symlink_to(tmp_path / "moved")
    (new / f"ring{ending}").symlink_to(f"ring{ending}")
    said = command(predict.main, "-i", new, "-o", out, "-m", run, "--device", "cpu")
    assert said.status == 1
    assert "images done: 1" in said.out
    assert "9 problems; the rest is done" in said.err
    assert "the name '=cmd|A0' begins with '='" in said.err
    assert "the name 'two\\nlines' holds a control character" in said.err
    assert f"gone: gone{ending} is a link to {tmp_path}/moved/gone{ending}, which does not exist" in said.err
    assert f"ring: ring{ending} is a link to ring{ending}, which leads back to itself" in said.err
    assert "\x1b" not in said.out + said.err
    assert f"{new}: not predicted:\n  series: is a folder with images; give it with -i\n" in said.out
    assert f"\n  later: is a link to {tmp_path}/moved, which does not exist" in said.out
    for table in out.glob("*.csv"):
        rows = list(csv.reader(table.open(newline="")))
        assert {row[0] for row in rows[1:]} <= {"new_000"}
    assert set(read_json(out / "prediction.json")["unlike_training"]) <= {"new_000"}
    assert {path.name.split("_0000")[0].split(".")[0] for path in out.iterdir()} <= {
        "new_000",
        "prediction",
        "predictions",
        "detections",
    }


def test_where_all_are_left_out_nothing_is_written(classifies: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    save_picture(new / "=1.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(PredictionError, match="no image can be predicted:\n  the name '=1' begins with '='"):
        pipeline.predict(new, tmp_path / "out", classifies, device="cpu")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.2.840.dcm").touch()
    with pytest.raises(PredictionError, match=r"1\.2\.840\.dcm is DICOM\. DICOM is not read: convert"):
        pipeline.predict(tmp_path / "series", tmp_path / "out", classifies, device="cpu")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(PredictionError, match=r"link\.png: is a link to .*gone\.png, which does not exist"):
        pipeline.predict(tmp_path / "link.png", tmp_path / "out", classifies, device="cpu")
    assert not (tmp_path / "out").exists()


def test_answers_in_a_folder_among_the_images_are_no_subfolder(
    classifies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_picture(tmp_path / "a.png", np.eye(72, dtype=np.uint8))
    save_picture(tmp_path / "out" / "old.png", np.eye(72, dtype=np.uint8))
    pipeline.predict(tmp_path, tmp_path / "out", classifies, device="cpu")
    assert not [line for line in caplog.messages if "not predicted" in line]
