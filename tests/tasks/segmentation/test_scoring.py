"""Hand-made masks: means, patients, spacing, what fails, and the three files."""

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image as Picture

from mdkd_auto.core.files import read_record
from mdkd_auto.core.records import Case, Dataset, Triple
from mdkd_auto.report.comparison import compare
from mdkd_auto.tasks.segmentation.foreign_masks import score_files
from mdkd_auto.tasks.segmentation.mask_values import reading_of
from mdkd_auto.tasks.segmentation.scoring import Summary, write_summary

SIZE = 24


def square(column: int, edge: int = 4, value: int = 1) -> np.ndarray:
    """A square of ``edge`` pixels in rows 8.. and columns ``column``.."""
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[8 : 8 + edge, column : column + edge] = value
    return mask


def save(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    Picture.fromarray(mask).save(path)
    return path


def case_of(folder: Path, name: str, truth: np.ndarray, patient: str | None = None) -> Case:
    label = save(folder / "labels" / f"{name}.png", truth)
    return Case(case_id=name, images=(f"{name}_0000.png",), label=str(label), patient_id=patient or name)


def dataset_of(*cases: Case, spacing: Triple | None = None) -> Dataset:
    return Dataset(
        name="Dataset011_Toy",
        folder="/nowhere",
        task="segmentation",
        modality="CT",
        channel_names=("CT",),
        labels={"tumour": (1,), "oedema": (2,)},
        file_ending=".png",
        spacing_mm=spacing,
        cases=cases,
    )


def scored(
    folder: Path, pairs: list[tuple[Case, np.ndarray]], spacing: Triple | None = None, keep_classes: bool = False
) -> Summary:
    dataset = dataset_of(*(case for case, _ in pairs), spacing=spacing)
    masks = [(case, save(folder / "masks" / f"{case.case_id}.png", mask)) for case, mask in pairs]
    return score_files(masks, dataset, reading_of(dataset, keep_classes), "test").summary


def test_half_overlap_in_pixels(tmp_path: Path) -> None:
    summary = scored(tmp_path, [(case_of(tmp_path, "a", square(8)), square(10))])
    (case,) = summary.metric_per_case
    scores = case.metrics["foreground"]
    assert (scores.true_positive, scores.false_positive, scores.false_negative) == (8, 8, 8)
    assert scores.dice == pytest.approx(0.5)
    assert scores.iou == pytest.approx(1 / 3)
    assert scores.hd95 == pytest.approx(2.0)
    assert summary.unit == "px"
    assert summary.metric_per_volume is None
    assert summary.units_of_test == summary.metric_per_case


def test_stated_spacing_counts(tmp_path: Path) -> None:
    summary = scored(tmp_path, [(case_of(tmp_path, "a", square(8)), square(10))], spacing=(1.0, 3.0, 3.0))
    scores = summary.metric_per_case[0].metrics["foreground"]
    assert summary.unit == "mm"
    assert scores.hd95 == pytest.approx(6.0)
    assert scores.false_positive_volume == pytest.approx(8 * 9.0)


def test_images_of_a_patient_are_pooled(tmp_path: Path) -> None:
    pairs = [
        (case_of(tmp_path, "a", square(8), "p1"), square(10)),  # DSC 1/2: 8 of 16 and 16 voxels
        (case_of(tmp_path, "b", square(8), "p1"), square(8)),  # DSC 1: 16 voxels
        (case_of(tmp_path, "c", square(8), "p2"), square(8)),
    ]
    summary = scored(tmp_path, pairs)
    assert summary.foreground_mean.metrics["dice"].mean == pytest.approx((0.5 + 1 + 1) / 3)
    assert summary.metric_per_volume is not None
    first, second = summary.metric_per_volume
    assert (first.case_id, second.case_id) == ("p1", "p2")
    assert first.metrics["foreground"].dice == pytest.approx(2 * 24 / (32 + 32))
    assert summary.per_volume_foreground_mean is not None
    assert summary.per_volume_foreground_mean.metrics["dice"].mean == pytest.approx((0.75 + 1) / 2)
    assert summary.units_of_test == summary.metric_per_volume


def test_a_case_that_fails_leaves_the_units_as_they_are(tmp_path: Path) -> None:
    cases = [case_of(tmp_path, name, square(8), patient) for name, patient in (("a", "p1"), ("b", "p1"), ("c", "p2"))]
    dataset = dataset_of(*cases)
    masks = [(case, save(tmp_path / "masks" / f"{case.case_id}.png", square(8))) for case in cases]
    masks[1] = (cases[1], tmp_path / "masks" / "missing.png")
    summary = score_files(masks, dataset, reading_of(dataset, False), "test").summary
    assert set(summary.failed) == {"b"}
    assert summary.score_by_unit() == {"p1": 1.0, "p2": 1.0}


def test_classes_apart_or_together(tmp_path: Path) -> None:
    truth = square(2) + square(12, value=2)
    mask = square(2) + square(12, value=1)  # the second class taken for the first
    together = scored(tmp_path, [(case_of(tmp_path, "a", truth), mask > 0)])
    assert together.foreground_mean.metrics["dice"].mean == pytest.approx(1.0)
    apart = scored(tmp_path, [(case_of(tmp_path, "a", truth), mask)], keep_classes=True)
    assert apart.mean["tumour"].metrics["dice"].mean == pytest.approx(2 * 16 / (16 + 32))
    assert apart.mean["oedema"].metrics["dice"].mean == pytest.approx(0.0)


def test_what_fails_is_listed_and_the_rest_scored(tmp_path: Path) -> None:
    good, missing, small = (case_of(tmp_path, name, square(8)) for name in ("good", "missing", "small"))
    dataset = dataset_of(good, missing, small)
    masks = [
        (good, save(tmp_path / "masks" / "good.png", square(8))),
        (missing, tmp_path / "masks" / "missing.png"),
        (small, save(tmp_path / "masks" / "small.png", square(8)[:16])),
    ]
    summary = score_files(masks, dataset, reading_of(dataset, False), "test").summary
    assert [case.case_id for case in summary.metric_per_case] == ["good"]
    assert set(summary.failed) == {"missing", "small"}
    assert "missing.png" in summary.failed["missing"]
    for words in (str(tmp_path / "masks" / "small.png"), str(small.label), "16", "24"):
        assert words in summary.failed["small"]


def test_empty_truth_and_empty_mask(tmp_path: Path) -> None:
    nothing = np.zeros((SIZE, SIZE), dtype=np.uint8)
    pairs = [(case_of(tmp_path, "a", nothing), nothing), (case_of(tmp_path, "b", nothing), square(8))]
    mean = scored(tmp_path, pairs).foreground_mean
    assert (mean.cases, mean.negative_cases, mean.negative_cases_with_false_positives) == (2, 2, 1)


def test_false_alarms_on_patients_without_a_lesion_count(tmp_path: Path) -> None:
    nothing = np.zeros((SIZE, SIZE), dtype=np.uint8)
    cases = [case_of(tmp_path, f"n{number}", nothing) for number in range(20)] + [case_of(tmp_path, "p", square(8))]
    silent = scored(tmp_path, [(case, nothing) for case in cases[:-1]] + [(cases[-1], square(8))])
    firing = scored(tmp_path, [(case, square(8)) for case in cases])
    assert silent.score_by_unit() == dict.fromkeys((case.case_id for case in cases), 1.0)
    comparison = compare([firing], [silent])
    assert (comparison.pairs, comparison.mean_difference) == (21, pytest.approx(-20 / 21))


def test_a_unit_is_the_mean_over_all_classes_unless_no_voxel_counts(tmp_path: Path) -> None:
    unknown = np.full((SIZE, SIZE), 9, dtype=np.uint8)
    both, tumour = square(2) + square(12, value=2), square(2)
    cases = [case_of(tmp_path, name, truth) for name, truth in zip("abc", (both, tumour, unknown), strict=True)]
    dataset = msgspec.structs.replace(dataset_of(*cases), ignore_label=9)
    masks = [(case, save(tmp_path / "masks" / f"{case.case_id}.png", tumour)) for case in cases]
    summary = score_files(masks, dataset, reading_of(dataset, True), "test").summary
    assert summary.score_by_unit() == {"a": 0.5, "b": 1.0, "c": None}


def test_three_files(tmp_path: Path) -> None:
    a, b = (case_of(tmp_path, name, square(8), "p1") for name in "ab")
    summary = scored(tmp_path, [(a, square(10)), (b, square(8))])
    write_summary(tmp_path / "out", summary)
    assert read_record(tmp_path / "out" / "summary.json", Summary) == summary

    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    assert [(row["level"], row["case_id"], row["class"]) for row in rows] == [
        ("case", "a", "foreground"),
        ("case", "b", "foreground"),
        ("volume", "p1", "foreground"),
    ]
    assert [float(row["dice"]) for row in rows] == pytest.approx([0.5, 1.0, 0.75])

    text = (tmp_path / "out" / "summary.md").read_text()
    assert "HD95 (px)" in text
    assert "| all classes | 75.0 (n=2) |" in text
    assert "| all classes, per patient | 75.0 (n=1) |" in text


def test_files_of_a_folder_that_holds_nothing_scorable(tmp_path: Path) -> None:
    case = case_of(tmp_path, "a", square(8))
    dataset = dataset_of(case)
    summary = score_files([(case, tmp_path / "absent.png")], dataset, reading_of(dataset, False), "test").summary
    write_summary(tmp_path / "out", summary)
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| all classes | - |" in text
    assert "not scored: a: " in text
