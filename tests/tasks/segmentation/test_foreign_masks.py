"""Anyone's masks in a folder: which are whose, what their values mean, and what is named instead of scored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from mdkd_auto.core.errors import DatasetError, MdkdError, SettingsError
from mdkd_auto.core.files import write_json
from mdkd_auto.core.records import Case, Dataset
from mdkd_auto.tasks.segmentation.foreign_masks import score_mask_folder
from mdkd_auto.tasks.shared.classes import ClassChannel, Classes, classes_of
from mdkd_auto.tasks.shared.coverage import Found, Truth

SIZE = 16
NUMBERS = {"core": 2, "edge": 3}


def block(value: float, first: int = 4, kind: Any = np.uint8) -> np.ndarray:
    """A block of 4 x 4 pixels."""
    mask = np.zeros((SIZE, SIZE), dtype=kind)
    mask[first : first + 4, 2:6] = value
    return mask


def save(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(mask).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "masks"
    made.mkdir()
    return made


@pytest.fixture
def truth_of(tmp_path: Path) -> Callable[..., Truth]:
    """Cases of TIFF images with given label maps."""

    def make(labels: dict[str, tuple[int, ...]], ignore: int | None = None, **maps: np.ndarray) -> Truth:
        cases = tuple(
            Case(
                case_id=name,
                images=(f"/nowhere/{name}_0000.tif",),
                patient_id=name,
                label=str(save(tmp_path / "truth" / f"{name}.tif", mask)),
            )
            for name, mask in maps.items()
        )
        return Truth(
            Dataset(
                name="Dataset061_Cells",
                folder="/nowhere",
                task="segmentation",
                modality="EM",
                channel_names=("EM",),
                labels=labels,
                ignore_label=ignore,
                file_ending=".tif",
                cases=cases,
            )
        )

    return make


def one_class(truth_of: Callable[..., Truth], value: int = 1, **more: Any) -> Truth:
    return truth_of({"cell": (value,)}, a=block(value), b=block(value, 8), **more)


def dice(found: Found) -> dict[str, dict[str, float | None]]:
    return {
        case.case_id: {name: one.dice for name, one in case.metrics.items()} for case in found.summary.metric_per_case
    }


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("declared", "written"), [(1, 255), (4, 1), (4, 255), (4, 4), (255, 255), (255, 1)])
@pytest.mark.parametrize("keep", [None, True])
def test_the_only_class_may_be_written_1_or_255(
    folder: Path, truth_of: Callable[..., Truth], declared: int, written: int, keep: bool | None
) -> None:
    truth = one_class(truth_of, declared)
    for name, first in (("a", 4), ("b", 8)):
        save(folder / f"{name}.tif", block(written, first))
    found = score_mask_folder(folder, truth, keep)
    name = "cell" if keep else "foreground"
    assert dice(found) == {"a": {name: 1.0}, "b": {name: 1.0}}
    said = f"2 masks hold only 0 and {written}: {written} is not declared by dataset.json, and is read as {name}"
    assert found.notes == (() if declared == written else (said,))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (block(2), "holds the values 0, 2; 2 is not declared (dataset.json declares 0, 1)"),
        (block(1) + block(255, 8), "holds the values 0, 1, 255; 255 is not declared"),
        (block(128) + block(255, 8), "holds the values 0, 128, 255; 128, 255 are not declared"),
        (block(0.75, kind=np.float32), "16 of 256 voxels are not whole numbers (the first is 0.75)"),
        (block(np.nan, kind=np.float32), "16 of 256 voxels are not whole numbers (the first is nan)"),
        (block(np.inf, kind=np.float32), "16 of 256 voxels are not whole numbers (the first is inf)"),
        (block(-1, kind=np.int32), "holds the values -1, 0; -1 is not declared"),
        (block(1e30, kind=np.float32), "not declared"),
        (np.full((SIZE, SIZE), 7, np.uint8), "holds the value 7; 7 is not declared"),
        (block(1)[:8], "does not lie on the grid of its label"),
    ],
)
def test_other_values_are_refused_by_case(
    folder: Path, truth_of: Callable[..., Truth], mask: np.ndarray, said: str
) -> None:
    truth = one_class(truth_of)
    save(folder / "a.tif", mask)
    save(folder / "b.tif", block(1, 8))
    found = score_mask_folder(folder, truth, None)
    assert dice(found) == {"b": {"foreground": 1.0}}
    assert found.summary.failed.keys() == {"a"}
    assert found.summary.failed["a"].startswith(f"{folder / 'a.tif'}: ")
    assert said in found.summary.failed["a"]
    assert (set(found.answered), found.broken) == ({"a", "b"}, frozenset())


def test_whole_numbers_as_floats_are_labels(folder: Path, truth_of: Callable[..., Truth]) -> None:
    save(folder / "a.tif", block(1, kind=np.float32))
    found = score_mask_folder(folder, one_class(truth_of), None)
    assert (dice(found), found.notes) == ({"a": {"foreground": 1.0}}, ())


@pytest.mark.parametrize("written", [1, 255])
def test_several_classes_merged_may_be_written_1_or_255_but_not_apart(
    folder: Path, truth_of: Callable[..., Truth], written: int
) -> None:
    truth = truth_of({"core": (2,), "edge": (3,)}, a=block(2) + block(3, 8))
    save(folder / "a.tif", block(written) + block(written, 8))
    assert dice(score_mask_folder(folder, truth, None)) == {"a": {"foreground": 1.0}}
    found = score_mask_folder(folder, truth, True)
    assert f"{written} is not declared (dataset.json declares 0, 2, 3)" in found.summary.failed["a"]


def test_the_ignore_label_stands_only_where_the_truth_has_it(folder: Path, truth_of: Callable[..., Truth]) -> None:
    ignored = block(1) + block(255, 8)
    truth = truth_of({"cell": (1,)}, ignore=255, a=ignored, b=ignored)
    save(folder / "a.tif", ignored)
    save(folder / "b.tif", block(255))
    found = score_mask_folder(folder, truth, None)
    assert dice(found) == {"a": {"foreground": 1.0}}
    assert "holds 255, the ignore label, where the truth has another value" in found.summary.failed["b"]


def test_a_label_of_undeclared_values_is_the_data_sets_fault(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = truth_of({"cell": (1,)}, a=block(9), b=block(1))
    for name in "ab":
        save(folder / f"{name}.tif", block(1))
    found = score_mask_folder(folder, truth, None)
    assert found.broken == {"a"}
    assert "label values 9 are not declared in dataset.json" in found.summary.failed["a"]
    assert dice(found) == {"b": {"foreground": 1.0}}


def test_masks_of_0_and_1_scored_class_by_class_are_pointed_out(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = truth_of({"core": (1,), "edge": (2,)}, a=block(1) + block(2, 8))
    save(folder / "a.tif", block(1))
    assert "all masks hold only 0 and 1" in score_mask_folder(folder, truth, True).notes[0]
    save(folder / "a.tif", block(1) + block(2, 8))
    assert score_mask_folder(folder, truth, True).notes == ()


def test_masks_that_are_all_empty_are_pointed_out(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = truth_of({"core": (1,), "edge": (2,)}, a=block(1) + block(2, 8), b=block(0))
    for name in "ab":
        save(folder / f"{name}.tif", block(0))
    for keep_classes in (None, True):
        notes = score_mask_folder(folder, truth, keep_classes).notes
        assert notes == ("all masks are empty, and not all labels are; were probabilities rounded down?",)
    empty = truth_of({"core": (1,), "edge": (2,)}, a=block(0), b=block(0))
    assert score_mask_folder(folder, empty, None).notes == ()
    save(folder / "b.tif", block(1))
    assert score_mask_folder(folder, truth, None).notes == ()


def test_names_that_3d_slicer_gave_other_values_are_refused(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = truth_of({"core": (1,), "edge": (2,)}, a=block(1) + block(2, 8))
    mask = sitk.GetImageFromArray(block(1) + block(2, 8))
    for number, name in enumerate(("edge", "core")):
        mask.SetMetaData(f"Segment{number}_Name", name)
        mask.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
    sitk.WriteImage(mask, str(folder / "a.nrrd"))
    found = score_mask_folder(folder, truth, True)
    assert "its segments are named edge = 1, core = 2" in found.summary.failed["a"]
    assert dice(score_mask_folder(folder, truth, None)) == {"a": {"foreground": 1.0}}


# --- prediction.json ------------------------------------------------------------------------------------------------


def written_as(*channels: tuple[str, int], regions: bool = False) -> dict[str, Any]:
    classes = Classes(
        channels=tuple(ClassChannel(name=name, values=(value,), written=value) for name, value in channels),
        regions=regions,
        ignore=None,
    )
    return {"run": "/run", "classes": msgspec.to_builtins(classes)}


def two_classes(truth_of: Callable[..., Truth]) -> Truth:
    return truth_of({"core": (2,), "edge": (3,)}, a=block(2) + block(3, 8))


def test_merged_masks_are_not_scored_class_by_class(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = two_classes(truth_of)
    merged = classes_of(truth.dataset, keep_classes=False)
    write_json(folder / "prediction.json", {"classes": merged, "step": 0.5})
    save(folder / "a.tif", block(1) + block(1, 8))
    assert dice(score_mask_folder(folder, truth, None)) == {"a": {"foreground": 1.0}}
    with pytest.raises(SettingsError, match=r"prediction\.json says that all classes were written as one foreground"):
        score_mask_folder(folder, truth, True)
    save(folder / "a.tif", block(2) + block(1, 8))
    said = score_mask_folder(folder, truth, None).summary.failed["a"]
    assert "2 is not declared (prediction.json declares 0, 1)" in said


def test_classes_that_were_kept_are_scored_without_a_flag(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = two_classes(truth_of)
    write_json(folder / "prediction.json", {"classes": classes_of(truth.dataset, keep_classes=True)})
    save(folder / "a.tif", block(2) + block(2, 8))  # the edge taken for core
    expected = {"a": {"core": 2 * 16 / (16 + 32), "edge": 0.0}}
    found = score_mask_folder(folder, truth, None)
    assert dice(found) == {"a": pytest.approx(expected["a"])}
    assert found.notes == ("each class is scored, as prediction.json says that they were written",)
    assert score_mask_folder(folder, truth, True).notes == ()


def test_numbers_of_another_model_are_brought_to_those_of_the_data_set(
    folder: Path, truth_of: Callable[..., Truth]
) -> None:
    truth = two_classes(truth_of)
    write_json(folder / "prediction.json", written_as(("edge", 2), ("core", 7)))
    save(folder / "a.tif", block(7) + block(2, 8))
    assert dice(score_mask_folder(folder, truth, None)) == {"a": {"core": 1.0, "edge": 1.0}}
    save(folder / "a.tif", block(3))
    assert (
        "3 is not declared (prediction.json declares 0, 2, 7)"
        in score_mask_folder(folder, truth, None).summary.failed["a"]
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (written_as(("core", 1), ("cyst", 2)), "hold the classes 1 core, 2 cyst; Dataset061_Cells has 2 core, 3 edge"),
        (written_as(("core", 1), ("edge", 2), ("cyst", 3)), "3 cyst; Dataset061_Cells has"),
        (written_as(("core", 1)), "hold the class core; Dataset061_Cells has core, edge"),
        ({"classes": ["core", "edge"]}, "classes is ['core', 'edge']; expected those of masks, an object with"),
        ({"classes": 3}, ", got `int` - at `$.classes`"),
        ({"classes": None}, "got `null` - at `$.classes`"),
        ({**written_as(("core", 2), ("edge", 3)), "clases": 1}, "unknown field `clases`. Fields of Predicted: run, "),
        ({**written_as(("core", 2), ("edge", 3)), "mirror": "yes"}, "Expected `bool`, got `str` - at `$.mirror`"),
        ({"dataset": 5}, "Expected `str`, got `int` - at `$.dataset`"),
        (written_as(("core", 2), ("edge", 2)), "classes.channels, written of each, is [2, 2]; expected each once"),
        (written_as(("core", 0), ("edge", 2)), "classes.channels, written of core is 0; expected 1 or more"),
        (written_as(("core", -1), ("edge", 10**7)), "values of core is (-1, -1); expected 2 numbers from 0 to 65535"),
        (written_as(), "classes.channels, their number, is 0; expected 1 to 1000"),
    ],
)
def test_masks_of_other_classes_are_refused(
    folder: Path, truth_of: Callable[..., Truth], content: Any, said: str
) -> None:
    write_json(folder / "prediction.json", content)
    save(folder / "a.tif", block(1))
    with pytest.raises(DatasetError) as error:
        score_mask_folder(folder, two_classes(truth_of), None)
    assert "prediction.json" in str(error.value)
    assert said in str(error.value)


def test_a_runs_own_masks_hold_the_classes_of_run_json(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = two_classes(truth_of)
    kept = classes_of(truth.dataset, keep_classes=True)
    write_json(folder / "run.json", {"classes": {truth.dataset.name: kept, "Dataset062_Other": {}}})
    save(folder / "test" / "a.tif", block(2))
    assert dice(score_mask_folder(folder / "test", truth, None)) == {"a": {"core": 1.0, "edge": 0.0}}


@pytest.mark.parametrize("content", [["another program's"], {}, {"model": "another"}, {"dataset": "Dataset061_Cells"}])
def test_a_prediction_json_that_says_nothing_of_masks_is_named(
    folder: Path, truth_of: Callable[..., Truth], content: Any
) -> None:
    write_json(folder / "prediction.json", content)
    save(folder / "a.tif", block(1))
    found = score_mask_folder(folder, one_class(truth_of), None)
    said = "prediction.json does not say how the masks were written, so their values are read as dataset.json declares"
    assert found.notes == (f"{said} them",)
    assert dice(found) == {"a": {"foreground": 1.0}}


def test_all_that_predictions_write_is_known(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = one_class(truth_of)
    ranges = {"spacing_mm": None, "shape": [[1, 9, 9], [1, 9, 9]], "percentile_00_5": [0, 0], "percentile_99_5": [1, 1]}
    unlike = {"field": "standard deviation", "found": 0.0, "training": None, "allowed": None}
    write_json(
        folder / "prediction.json",
        {
            "run": "/run",
            "dataset": truth.dataset.name,
            "version": "1.0",
            "spacing_from": None,
            "step": 0.5,
            "mirror": False,
            "classes": classes_of(truth.dataset, keep_classes=False),
            "training_ranges": ranges,
            "unlike_training": {"a": [unlike]},
            "turned_by_exif": {"a": 6},
            "remarks": {"a": ["odd"]},
        },
    )
    save(folder / "a.tif", block(1))
    assert score_mask_folder(folder, truth, None).notes == ()


def test_other_programs_files_say_nothing(folder: Path, truth_of: Callable[..., Truth]) -> None:
    (folder / "plans.json").write_text("{}")
    (folder / "a.npz").write_bytes(b"")
    save(folder / "a.tif", block(1))
    found = score_mask_folder(folder, one_class(truth_of), None)
    assert (dice(found), found.unmatched) == ({"a": {"foreground": 1.0}}, {})


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.TIF", "a.tiff", "a.png", "a_0000.tif", "a_0000.png"])
def test_a_mask_under_another_ending_or_as_a_channel_is_scored_and_said(
    folder: Path, truth_of: Callable[..., Truth], name: str
) -> None:
    save(folder / name, block(1))
    found = score_mask_folder(folder, one_class(truth_of), None)
    assert dice(found) == {"a": {"foreground": 1.0}}
    assert found.notes == (f"1 of 1 masks are not named {{case}}.tif, such as {name}",)


def test_the_right_name_goes_first_and_the_others_are_named(folder: Path, truth_of: Callable[..., Truth]) -> None:
    save(folder / "a.tif", block(1))
    save(folder / "a.png", block(0))
    save(folder / "a_0000.tif", block(0))
    save(folder / "c.tif", block(1))
    save(folder / "A.tif", block(1))
    (folder / "b.tif").symlink_to(folder / "gone.tif")
    found = score_mask_folder(folder, one_class(truth_of), None)
    assert (dice(found), set(found.answered), found.notes) == ({"a": {"foreground": 1.0}}, {"a"}, ())
    assert found.unmatched == {
        "a.png": "a.tif is scored for a",
        "a_0000.tif": "a.tif is scored for a",
        "c.tif": "is no case of Dataset061_Cells",
        "A.tif": "is no case of Dataset061_Cells; a differs in capital letters",
        "b.tif": f"is a link to {folder / 'gone.tif'}, which does not exist",
    }


def test_two_masks_of_equal_right_are_not_chosen_from(folder: Path, truth_of: Callable[..., Truth]) -> None:
    save(folder / "a.png", block(1))
    save(folder / "a.bmp", block(1))
    save(folder / "b.tif", block(1, 8))
    found = score_mask_folder(folder, one_class(truth_of), None)
    assert dice(found) == {"b": {"foreground": 1.0}}
    assert "a.bmp and a.png may both be its mask; keep the one that is right" in found.summary.failed["a"]


def test_a_case_may_be_named_as_a_channel(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = truth_of({"cell": (1,)}, a=block(1), a_0000=block(1, 8))
    save(folder / "a_0000.tif", block(1, 8))
    found = score_mask_folder(folder, truth, None)
    assert (dice(found), set(found.answered)) == ({"a_0000": {"foreground": 1.0}}, {"a_0000"})


def test_a_mask_of_a_broken_case_is_named_and_not_scored(folder: Path, truth_of: Callable[..., Truth]) -> None:
    truth = one_class(truth_of)._replace(broken={"x": "its label is missing"})
    save(folder / "a.tif", block(1))
    save(folder / "x.tif", block(1))
    found = score_mask_folder(folder, truth, None)
    assert (found.summary.failed, found.broken) == ({"x": "its label is missing"}, {"x"})
    assert dice(found) == {"a": {"foreground": 1.0}}


def test_without_a_mask_the_error_says_what_there_is(folder: Path, truth_of: Callable[..., Truth]) -> None:
    save(folder / "other.tif", block(1))
    (folder / "fold_0").mkdir()
    with pytest.raises(MdkdError) as error:
        score_mask_folder(folder, one_class(truth_of), None)
    assert "no mask is named as a case of Dataset061_Cells (a.tif, ...)" in str(error.value)
    assert "its images are other.tif, and its folders fold_0" in str(error.value)
    (folder / "other.tif").unlink()
    (folder / "fold_0" / "IM0001").write_bytes(bytes(128) + b"DICM...")
    with pytest.raises(MdkdError, match=r"holds no image, and its folders fold_0; fold_0/IM0001 is DICOM\. DICOM is"):
        score_mask_folder(folder, one_class(truth_of), None)
