"""A detector's answers against the true boxes: scores, detections as COCO results and CSV, and the FROC curve."""

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from mdkd_auto.data.annotated import base_name, finite_numbers, shown
from mdkd_auto.data.boxed import COCO
from mdkd_auto.data.endings import image_ending
from mdkd_auto.errors import DatasetError
from mdkd_auto.files import read_json, write_atomically, write_json, write_text
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
from mdkd_auto.records import Case, Dataset, Record

logger = logging.getLogger(__name__)

BOX_TITLES = {
    "map_50": "mAP@.50 (%)", "map": "mAP@[.50:.95] (%)", "froc": "FROC, mean sensitivity (%)",
    "sensitivity": "sensitivity (%)", "precision": "precision (%)", "f1": "F1 (%)",
}  # fmt: skip
RATE_TITLES = ("1/8", "1/4", "1/2", "1", "2", "4", "8")  # of FROC_RATES
COLUMNS = ("case_id", "class", "score", "x", "y", "width", "height")  # of detections.csv, all that scoring reads
VALIDATED, PREDICTED, ASSUMED = (  # where a threshold is from, in words
    "the best of validation images", "as prediction.json says", "for want of a prediction.json that says one",
)  # fmt: skip
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

    @property
    def unit(self) -> str:
        return ""

    def overall(self, per_patient: bool) -> Mean | None:
        """Over images; there are no scores over patients."""
        return None if per_patient else self.scores

    def score_by_unit(self) -> dict[str, float | None]:
        """F1 at the threshold of each patient, images pooled; None without true and detected boxes."""
        counts = image_counts(matches(*_boxes(self.answers)), self.threshold)  # (images, 3)
        pooled: dict[str, np.ndarray] = {}
        for answer, image in zip(self.answers, counts, strict=True):
            pooled[answer.patient_id] = pooled.get(answer.patient_id, 0) + image
        return {patient: threshold_scores(BoxCounts(*some.tolist()))["f1"] for patient, some in pooled.items()}


def box_answer_of(case: Case, detected: Boxes, classes: tuple[str, ...], spacing_mm: Spacing | None) -> BoxAnswer:
    """Raises ValueError for a case without boxes to score against, and for a class that is none of ``classes``."""
    if case.boxes is None or detected.scores is None:
        raise ValueError(f"{case.case_id}: expected the case's true boxes, and a score of each detection")
    return BoxAnswer(
        case_id=case.case_id, patient_id=case.patient_id,
        truth=tuple((box.x, box.y, box.x + box.width, box.y + box.height) for box in case.boxes),
        truth_classes=tuple(classes.index(box.class_name) for box in case.boxes),
        detected=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in detected.boxes.tolist()),
        detected_classes=tuple(detected.classes.tolist()), scores=tuple(detected.scores.tolist()),
        spacing_mm=spacing_mm,
    )  # fmt: skip


def detected_boxes(answer: BoxAnswer) -> Boxes:
    """The detections as arrays."""
    return Boxes(*_arrays(answer.detected, answer.detected_classes), np.array(answer.scores, dtype=np.float64))


def threshold_of(answers: Sequence[BoxAnswer]) -> float:
    """See :func:`metrics.detection.best_threshold`."""
    return best_threshold(matches(*_boxes(answers)))


def summary_of_boxes(
    answers: Sequence[BoxAnswer], classes: tuple[str, ...], dataset: str, part: str, threshold: float,
    failed: dict[str, str], threshold_origin: str = VALIDATED,
) -> BoxSummary:  # fmt: skip
    """Scores of all answers, with intervals."""
    truth, detections = _boxes(answers)
    patients = [answer.patient_id for answer in answers]
    return BoxSummary(
        dataset=dataset, part=part, classes=classes, threshold=threshold,
        scores=score_boxes(truth, detections, threshold),
        intervals=score_intervals(truth, detections, patients, threshold),
        froc=froc_curve(matches(truth, detections)) or (), answers=tuple(answers), failed=failed,
        threshold_origin=threshold_origin,
    )  # fmt: skip


def _boxes(answers: Sequence[BoxAnswer]) -> tuple[list[Boxes], list[Boxes]]:
    truth = [Boxes(*_arrays(answer.truth, answer.truth_classes)) for answer in answers]
    return truth, [detected_boxes(answer) for answer in answers]


def _arrays(corners: Sequence[Corners], classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(corners, dtype=np.float64).reshape(-1, 4), np.array(classes, dtype=np.int64)


# --- answers of a folder --------------------------------------------------------------------------------------------


class _Predicted(NamedTuple):
    """What a prediction.json says of the detections beside it; None where it does not."""

    threshold: float | None
    classes: tuple[str, ...] | None  # category_id 1 is the first
    images: dict[str, str] | None  # image_id -> case, images without detections included


class _Row(NamedTuple):
    """One detection as a file has it; ``where``: file and row."""

    where: str
    case_id: str
    class_name: str
    score: Any
    box: list[Any]  # x, y, width, height


def score_detections(folder: Path, dataset: Dataset) -> BoxSummary:
    """The detections.csv of a folder, or else its detections.json (COCO's results), anyone's, against true boxes.

    Scored are the cases that the ``images`` of a prediction.json beside it lists, with or without a detection; without
    that, those with a detection. Raises DatasetError naming the file and the row that is wrong.
    """
    table, results = folder / "detections.csv", folder / "detections.json"
    if not table.is_file() and not results.is_file():
        raise DatasetError(f"{folder}: has no {table.name} and no {results.name}; mdkd_predict writes both")
    path = table if table.is_file() else results
    said = _read_predicted(folder / "prediction.json")
    cases = {case.case_id: case for case in dataset.cases if case.boxes is not None}
    rows: dict[str, list[_Row]] = {case_id: [] for case_id in (said.images or {}).values() if case_id in cases}
    for row in _table_rows(table) if path == table else _result_rows(results, dataset, said):
        if row.case_id not in cases:
            raise DatasetError(f"{row.where}: {shown(row.case_id)} is no case of {dataset.name}")
        rows.setdefault(row.case_id, []).append(row)
    if not rows:
        raise DatasetError(f"{path}: holds no detection in a case of {dataset.name}")
    logger.info("%s: %d of its %d cases are scored: %s", dataset.name, len(rows), len(cases),
                "those with a detection, for want of a prediction.json that lists all" if said.images is None else
                "those that prediction.json lists, with or without a detection")  # fmt: skip
    classes = tuple(dataset.labels)
    answers = []
    for case_id in sorted(rows):
        spacing = cases[case_id].spacing_mm or dataset.spacing_mm
        found = _found(rows[case_id], classes)
        answers.append(box_answer_of(cases[case_id], found, classes, None if spacing is None else spacing[1:]))
    threshold, origin = (FALLBACK_THRESHOLD, ASSUMED) if said.threshold is None else (said.threshold, PREDICTED)
    return summary_of_boxes(answers, classes, dataset.name, folder.name, threshold, {}, origin)


def _read_predicted(path: Path) -> _Predicted:
    """Raises DatasetError for fields that are not as mdkd_predict writes them."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds {shown(content)}; expected an object")
    threshold, classes, images = (content.get(name) for name in ("threshold", "classes", "images"))
    if threshold is not None and not _is_share(threshold):
        raise DatasetError(f"{path}: threshold is {shown(threshold)}; expected a number from 0 to 1")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(one, str) for one in classes)):
        raise DatasetError(f"{path}: classes is {shown(classes)}; expected a list of names")
    if images is not None and not (
        isinstance(images, dict) and all(isinstance(one, str) for one in images.values())
    ):
        raise DatasetError(f"{path}: images is {shown(images)}; expected an object of numbers and their cases")
    return _Predicted(
        None if threshold is None else float(threshold), None if classes is None else tuple(classes), images
    )


def _table_rows(path: Path) -> Iterator[_Row]:
    """Of a detections.csv."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a table in UTF-8 ({error})") from None
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DatasetError(f"{path}: row 1 has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        where = f"{path}: row {number}"
        empty = [name for name in COLUMNS if not row[name]]
        if empty:
            raise DatasetError(f"{where} has no {', '.join(empty)}")
        yield _Row(where, row["case_id"], row["class"], row["score"], [row[name] for name in COLUMNS[3:]])


def _result_rows(path: Path, dataset: Dataset, said: _Predicted) -> Iterator[_Row]:
    """Of COCO's results. Images and classes have the numbers of prediction.json, else those of the annotations."""
    content = read_json(path)
    if not isinstance(content, list):
        raise DatasetError(f"{path}: holds {shown(content)}; expected COCO's results, a list of detections")
    images, classes = said.images, dict(enumerate(said.classes or (), start=1))
    if images is None or said.classes is None:
        listed, named = _annotated_numbers(dataset)
        images = listed if images is None else images
        classes = named if said.classes is None else classes
    names = {str(number): name for number, name in classes.items()}
    for number, one in enumerate(content, start=1):
        where = f"{path}: detection {number}"
        if not isinstance(one, dict):
            raise DatasetError(f"{where} is {shown(one)}; expected image_id, category_id, bbox and score")
        image, category, box = (one.get(name) for name in ("image_id", "category_id", "bbox"))
        if str(image) not in images:
            raise DatasetError(f"{where}: image_id {shown(image)} is none of the {len(images)} known; expected an id "
                               f"of {COCO}, or a prediction.json that lists images")  # fmt: skip
        if str(category) not in names:
            known = ", ".join(f"{key} {name}" for key, name in names.items())
            raise DatasetError(f"{where}: category_id {shown(category)} is no class; expected one of {known or 'none'}")
        boxed = box if isinstance(box, list) else [box]
        yield _Row(where, images[str(image)], names[str(category)], one.get("score"), boxed)


def _annotated_numbers(dataset: Dataset) -> tuple[dict[str, str], dict[Any, str]]:
    """Image id -> case (the file's name where it is none), and category id -> class; none without COCO annotations."""
    path = Path(dataset.folder) / COCO
    content = read_json(path) if path.is_file() else {}
    case_of: dict[str, str] = {}
    for case in dataset.cases:
        for name in (Path(image).name for image in case.images):
            case_of |= dict.fromkeys((name, case.case_id, case.case_id + image_ending(name)), case.case_id)
    names = {str(one["id"]): base_name(one["file_name"]) for one in content.get("images", ())}
    return (
        {key: case_of.get(name, name) for key, name in names.items()},
        {one["id"]: one["name"] for one in content.get("categories", ())},
    )


def _found(rows: Sequence[_Row], classes: tuple[str, ...]) -> Boxes:
    """Raises DatasetError for a class that is none of ``classes``, and for what is no number or no size."""
    corners, numbers, scores = [], [], []
    for row in rows:
        if row.class_name not in classes:
            raise DatasetError(f"{row.where}: {shown(row.class_name)} is no class; expected {', '.join(classes)}")
        if not _is_share(row.score):
            raise DatasetError(f"{row.where}: score is {shown(row.score)}; expected a number from 0 to 1")
        box = finite_numbers(row.box, 4)
        if box is None:
            raise DatasetError(f"{row.where}: box is {shown(row.box)}; expected four numbers x, y, width, height")
        x, y, width, height = box
        if width < 0 or height < 0:
            raise DatasetError(f"{row.where}: width {width:g} and height {height:g}; expected 0 or more")
        corners.append((x, y, x + width, y + height))
        numbers.append(classes.index(row.class_name))
        scores.append(float(row.score))
    return Boxes(*_arrays(corners, numbers), np.array(scores, dtype=np.float64))


def _is_share(value: Any) -> bool:
    numbers = finite_numbers([value], 1)
    return numbers is not None and 0 <= numbers[0] <= 1


# --- files ----------------------------------------------------------------------------------------------------------


def write_box_summary(folder: Path, summary: BoxSummary, answers: bool = True) -> None:
    """summary.json, summary.md, froc.png and, where the ``answers`` are ours, detections.json and detections.csv."""
    write_json(folder / "summary.json", summary)
    if answers:
        detections = {answer.case_id: detected_boxes(answer) for answer in summary.answers}
        spacings_mm = {answer.case_id: answer.spacing_mm for answer in summary.answers}
        write_json(folder / "detections.json", coco_results(detections))
        write_text(folder / "detections.csv", detections_csv(detections, summary.classes, spacings_mm))
    write_text(folder / "summary.md", box_summary_markdown(summary))
    draw_froc(folder / "froc.png", summary)


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
    """One row a detection, in pixels; width and height in mm too where the case's spacing (y, x) is known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case_id", "class", "score", "x", "y", "width", "height", "width_mm", "height_mm"])
    for case_id in sorted(detections):
        spacing_mm = (spacings_mm or {}).get(case_id)
        for (x1, y1, x2, y2), number, score in _rows(detections[case_id]):
            width, height = x2 - x1, y2 - y1
            size_mm = ("", "") if spacing_mm is None else _texts(width * spacing_mm[1], height * spacing_mm[0])
            writer.writerow([case_id, classes[number], f"{score:.4f}", *_texts(x1, y1, width, height), *size_mm])
    return text.getvalue()


def _texts(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.2f}" for value in values)


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
    lines += [f"| {BOX_TITLES[name]} | {_with_interval(summary, name)} |" for name in DETECTION_METRICS]
    counts = _counts(summary)
    lines += ["", f"{summary.scores.cases} images, {counts.true_positive + counts.false_negative} true boxes. "
              f"Sensitivity, precision and F1 are of detections with a score of at least {summary.threshold:.3f}, "
              f"{summary.threshold_origin}: {counts.true_positive} right, {counts.false_positive} wrong (IoU 0.5).",
              "", f"Images without a true box: {summary.scores.negative_cases}; of these "
              f"{summary.scores.negative_cases_with_false_positives} have false positives.", ""]  # fmt: skip
    if any(summary.intervals.values()):
        patients = len({answer.patient_id for answer in summary.answers})
        lines += [f"In brackets: 95 % interval, bootstrap over {patients} patients ({DRAWS:,} draws; mAP "
                  f"{AVERAGE_PRECISION_DRAWS}). It holds the choice of patients, not that of the training's seed.",
                  ""]  # fmt: skip
    if summary.froc:
        lines += ["| false positives per image | " + " | ".join(RATE_TITLES) + " |"]
        lines += ["|---" * (len(RATE_TITLES) + 1) + "|"]
        lines += ["| sensitivity (%) | " + " | ".join(_percent(value) for value in summary.froc) + " |", ""]
    lines += [f"- not scored: {case}: {problem}" for case, problem in summary.failed.items()]
    return "\n".join(lines) + "\n"


def _counts(summary: BoxSummary) -> BoxCounts:
    return counts_at(matches(*_boxes(summary.answers)), summary.threshold)


def _with_interval(summary: BoxSummary, metric: str) -> str:
    """61.2 (52.3 to 70.1)."""
    value = _percent(summary.scores.metrics[metric].mean)
    interval = summary.intervals.get(metric)
    return value if interval is None else f"{value} ({_percent(interval[0])} to {_percent(interval[1])})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


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
