"""What a classifier's summary holds and shows."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.files import read_record, write_json
from mdkd_auto.core.records import Case, Dataset
from mdkd_auto.metrics.classification import CLASS_METRICS, class_intervals
from mdkd_auto.tasks.classification.foreign_predictions import score_predictions
from mdkd_auto.tasks.classification.scoring import (
    UNCALIBRATED,
    Answer,
    ClassSummary,
    class_summary_markdown,
    predictions_csv,
    summary_of_answers,
)
from mdkd_auto.tasks.shared.coverage import Truth
from mdkd_auto.tasks.task_scores import TASK_SCORES

CLASSES = ("normal", "pneumonia")


def summary(patients: int, cases: int = 40) -> ClassSummary:
    rng = np.random.default_rng(0)
    answers = [
        Answer(
            case_id=f"case{number}",
            patient_id=f"p{number % patients}",
            truth=number % 2,
            logits=tuple((rng.normal(size=2) + np.eye(2)[number % 2]).tolist()),
        )
        for number in range(cases)
    ]
    return summary_of_answers(answers, CLASSES, "Dataset021_Chests", "test", 2.0, {})


def dataset_of(cases: tuple[Case, ...], classes: tuple[str, ...] = CLASSES) -> Dataset:
    return Dataset(
        name="Dataset021_Chests",
        folder="",
        task="classification",
        modality="CXR",
        channel_names=("CXR",),
        file_ending="",
        labels={name: (value,) for value, name in enumerate(classes)},
        cases=cases,
    )


def test_intervals_are_over_the_patients_of_the_answers() -> None:
    made = summary(patients=15)
    logits = np.array([answer.logits for answer in made.answers])
    truth = np.array([answer.truth for answer in made.answers])
    assert made.intervals == class_intervals(logits, truth, [answer.patient_id for answer in made.answers], 2.0)
    assert tuple(made.intervals) == CLASS_METRICS


def test_the_summary_shows_them() -> None:
    made = msgspec.structs.replace(summary(patients=15), intervals={"accuracy": (0.861, 0.94), "auroc": None})
    accuracy, area = (100 * (made.scores.metrics[name].mean or np.nan) for name in ("accuracy", "auroc"))
    text = class_summary_markdown(made)
    assert f"| accuracy (%) | {accuracy:.1f} (86.1 to 94.0) |" in text
    assert f"| AUROC (%) | {area:.1f} |" in text
    assert "95 % interval, bootstrap over 15 patients (1,000 draws)" in text


def test_it_says_where_the_temperature_comes_from() -> None:
    made = summary(patients=15)
    assert "40 cases; temperature 2.00, of validation cases." in class_summary_markdown(made)
    others = msgspec.structs.replace(made, temperature=UNCALIBRATED)
    assert "40 cases; probabilities as they are, without calibration." in class_summary_markdown(others)


def test_answers_of_others_are_a_row_a_case_that_sums_to_1(tmp_path: Path) -> None:
    cases = tuple(Case(case_id=name, images=(), class_name="normal", patient_id=name) for name in "ab")
    dataset = dataset_of(cases)
    path = tmp_path / "predictions.csv"
    head = "case_id,probability normal,probability pneumonia\n"
    path.write_text(f"{head}a,0.8,0.199\nb,1,0\n")
    assert score_predictions(tmp_path, Truth(dataset)).summary.scores.cases == 2
    path.write_text(f"{head}a,0.8,0.7\n")
    with pytest.raises(DatasetError, match=r"row 2: the probabilities of normal, pneumonia sum to 1\.5; expected 1"):
        score_predictions(tmp_path, Truth(dataset))


def test_rows_that_cannot_be_used_are_named_and_the_others_scored(tmp_path: Path) -> None:
    cases = tuple(Case(case_id=name, images=(), class_name="normal", patient_id=name) for name in "abcdef")
    path = tmp_path / "predictions.csv"
    rows = ("a,0.8,0.2", "b.png,0.3,0.7", "c,nan,0.2", "d,0.9,0.2", "e,1,0", "e,0,1", "z,1,0", "broken,1,0")
    path.write_text("\n".join(["case_id,probability normal,probability pneumonia", *rows]))
    found = score_predictions(tmp_path, Truth(dataset_of(cases), {"broken": "its picture is missing"}))
    assert [answer.case_id for answer in found.summary.answers] == ["a", "b"]
    assert found.summary.scores.metrics["accuracy"].mean == 0.5
    assert set(found.answered) == {*"abcde", "broken"}
    assert found.unmatched == {"row 8": "'z' is no case of Dataset021_Chests"}
    assert found.broken == {"broken"}
    failed = found.summary.failed
    assert failed.keys() == {"broken", "c", "d", "e"}
    assert failed["c"] == f"{path}: row 4: [nan, 0.2]; expected numbers from 0 to 1"
    assert failed["d"] == f"{path}: row 5: the probabilities of normal, pneumonia sum to 1.1; expected 1"
    assert failed["e"] == f"{path}: row 7: 'e' stands in row 6 too; keep the one that is right"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("case_id,class", "row 1 has no column probability normal, probability pneumonia"),
        ("case_id,class", "classes alone are not scored"),
        ("case_id,probability normal", "row 1 has no column probability pneumonia"),
        (
            "case_id,probability normal,probability pneumonia,probability covid",
            "row 1 has probability covid; the classes of Dataset021_Chests are normal, pneumonia",
        ),
        (
            "Case ID,Probability_Normal,PROBABILITY PNEUMONIA,Probability_Covid",
            "row 1 has Probability_Covid; the classes of Dataset021_Chests are normal, pneumonia",
        ),
        ("case_id,probability normal,probability normal,probability pneumonia", "more than once"),
    ],
)
def test_a_table_of_other_columns_is_refused(tmp_path: Path, head: str, said: str) -> None:
    (tmp_path / "predictions.csv").write_text(f"{head}\na,1,0,0\n")
    case = Case(case_id="a", images=(), class_name="normal", patient_id="a")
    with pytest.raises(DatasetError) as error:
        score_predictions(tmp_path, Truth(dataset_of((case,))))
    assert said in str(error.value)


def test_a_table_that_contradicts_itself_or_the_truth_is_doubted(tmp_path: Path) -> None:
    cases = tuple(Case(case_id=name, images=(), class_name="normal", patient_id=name) for name in "abcd")
    rows = ("a,normal,normal,0.3,0.7", "b,normal,normal,0.5,0.5", "c,pneumonia,pneumonia,0.1,0.9", "d,,other,0.8,0.2")
    head = "case_id,Truth,Class,probability normal,probability pneumonia"
    (tmp_path / "predictions.csv").write_text("\n".join([head, *rows]))
    found = score_predictions(tmp_path, Truth(dataset_of(cases)))
    assert found.notes == (
        "1 of 4 rows name a class in column class that is not the most probable one; the probabilities are scored "
        "(row 2, a: normal). Are columns swapped?",
        "1 of 4 rows name another class in column truth than Dataset021_Chests; the data set is right (row 4, c: "
        "pneumonia, not normal)",
    )
    assert found.summary.scores.metrics["accuracy"].mean == 0.5  # b and d


def test_case_names_in_other_capitals_are_named(tmp_path: Path) -> None:
    cases = tuple(Case(case_id=name, images=(), class_name="normal", patient_id=name) for name in ("p1", "p2"))
    head = "case_id,probability normal,probability pneumonia"
    (tmp_path / "predictions.csv").write_text(f"{head}\np1,1,0\nP2_0000.png,1,0\n")
    found = score_predictions(tmp_path, Truth(dataset_of(cases)))
    said = "'P2_0000.png' is no case of Dataset021_Chests; p2 differs in capital letters"
    assert found.unmatched == {"row 3": said}


@pytest.mark.parametrize("spread", [1e-5, 20.0])  # of logits: cases all but alike, and probabilities all but 0 and 1
def test_scores_of_our_own_table_are_the_runs(tmp_path: Path, spread: float) -> None:
    rng = np.random.default_rng(0)
    logits = {f"case{number}": tuple((spread * rng.normal(size=3)).tolist()) for number in range(40)}
    classes = (*CLASSES, "covid")
    answers = [
        Answer(case_id=name, patient_id=name, truth=number % 3, logits=values)
        for number, (name, values) in enumerate(logits.items())
    ]
    cases = tuple(
        Case(case_id=one.case_id, images=(), class_name=classes[one.truth], patient_id=one.patient_id)
        for one in answers
    )
    path = tmp_path / "predictions.csv"
    path.write_text(predictions_csv(logits, classes, 2.0))
    ours = summary_of_answers(answers, classes, "Dataset021_Chests", "test", 1.0, {}).scores.metrics
    again = score_predictions(tmp_path, Truth(dataset_of(cases, classes))).summary.scores.metrics
    assert {name: one.mean for name, one in again.items()} == pytest.approx(
        {name: one.mean for name, one in ours.items()}, abs=1e-6
    )


@pytest.mark.parametrize("cases", [0, 8])
def test_without_intervals_nothing_is_said_of_them(cases: int) -> None:
    made = summary(patients=1, cases=cases)
    assert set(made.intervals.values()) == {None}
    assert "interval" not in class_summary_markdown(made)


def test_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = summary(patients=15)
    path = tmp_path / "summary.json"
    write_json(path, made)
    assert read_record(path, ClassSummary) == made


def test_chance_is_among_the_classes_that_occur() -> None:
    """Four classes of which two do. Teachers are weighed above that of all four, as those of finished runs were."""
    answers = [
        Answer(case_id=str(number), patient_id=str(number), truth=1 + number % 2, logits=(0.0, 1.0, 0.0, 0.0))
        for number in range(10)
    ]
    made = summary_of_answers(answers, ("a", "b", "c", "d"), "Dataset021_Chests", "test", 1.0, {})
    scores = TASK_SCORES["classification"]
    assert made.scores.metrics["balanced_accuracy"].mean == scores.scale.chance(made) == 0.5
    assert scores.weighed_above(made) == 0.25
    assert scores.scale.chance(summary_of_answers([], CLASSES, "Dataset021_Chests", "test", 1.0, {})) == 1
