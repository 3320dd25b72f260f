"""A full disk: the error names the file, what was there stays, and the same call again ends as if undisturbed."""

import csv
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as Pillow
from torch import nn

from mdkd_auto import pipeline
from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import WriteError, write_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import CaseGeometry, PreprocessedCase
from mdkd_auto.demo.phantoms import Look, write_datasets
from mdkd_auto.execution.evaluate_run import cases_of_part
from mdkd_auto.execution.prepared_images import SeenImages
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.formats.read_write import read_image, write_mask
from mdkd_auto.preprocessing.case_store import image_path, open_image, save_case
from mdkd_auto.tasks.segmentation.scoring import score_masks_of_part
from mdkd_auto.tasks.shared.evidence import Evidence, Work
from mdkd_auto.tasks.shared.scored_part import VALIDATION, Part
from mdkd_auto.training.checkpoints import save_training, save_weights
from mdkd_auto.training.curves import draw_curves, write_history
from mdkd_auto.training.loop import BEST, FINAL

FULL = "No space left on device"
MASK_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".bmp", ".tif")

resource = pytest.importorskip("resource")  # not on Windows

Faults = Callable[..., AbstractContextManager[Any]]


def each_write(every: int, total: int) -> range:
    """The writes that are made to fail, one at a time."""
    assert total > 0
    return range(1 + (total - 1) % every, total + 1, every)


def problem_of(work: Callable[[], object]) -> str:
    """What a call that met a full disk says: in an error, or among the problems of its outcome."""
    try:
        outcome = work()
    except MdkdError as error:
        return str(error)
    return "\n".join(outcome.problems) if isinstance(outcome, pipeline.Outcome) else ""


# --- every write of a command ---------------------------------------------------------------------------------------


def stored(folder: Path) -> dict[str, bytes]:
    """Every file but the texts, which tell what changed since the last call, and locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".txt", ".lock")
    }


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_planning_and_preprocessing(
    every: int,
    tmp_path: Path,
    looks: tuple[Look, ...],
    faults: Faults,
    litter: Callable[[Path], list[Path]],
    open_all: Callable[[Path], int],
) -> None:
    root = Root(tmp_path)
    write_datasets(root.raw, looks[:1], cases=4)
    with faults(root.folder) as counted:
        assert pipeline.plan_and_preprocess(root).problems == ()
    expected, opened = stored(root.preprocessed), 0
    failing = each_write(every, counted.count)
    for number in failing:
        shutil.rmtree(root.preprocessed)
        with faults(root.folder, number):
            said = problem_of(lambda: pipeline.plan_and_preprocess(root))
        assert FULL in said, number
        assert str(root.preprocessed) in said, number
        assert litter(root.folder) == [], number
        opened += open_all(root.preprocessed)
        assert pipeline.plan_and_preprocess(root).problems == ()
        assert stored(root.preprocessed) == expected, number
    print(
        f"planning and preprocessing: {len(failing)} of {counted.count} writes failed; {opened} files opened, all "
        "whole; all completed by the same call"
    )


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_training(
    every: int,
    tmp_path: Path,
    train: Callable[..., None],
    faults: Faults,
    litter: Callable[[Path], list[Path]],
    open_all: Callable[[Path], int],
) -> None:
    with faults(tmp_path) as counted:
        train("teacher", tmp_path / "whole")
    failing, opened = each_write(every, counted.count), 0
    for number in failing:
        folder = tmp_path / str(number)
        with faults(tmp_path, number):
            said = problem_of(lambda folder=folder: train("teacher", folder))
        assert FULL in said
        assert str(folder) in said
        assert litter(folder) == []
        opened += open_all(folder)
        train("teacher", folder)
        for name in (BEST, FINAL):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), number
        assert without_seconds(folder) == without_seconds(tmp_path / "whole")
    print(
        f"training: {len(failing)} of {counted.count} writes failed; {opened} files opened, all whole; all "
        "completed by the same call"
    )


def without_seconds(folder: Path) -> list[dict[str, str]]:
    with open(folder / "progress.csv", encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def mask_and_header(folder: Path, ending: str) -> tuple[np.ndarray, Any]:
    """A mask that hardly compresses, and the header of an image to write it for."""
    flat = ending in (".png", ".bmp", ".tif")
    shape = (1, 90, 80) if flat else (9, 30, 40)
    mask = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    image = folder / f"image{ending}"
    if flat:
        Pillow.fromarray(mask[0]).save(image)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(image))
    return mask, read_image(image).header


@pytest.mark.parametrize("ending", MASK_ENDINGS)
def test_writing_a_mask(ending: str, tmp_path: Path, faults: Faults, litter: Callable[[Path], list[Path]]) -> None:
    mask, header = mask_and_header(tmp_path, ending)
    path = tmp_path / f"mask{ending}"
    with faults(tmp_path) as counted:
        write_mask(path, mask, header)
    whole = path.read_bytes()
    assert counted.count >= 4
    for number in range(1, counted.count + 1):
        with faults(tmp_path, number), pytest.raises(WriteError, match=FULL) as caught:
            write_mask(path, mask * 0, header)
        assert str(caught.value).startswith(f"{path}: ")
        in_place = number == counted.count  # the flush of the folder, after the renaming
        assert ("the earlier file is untouched" in str(caught.value)) != in_place
        assert (path.read_bytes() == whole) != in_place
        assert litter(tmp_path) == []
    write_mask(path, mask, header)
    np.testing.assert_array_equal(read_image(path).array, mask)


def test_a_full_disk_is_no_bad_case_when_a_run_is_scored(
    planned: Root,
    copied: Callable[[Root], Root],
    experiment_in: Callable[..., Experiment],
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the job would be called finished, without that case, and never be done again."""
    experiment = experiment_in(copied(planned))
    (name, *_) = experiment.datasets
    cases = cases_of_part(experiment, name, VALIDATION)
    part = Part(
        VALIDATION,
        experiment.datasets[name],
        cases,
        experiment.classes(name),
        experiment.plan.dataset(name),
        SimpleNamespace(mask_of=lambda prepared: np.zeros(prepared.geometry.original_shape, np.uint8)),
        experiment.root.results / "run",
        {case.case_id: Work(Evidence(images=(), label="", rules=""), "predict") for case in cases},
        partial(SeenImages().see, experiment, name),
    )
    with faults(experiment.root.folder, 1), pytest.raises(WriteError, match=FULL):
        score_masks_of_part(part, None)


# --- a real limit ---------------------------------------------------------------------------------------------------


def writers(folder: Path) -> dict[str, Callable[[int], None]]:
    """What writes each kind of file, with more or less in it."""
    rng = np.random.default_rng(0)
    model = nn.Linear(100, 100)
    optimiser = torch.optim.Adam(model.parameters())
    noise = rng.normal(size=(1, 4, 64, 64)).astype(np.float32)
    geometry = CaseGeometry(
        original_shape=(4, 64, 64),
        transpose=(0, 1, 2),
        crop=((0, 4), (0, 64), (0, 64)),
        spacing_mm=(1.0, 1.0, 1.0),
        resampled_shape=(4, 64, 64),
        resampled_spacing_mm=(1.0, 1.0, 1.0),
    )
    record = PreprocessedCase(case_id="case", key="", plan_key="", geometry=geometry, shape=(4, 64, 64), lesions=())
    made: dict[str, Callable[[int], None]] = {
        "weights.safetensors": lambda add: save_weights(folder / "weights.safetensors", model),
        "latest.safetensors": lambda add: save_training(
            folder / "latest.safetensors", model, optimiser, {"update": add}
        ),
        "case.b2nd": lambda add: save_case(folder, record, noise + add, None, flat=False),
        "table.json": lambda add: write_json(folder / "table.json", list(range(add, 5000))),
        "progress.csv": lambda add: write_history(folder / "progress.csv", [{"epoch": float(add)}] * 2000),
        "curves.png": lambda add: draw_curves(
            folder / "curves.png",
            [{"epoch": 1.0, "validation_loss": add, "validation_score": 1, "learning_rate": 1}],
            "a",
        ),
    }
    for ending in MASK_ENDINGS:
        mask, header = mask_and_header(folder, ending)
        path = folder / f"mask{ending}"
        made[path.name] = lambda add, path=path, mask=mask, header=header: write_mask(path, mask + add, header)
    return made


def test_files_that_may_not_grow(
    tmp_path: Path, fork: Callable[..., Any], litter: Callable[[Path], list[Path]], open_all: Callable[[Path], int]
) -> None:
    """The system itself breaks off the write, in the middle of the file or at its first byte, whoever is writing."""
    said_path = tmp_path / "said.txt"
    for name, write in writers(tmp_path).items():
        write(0)
        path = tmp_path / name
        whole = path.read_bytes()
        for limit in (0, len(whole) // 2):

            def fail(write: Callable[[int], None] = write, limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    write(1)
                except WriteError as error:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                    said_path.write_text(str(error))

            said_path.unlink(missing_ok=True)
            assert fork(fail).wait() == 0, name
            assert said_path.is_file(), f"{name}: half a file was taken for a whole one"
            said = said_path.read_text()
            assert said.startswith(f"{path}: cannot be written"), said
            assert "the earlier file is untouched" in said
            assert "File too large" in said or name == "mask.nrrd", said  # SimpleITK does not say why
            assert path.read_bytes() == whole
            assert litter(tmp_path) == []
    assert open_all(tmp_path) > 3


def test_a_damaged_stored_case_is_named(tmp_path: Path) -> None:
    """However it came to be."""
    writers(tmp_path)["case.b2nd"](0)
    path = image_path(tmp_path, "case")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MdkdError, match=r"case\.b2nd: damaged; delete it and run mdkd_plan_and_preprocess again"):
        open_image(tmp_path, "case")
