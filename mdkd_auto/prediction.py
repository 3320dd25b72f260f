"""New images and a run folder -> masks, classes or boxes, and prediction.json, which says with what they were made."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mdkd_auto.data.cases import find_cases
from mdkd_auto.errors import MdkdError
from mdkd_auto.experiments.box_scoring import BoxSummary, coco_results, detections_csv
from mdkd_auto.experiments.class_scoring import ClassSummary, predictions_csv
from mdkd_auto.experiments.evaluate import VALIDATION, read_summary
from mdkd_auto.experiments.runs import RunRecord, load_predictor, read_run
from mdkd_auto.files import WriteError, write_json, write_text
from mdkd_auto.metrics.detection import FALLBACK_THRESHOLD, Boxes
from mdkd_auto.paths import RunFolder
from mdkd_auto.preparation import Outcome
from mdkd_auto.progress import progress
from mdkd_auto.records import Case
from mdkd_auto.report.box_pictures import draw_boxes
from mdkd_auto.tasks.classification import Classifier
from mdkd_auto.tasks.detection import Detector
from mdkd_auto.tasks.segmentation import PredictionOptions, Predictor, mask_ending, predict_file, read_channel
from mdkd_auto.training.fit import find_device, uses_bf16

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def predict(
    images: Path,
    masks: Path,
    run: Path,
    *,
    dataset: str | None = None,
    step: float = 0.5,
    mirror: bool = False,
    device: str = "auto",
    precision: str = "auto",
    keep_existing: bool = False,
) -> Outcome:
    """Predict every image of a folder (or one file) with the model of a run folder.

    Masks lie as the images do; a classifier's answers stand in predictions.csv, a detector's in detections.json and
    detections.csv, with a picture an image. ``dataset`` chooses the head of a
    multi-head model. Raises PredictionError where there is nothing to predict; an image that fails is reported and does
    not stop the others.
    """
    where = find_device(device)
    options = PredictionOptions(where, step, mirror, uses_bf16(precision, where))
    record = read_run(run)
    predictor = load_predictor(run, options, dataset)
    plan = predictor.dataset_plan
    cases = find_cases(images, None, len(record.channel_names[plan.dataset]), plan.channel)
    if isinstance(predictor, Predictor):
        return _segment(cases, masks, run, predictor, record, keep_existing)
    validation = read_summary(RunFolder(run), VALIDATION, plan.dataset if record.job.stage == "multi_head" else None)
    if isinstance(predictor, Classifier):
        temperature = validation.temperature if isinstance(validation, ClassSummary) else 1.0
        return _classify(cases, masks, run, predictor, record, temperature)
    threshold = validation.threshold if isinstance(validation, BoxSummary) else FALLBACK_THRESHOLD
    if validation is None:
        logger.warning("%s: its validation scores are gone; boxes are drawn from a score of %g on", run, threshold)
    return _detect(cases, masks, run, predictor, record, threshold)


def _segment(
    cases: list[Case], masks: Path, run: Path, predictor: Predictor, record: RunRecord, keep_existing: bool
) -> Outcome:
    """A mask an image."""
    skipped = [case for case in cases if keep_existing and (masks / f"{case.case_id}{mask_ending(case)}").is_file()]
    done, problems = _each([case for case in cases if case not in skipped],
                           lambda case: predict_file(predictor, case, masks))  # fmt: skip
    options = predictor.options
    used = _used(run, record, step=options.step, mirror=options.mirror, classes=predictor.classes)
    write_json(masks / "prediction.json", used)
    return Outcome(len(done), len(skipped), problems)


def _classify(
    cases: list[Case], out: Path, run: Path, classifier: Classifier, record: RunRecord, temperature: float
) -> Outcome:
    """predictions.csv: a row an image."""
    answers, problems = _each(
        cases, lambda case: tuple(classifier.logits(read_channel(case, classifier.dataset_plan, colour_to_grey=True)))
    )
    names = tuple(channel.name for channel in classifier.classes.channels)
    write_text(out / "predictions.csv", predictions_csv(answers, names, temperature))
    used = _used(run, record, mirror=classifier.options.mirror, classes=names, temperature=temperature)
    write_json(out / "prediction.json", used)
    return Outcome(len(answers), 0, problems)


def _detect(
    cases: list[Case], out: Path, run: Path, detector: Detector, record: RunRecord, threshold: float
) -> Outcome:
    """detections.json as COCO's results, detections.csv, and a picture an image with what reaches the threshold."""
    names = tuple(channel.name for channel in detector.classes.channels)
    spacings_mm: dict[str, tuple[float, float] | None] = {}

    def work(case: Case) -> Boxes:
        image = read_channel(case, detector.dataset_plan, colour_to_grey=True)
        boxes = Boxes(*detector.found(image))
        spacings_mm[case.case_id] = image.spacing_mm[1:] if image.spacing_known else None
        draw_boxes(out / f"{case.case_id}.png", image, boxes, names, threshold)
        return boxes

    found, problems = _each(cases, work)
    write_json(out / "detections.json", coco_results(found))
    write_text(out / "detections.csv", detections_csv(found, names, spacings_mm))
    images = dict(enumerate(sorted(found), start=1))
    write_json(out / "prediction.json", _used(run, record, classes=names, threshold=threshold, images=images))
    return Outcome(len(found), 0, problems)


def _each(cases: list[Case], work: Callable[[Case], Result]) -> tuple[dict[str, Result], tuple[str, ...]]:
    """What ``work`` gives for each case, and what went wrong with the others."""
    done: dict[str, Result] = {}
    problems = []
    with progress("predicting") as advance:
        for number, case in enumerate(cases, start=1):
            try:
                done[case.case_id] = work(case)
            except WriteError:
                raise  # a full disk is not the image's fault
            except MdkdError as error:
                problems.append(f"{case.case_id}: {error}")
                logger.warning("%s", error)
            advance(number, len(cases), case.case_id)
    return done, tuple(problems)


def _used(run: Path, record: RunRecord, **more: object) -> dict[str, object]:
    """What prediction.json says: with what the answers were made."""
    return {"run": str(run), "version": record.version, **more}
