"""Which names seem to be of one subject, and which say nothing."""

from itertools import product

import pytest

from mdkd_auto.datasets.likely_patients import likely_subjects

FIVE = range(5)


def hashed(*numbers: int) -> str:
    return f"{hash(numbers) & 0xFFFFFFFFFFFF:012x}"


@pytest.mark.parametrize(
    ("form", "seconds", "subject"),
    [
        ("OAS1_{0:04}_MR{1}", (1, 2), "OAS1_0003"),
        ("OAS3{0:04}_MR_d{1:04}", (1, 129), "OAS30003"),
        ("patient{0:03}_slice_{1:02}", (4, 7), "patient003"),
        ("patient_{0}_{1}", (4, 7), "patient_3"),
        ("IMG_{0:04}_jpg.rf.{1}", ("0a1b2c3d4e5f", "9a8b7c6d5e4f"), "IMG_0003"),
        ("cat_jpeg.rf.{0}{1}", ("0a1b2c3d4e5f", "9a8b7c6d5e4f"), None),
        ("S{0}_Eq_{1}", (1, 2), "S3"),
        ("S{0}_ROI{1}", (1, 2), "S3"),
        ("P{0}_{1}", "ab", "P3"),
        ("P{0}{1}", "ab", "P3"),
        ("{0}_{1}", ("L", "R"), "3"),
        ("{0}_{1}", ("left", "right"), "3"),
        ("knee{0}-{1}", ("OD", "OS"), "knee3"),
        ("{0:03}_visit{1}", (1, 2), "003"),
        ("{0:03}visit{1}", (1, 2), "003"),
        ("video{0}_frame{1:05}", (10, 200), "video3"),
        ("lesion{0}_aug{1}", (1, 3), "lesion3"),
        ("lesion{0}_{1}", ("hflip", "rot90"), "lesion3"),
        ("{0:08}_{1:03}", (0, 1), "00000003"),
        ("person{0}_bacteria_{1}", (17, 18), "person3"),
        ("Sub{0}-{1}", (1, 2), "Sub3"),
        ("s{0}_t{1}", (0, 1), "s3"),
        ("TCGA_CS_{0}_19960909_{1}", (1, 2), "TCGA_CS_3"),
        ("{0:03}_S_0295_2006041{1}", (1, 2), "003_S_0295"),
        ("BraTS-GLI-{0:05}-{1:03}", (0, 1), "BraTS-GLI-00003"),
        ("{0} ({1})", (1, 2), "3"),
    ],
)
def test_cases_of_one_subject_are_seen(form: str, seconds: tuple[object, ...], subject: str | None) -> None:
    names = [form.format(number, second) for number, second in product(FIVE, seconds)]
    groups = likely_subjects(names)
    if subject is None:  # all of one source: nothing to tell apart
        assert groups == {}
        return
    assert len(groups) == len(FIVE)
    assert groups[subject] == sorted(form.format(3, second) for second in seconds)


def test_an_original_belongs_to_its_copies() -> None:
    groups = likely_subjects([*(f"a{number}" for number in FIVE), "a1_aug0", "a1_aug1"])
    assert groups["a1"] == ["a1", "a1_aug0", "a1_aug1"]


def test_many_subjects_go_before_many_series() -> None:
    names = [f"scan_{one:03}_{study:02}_{place:03}" for one, study, place in product(range(12), (1, 2), (5, 9))]
    assert len(likely_subjects(names)) == 12


@pytest.mark.parametrize(
    "names",
    [
        [f"IMG_{number:04}" for number in range(40)],
        [f"case_{number}" for number in range(40)],
        [f"scan_{number}" for number in range(40)],
        [f"slice_{number}" for number in range(40)],
        [f"{name}_{number}" for name in ("covid", "normal", "COVID-19") for number in range(40)],
        [f"{name} ({number})" for name in ("benign", "malignant", "normal") for number in range(40)],
        [f"{name}_scan_{number}" for name in ("covid", "normal", "viral") for number in range(40)],
        [f"ISIC_{number:07}" for number in range(40)],
        [f"MCUCXR_{number:04}_{number % 2}" for number in range(40)],  # the second says the class
        [f"IMG_2023010{day}_{number:04}" for day in range(1, 9) for number in range(9)],
        [f"{year}_{number:04}" for year in (2019, 2020, 2021) for number in range(9)],
        [f"site{site}_{number:03}" for site in range(12) for number in range(9)],
        [f"BraTS19_TCIA{number % 12:02}_{100 + 3 * number}_1" for number in range(60)],
        [f"BraTS2021_{number:05}" for number in range(40)],
        [f"patient_{number:03}" for number in range(40)],
        [f"patient{number:03}_slice_1" for number in range(40)],
        [f"knee_{number}_left" for number in range(40)],
        [f"IM-{number:04}-0001" for number in range(40)],
        [f"T{weighting}_{number:03}" for weighting in (1, 2) for number in range(40)],
        [f"1.2.840.113654.2.55.{7919 * number}" for number in range(40)],
        [hashed(number) for number in range(400)],
        ["", "a", "_1", "1", "(1)", "slice_1", ".rf.0123456789"],
        [],
    ],
)
def test_names_that_say_nothing(names: list[str]) -> None:
    assert likely_subjects(names) == {}
