"""Patients in names of cases: BIDS', a pattern's, and what goes before them."""

from collections.abc import Sequence

import msgspec
import pytest

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.records import Case, Dataset
from mdkd_auto.datasets.patients import compile_pattern, tell_patients, with_patients


def dataset(names: Sequence[str], stated: dict[str, str] | None = None, name: str = "Dataset001_A") -> Dataset:
    """``stated``: patients that cases.csv names."""
    named = stated or {}
    cases = tuple(
        Case(
            case_id=one,
            images=(f"/raw/{name}/imagesTr/{one}_0000.png",),
            patient_id=named.get(one, one),
            patient_by="table" if one in named else "",
        )
        for one in names
    )
    return Dataset(
        name=name,
        folder=f"/raw/{name}",
        task="segmentation",
        modality="CT",
        channel_names=("CT",),
        labels={"x": (1,)},
        file_ending=".png",
        cases=cases,
    )


def patients(data: Dataset) -> dict[str, str]:
    return {case.case_id: case.patient_id for case in data.cases}


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("sub-01_ses-02", "sub-01"),
        ("sub-01", "sub-01"),
        ("sub-CON12_run-1_T1w", "sub-CON12"),
        ("oslo_sub-01_ses-02", "sub-01"),
        ("sub-01-02", "sub-01-02"),  # not of BIDS' form
        ("mysub-01_a", "mysub-01_a"),
        ("subject-01_a", "subject-01_a"),
        ("IMG_0001", "IMG_0001"),
    ],
)
def test_names_of_bids_are_grouped_and_no_others(name: str, patient: str) -> None:
    told, unmatched = with_patients(dataset([name]))
    assert patients(told) == {name: patient}
    assert unmatched == []
    assert told.cases[0].patient_by == ("name" if patient in {"sub-01", "sub-CON12"} else "")


def test_tables_go_before_a_pattern_and_a_pattern_before_names() -> None:
    data = dataset(["sub-01_ses-1", "sub-01_ses-2", "x_7"], stated={"sub-01_ses-2": "sub-01_ses-2"})
    assert patients(with_patients(data)[0]) == {
        "sub-01_ses-1": "sub-01",
        "sub-01_ses-2": "sub-01_ses-2",
        "x_7": "x_7",
    }
    told, unmatched = with_patients(with_patients(data)[0], r"(?P<patient>\d+)$")
    assert patients(told) == {"sub-01_ses-1": "1", "sub-01_ses-2": "sub-01_ses-2", "x_7": "7"}
    assert unmatched == []


def test_cases_without_a_match_and_with_an_empty_one() -> None:
    told, unmatched = with_patients(dataset(["p1_a", "p_b", "q"]), r"^p(?P<patient>\d*)")
    assert unmatched == ["p_b", "q"]
    assert patients(told) == {"p1_a": "1", "p_b": "p_b", "q": "q"}


def test_folders_in_front_of_a_name_are_no_part_of_it() -> None:
    """One patient in two folders of classes is one; the class is nobody's name."""
    places = ("sick/p1_a", "well/p1_b", "train/sick/p2_a", "test/well/sub-3_b")
    cases = tuple(
        Case(case_id=place.replace("/", "_"), images=(f"/raw/D/{place}.png",), class_name="x", patient_id="?")
        for place in places
    )
    data = Dataset(
        name="Dataset001_A",
        folder="/raw/D",
        task="classification",
        modality="CXR",
        channel_names=("CXR",),
        labels={},
        file_ending="",
        cases=cases,
    )
    told, _ = with_patients(data, r"^(?P<patient>[^_]+)_")
    assert [case.patient_id for case in told.cases] == ["p1", "p1", "p2", "sub-3"]
    assert [case.patient_id for case in with_patients(data)[0].cases][-1] == "sub-3"


def test_subjects_of_bids_in_paths_that_are_listed() -> None:
    cases = tuple(
        Case(
            case_id=f"scan{number}",
            images=(f"/raw/D/sub-{number // 2}/ses-{number % 2}/t1.nii",),
            label="x",
            patient_id="?",
        )
        for number in range(4)
    )
    data = msgspec.structs.replace(dataset([]), cases=cases)
    assert [case.patient_id for case in with_patients(data)[0].cases] == ["sub-0", "sub-0", "sub-1", "sub-1"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?P<patient>[", "not a regular expression"),
        (r"^\d+", "expected one named group, patient, like .*; found: none"),
        ("", "found: none"),
        (r"(?P<subject>\d+)", "found: subject"),
        (r"(?P<patient>\d+)_(?P<visit>\d+)", "found: patient, visit"),
        ("(?P<patient>a)" + "b" * 500, "is 514 characters long; 500 are the most"),
        ("(?P<patient>\udcff)", "not a regular expression"),
    ],
)
def test_a_pattern_that_is_none_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        compile_pattern(pattern)


def test_a_pattern_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdkd_auto.datasets.patients.SECONDS_PER_NAME", 0.05)
    with pytest.raises(SettingsError, match=r"takes longer than 0\.05 s on the name 'a+b'; avoid one repetition"):
        with_patients(dataset(["a" * 60 + "b"]), r"^(?P<patient>(a|aa)+)$")


def test_a_pattern_of_some_data_sets() -> None:
    """One in which it finds nobody goes on as before, where it fits another; in part, every case is named."""
    fitting = dataset(["p1_a", "p1_b", "q"], name="Dataset001_A")
    other = dataset(["lung-1", "lung-2"], name="Dataset002_B")
    stated = dataset(["lung-1"], {"lung-1": "x"}, name="Dataset003_C")
    told, problems = tell_patients([fitting, other, stated], lambda name: "", r"^p(?P<patient>\d)")
    assert patients(told["Dataset001_A"].dataset) == {"p1_a": "1", "p1_b": "1", "q": "q"}
    assert told["Dataset001_A"].pattern == r"^p(?P<patient>\d)"
    assert told["Dataset002_B"] == (other, "")
    assert [(one.kind, one.dataset, one.case_id) for one in problems] == [
        ("pattern-unused", "Dataset002_B", ""),
        ("patient-unmatched", "Dataset001_A", "q"),
    ]
    _, problems = tell_patients([other], lambda name: "", r"^p(?P<patient>\d)")
    assert [(one.kind, one.case_id) for one in problems] == [
        ("patient-unmatched", "lung-1"),
        ("patient-unmatched", "lung-2"),
    ]


def test_the_stored_pattern_is_taken_where_none_is_asked_for() -> None:
    told, problems = tell_patients([dataset(["p1_a", "p1_b"])], lambda name: r"(?P<patient>p\d)")
    assert patients(told["Dataset001_A"].dataset) == {"p1_a": "p1", "p1_b": "p1"}
    assert told["Dataset001_A"].pattern == r"(?P<patient>p\d)"
    assert problems == []
