"""A detector's answers against the true boxes: scores, detections as COCO results and CSV, and the FROC curve."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure

from mdkd_auto.core.files import content_hash, to_json_text, write_atomically, write_json, write_text
from mdkd_auto.core.records import Case, Record
from mdkd_auto.core.tables import table_text
from mdkd_auto.formats.read_write import Image
from mdkd_auto.metrics.detection import (
    AVERAGE_PRECISION_DRAWS,
    DETECTION_METRICS,
    DRAWS,
    FALLBACK_THRESHOLD,
    FROC_RATES,
    BoxCounts,
    Boxes,
    best_threshold,
    counts_at,
    froc_curve,
    froc_points,
    image_counts,
    matches,
    score_boxes,
    score_intervals,
    threshold_scores,
)
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.tasks.shared.coverage import Coverage, left_out_lines
from mdkd_auto.tasks.shared.evidence import Evidence
from mdkd_auto.tasks.shared.prediction import read_channel
from mdkd_auto.tasks.shared.score_text import percent, with_interval
from mdkd_auto.tasks.shared.scored_part import VALIDATION, Answering, Part, Seen, answers_of

BOX_TITLES = {
    "map_50": "mAP@.50 (%)",
    "map": "mAP@[.50:.95] (%)",
    "froc": "FROC, mean sensitivity (%)",
    "sensitivity": "sensitivity (%)",
    "precision": "precision (%)",
    "f1": "F1 (%)",
}
RATE_TITLES = ("1/8", "1/4", "1/2", "1", "2", "4", "8")  # of FROC_RATES
VALIDATED = "the best of validation images"  # where a threshold is from, in words
LEAST_RATE, LARGEST_RATE = FROC_RATES[0] / 2, FROC_RATES[-1] * 2  # the picture's axis

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the file, from its corner
Spacing = tuple[float, float]  # mm of a pixel (y, x)


class BoxAnswer(Record, frozen=True, kw_only=True):
    """What a detector finds in one image, and what is there. Classes are numbers in ``BoxSummary.classes``."""

    case_id: str
    patient_id: str
    truth: tuple[Corners, ...]
    truth_classes: tuple[int, ...]
    detected: tuple[Corners, ...]
    detected_classes: tuple[int, ...]
    scores: tuple[float, ...]  # of the detected
    spacing_mm: Spacing | None = None


class BoxSummary(Record, frozen=True, kw_only=True):
    """summary.json of a detector."""

    dataset: str
    part: str
    classes: tuple[str, ...]
    threshold: float  # least score of a detection that counts for sensitivity, precision and F1
    scores: Mean  # pooled over images
    intervals: dict[str, tuple[float, float] | None]  # 95 %, patients drawn
    froc: tuple[float, ...]  # sensitivity at each of FROC_RATES; () without a true box
    answers: tuple[BoxAnswer, ...]
    failed: dict[str, str]  # case -> what went wrong
    threshold_origin: str = VALIDATED
    coverage: Coverage | None = None  # of a folder of anyone's detections; None: of a run's own
    evidence: dict[str, Evidence] = msgspec.field(default_factory=dict)  # case -> what it was scored from

    @property
    def unit(self) -> str:
        return ""

    def overall(self, per_patient: bool) -> Mean | None:
        """Over images; there are no scores over patients."""
        return None if per_patient else self.scores

    def score_by_unit(self) -> dict[str, float | None]:
        """F1 at the threshold of each patient, images pooled. Without a true box: 1 if nothing is detected, else 0.

        Such a patient has no F1 where nothing is detected. Were he left out, false alarms would cost nothing against a
        model without any.
        """
        counts = image_counts(matches(*_boxes(self.answers)), self.threshold)  # (images, 3)
        pooled: dict[str, np.ndarray] = {}
        for answer, image in zip(self.answers, counts, strict=True):
            pooled[answer.patient_id] = pooled.get(answer.patient_id, 0) + image
        f1 = {patient: threshold_scores(BoxCounts(*some.tolist()))["f1"] for patient, some in pooled.items()}
        return {patient: 1.0 if score is None else score for patient, score in f1.items()}

    def by_case(self) -> dict[str, BoxAnswer]:
        return {answer.case_id: answer for answer in self.answers}


def score_boxes_of_part(part: Part, carried: float | None) -> float:
    """Score what is found in each case; returns the score threshold, chosen on validation cases, carried to others."""
    given = FALLBACK_THRESHOLD if carried is None else carried
    if part.is_scored and (part.name == VALIDATION or part.earlier.threshold == given):
        return float(part.earlier.threshold)
    made = answers_of(
        part,
        Answering(
            predict=lambda case, seen: boxes_of(part, case, seen, Boxes(*part.predictor.found_in(seen.prepared))),
            rescore=lambda case, known: boxes_of(
                part, case, read_channel(case, part.dataset_plan, True), detected_boxes(known)
            ),
            prediction_hash=detections_hash,
        ),
    )
    threshold = threshold_of(made.answers) if part.name == VALIDATION else given
    summary = summary_of_boxes(
        made.answers, part.class_names, part.dataset.name, part.name, threshold, made.failed, evidence=made.evidence
    )
    write_box_summary(part.folder, summary)
    return threshold


def detections_hash(folder: Path, case: Case, answer: BoxAnswer | None) -> str:
    """Hash of what a detector found in a case; "" where it has no answer."""
    if answer is None:
        return ""
    return content_hash([answer.case_id, answer.detected, answer.detected_classes, answer.scores])


def boxes_of(part: Part, case: Case, image: Image | Seen, found: Boxes) -> BoxAnswer:
    """What was found in a case; the spacing is the data set's where neither file nor table states one."""
    spacing = image.spacing_mm if image.spacing_known else case.spacing_mm or part.dataset.spacing_mm
    in_plane = None if spacing is None else (spacing[1], spacing[2])
    return box_answer_of(case, found, part.class_names, in_plane)


def box_answer_of(case: Case, detected: Boxes, classes: tuple[str, ...], spacing_mm: Spacing | None) -> BoxAnswer:
    """Raises ValueError for a case without boxes to score against, and for a class that is none of ``classes``."""
    if case.boxes is None or detected.scores is None:
        raise ValueError(f"{case.case_id}: expected the case's true boxes, and a score of each detection")
    return BoxAnswer(
        case_id=case.case_id,
        patient_id=case.patient_id,
        truth=tuple((box.x, box.y, box.x + box.width, box.y + box.height) for box in case.boxes),
        truth_classes=tuple(classes.index(box.class_name) for box in case.boxes),
        detected=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in detected.boxes.tolist()),
        detected_classes=tuple(detected.classes.tolist()),
        scores=tuple(detected.scores.tolist()),
        spacing_mm=spacing_mm,
    )


def detected_boxes(answer: BoxAnswer) -> Boxes:
    """The detections as arrays."""
    return boxes_from(answer.detected, answer.detected_classes, answer.scores)


def truth_boxes(answer: BoxAnswer) -> Boxes:
    """The true boxes as arrays."""
    return boxes_from(answer.truth, answer.truth_classes)


def threshold_of(answers: Sequence[BoxAnswer]) -> float:
    """See :func:`metrics.detection.best_threshold`."""
    return best_threshold(matches(*_boxes(answers)))


def summary_of_boxes(
    answers: Sequence[BoxAnswer],
    classes: tuple[str, ...],
    dataset: str,
    part: str,
    threshold: float,
    failed: dict[str, str],
    threshold_origin: str = VALIDATED,
    evidence: dict[str, Evidence] | None = None,
) -> BoxSummary:
    """Scores of all answers, with intervals."""
    truth, detections = _boxes(answers)
    patients = [answer.patient_id for answer in answers]
    return BoxSummary(
        dataset=dataset,
        part=part,
        classes=classes,
        threshold=threshold,
        scores=score_boxes(truth, detections, threshold),
        intervals=score_intervals(truth, detections, patients, threshold),
        froc=froc_curve(matches(truth, detections)) or (),
        answers=tuple(answers),
        failed=failed,
        threshold_origin=threshold_origin,
        evidence=evidence or {},
    )


def _boxes(answers: Sequence[BoxAnswer]) -> tuple[list[Boxes], list[Boxes]]:
    return [truth_boxes(answer) for answer in answers], [detected_boxes(answer) for answer in answers]


def boxes_from(corners: Sequence[Corners], classes: Sequence[int], scores: Sequence[float] | None = None) -> Boxes:
    """Arrays of them."""
    return Boxes(
        np.array(corners, dtype=np.float64).reshape(-1, 4),
        np.array(classes, dtype=np.int64),
        None if scores is None else np.array(scores, dtype=np.float64),
    )


# --- files ----------------------------------------------------------------------------------------------------------


def write_box_summary(folder: Path, summary: BoxSummary, answers: bool = True) -> None:
    """summary.json, summary.md, froc.png and, where the ``answers`` are ours, detections.json and detections.csv."""
    write_json(folder / "summary.json", summary)
    if answers:
        for name, text in _detection_files(summary).items():
            write_text(folder / name, text)
    write_text(folder / "summary.md", box_summary_markdown(summary))
    draw_froc(folder / "froc.png", summary)


def _detection_files(summary: BoxSummary) -> dict[str, str]:
    """detections.json and detections.csv."""
    detections = {answer.case_id: detected_boxes(answer) for answer in summary.answers}
    spacings_mm = {answer.case_id: answer.spacing_mm for answer in summary.answers}
    return {
        "detections.json": to_json_text(coco_results(detections)),
        "detections.csv": detections_csv(detections, summary.classes, spacings_mm),
    }


def detections_are_written(folder: Path, summary: BoxSummary) -> bool:
    """Whether the files of the detections lie there as the summary has them."""
    paths = {folder / name: text for name, text in _detection_files(summary).items()}
    return all(
        path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text for path, text in paths.items()
    )


def coco_results(detections: Mapping[str, Boxes]) -> list[dict[str, object]]:
    """COCO's results format of the detections in each case: ``bbox`` is x, y, width, height in pixels.

    ``image_id``: from 1, by sorted case_id, images without detections included. ``category_id``: from 1, the number of
    the class + 1.
    """
    return [
        {"image_id": image, "category_id": number + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, case_id in enumerate(sorted(detections), start=1)
        for (x1, y1, x2, y2), number, score in _rows(detections[case_id])
    ]


def detections_csv(
    detections: Mapping[str, Boxes], classes: tuple[str, ...], spacings_mm: Mapping[str, Spacing | None] | None = None
) -> str:
    """One row a detection, in pixels; width and height in mm too where the case's spacing (y, x) is known.

    Scores are written whole: a threshold is one of them, and a rounded score may fall below its own.
    """
    rows: list[list[object]] = []
    for case_id in sorted(detections):
        spacing_mm = (spacings_mm or {}).get(case_id)
        for (x1, y1, x2, y2), number, score in _rows(detections[case_id]):
            width, height = x2 - x1, y2 - y1
            box = (f"{value:.4f}" for value in (x1, y1, width, height))
            size_mm = (
                (None, None)
                if spacing_mm is None
                else (f"{width * spacing_mm[1]:.2f}", f"{height * spacing_mm[0]:.2f}")
            )
            rows.append([case_id, classes[number], score, *box, *size_mm])
    return table_text(["case_id", "class", "score", "x", "y", "width", "height", "width_mm", "height_mm"], rows)


def _rows(found: Boxes) -> list[tuple[list[float], int, float]]:
    """Corners, class and score of each detection, the highest score first. Raises ValueError without scores."""
    if found.scores is None:
        raise ValueError(f"{len(found.boxes)} detections without scores; expected one a box")
    order = np.argsort(-found.scores, kind="stable")
    return list(
        zip(found.boxes[order].tolist(), found.classes[order].tolist(), found.scores[order].tolist(), strict=True)
    )


def box_summary_markdown(summary: BoxSummary) -> str:
    """Scores with their intervals, and the sensitivities of the FROC curve."""
    lines = [f"# {summary.dataset}, {summary.part}", "", "| score | value |", "|---|---|"]
    lines += [
        f"| {BOX_TITLES[name]} | {with_interval(summary.scores, summary.intervals, name)} |"
        for name in DETECTION_METRICS
    ]
    counts = _counts(summary)
    lines += [
        "",
        f"{summary.scores.cases} images, {counts.true_positive + counts.false_negative} true boxes. "
        f"Sensitivity, precision and F1 are of detections with a score of at least {summary.threshold:.3f}, "
        f"{summary.threshold_origin}: {counts.true_positive} right, {counts.false_positive} wrong (IoU 0.5).",
        "",
        f"Images without a true box: {summary.scores.negative_cases}; of these "
        f"{summary.scores.negative_cases_with_false_positives} have false positives.",
        "",
    ]
    if any(summary.intervals.values()):
        patients = len({answer.patient_id for answer in summary.answers})
        lines += [
            f"In brackets: 95 % interval, bootstrap over {patients} patients ({DRAWS:,} draws; mAP "
            f"{AVERAGE_PRECISION_DRAWS}). It holds the choice of patients, not that of the training's seed.",
            "",
        ]
    if summary.froc:
        lines += ["| false positives per image | " + " | ".join(RATE_TITLES) + " |"]
        lines += ["|---" * (len(RATE_TITLES) + 1) + "|"]
        lines += ["| sensitivity (%) | " + " | ".join(percent(value) for value in summary.froc) + " |", ""]
    lines += left_out_lines(summary.coverage, summary.failed)
    return "\n".join(lines) + "\n"


def _counts(summary: BoxSummary) -> BoxCounts:
    return counts_at(matches(*_boxes(summary.answers)), summary.threshold)


def draw_froc(path: Path, summary: BoxSummary) -> None:
    """Sensitivity against false positives per image on a logarithmic axis; the seven rates are marked."""
    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    axes = figure.subplots()
    points = froc_points(matches(*_boxes(summary.answers)))
    if points is not None:
        rates = np.geomspace(LEAST_RATE, LARGEST_RATE, 400)
        axes.plot(rates, np.interp(rates, *points), color="tab:blue")
        axes.plot(FROC_RATES, summary.froc, "o", color="tab:blue", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xlim(LEAST_RATE, LARGEST_RATE)
    axes.set_xticks(FROC_RATES, RATE_TITLES)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.set_xlabel("false positives per image")
    axes.set_ylabel("sensitivity")
    axes.set_title(f"{summary.dataset}, {summary.part}".replace("$", r"\$"), fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
