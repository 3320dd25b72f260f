"""A classifier's answers against the truth: scores, a CSV of every case, and the confusion matrix as a picture."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from mdkd_auto.core.files import content_hash, write_atomically, write_json, write_text
from mdkd_auto.core.records import Case, Record
from mdkd_auto.core.tables import table_text
from mdkd_auto.metrics.classification import (
    CLASS_METRICS,
    INTERVAL_DRAWS,
    class_intervals,
    confusion,
    fit_temperature,
    score_classes,
)
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.tasks.shared.coverage import Coverage, left_out_lines
from mdkd_auto.tasks.shared.evidence import Evidence
from mdkd_auto.tasks.shared.score_text import with_interval
from mdkd_auto.tasks.shared.scored_part import VALIDATION, Answering, Part, answers_of

CLASS_TITLES = {
    "accuracy": "accuracy (%)",
    "balanced_accuracy": "balanced accuracy (%)",
    "macro_f1": "macro F1 (%)",
    "auroc": "AUROC (%)",
    "calibration_error": "calibration error (%)",
    "calibrated_error": "calibration error, calibrated (%)",
}

PREDICTIONS = "predictions.csv"
UNCALIBRATED = 1.0  # temperature


class Answer(Record, frozen=True, kw_only=True):
    """What a classifier says of one case."""

    case_id: str
    patient_id: str
    truth: int  # number of the class
    logits: tuple[float, ...]  # one a class


class ClassSummary(Record, frozen=True, kw_only=True):
    """summary.json of a classifier."""

    dataset: str
    part: str
    classes: tuple[str, ...]
    temperature: float  # fitted on the validation cases
    scores: Mean
    confusion: tuple[tuple[int, ...], ...]  # rows the truth, columns the prediction
    answers: tuple[Answer, ...]
    failed: dict[str, str]  # case -> what went wrong
    intervals: dict[str, tuple[float, float] | None]  # 95 %
    coverage: Coverage | None = None  # of a folder of anyone's answers; None: of a run's own
    evidence: dict[str, Evidence] = msgspec.field(default_factory=dict)  # case -> what it was scored from

    @property
    def unit(self) -> str:
        return ""

    def overall(self, per_patient: bool) -> Mean | None:
        """Over images; there are no scores over patients."""
        return None if per_patient else self.scores

    def score_by_unit(self) -> dict[str, float | None]:
        """Share of right answers of each patient."""
        right: dict[str, list[bool]] = {}
        for answer in self.answers:
            right.setdefault(answer.patient_id, []).append(int(np.argmax(answer.logits)) == answer.truth)
        return {patient: float(np.mean(some)) for patient, some in right.items()}

    def by_case(self) -> dict[str, Answer]:
        return {answer.case_id: answer for answer in self.answers}


def temperature_of(answers: Sequence[Answer]) -> float:
    """See :func:`metrics.classification.fit_temperature`."""
    return fit_temperature(*_arrays(answers))


def summary_of_answers(
    answers: Sequence[Answer],
    classes: tuple[str, ...],
    dataset: str,
    part: str,
    temperature: float,
    failed: dict[str, str],
    evidence: dict[str, Evidence] | None = None,
) -> ClassSummary:
    """Scores of all answers."""
    logits, truth = _arrays(answers, len(classes))
    patients = [answer.patient_id for answer in answers]
    matrix = confusion(logits, truth) if len(truth) else np.zeros((len(classes),) * 2, dtype=np.int64)
    return ClassSummary(
        dataset=dataset,
        part=part,
        classes=classes,
        temperature=temperature,
        scores=score_classes(logits, truth, temperature),
        confusion=tuple(map(tuple, matrix.tolist())),
        answers=tuple(answers),
        failed=failed,
        intervals=class_intervals(logits, truth, patients, temperature),
        evidence=evidence or {},
    )


def _arrays(answers: Sequence[Answer], classes: int = 0) -> tuple[np.ndarray, np.ndarray]:
    logits = np.array([answer.logits for answer in answers], dtype=np.float64)
    truth = np.array([answer.truth for answer in answers], dtype=np.int64)
    return logits.reshape(len(answers), -1 if answers else classes), truth


def score_classes_of_part(part: Part, carried: float | None) -> float:
    """Score the answer to each case; returns the temperature, fitted on validation cases and carried to others."""
    if part.is_scored and (part.name == VALIDATION or part.earlier.temperature == (carried or UNCALIBRATED)):
        return float(part.earlier.temperature)
    names = part.class_names
    made = answers_of(
        part,
        Answering(
            predict=lambda case, seen: answer_of(case, part.predictor.logits_of(seen.prepared), names),
            rescore=lambda case, known: answer_of(case, known.logits, names),
            prediction_hash=logits_hash,
        ),
    )
    temperature = temperature_of(made.answers) if part.name == VALIDATION else carried or UNCALIBRATED
    summary = summary_of_answers(
        made.answers, names, part.dataset.name, part.name, temperature, made.failed, made.evidence
    )
    write_class_summary(part.folder, summary)
    return temperature


def logits_hash(folder: Path, case: Case, answer: Answer | None) -> str:
    """Hash of what a classifier answered to a case; "" where it has no answer."""
    return "" if answer is None else content_hash([answer.case_id, answer.logits])


def _rows_of(summary: ClassSummary) -> str:
    """predictions.csv."""
    truths = {answer.case_id: summary.classes[answer.truth] for answer in summary.answers}
    rows = {answer.case_id: answer.logits for answer in summary.answers}
    return predictions_csv(rows, summary.classes, summary.temperature, truths)


def rows_are_written(folder: Path, summary: ClassSummary) -> bool:
    """Whether predictions.csv lies there as the summary has it."""
    path = folder / PREDICTIONS
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace") == _rows_of(summary)


def write_class_summary(folder: Path, summary: ClassSummary, answers: bool = True) -> None:
    """summary.json, summary.md, confusion.png and, where the ``answers`` are ours, predictions.csv in ``folder``."""
    write_json(folder / "summary.json", summary)
    if answers:
        write_text(folder / PREDICTIONS, _rows_of(summary))
    write_text(folder / "summary.md", class_summary_markdown(summary))
    draw_confusion(folder / "confusion.png", summary)


def predictions_csv(
    logits: dict[str, tuple[float, ...]],
    classes: tuple[str, ...],
    temperature: float,
    truths: dict[str, str] | None = None,
) -> str:
    """One row a case: the class, its probabilities and its calibrated ones; the truth where it is known.

    Eight significant digits: fewer make ties of cases that differ, and AUROC falls or rises by them.
    """
    kinds = [f"{kind} {name}" for kind in ("probability", "calibrated") for name in classes]
    rows = []
    for case_id, values in sorted(logits.items()):
        raw, calibrated = softmax(np.array(values)), softmax(np.array(values) / temperature)
        rows.append(
            [
                case_id,
                *([truths[case_id]] if truths is not None else []),
                classes[int(raw.argmax())],
                *(f"{value:.8g}" for value in (*raw, *calibrated)),
            ]
        )
    return table_text(["case_id", *(["truth"] if truths is not None else []), "class", *kinds], rows)


def class_summary_markdown(summary: ClassSummary) -> str:
    """Scores with their intervals, and the confusion matrix."""
    lines = [f"# {summary.dataset}, {summary.part}", "", "| score | value |", "|---|---|"]
    lines += [
        f"| {CLASS_TITLES[name]} | {with_interval(summary.scores, summary.intervals, name)} |" for name in CLASS_METRICS
    ]
    calibrated = f"temperature {summary.temperature:.2f}, of validation cases"
    if summary.temperature == UNCALIBRATED:
        calibrated = "probabilities as they are, without calibration"
    lines += ["", f"{summary.scores.cases} cases; {calibrated}.", ""]
    if any(summary.intervals.values()):
        patients = len({answer.patient_id for answer in summary.answers})
        lines += [
            f"In brackets: 95 % interval, bootstrap over {patients} patients ({INTERVAL_DRAWS:,} draws). It "
            "holds the choice of patients, not that of the training's seed.",
            "",
        ]
    lines += ["| truth \\ predicted | " + " | ".join(summary.classes) + " |", "|---" * (len(summary.classes) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(map(str, row)) + " |"
        for name, row in zip(summary.classes, summary.confusion, strict=True)
    ]
    lines += left_out_lines(summary.coverage, summary.failed)
    return "\n".join(lines) + "\n"


def draw_confusion(path: Path, summary: ClassSummary) -> None:
    """Cases of each true class (rows) by what was predicted (columns); shades are shares of the row."""
    matrix = np.array(summary.confusion, dtype=np.float64)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = 2.2 + 0.8 * len(matrix)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour)
    names = [name.replace("$", r"\$") for name in summary.classes]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.set_title(f"{summary.dataset}, {summary.part}".replace("$", r"\$"), fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


def answer_of(case: Case, logits: Iterable[float], classes: tuple[str, ...]) -> Answer:
    """Raises ValueError for a case whose class is none of ``classes``."""
    return Answer(
        case_id=case.case_id,
        patient_id=case.patient_id,
        truth=classes.index(str(case.class_name)),
        logits=tuple(float(value) for value in logits),
    )
