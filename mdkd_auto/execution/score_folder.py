"""A folder of answers, anyone's, scored against a raw data set: what mdkd_evaluate does with -i and -l."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from mdkd_auto.core.errors import MdkdError, SettingsError
from mdkd_auto.core.files import file_hash, read_json
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Dataset
from mdkd_auto.datasets.raw_folder import find_folder
from mdkd_auto.tasks.shared.classes import classes_of
from mdkd_auto.tasks.shared.coverage import Found, coverage_of, read_truth, shortened
from mdkd_auto.tasks.shared.evidence import Evidence, evidence_of
from mdkd_auto.tasks.shared.scored_part import run_scored_in
from mdkd_auto.tasks.task_scores import TASK_SCORES

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"


class Evaluated(NamedTuple):
    """The scores of a folder in words, and what stands against taking them as they are."""

    text: str  # without what is among the problems
    problems: tuple[str, ...]


def evaluate(
    answers: Path,
    labels: str | Path,
    *,
    root: Root | None = None,
    keep_classes: bool | None = None,
    out: Path | None = None,
    allow_missing: bool = False,
    exclude_broken: bool = False,
) -> Evaluated:
    """Score a folder of answers against a raw data set, and write the scores into it, or into ``out``.

    Answers are a mask for each case, or predictions.csv, or detections.csv, or else detections.json. ``labels`` is the
    data set's folder, its labelsTr, or its name or number in the raw folder of ``root``. ``keep_classes`` None scores
    the classes that prediction.json says were written. Problems are answers that cannot be used, broken cases that
    have an answer unless ``exclude_broken``, and cases without an answer unless ``allow_missing``; the others are
    scored. Raises SettingsError where the scores would take another file's place, MdkdError where nothing is to score.
    """
    if not answers.is_dir():
        raise SettingsError(
            f"{answers}: is {'a file' if answers.exists() else 'not there'}; a folder of masks, or one "
            "with predictions.csv or detections.csv, is wanted (-i)"
        )
    target = answers if out is None else out
    truth = read_truth(find_folder(str(labels), (root or Root(Path())).raw))
    _check_target(answers, target, truth.dataset)
    scores = TASK_SCORES[truth.dataset.task]
    try:
        found = scores.score_folder(answers, truth, keep_classes)
    except MdkdError:
        if (target / SUMMARY).is_file():
            logger.warning("%s: stays, and is of an earlier call", target / SUMMARY)
        raise
    coverage = coverage_of(truth, found, answers)
    evidence = _evidence(answers, truth.dataset, found, bool(keep_classes))
    summary = structs.replace(found.summary, coverage=coverage, evidence=evidence)
    scores.write(target, summary)
    accepted = found.broken if exclude_broken else ()
    problems = [f"{case}: {problem}" for case, problem in summary.failed.items() if case not in accepted]
    problems += found.lost
    if not set(found.answered) - summary.failed.keys():
        problems.append(f"{truth.dataset.name}: nothing is scored; {target / SUMMARY} only says why")
    if coverage.missing and not allow_missing:
        problems.append(
            f"{truth.dataset.name}: {coverage.scored}; missing: {shortened(coverage.missing)}. Add them, "
            "or accept the scores of the others with --allow-missing"
        )
    said_once = structs.replace(summary, failed={case: summary.failed[case] for case in accepted})
    return Evaluated(scores.markdown(said_once), tuple(problems))


def _evidence(answers: Path, dataset: Dataset, found: Found, keep_classes: bool) -> dict[str, Evidence]:
    """Scored case -> the files that it was scored from."""
    scores, scored, classes = TASK_SCORES[dataset.task], found.summary.by_case(), classes_of(dataset, keep_classes)
    evidence = {}
    for case in dataset.cases:
        if case.case_id not in scored:
            continue
        own = found.files.get(case.case_id)
        answer = scores.prediction_hash(answers, case, scored[case.case_id]) if own is None else file_hash(own)
        seen = evidence_of(case, dataset, classes, file_hash)
        evidence[case.case_id] = structs.replace(seen, prediction=answer)
    return evidence


def _check_target(answers: Path, target: Path, dataset: Dataset) -> None:
    """Raise SettingsError where scores would replace a run's or another program's, or lie in the raw data set."""
    raw = Path(dataset.folder).resolve()
    for folder, meant in ((answers, "-i"), (target, "-o")):
        if raw in (folder.resolve(), *folder.resolve().parents):
            raise SettingsError(
                f"{folder}: lies in the raw data set, which holds images and labels, no answers; give "
                f"another folder ({meant})"
            )
    run = run_scored_in(target)
    if run is not None:
        raise SettingsError(
            f"{target}: holds the scores of the run {run}, which tables and mdkd_predict read; they "
            "stay as they are. Give another folder for these (-o)"
        )
    summary = target / SUMMARY
    if summary.is_file():
        content = read_json(summary)
        if not (isinstance(content, Mapping) and {"dataset", "part", "failed"} <= content.keys()):
            raise SettingsError(
                f"{summary}: is not of mdkd_evaluate, and stays as it is; give another folder for the scores (-o)"
            )
