"""A part of a data set that a finished model is judged on, what is said of all its cases, and a summary's manners."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from mdkd_auto.data.images import Image
from mdkd_auto.errors import MdkdError
from mdkd_auto.files import WriteError
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.progress import progress
from mdkd_auto.records import Case, Dataset
from mdkd_auto.tasks.segmentation import read_channel

logger = logging.getLogger(__name__)

VALIDATION, TEST = "validation", "test"
Answered = TypeVar("Answered")


class Part(NamedTuple):
    """Cases of a data set, the predictor of the task that answers, and the folder for what is made of it."""

    name: str  # validation or test
    dataset: Dataset
    cases: list[Case]
    predictor: Any
    folder: Path

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.predictor.classes.channels)


class AnySummary(Protocol):
    """What tables read of a task's summary.json."""

    @property
    def unit(self) -> str:
        """Of distances: mm or px; "" where there are none."""

    def overall(self, per_patient: bool) -> Mean | None:
        """Scores over images, or over patients; None where the task has none of these."""

    def score_by_unit(self) -> dict[str, float | None]:
        """The judged score of each patient (or case, where patients are not known)."""


def answers_of(
    part: Part, answer: Callable[[Case, Image], Answered], colour_to_grey: bool = True
) -> tuple[list[Answered], dict[str, str]]:
    """What ``answer`` says of each case, and the cases that failed; a full disk (WriteError) is not a case's fault."""
    answers: list[Answered] = []
    failed: dict[str, str] = {}
    with progress(f"{part.name} of {part.dataset.name}") as advance:
        for number, case in enumerate(part.cases, start=1):
            try:
                answers.append(answer(case, read_channel(case, part.predictor.dataset_plan, colour_to_grey)))
            except WriteError:
                raise
            except MdkdError as error:
                failed[case.case_id] = str(error)
                logger.warning("%s: %s is left out of the scores: %s", part.dataset.name, case.case_id, error)
            advance(number, len(part.cases))
    return answers, failed
