"""What a classifier's summary holds and shows."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from mdkd_auto.experiments.class_scoring import Answer, ClassSummary, class_summary_markdown, summary_of_answers
from mdkd_auto.files import read_json, read_record, write_json
from mdkd_auto.metrics.classification import CLASS_METRICS, class_intervals

CLASSES = ("normal", "pneumonia")


def summary(patients: int, cases: int = 40) -> ClassSummary:
    rng = np.random.default_rng(0)
    answers = [
        Answer(case_id=f"case{number}", patient_id=f"p{number % patients}", truth=number % 2,
               logits=tuple((rng.normal(size=2) + np.eye(2)[number % 2]).tolist()))
        for number in range(cases)
    ]  # fmt: skip
    return summary_of_answers(answers, CLASSES, "Dataset021_Chests", "test", 2.0, {})


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


@pytest.mark.parametrize("cases", [0, 8])
def test_without_intervals_nothing_is_said_of_them(cases: int) -> None:
    made = summary(patients=1, cases=cases)
    assert set(made.intervals.values()) == {None}
    assert "interval" not in class_summary_markdown(made)


def test_files_with_and_without_intervals_are_read(tmp_path: Path) -> None:
    made = summary(patients=15)
    path = tmp_path / "summary.json"
    write_json(path, made)
    assert read_record(path, ClassSummary) == made
    content = read_json(path)
    del content["intervals"]  # as before there were any
    write_json(path, content)
    old = read_record(path, ClassSummary)
    assert old == msgspec.structs.replace(made, intervals={})
    assert "interval" not in class_summary_markdown(old)
