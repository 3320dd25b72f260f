"""Detections that lie in a folder, ours or another program's, as answers to a data set."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mdkd_auto.core.errors import DatasetError, ImageError
from mdkd_auto.core.files import read_json, to_record
from mdkd_auto.core.records import Box, Case, Dataset
from mdkd_auto.core.tables import TableError, read_table
from mdkd_auto.core.text import shown
from mdkd_auto.datasets.case_names import LISTED
from mdkd_auto.datasets.truth.annotations import finite_numbers
from mdkd_auto.datasets.truth.box_layouts import SIZES, Suspicion, suspect_places
from mdkd_auto.datasets.truth.boxes import COCO
from mdkd_auto.datasets.truth.coco import read_ids
from mdkd_auto.formats.file_endings import image_ending
from mdkd_auto.formats.planar import planar_frame
from mdkd_auto.metrics.detection import FALLBACK_THRESHOLD, Boxes
from mdkd_auto.tasks.detection.box_hits import suspect_hits
from mdkd_auto.tasks.detection.scoring import VALIDATED, BoxSummary, box_answer_of, boxes_from, summary_of_boxes
from mdkd_auto.tasks.shared.coverage import PREDICTION, Found, Truth, case_named, no_case, refuse_all
from mdkd_auto.tasks.shared.prediction_json import read_predicted

COLUMNS = ("case_id", "class", "score", "x", "y", "width", "height")  # of detections.csv, all that scoring reads
PREDICTED, ASSUMED = "as prediction.json says", "for want of a prediction.json that says one"


class _Said(NamedTuple):
    """What a file says of the detections beside it; None where it does not."""

    threshold: float | None = None
    classes: tuple[str, ...] | None = None  # category_id 1 is the first
    images: dict[str, str] | None = None  # image_id -> case, images without detections included
    file: str = ""  # its name
    origin: str = ASSUMED  # of the threshold


class _Row(NamedTuple):
    """One detection as a file has it; ``where``: file and row."""

    where: str
    case_id: str
    class_name: str
    score: Any
    box: list[Any]  # x, y, width, height
    fault: str = ""  # what is wrong with the row as a whole


def score_detections(folder: Path, truth: Truth) -> Found:
    """The detections.csv of a folder, or else its detections.json (COCO's results), anyone's, against true boxes.

    Scored are the cases that the ``images`` of a prediction.json beside it lists, or else the summary.json that a run
    wrote with it, with or without a detection; without either, those with a detection. A case with a detection that
    cannot be used is named, and the others are scored. Raises DatasetError for a file that is wrong as a whole, or
    without a case that can be scored.
    """
    table, results = folder / "detections.csv", folder / "detections.json"
    if not table.is_file() and not results.is_file():
        raise DatasetError(f"{folder}: has no {table.name} and no {results.name}; mdkd_predict writes both")
    path, dataset = table if table.is_file() else results, truth.dataset
    said = _said_of(folder)
    found = list(_table_rows(table) if path == table else _result_rows(results, dataset, said))
    rows, unmatched = _by_case(found, truth, said)
    lost = _lost(found, unmatched, said)
    cases = {case.case_id: case for case in dataset.cases if case.boxes is not None}
    sizes = {case_id: _size(cases[case_id]) for case_id in rows if case_id in cases}
    doubts = _check_layout(path, rows, sizes)
    classes = tuple(dataset.labels)
    answers, failed = [], {case_id: truth.broken[case_id] for case_id in rows if case_id in truth.broken}
    for case_id in sorted(rows.keys() & cases.keys()):
        spacing = cases[case_id].spacing_mm or dataset.spacing_mm
        try:
            boxes = _found(rows[case_id], classes, sizes[case_id])
        except DatasetError as error:
            failed[case_id] = str(error)
            continue
        answers.append(box_answer_of(cases[case_id], boxes, classes, None if spacing is None else spacing[1:]))
    if not answers:
        others = [f"{path}: holds no detection in a case of {dataset.name}"] if not rows else []
        refuse_all(path, [*failed.values(), *(f"{name} {why}" for name, why in unmatched.items()), *others][:LISTED])
    doubts += _refuse_or_doubt(path, suspect_hits(answers))
    threshold = FALLBACK_THRESHOLD if said.threshold is None else said.threshold
    summary = summary_of_boxes(answers, classes, dataset.name, folder.name, threshold, failed, said.origin)
    broken = truth.broken.keys() & failed.keys()
    noun = "detections" if said.images is None else f"an entry in {said.file}"
    notes = (*_notes(len(rows), len(cases), said), *doubts)
    return Found(summary, rows, noun, unmatched, notes, broken, lost=lost)


def _by_case(found: Sequence[_Row], truth: Truth, said: _Said) -> tuple[dict[str, list[_Row]], dict[str, str]]:
    """Case -> its detections, those without any included where a file lists them; row or image -> why it is for no
    case."""
    rows: dict[str, list[_Row]] = {}
    unmatched: dict[str, str] = {}
    for number, name in (said.images or {}).items():
        case_id = case_named(name, truth.names)
        if case_id is None:
            unmatched[f"image {number}"] = f"of {said.file}: {shown(name)} {no_case(name, truth)}"
        else:
            rows.setdefault(case_id, [])
    for row in found:
        case_id = case_named(row.case_id, truth.names)
        if not row.case_id:
            unmatched[row.where] = row.fault
        elif case_id is None:
            unmatched[row.where] = f"{shown(row.case_id)} {no_case(row.case_id, truth)}"
        else:
            rows.setdefault(case_id, []).append(row)
    return rows, unmatched


def _lost(found: Sequence[_Row], unmatched: Mapping[str, str], said: _Said) -> tuple[str, ...]:
    """Detections of no image: the row names none, or one that is neither a case nor among the images searched."""
    listed = None if said.images is None else set(said.images.values())
    return tuple(
        f"{row.where} {unmatched[row.where]}"
        for row in found
        if row.where in unmatched and (not row.case_id or (listed is not None and row.case_id not in listed))
    )


def _notes(scored: int, cases: int, said: _Said) -> tuple[str, ...]:
    if said.images is not None or scored >= cases:
        return ()
    return (
        f"only cases with a detection are scored: no {PREDICTION} lists the images that were searched. Images searched "
        "in vain do not count, which can make the scores too good; list them (docs/detection.md)",
    )


def _size(case: Case) -> tuple[int, int] | None:
    """Width and height of a case's image, upright; None where its header cannot be read."""
    try:
        return planar_frame(Path(case.images[0])).upright
    except ImageError:
        return None


def _check_layout(
    path: Path, rows: Mapping[str, Sequence[_Row]], sizes: Mapping[str, tuple[int, int] | None]
) -> tuple[str, ...]:
    """Doubts about how all boxes together are written; raises DatasetError where they are surely something else."""
    boxes, limits = [], []
    for case_id, some in rows.items():
        size = sizes.get(case_id)
        for row in some:
            box = finite_numbers(row.box, 4)
            if size is not None and box is not None:
                x, y, width, height = box
                boxes.append(Box(class_name=row.class_name, x=x, y=y, width=width, height=height))
                limits.append(size)
    return _refuse_or_doubt(path, suspect_places(boxes, limits, SIZES))


def _refuse_or_doubt(path: Path, suspicion: Suspicion | None) -> tuple[str, ...]:
    """The words of a doubt; raises DatasetError for what is certain."""
    if suspicion is None:
        return ()
    words = f"{suspicion.found}; {suspicion.remedy}"
    if suspicion.certain:
        raise DatasetError(f"{path}: {words}")
    return (words,)


def _said_of(folder: Path) -> _Said:
    """What prediction.json says, or else the summary.json of a run."""
    predicted, summary = folder / PREDICTION, folder / "summary.json"
    if predicted.is_file():
        return _read_predicted(predicted)
    return _read_own_summary(summary) if summary.is_file() else _Said()


def _read_own_summary(path: Path) -> _Said:
    """Nothing of a summary that a run did not write: mdkd_evaluate leaves one beside anyone's detections."""
    content = read_json(path, any_number=True)
    if not isinstance(content, dict) or content.get("threshold_origin") != VALIDATED:
        return _Said()
    summary = to_record(content, BoxSummary, str(path), DatasetError)
    names = sorted(answer.case_id for answer in summary.answers)
    images = {str(number): name for number, name in enumerate(names, start=1)}  # as coco_results counts
    return _Said(summary.threshold, summary.classes, images, path.name, VALIDATED)


def _read_predicted(path: Path) -> _Said:
    """Raises DatasetError for fields that are not as mdkd_predict writes them."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds {shown(content)}; expected an object")
    threshold, classes, images = (content.get(name) for name in ("threshold", "classes", "images"))
    if threshold is not None and not _is_share(threshold):
        raise DatasetError(f"{path}: threshold is {shown(threshold)}; expected a number from 0 to 1")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(one, str) for one in classes)):
        raise DatasetError(f"{path}: classes is {shown(classes)}; expected a list of names")
    if images is not None and not (isinstance(images, dict) and all(isinstance(one, str) for one in images.values())):
        raise DatasetError(f"{path}: images is {shown(images)}; expected an object of numbers and their cases")
    read_predicted(path)  # unknown fields, and the types of the others
    return _Said(
        None if threshold is None else float(threshold),
        None if classes is None else tuple(classes),
        images,
        path.name,
        ASSUMED if threshold is None else PREDICTED,
    )


def _table_rows(path: Path) -> Iterator[_Row]:
    """Of a detections.csv."""
    try:
        table = read_table(path, COLUMNS)
    except TableError as error:
        raise DatasetError(f"{path}: {error}") from None
    for number, row, fault in table.rows:
        empty = [name for name in COLUMNS if not row.get(name)]
        case_id, class_name, score, *box = (row.get(name, "") for name in COLUMNS)
        wrong = f"has no {', '.join(empty)}" if empty else fault
        yield _Row(f"{path}: row {number}", case_id, class_name, score, box, wrong)


def _result_rows(path: Path, dataset: Dataset, said: _Said) -> Iterator[_Row]:
    """Of COCO's results. Images and classes have the numbers of what is said, else those of the annotations."""
    content = read_json(path, any_number=True)  # each detection is judged by itself
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
            raise DatasetError(
                f"{where}: image_id {shown(image)} is none of the {len(images)} known; expected an id "
                f"of {COCO}, or a prediction.json that lists images"
            )
        if str(category) not in names:
            known = ", ".join(f"{key} {name}" for key, name in names.items())
            raise DatasetError(f"{where}: category_id {shown(category)} is no class; expected one of {known or 'none'}")
        boxed = box if isinstance(box, list) else [box]
        yield _Row(where, images[str(image)], names[str(category)], one.get("score"), boxed)


def _annotated_numbers(dataset: Dataset) -> tuple[dict[str, str], dict[Any, str]]:
    """Image id -> case (the file's name where it is none), and category id -> class; none without COCO annotations."""
    path = Path(dataset.folder) / COCO
    files, categories = read_ids(path) if path.is_file() else ({}, {})
    case_of: dict[str, str] = {}
    for case in dataset.cases:
        for name in (Path(image).name for image in case.images):
            case_of |= dict.fromkeys((name, case.case_id, case.case_id + image_ending(name)), case.case_id)
    named = {key: next((case_of[name] for name in names if name in case_of), names[0]) for key, names in files.items()}
    return {str(key): name for key, name in named.items()}, dict(categories)


def _found(rows: Sequence[_Row], classes: tuple[str, ...], size: tuple[int, int] | None) -> Boxes:
    """Raises DatasetError for a class that is none of ``classes``, for what is no number or no size, and for a box that
    lies outside an image of ``size`` (width, height)."""
    corners, numbers, scores = [], [], []
    for row in rows:
        if row.fault:
            raise DatasetError(f"{row.where} {row.fault}")
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
        if size is not None and (x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0):
            raise DatasetError(
                f"{row.where}: box {x:g}, {y:g}, {width:g}, {height:g} lies outside its image of "
                f"{size[0]} x {size[1]} pixels; expected x, y, width, height in its pixels"
            )
        corners.append((x, y, x + width, y + height))
        numbers.append(classes.index(row.class_name))
        scores.append(float(row.score))
    return boxes_from(corners, numbers, scores)


def _is_share(value: Any) -> bool:
    numbers = finite_numbers([value], 1)
    return numbers is not None and 0 <= numbers[0] <= 1
