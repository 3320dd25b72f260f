"""A part of a data set that a finished model is judged on, what is said of all its cases, and a summary's manners."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import WriteError
from mdkd_auto.core.paths import RunFolder
from mdkd_auto.core.progress import progress
from mdkd_auto.core.records import Case, Dataset, DatasetPlan, Triple
from mdkd_auto.formats.read_write import Header
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.preprocessing.case import Prepared
from mdkd_auto.tasks.shared.classes import Classes
from mdkd_auto.tasks.shared.evidence import Evidence, Work

logger = logging.getLogger(__name__)

VALIDATION, TEST = "validation", "test"


class Seen(NamedTuple):
    """An image as prediction and scores need it."""

    prepared: Prepared
    header: Header
    spacing_mm: Triple  # of the file, canonical axes
    spacing_known: bool


class AnySummary(Protocol):
    """What tables, and a later scoring of the same run, read of a task's summary.json."""

    @property
    def unit(self) -> str:
        """Of distances: mm or px; "" where there are none."""

    @property
    def failed(self) -> dict[str, str]:
        """Case -> what went wrong."""

    @property
    def evidence(self) -> dict[str, Evidence]:
        """Case -> what it was scored from."""

    def overall(self, per_patient: bool) -> Mean | None:
        """Scores over images, or over patients; None where the task has none of these."""

    def score_by_unit(self) -> dict[str, float | None]:
        """The judged score of each patient (or case, where patients are not known)."""

    def by_case(self) -> dict[str, Any]:
        """Case -> its answer, scored; without those that failed."""


class Part(NamedTuple):
    """Cases of a data set, the predictor of the task that answers, and the folder for what is made of it."""

    name: str  # validation or test
    dataset: Dataset
    cases: list[Case]
    classes: Classes
    dataset_plan: DatasetPlan
    predictor: Any  # None where nothing is to be predicted
    folder: Path
    work: Mapping[str, Work]  # by case
    see: Callable[[Case, Any, bool], Any]  # prepared.Seen of a case, its predictor, and whether colours become grey
    earlier: Any = None  # the task's summary (AnySummary) of an earlier scoring; None where there is none
    is_written: bool = True  # whether the files beside that summary are as it has them
    lost: Mapping[str, str] = MappingProxyType({})  # case of the splits that is not among ``cases`` -> why

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.classes.channels)

    @property
    def is_scored(self) -> bool:
        """Whether the earlier scores hold today, for these cases."""
        if self.earlier is None or not self.is_written or self.earlier.evidence.keys() != self.work.keys():
            return False
        if {case: why for case, why in self.earlier.failed.items() if case not in self.work} != self.lost:
            return False
        return all(work.do == "keep" for work in self.work.values())


class Answering(NamedTuple):
    """How a task answers one case."""

    predict: Callable[[Case, Any], Any]  # with the part's predictor, from prepared.Seen
    rescore: Callable[[Case, Any], Any]  # a stored answer (None: not in the summary) against the truth of today
    prediction_hash: Callable[[Path, Case, Any], str]  # of folder, case and answer: of what is stored as predicted
    colour_to_grey: bool = True


class Answers(NamedTuple):
    """What came of the cases of a part."""

    answers: list[Any]
    failed: dict[str, str]  # case -> what went wrong
    evidence: dict[str, Evidence]


def answers_of(part: Part, answering: Answering) -> Answers:
    """The answer to each case, scored, and the cases that failed or are lost; what still holds is taken from the
    earlier summary.

    A full disk (WriteError) is not a case's fault.
    """
    made = Answers([], dict(part.lost), {})
    known = {} if part.earlier is None else part.earlier.by_case()
    with progress(f"{part.name} of {part.dataset.name}") as advance:
        for number, case in enumerate(part.cases, start=1):
            work = part.work[case.case_id]
            made.evidence[case.case_id] = work.evidence
            try:
                if work.do == "keep" and case.case_id not in known:
                    made.failed[case.case_id] = part.earlier.failed[case.case_id]
                    continue
                answer = _answer(part, answering, case, known.get(case.case_id))
                prediction = answering.prediction_hash(part.folder, case, answer)
                made.evidence[case.case_id] = msgspec.structs.replace(work.evidence, prediction=prediction)
                made.answers.append(answer)
            except WriteError:
                raise
            except MdkdError as error:
                made.evidence[case.case_id] = msgspec.structs.replace(work.evidence, prediction="")
                made.failed[case.case_id] = str(error)
                logger.warning("%s: %s is left out of the scores: %s", part.dataset.name, case.case_id, error)
            advance(number, len(part.cases))
    return made


def _answer(part: Part, answering: Answering, case: Case, known: Any) -> Any:
    do = part.work[case.case_id].do
    if do == "keep":
        return known
    if do == "rescore":
        return answering.rescore(case, known)
    return answering.predict(case, part.see(case, part.predictor, answering.colour_to_grey))


def run_scored_in(folder: Path) -> Path | None:
    """The run whose own scores lie in a folder: it is the run's, or one of its validation or test; else None."""
    whole = folder.resolve()
    for run in (whole, *whole.parents):
        if RunFolder(run).description.is_file():
            return run if run == whole or whole.relative_to(run).parts[0] in (VALIDATION, TEST) else None
    return None
