"""Images and masks of a case, read together."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from mdkd_auto.core.records import Case, Dataset
from mdkd_auto.datasets.case_reading import inspect_case, read_case_arrays
from mdkd_auto.formats.read_write import read_mask

UPRIGHT = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10)
MASK = (UPRIGHT % 3).astype(np.uint8)


def dataset(folder: Path, ending: str) -> Dataset:
    return Dataset(
        name="Dataset014_Toy",
        folder=str(folder),
        task="segmentation",
        modality="CXR",
        channel_names=("CXR",),
        labels={"lung": (1,), "heart": (2,)},
        file_ending=ending,
        cases=(),
    )


def save(path: Path, upright: np.ndarray, orientation: int) -> Path:
    """As a camera held so stores it."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright, 1)}[orientation]
    Pillow.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    return path


def case_of(image: Path, label: Path) -> Case:
    return Case(case_id="a", images=(str(image),), label=str(label), patient_id="a")


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("of_mask", [1, 3, 6])
def test_masks_are_upright_by_their_own_header(tmp_path: Path, orientation: int, of_mask: int) -> None:
    case = case_of(save(tmp_path / "a_0000.png", UPRIGHT, orientation), save(tmp_path / "a.png", MASK, of_mask))
    arrays = read_case_arrays(case, dataset(tmp_path, ".png"))
    np.testing.assert_array_equal(arrays.channels[0], UPRIGHT[None])
    assert arrays.label is not None
    np.testing.assert_array_equal(arrays.label, MASK[None])
    assert arrays.exif == (orientation,)


def test_a_mask_of_the_image_as_stored_is_an_error_that_names_the_orientation(tmp_path: Path) -> None:
    image = save(tmp_path / "a_0000.png", UPRIGHT, 6)
    Pillow.fromarray(np.ascontiguousarray(np.rot90(MASK, 1))).save(tmp_path / "a.png")
    arrays, findings = inspect_case(case_of(image, tmp_path / "a.png"), dataset(tmp_path, ".png"))
    assert arrays is None
    assert [one.kind for one in findings] == ["shape"]
    assert "EXIF orientation 6 turns a_0000.png upright, 1 this file" in findings[0].found
    assert "upright" in findings[0].remedy


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_the_indices_of_a_palette_are_the_classes(tmp_path: Path, ending: str) -> None:
    Pillow.fromarray(UPRIGHT).save(tmp_path / f"a_0000{ending}")
    mask = Pillow.fromarray(MASK, "P")
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    mask.save(tmp_path / f"a{ending}")
    case = case_of(tmp_path / f"a_0000{ending}", tmp_path / f"a{ending}")
    arrays = read_case_arrays(case, dataset(tmp_path, ending))
    assert arrays.label is not None
    np.testing.assert_array_equal(arrays.label, MASK[None])
    np.testing.assert_array_equal(read_mask(tmp_path / f"a{ending}").array, MASK[None])
