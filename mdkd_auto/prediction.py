"""New images and a run folder -> masks, classes or boxes, and prediction.json, which says with what they were made."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from mdkd_auto.core.errors import MdkdError, PredictionError
from mdkd_auto.core.files import WriteError, read_json, to_record, write_json, write_text
from mdkd_auto.core.paths import RunFolder
from mdkd_auto.core.progress import progress
from mdkd_auto.core.records import ByTask, Case, SpacingFrom
from mdkd_auto.datasets.case_names import LISTED, listed
from mdkd_auto.datasets.new_cases import find_cases, not_read
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.execution.evaluate_run import read_summary
from mdkd_auto.execution.run_folder import RunRecord, load_predictor, read_run
from mdkd_auto.formats.exif import UPRIGHT
from mdkd_auto.formats.read_write import Image
from mdkd_auto.metrics.detection import FALLBACK_THRESHOLD, Boxes
from mdkd_auto.planners.ranges import TrainingRanges, Unlike, unlike_training
from mdkd_auto.preparation import Outcome
from mdkd_auto.report.detection.pictures import draw_boxes
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.tasks.classification.scoring import UNCALIBRATED, ClassSummary, predictions_csv
from mdkd_auto.tasks.detection.scoring import BoxSummary, coco_results, detections_csv
from mdkd_auto.tasks.segmentation.training import predict_image
from mdkd_auto.tasks.shared.prediction import PredictionOptions, mask_ending, read_channel
from mdkd_auto.tasks.shared.scored_part import VALIDATION, AnySummary
from mdkd_auto.training.loop import find_device, uses_bf16

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
    cases, refused = find_cases(images, None, len(record.channel_names[plan.dataset]), plan.channel)
    cases = [msgspec.structs.replace(case, spacing_from=spacing_from) for case in cases]
    for problem in refused[:LISTED]:
        logger.warning("left out: %s", problem)
    _name_unread(images, masks)
    seen = Seen(run, record.ranges.get(plan.dataset))
    outcome = TASK_ANSWERS[record.task](Asked(cases, masks, run, record, predictor, keep_existing, seen))
    seen.summarise(len(cases))
    return outcome._replace(problems=(*refused, *outcome.problems))


def _check_folders(images: Path, out: Path) -> None:
    """Answers have the images' names: among them they would take an image's place, or be read as one next time."""
    folder = images if images.is_dir() else images.parent
    if out.is_dir() and folder.is_dir() and out.samefile(folder):
        raise PredictionError(
            f"{out}: holds the images, and answers there could replace them or be taken for images; "
            "give another folder for the answers (-o)"
        )


def _name_unread(images: Path, out: Path) -> None:
    """Say what of a folder of images is not predicted; an earlier call's answers in it are not meant."""
    if not images.is_dir():
        return
    answers = f"{out.name}: " if out.resolve().parent == images.resolve() else "/"
    unread = [text for text in not_read(images) if not text.startswith(answers)]
    if unread:
        logger.warning("%s: not predicted:%s", images, listed(unread))


class Seen:
    """What is worth saying of the images that were read: which are unlike the training images, which were turned."""

    def __init__(self, run: Path, ranges: TrainingRanges | None) -> None:
        self.run, self.ranges = run, ranges
        self.unlike: dict[str, tuple[Unlike, ...]] = {}
        self.turned: dict[str, int] = {}  # case -> EXIF orientation
        self.remarks: dict[str, tuple[str, ...]] = {}  # case -> what is odd about its header

    def look(self, case_id: str, image: Image) -> None:
        """Warn where the image is unlike the training images; of many only the first ones are named."""
        found = unlike_training(image, self.ranges)
        if found:
            self.unlike[case_id] = found
            if len(self.unlike) <= LISTED:
                logger.warning("%s: unlike the training images: %s", case_id, "; ".join(map(str, found)))
        if image.header.exif != UPRIGHT:
            self.turned[case_id] = image.header.exif
        if image.remarks:
            self.remarks[case_id] = tuple(remark.found for remark in image.remarks)
            if len(self.remarks) <= LISTED:
                logger.warning("%s: %s", case_id, "; ".join(self.remarks[case_id]))

    def summarise(self, images: int) -> None:
        """Say of all images together what was found."""
        if self.ranges is None:
            logger.warning(
                "%s: keeps no ranges of its training images, so images unlike them are not noticed; a run "
                "trained with this version has them",
                self.run,
            )
        if self.unlike:
            logger.warning(
                "%d of %d images unlike the training images: the answers for them may be wrong; "
                "prediction.json lists them",
                len(self.unlike),
                images,
            )
        if self.turned:
            logger.warning(
                "%d of %d pictures turned upright as their EXIF orientation says; their answers are in the "
                "upright frame:%s",
                len(self.turned),
                images,
                listed(list(self.turned)),
            )

    def recall(self, path: Path, kept: Iterable[Case]) -> None:
        """Take from an earlier prediction.json what it says of cases whose answers are kept."""
        try:
            used = read_json(path)
            unlike = to_record(used["unlike_training"], dict[str, tuple[Unlike, ...]], str(path))
            turned = to_record(used["turned_by_exif"], dict[str, int], str(path))
            remarks = to_record(used["remarks"], dict[str, tuple[str, ...]], str(path))
        except (MdkdError, KeyError, TypeError):
            return  # not there, or of another version
        names = [case.case_id for case in kept]
        self.unlike |= {name: unlike[name] for name in names if name in unlike}
        self.turned |= {name: turned[name] for name in names if name in turned}
        self.remarks |= {name: remarks[name] for name in names if name in remarks}


class Asked(NamedTuple):
    """What a prediction is made of: new images, the folder for the answers, and a trained model."""

    cases: list[Case]
    out: Path
    run: Path
    record: RunRecord
    predictor: Any  # the task's
    keep_existing: bool
    seen: Seen

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.predictor.classes.channels)

    def image(self, case: Case) -> Image:
        """The channel that the model reads; without masks colours become grey. What is unusual about it is noted."""
        grey = not TASK_DATA[self.record.task].masks
        image = read_channel(case, self.predictor.dataset_plan, colour_to_grey=grey)
        self.seen.look(case.case_id, image)
        return image

    def of_validation(self) -> AnySummary | None:
        """What the run scored on its validation cases."""
        dataset = stage_of(self.record.job).head_of(self.predictor.dataset_plan.dataset)
        return read_summary(RunFolder(self.run), VALIDATION, dataset, self.record.task)

    def write_used(self, **more: object) -> None:
        """prediction.json: with what the answers were made, and which images are unlike the training images."""
        used = {
            "run": str(self.run),
            "dataset": self.predictor.dataset_plan.dataset,
            "version": self.record.version,
            "spacing_from": self.cases[0].spacing_from if self.cases else None,
        }
        seen = {
            "training_ranges": self.seen.ranges,
            "unlike_training": self.seen.unlike,
            "turned_by_exif": self.seen.turned,
            "remarks": self.seen.remarks,
        }
        write_json(self.out / "prediction.json", {**used, **more, **seen})


def _segment(asked: Asked) -> Outcome:
    """A mask an image."""
    predictor, masks = asked.predictor, asked.out
    skipped = [
        case for case in asked.cases if asked.keep_existing and (masks / f"{case.case_id}{mask_ending(case)}").is_file()
    ]
    asked.seen.recall(masks / "prediction.json", skipped)
    done, problems = each(
        [case for case in asked.cases if case not in skipped],
        lambda case: predict_image(predictor, case, asked.image(case), masks),
    )
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
    """What ``work`` gives for each case, and what went wrong with the others, of which the first are said at once."""
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
                if len(problems) <= LISTED:
                    logger.warning("%s", error)
            advance(number, len(cases), case.case_id)
    return done, tuple(problems)
