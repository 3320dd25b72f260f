"""Find cases in stored splits that the raw folder no longer provides, with the reason."""

from collections.abc import Collection, Iterable

from mdkd_auto.core.records import Dataset, Splits
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.formats.file_endings import image_ending, is_image

GONE = "splits.json names it, but the raw folder has no such case any more; put its files back, or plan without it"
_FIRST_CHANNEL = "_0000"


def lost_cases(dataset: Dataset, splits: Splits, problems: Iterable[Problem] = ()) -> dict[str, str]:
    """Case -> why the data set no longer has it: the first of its ``problems``, errors before warnings."""
    present = {case.case_id for case in dataset.cases}
    named = {*splits.test, *(case for fold in splits.folds for case in (*fold.train, *fold.val))}
    lost = sorted(named - present)
    why: dict[str, str] = {}
    for entry in sorted(problems, key=lambda entry: entry.severity != "error"):
        if entry.dataset == dataset.name and (case := case_of(entry.case_id, lost)):
            why.setdefault(case, str(entry))
    return {case: why.get(case, GONE) for case in lost}


def cases_without_part(dataset: Dataset, splits: Splits) -> list[str]:
    """Cases that stored splits leave out: they are neither used for training nor for testing."""
    named = {*splits.test, *(case for fold in splits.folds for case in (*fold.train, *fold.val))}
    return sorted({case.case_id for case in dataset.cases} - named)


def case_of(name: str, cases: Collection[str]) -> str:
    """Return the case of a problem; for an absent image, ``name`` is the file's. "" if no case matches."""
    stem = name[: len(name) - len(image_ending(name))] if is_image(name) else name
    return next((candidate for candidate in (name, stem, stem.removesuffix(_FIRST_CHANNEL)) if candidate in cases), "")
