"""Answers held against the cases they can be for: complete parts, what is missing, and names in files."""

from pathlib import Path
from typing import Any

import pytest

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.files import write_json
from mdkd_auto.core.records import Case, Dataset
from mdkd_auto.tasks.shared.coverage import (
    TEST_PART,
    Found,
    Truth,
    case_named,
    coverage_of,
    left_out_lines,
    left_out_rows,
    read_truth,
)

PARTS = {
    TEST_PART: frozenset({"a", "b"}),
    "validation part of fold 0": frozenset({"c", "d"}),
    "validation part of fold 1": frozenset({"e", "f"}),
}


def truth(**more: Any) -> Truth:
    cases = tuple(Case(case_id=name, images=(), patient_id=name) for name in "abcdef")
    dataset = Dataset(
        name="Dataset061_Cells",
        folder="",
        task="segmentation",
        modality="EM",
        channel_names=("EM",),
        labels={"cell": (1,)},
        file_ending=".tif",
        cases=cases,
    )
    return Truth(dataset, **{"parts": PARTS, **more})


@pytest.mark.parametrize(
    ("answered", "scored", "missing"),
    [
        ("abcdef", "6 of 6 cases have a mask", ""),
        ("ab", "2 of 2 cases of the test part have a mask (the data set has 6)", ""),
        ("ef", "2 of 2 cases of the validation part of fold 1 have a mask (the data set has 6)", ""),
        ("a", "1 of 2 cases of the test part has a mask (the data set has 6)", "b"),
        ("c", "1 of 6 cases has a mask", "abdef"),
        ("abc", "3 of 6 cases have a mask", "def"),
    ],
)
def test_a_part_is_complete_and_a_piece_is_not(tmp_path: Path, answered: str, scored: str, missing: str) -> None:
    coverage = coverage_of(truth(), Found(None, set(answered), "a mask"), tmp_path)
    assert (coverage.scored, coverage.missing) == (scored, tuple(missing))
    assert ("**Incomplete:**" in "".join(left_out_lines(coverage, {}))) == bool(missing)


def test_a_broken_case_lacks_nothing_but_is_named(tmp_path: Path) -> None:
    known = truth(broken={"x": "x_0000.tif: missing"}, parts={TEST_PART: frozenset({"a", "x"})})
    found = Found(None, {"a"}, "a mask")
    coverage = coverage_of(known, found, tmp_path)
    assert coverage.scored == "1 of 1 case of the test part has a mask (the data set has 7)"
    assert coverage.notes == ("x is broken and has no answer: x_0000.tif: missing",)
    coverage = coverage_of(known, Found(None, {*"abcdef"}, "a mask"), tmp_path)
    assert (coverage.scored, coverage.missing) == ("6 of 6 cases have a mask", ())
    assert coverage_of(known, Found(None, {*"abcdefx"}, "a mask"), tmp_path).scored == "7 of 7 cases have a mask"


def test_answers_of_a_model_of_another_data_set_are_said(tmp_path: Path) -> None:
    found = Found(None, {*"abcdef"}, "a mask", notes=("a note",))
    write_json(tmp_path / "prediction.json", {"dataset": "Dataset061_Cells"})
    assert coverage_of(truth(), found, tmp_path).notes == ("a note",)
    write_json(tmp_path / "prediction.json", {"dataset": "Dataset062_Others"})
    made_by = "made by a model of Dataset062_Others, as prediction.json says"
    assert coverage_of(truth(), found, tmp_path).notes == (made_by, "a note")
    write_json(tmp_path / "prediction.json", {"dataset": ["Dataset061_Cells"]})
    with pytest.raises(DatasetError, match=r"prediction\.json: dataset is \['Dataset061_Cells'\]; expected the name"):
        coverage_of(truth(), found, tmp_path)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("p.1", "p.1"),
        ("p.1.nii.gz", "p.1"),
        ("p.1.NII.GZ", "p.1"),
        ("p.1_0000.mha", "p.1"),
        ("p.1_0000", "p.1"),
        ("p.1_0001.mha", None),
        ("p", None),
        ("q_0000", "q_0000"),
        ("q_0000.png", "q_0000"),
        ("q.png", "q"),
        ("", None),
        ("well/q.png", "well_q"),
        ("well\\q.png", "well_q"),
        ("/data/x/q.png", "q"),
        ("ill/p.png", None),
    ],
)
def test_what_case_a_name_means(name: str, case: str | None) -> None:
    assert case_named(name, {"p.1", "q", "q_0000", "well_q"}) == case


def test_all_that_is_left_out_is_in_lines_and_rows(tmp_path: Path) -> None:
    unmatched = {"=1+1.tif": "no case", "odd\udcff\x1b.tif": "no case"}
    coverage = coverage_of(truth(), Found(None, {"c"}, "a mask", unmatched), tmp_path)
    text = "\n".join(left_out_lines(coverage, {"c": "unreadable"}))
    assert "**Incomplete:** 1 of 6 cases has a mask." in text
    assert "- not scored: c: unreadable" in text
    assert "- without an answer: a, b, d, e, f" in text
    assert "- left out: odd\\xff\\x1b.tif: no case" in text
    rows = left_out_rows(coverage, {"c": "unreadable"})
    assert rows[0] == ("not scored", "c", "unreadable")
    assert [row[1] for row in rows if row[0] == "without an answer"] == [*"abdef"]
    assert [row[1] for row in rows if row[0] == "left out"] == ["'=1+1.tif", "odd\\xff\\x1b.tif"]
    write_json(tmp_path / "summary.json", coverage)  # a name that is not UTF-8 can be written
    assert left_out_lines(None, {}) == []


def test_parts_are_those_of_the_splits_or_of_the_case_table(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "Dataset021_Pictures"
    write_json(folder / "dataset.json", {"task": "classification", "channel_names": {"0": "CXR"}})
    for name in ("well/a", "well/b", "ill/c", "ill/d"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(b"a picture")
    (folder / "cases.csv").write_text("case_id,split\nwell_a,test\nwell_b,val\n")
    assert read_truth(folder).parts == {TEST_PART: {"well_a"}, "validation part": {"well_b"}}
    folds = [{"train": ["a"], "val": ["b", "d"]}, {"train": ["b", "d"], "val": ["a"]}]
    splits: dict[str, Any] = {"test": ["c"], "folds": folds}
    write_json(tmp_path / "preprocessed" / folder.name / "splits.json", splits)
    assert {case.patient_id for case in read_truth(folder).dataset.cases} == {"well_a", "well_b", "ill_c", "ill_d"}
    assert read_truth(folder).parts == {
        TEST_PART: {"c"},
        "validation part of fold 0": {"b", "d"},
        "validation part of fold 1": {"a"},
    }
    splits["patient_pattern"] = "(?P<patient>.)"  # of the picture's name, without its class
    write_json(tmp_path / "preprocessed" / folder.name / "splits.json", splits)
    assert {case.patient_id for case in read_truth(folder).dataset.cases} == {*"abcd"}
