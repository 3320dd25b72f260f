"""What the score of each case was computed from, as hashes, and so what a changed file asks for.

A score holds for one image, one truth and one prediction. Where the truth differs, the stored prediction is scored
again; where the image differs, or the prediction is gone or altered, the run's weights predict again. Only scores with
equal images and equal truths are compared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mdkd_auto.core.errors import ImageError, TrainingError
from mdkd_auto.core.file_hashes import HashOf
from mdkd_auto.core.files import content_hash
from mdkd_auto.core.records import Case, Dataset, Record
from mdkd_auto.datasets.case_reading import truth_hash
from mdkd_auto.formats.companion_files import hash_image
from mdkd_auto.tasks.shared.classes import Classes

SCORES_VERSION = 1  # raise it where the same prediction and truth give other scores
MISSING = ""
_NAMED = 10  # cases spelled out in a message
_SHOWN = 12  # digits of a hash


class Evidence(Record, frozen=True, kw_only=True):
    """What one case was scored from."""

    images: tuple[str, ...]  # SHA-256 of each file, one per channel; "" where it is missing
    label: str  # SHA-256 of the label file, or hash of the class or boxes
    rules: str  # hash of what else the score follows from: patient, classes, stated spacing, version of the scores
    prediction: str = MISSING  # SHA-256 of the mask file, or hash of the logits or boxes; "" where the case failed

    @property
    def truth(self) -> tuple[str, str]:
        return self.label, self.rules


class Work(NamedTuple):
    """What a case needs before its score holds today."""

    evidence: Evidence  # of the files of today; its prediction is the stored one
    do: Literal["keep", "rescore", "predict"]


def evidence_of(case: Case, dataset: Dataset, classes: Classes, hash_of: HashOf) -> Evidence:
    """That of the raw files as they are now, without a prediction."""
    rules = [SCORES_VERSION, case.patient_id, case.spacing_mm, dataset.spacing_mm, classes]
    return Evidence(
        images=tuple(_hash(Path(file), hash_of) for file in case.images),
        label=_truth(case, hash_of),
        rules=content_hash(rules),
    )


def _hash(path: Path, hash_of: HashOf) -> str:
    try:
        return hash_image(path, hash_of)
    except OSError:
        return MISSING


def _truth(case: Case, hash_of: HashOf) -> str:
    try:
        return truth_hash(case, hash_of)
    except (ImageError, OSError):
        return MISSING


def work_of(now: Evidence, before: Evidence | None, stored: str) -> Work:
    """What to do for a case. ``before``: what its score was computed from, None where it has none; ``stored``: the hash
    of its prediction as it lies there now."""
    if before is None or before.images != now.images or (before.prediction and before.prediction != stored):
        return Work(now, "predict")
    known = Evidence(images=now.images, label=now.label, rules=now.rules, prediction=before.prediction)
    if before.truth == now.truth:
        return Work(known, "keep")
    return Work(known, "rescore" if before.prediction else "predict")


def check_comparable(target: str, runs: Sequence[tuple[str, Mapping[str, Evidence]]]) -> None:
    """Raise TrainingError, naming cases and runs, unless all runs scored the same cases from the same files."""
    names = sorted(set().union(*(evidence for _, evidence in runs))) if runs else []
    wrong = [name for name in names if len({_compared(evidence.get(name)) for _, evidence in runs}) > 1]
    if not wrong:
        return
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    first = wrong[0]
    lines = [f"\n  {folder}: {_said(evidence.get(first))}" for folder, evidence in runs]
    raise TrainingError(
        f"{target}: runs scored {', '.join(wrong[:_NAMED])}{more} from different files, so their scores cannot be "
        f"compared. {first} was scored by{''.join(lines)}\nRun the same command again: it scores each run against the "
        "files that are there now"
    )


def _compared(evidence: Evidence | None) -> Any:
    return None if evidence is None else (evidence.images, evidence.truth)


def _said(evidence: Evidence | None) -> str:
    if evidence is None:
        return "not scored"
    images = ", ".join(one[:_SHOWN] or "missing" for one in evidence.images)
    return f"image {images}; truth {evidence.label[:_SHOWN] or 'missing'}; rules {evidence.rules[:_SHOWN]}"
