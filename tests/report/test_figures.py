"""Figures of a trained target: all are drawn beside the table, and one that cannot be drawn is named."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from mdkd_auto import pipeline
from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import WriteError, read_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.settings import Settings
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.report.comparison import Row
from mdkd_auto.report.figures import DRAWINGS, draw_figures, figures_folder
from mdkd_auto.report.learning import draw_learning, mean_line, read_line
from mdkd_auto.report.segmentation.overlays import draw_overlays
from mdkd_auto.report.tables import Table

SETTINGS = Settings(epochs=2, iterations_per_epoch=2, validation_batches=1, width=4, batch_size=4, device="cpu")
A, B = "Dataset901_RoundBright", "Dataset902_FlatFaint"

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")


class Trained(NamedTuple):
    """A target with one source."""

    experiment: Experiment
    table: Table

    @property
    def row(self) -> Row:
        return self.table.rows[0]

    @property
    def folder(self) -> Path:
        return figures_folder(self.table.path)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, planned: Root, one_thread: None, experiment_in: Callable[..., Experiment]
) -> Trained:
    """Not to be changed: see ``broken``."""
    root = Root(Path(shutil.copytree(planned.folder, tmp_path_factory.mktemp("figures") / "root")))
    table = pipeline.train(root, SETTINGS, A, (B,))
    assert table is not None
    return Trained(experiment_in(root, SETTINGS), table)


@pytest.fixture
def broken(trained: Trained, copied: Callable[[Root], Root], experiment_in: Callable[..., Experiment]) -> Trained:
    """A copy to damage, without figures."""
    experiment = experiment_in(copied(trained.experiment.root), SETTINGS)
    path = experiment.root.results / trained.table.path.relative_to(trained.experiment.root.results)
    shutil.rmtree(figures_folder(path))
    return Trained(experiment, trained.table._replace(path=path))


def test_all_are_drawn_beside_the_table(trained: Trained) -> None:
    assert trained.folder.parent == trained.table.path.parent
    assert trained.folder.name.startswith("figures_2d_fold_0__")
    names = {path.name for path in trained.folder.iterdir()}
    assert names == {f"{A}_{name}.png" for name in DRAWINGS["segmentation"]} | {"differences.png", "figures.json"}
    numbers = read_json(trained.folder / "figures.json")[A]
    assert set(numbers["tsne"]["balanced_accuracy"]) == {"data-set-specific", "student"}
    for level in numbers["attention"]["teacher_shares"]:
        assert level["901"] + level["902"] == pytest.approx(1, abs=1e-5)


def test_overlays_show_truth_and_prediction(broken: Trained, tmp_path: Path) -> None:
    student = broken.experiment.root.results / broken.row.folders["student"][0]
    (path,) = (student / "test").glob("*.nii.gz")
    label = nib.load(broken.experiment.root.raw / A / "labelsTr" / path.name)
    beside = np.roll(np.asarray(label.dataobj), 3, axis=0)
    nib.save(nib.Nifti1Image(beside, label.affine), path)
    draw_overlays(tmp_path / "overlays.png", broken.experiment, broken.row)
    with Picture.open(tmp_path / "overlays.png") as picture:
        width, height = picture.size
        colours = np.asarray(picture.convert("RGB")).astype(int)
    assert width > 2 * height  # one test case: an image and four columns
    green = (colours[..., 1] > 150) & (colours[..., 0] < 60)
    red = (colours[..., 0] > 200) & (colours[..., 1] < 60)
    assert green.any()
    assert red.any()
    assert green[:, : width // 5].sum() == 0  # the image alone


def test_drawn_again_they_say_the_same(trained: Trained, broken: Trained) -> None:
    draw_figures(broken.experiment, broken.table)
    assert read_json(broken.folder / "figures.json") == read_json(trained.folder / "figures.json")


def test_what_cannot_be_drawn_is_named_and_the_rest_is_there(broken: Trained, caplog: pytest.LogCaptureFixture) -> None:
    student = broken.experiment.root.results / broken.row.folders["student"][0]
    (mask,) = (student / "test").glob("*.nii.gz")
    mask.unlink()
    (student / "checkpoint_best.safetensors").unlink()
    draw_figures(broken.experiment, broken.table)
    assert {path.name for path in broken.folder.iterdir()} == {f"{A}_learning.png", "differences.png", "figures.json"}
    for name in ("overlays", "tsne", "attention"):
        assert f"{A}: the figure {name} is left out: " in caplog.text
    assert str(mask) in caplog.text
    assert "checkpoint_best.safetensors: the weights file is missing" in caplog.text


def test_a_fault_of_the_program_costs_one_figure_and_is_not_hidden(
    broken: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(DRAWINGS["segmentation"], "tsne", fails)
    draw_figures(broken.experiment, broken.table)
    names = {path.name for path in broken.folder.iterdir()}
    drawn = {f"{A}_{name}.png" for name in DRAWINGS["segmentation"] if name != "tsne"}
    assert names == drawn | {"differences.png", "figures.json"}
    assert f"{A}: the figure tsne is left out: a fault of the program; please run mdkd_doctor" in caplog.text
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text


def test_a_full_disk_stops_the_figures(broken: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise WriteError("the disk is full")

    monkeypatch.setitem(DRAWINGS["segmentation"], "overlays", fails)
    with pytest.raises(WriteError):
        draw_figures(broken.experiment, broken.table)


def test_without_a_scored_case_there_is_no_overlay(trained: Trained, tmp_path: Path) -> None:
    (summary,) = trained.row.summaries["student"]
    empty = type(summary)(**{**{f: getattr(summary, f) for f in summary.__struct_fields__}, "metric_per_case": ()})
    fields = {name: getattr(trained.row, name) for name in trained.row.__struct_fields__}
    row = Row(**{**fields, "summaries": {**trained.row.summaries, "student": (empty,)}})
    with pytest.raises(MdkdError, match="no test case has a DSC"):
        draw_overlays(tmp_path / "overlays.png", trained.experiment, row)


def test_lines_of_learning(trained: Trained, tmp_path: Path) -> None:
    run = trained.experiment.root.results / trained.row.folders["student"][0]
    line = read_line(run)
    assert line is not None
    assert line[0].tolist() == [2.0, 4.0]
    assert line.shape == (2, 2)
    assert read_line(tmp_path) is None
    fields = {name: getattr(trained.row, name) for name in trained.row.__struct_fields__}
    nothing = Row(**{**fields, "folders": {}})
    with pytest.raises(MdkdError, match="none of its runs has a progress"):
        draw_learning(tmp_path / "learning.png", trained.experiment, nothing)


def test_the_mean_goes_as_far_as_all_replicates() -> None:
    long, short = np.array([[5.0, 10.0, 15.0], [0.2, 0.4, 0.9]]), np.array([[5.0, 10.0], [0.4, 0.8]])
    assert mean_line([long, short]).tolist() == [[5.0, 10.0], pytest.approx([0.3, 0.6])]


def test_the_log_says_where_they_are(broken: Trained, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert draw_figures(broken.experiment, broken.table._replace(rows=())) == broken.folder
    assert f"figures -> {broken.folder}" in caplog.text
