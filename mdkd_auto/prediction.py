"""New images and a run folder -> masks, classes or boxes, and prediction.json, which says with what they were made."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from mdkd_auto.data.cases import find_cases
from mdkd_auto.data.images import Image
from mdkd_auto.errors import MdkdError, PredictionError
from mdkd_auto.experiments.box_scoring import BoxSummary, coco_results, detections_csv
from mdkd_auto.experiments.class_scoring import UNCALIBRATED, ClassSummary, predictions_csv
from mdkd_auto.experiments.evaluate import read_summary
from mdkd_auto.experiments.parts import VALIDATION, AnySummary
from mdkd_auto.experiments.runs import RunRecord, load_predictor, read_run
from mdkd_auto.files import WriteError, write_json, write_text
from mdkd_auto.metrics.detection import FALLBACK_THRESHOLD, Boxes
from mdkd_auto.paths import RunFolder
from mdkd_auto.preparation import Outcome
from mdkd_auto.progress import progress
from mdkd_auto.records import ByTask, Case, SpacingFrom
from mdkd_auto.report.box_pictures import draw_boxes
from mdkd_auto.tasks.segmentation import PredictionOptions, mask_ending, predict_file, read_channel
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
    spacing_from: SpacingFrom | None = None,
) -> Outcome:
    """Predict every image of a folder (or one file) with the model of a run folder.

    Masks lie as the images do; a classifier's answers stand in predictions.csv, a detector's in detections.json and
    detections.csv, with a picture an image. ``dataset`` chooses the head of a multi-head model. Raises PredictionError
    where there is nothing to predict, or the answers would lie among the images; an image that fails is reported and
    does not stop the others.
    """
    _check_folders(images, masks)
    where = find_device(device)
    options = PredictionOptions(where, step, mirror, uses_bf16(precision, where))
    record = read_run(run)
    predictor = load_predictor(run, options, dataset)
    plan = predictor.dataset_plan
    cases = [msgspec.structs.replace(case, spacing_from=spacing_from)
             for case in find_cases(images, None, len(record.channel_names[plan.dataset]), plan.channel)]  # fmt: skip
    return TASK_ANSWERS[record.task](Asked(cases, masks, run, record, predictor, keep_existing))


def _check_folders(images: Path, out: Path) -> None:
    """Answers have the images' names: among them they would take an image's place, or be read as one next time."""
    folder = images if images.is_dir() else images.parent
    if out.is_dir() and folder.is_dir() and out.samefile(folder):
        raise PredictionError(f"{out}: holds the images, and answers there could replace them or be taken for images; "
                              "give another folder for the answers (-o)")  # fmt: skip


class Asked(NamedTuple):
    """What a prediction is made of: new images, the folder for the answers, and a trained model."""

    cases: list[Case]
    out: Path
    run: Path
    record: RunRecord
    predictor: Any  # the task's
    keep_existing: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.predictor.classes.channels)

    def image(self, case: Case) -> Image:
        """The channel that the model reads; colours become grey."""
        return read_channel(case, self.predictor.dataset_plan, colour_to_grey=True)

    def of_validation(self) -> AnySummary | None:
        """What the run scored on its validation cases."""
        dataset = self.predictor.dataset_plan.dataset if self.record.job.stage == "multi_head" else None
        return read_summary(RunFolder(self.run), VALIDATION, dataset, self.record.task)

    def write_used(self, **more: object) -> None:
        """prediction.json: with what the answers were made."""
        used = {"run": str(self.run), "dataset": self.predictor.dataset_plan.dataset, "version": self.record.version}
        write_json(self.out / "prediction.json", {**used, **more})


def _segment(asked: Asked) -> Outcome:
    """A mask an image."""
    predictor, masks = asked.predictor, asked.out
    skipped = [case for case in asked.cases if asked.keep_existing
               and (masks / f"{case.case_id}{mask_ending(case)}").is_file()]  # fmt: skip
    done, problems = each([case for case in asked.cases if case not in skipped],
                           lambda case: predict_file(predictor, case, masks))  # fmt: skip
    options = predictor.options
    asked.write_used(step=options.step, mirror=options.mirror, classes=predictor.classes)
    return Outcome(len(done), len(skipped), problems)


def _classify(asked: Asked) -> Outcome:
    """predictions.csv: a row an image."""
    validation = asked.of_validation()
    temperature = validation.temperature if isinstance(validation, ClassSummary) else UNCALIBRATED
    answers, problems = each(asked.cases, lambda case: tuple(asked.predictor.logits(asked.image(case))))
    names = asked.class_names
    write_text(asked.out / "predictions.csv", predictions_csv(answers, names, temperature))
    asked.write_used(mirror=asked.predictor.options.mirror, classes=names, temperature=temperature)
    return Outcome(len(answers), 0, problems)


def _detect(asked: Asked) -> Outcome:
    """detections.json as COCO's results, detections.csv, and a picture an image with what reaches the threshold."""
    validation = asked.of_validation()
    threshold = validation.threshold if isinstance(validation, BoxSummary) else FALLBACK_THRESHOLD
    if validation is None:
        words = "%s: its validation scores are gone; boxes are drawn from a score of %g on"
        logger.warning(words, asked.run, threshold)
    names = asked.class_names
    spacings_mm: dict[str, tuple[float, float] | None] = {}

    def work(case: Case) -> Boxes:
        image = asked.image(case)
        boxes = Boxes(*asked.predictor.found(image))
        spacings_mm[case.case_id] = image.spacing_mm[1:] if image.spacing_known else None
        draw_boxes(asked.out / f"{case.case_id}.png", image, boxes, names, threshold)
        return boxes

    found, problems = each(asked.cases, work)
    write_json(asked.out / "detections.json", coco_results(found))
    write_text(asked.out / "detections.csv", detections_csv(found, names, spacings_mm))
    images = dict(enumerate(sorted(found), start=1))
    asked.write_used(classes=names, threshold=threshold, images=images)
    return Outcome(len(found), 0, problems)


# What is written for new images, one entry a task.
TASK_ANSWERS: ByTask[Callable[[Asked], Outcome]] = ByTask(
    {"segmentation": _segment, "classification": _classify, "detection": _detect}
)


def each(cases: list[Case], work: Callable[[Case], Result]) -> tuple[dict[str, Result], tuple[str, ...]]:
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
