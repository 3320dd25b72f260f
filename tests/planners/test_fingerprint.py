"""Fingerprints of real files: exact, cached, and undisturbed by a bad case."""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mdkd_auto.core.records import Box, Case, Dataset
from mdkd_auto.planners import fingerprint as module
from mdkd_auto.planners.fingerprint import fingerprint_dataset, inside_boxes, pooled_fingerprint


def volume_case(folder: Path, name: str, seed: int, label: NDArray[np.int16] | None = None) -> Case:
    """A NIfTI case of 12 x 14 x 10 (x, y, z) voxels of 1 x 1 x 3 mm with an empty border."""
    rng = np.random.default_rng(seed)
    image = np.zeros((12, 14, 10), dtype=np.int16)
    image[2:10, 3:12, :] = rng.integers(-500, 900, (8, 9, 10)) | 1  # never zero
    mask = np.zeros(image.shape, dtype=np.int16)
    mask[3:5, 4:7, 2:4] = 1  # 12 voxels
    mask[5, 7, 4] = 1  # touches the first by a corner: the same lesion
    mask[9, 11, 9] = 1
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"{name}_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask if label is None else label, affine), folder / f"{name}.nii.gz")
    return Case(
        case_id=name,
        images=(str(folder / f"{name}_0000.nii.gz"),),
        label=str(folder / f"{name}.nii.gz"),
        patient_id=name,
    )


def volumes(folder: Path, *cases: Case) -> Dataset:
    return Dataset(
        name="Dataset014_Toy",
        folder=str(folder),
        task="segmentation",
        modality="CT",
        channel_names=("CT",),
        labels={"lesion": (1,)},
        file_ending=".nii.gz",
        cases=cases,
    )


def test_one_case_in_numbers(tmp_path: Path) -> None:
    dataset = volumes(tmp_path, volume_case(tmp_path, "a", 1))
    fingerprint, problems = fingerprint_dataset(dataset, tmp_path / "cache")
    assert problems == []
    (case,) = fingerprint.cases
    assert not fingerprint.is_2d
    assert (case.shape, case.cropped_shape) == ((10, 14, 12), (10, 9, 8))
    assert case.spacing_mm == pytest.approx((3.0, 1.0, 1.0))
    assert case.nonzero_fraction == pytest.approx(720 / 1680)
    assert case.integer_valued
    assert sorted(lesion.voxels for lesion in case.lesions) == [1, 13]
    assert case.labelled_voxels == 14
    assert fingerprint.classes == {}  # labels of masks are not counted
    large = max(case.lesions, key=lambda lesion: lesion.voxels)
    assert large.volume_mm3 == pytest.approx(39.0)
    assert large.diameter_mm == pytest.approx((6 * 39 / math.pi) ** (1 / 3))


def test_pooled_intensities_are_those_of_all_foreground_voxels(tmp_path: Path) -> None:
    cases = [volume_case(tmp_path, name, seed) for seed, name in enumerate("abc")]
    fingerprint, _ = fingerprint_dataset(volumes(tmp_path, *cases), tmp_path / "cache")
    voxels = np.concatenate(
        [
            nibabel.load(case.images[0]).get_fdata()[nibabel.load(case.label).get_fdata() > 0]  # type: ignore[attr-defined]
            for case in cases
        ]
    )
    pooled = fingerprint.foreground[0]
    assert pooled is not None
    assert pooled.count == voxels.size
    assert pooled.mean == pytest.approx(voxels.mean())
    assert pooled.percentile_00_5 == pytest.approx(np.percentile(voxels, 0.5))
    assert pooled.percentile_99_5 == pytest.approx(np.percentile(voxels, 99.5))


def test_a_test_case_enters_no_statistic_but_its_kind_of_file_counts(tmp_path: Path) -> None:
    cases = [volume_case(tmp_path, name, seed) for seed, name in enumerate("abc")]
    dataset, cache = volumes(tmp_path, *cases), tmp_path / "cache"
    whole, _ = fingerprint_dataset(dataset, cache)
    two, _ = fingerprint_dataset(volumes(tmp_path, *cases[:2]), cache)
    assert pooled_fingerprint(dataset, whole.cases, cache, test={"c"}) == two

    flat = [msgspec.structs.replace(case, shape=(1, 14, 12)) for case in two.cases]
    unlike = msgspec.structs.replace(whole.cases[2], spacing_known=False)
    for seen, is_2d, spacing_known in ((flat, True, True), ([*flat, unlike], False, False)):
        made = pooled_fingerprint(dataset, seen, cache, test={"c"})
        assert (made.is_2d, made.spacing_known, made.cases) == (is_2d, spacing_known, tuple(flat))


def test_only_new_and_changed_cases_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = module.inspect_case

    def counting(case: Case, dataset: Dataset) -> object:
        read.append(case.case_id)
        return original(case, dataset)

    monkeypatch.setattr(module, "inspect_case", counting)
    first, second = volume_case(tmp_path, "a", 1), volume_case(tmp_path, "b", 2)
    once, _ = fingerprint_dataset(volumes(tmp_path, first), tmp_path / "cache")
    again, _ = fingerprint_dataset(volumes(tmp_path, first), tmp_path / "cache")
    assert once == again
    fingerprint_dataset(volumes(tmp_path, first, second), tmp_path / "cache")
    assert read == ["a", "b"]
    volume_case(tmp_path, "a", 3)
    fingerprint_dataset(volumes(tmp_path, first, second), tmp_path / "cache")
    assert read == ["a", "b", "a"]
    (tmp_path / "cache" / "b.json").write_text("{}")  # damaged: computed again
    fingerprint_dataset(volumes(tmp_path, first, second), tmp_path / "cache")
    assert read == ["a", "b", "a", "b"]


def test_bad_cases_are_named_and_left_out(tmp_path: Path) -> None:
    good = volume_case(tmp_path, "good", 1)
    wrong_value = volume_case(tmp_path, "value", 2, np.full((12, 14, 10), 7, dtype=np.int16))
    wrong_shape = volume_case(tmp_path, "shape", 3, np.zeros((12, 14, 9), dtype=np.int16))
    fraction = volume_case(tmp_path, "fraction", 4, np.full((12, 14, 10), 0.5, dtype=np.float32))  # type: ignore[arg-type]
    damaged = volume_case(tmp_path, "damaged", 5)
    shutil.copyfile(__file__, damaged.images[0])
    dataset = volumes(tmp_path, wrong_value, wrong_shape, good, fraction, damaged)
    fingerprint, problems = fingerprint_dataset(dataset, tmp_path / "cache")
    assert [case.case_id for case in fingerprint.cases] == ["good"]
    assert len(problems) == 4
    assert [(problem.case_id, problem.kind) for problem in problems] == [
        ("value", "label-undeclared"),
        ("shape", "shape"),
        ("fraction", "label-fractional"),
        ("damaged", "unreadable"),
    ]
    assert "value.nii.gz: label values 7 are not declared in dataset.json (declared: 0, 1)" in str(problems[0])
    assert "shape.nii.gz: does not lie on the grid" in str(problems[1])
    assert "0.5 is not a whole number" in str(problems[2])
    assert "damaged_0000.nii.gz" in str(problems[3])


def test_pictures_without_spacing_are_measured_in_pixels(tmp_path: Path) -> None:
    mask = np.zeros((32, 40), dtype=np.uint8)
    mask[4:8, 4:8] = 1
    PillowImage.fromarray(np.full((32, 40), 90, dtype=np.uint8)).save(tmp_path / "p_0000.png")
    PillowImage.fromarray(mask).save(tmp_path / "p.png")
    case = Case(case_id="p", images=(str(tmp_path / "p_0000.png"),), label=str(tmp_path / "p.png"), patient_id="p")
    dataset = msgspec.structs.replace(volumes(tmp_path, case), file_ending=".png")
    fingerprint, problems = fingerprint_dataset(dataset, tmp_path / "cache")
    assert problems == []
    assert fingerprint.is_2d
    assert not fingerprint.cases[0].spacing_known
    assert fingerprint.cases[0].lesions[0].volume_mm3 == 16
    assert fingerprint.cases[0].lesions[0].diameter_mm == pytest.approx(2 * math.sqrt(16 / math.pi))
    stated = msgspec.structs.replace(dataset, spacing_mm=(1.0, 0.5, 0.5))
    fingerprint, _ = fingerprint_dataset(stated, tmp_path / "cache")
    assert fingerprint.cases[0].spacing_known
    assert fingerprint.cases[0].lesions[0].volume_mm3 == 4


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.json", lambda path: path.write_text("{")),
        ("a.json", lambda path: path.write_text(path.read_text().replace('"case_id": "a"', '"case_id": "b"'))),
        ("a.json", lambda path: path.write_text(re.sub(r'(spacing_mm": \[\s*)[\d.]+', r"\g<1>-1", path.read_text()))),
        ("a.json", lambda path: path.write_text(path.read_text().replace('picture_hash": "', 'picture_hash": "=1'))),
        ("a.json", lambda path: path.write_text(path.read_text().replace('remarks": [', 'remarks": [["x", "y", 0]'))),
        ("a.npz", lambda path: path.write_bytes(path.read_bytes()[:-40])),
        ("a.npz", lambda path: path.write_bytes(b"no archive")),
    ],
)
def test_a_damaged_cache_is_computed_again_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], object]
) -> None:
    dataset = volumes(tmp_path, volume_case(tmp_path, "a", 1))
    cache = tmp_path / "cache"
    before, _ = fingerprint_dataset(dataset, cache)
    damage(cache / name)
    caplog.clear()
    after, problems = fingerprint_dataset(dataset, cache)
    assert (after, problems) == (before, [])
    (line,) = caplog.messages
    assert str(cache / name) in line
    assert line.endswith("the case is read again")


def test_a_box_holds_every_voxel_that_it_touches() -> None:
    """From x 1.5, y 2 to x 4.2, y 4: columns 1 to 4, rows 2 and 3; one that stands out is cut off."""
    corners = ((1.5, 2.0, 2.7, 2.0), (-2.0, 5.5, 3.0, 9.0))
    boxes = [Box(class_name="a", x=x, y=y, width=width, height=height) for x, y, width, height in corners]
    expected = np.zeros((1, 7, 6), dtype=bool)
    expected[0, 2:4, 1:5] = True
    expected[0, 5:7, 0:1] = True
    assert np.array_equal(inside_boxes(boxes, expected.shape), expected)
