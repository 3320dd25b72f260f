"""Which cases of a data set the answers in a folder are for, what they leave out, and that in words."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mdkd_auto.core.errors import DatasetError
from mdkd_auto.core.files import read_json
from mdkd_auto.core.records import Dataset, Record
from mdkd_auto.core.text import escaped, shown
from mdkd_auto.datasets.case_names import listed
from mdkd_auto.datasets.lost_cases import GONE, case_of, lost_cases
from mdkd_auto.datasets.patients import with_patients
from mdkd_auto.datasets.raw_folder import read_sound_cases
from mdkd_auto.datasets.splits import read_splits
from mdkd_auto.formats.file_endings import image_ending, is_image

PREDICTION = "prediction.json"
FIRST_CHANNEL = "_0000"
NAMED = 10  # cases or files spelled out in a message; the summary names all
TEST_PART = "test part"


class Truth(NamedTuple):
    """A data set to score against."""

    dataset: Dataset  # its sound cases
    broken: Mapping[str, str] = {}  # the others, those of the splits that are gone too, and what is wrong with them
    parts: Mapping[str, frozenset[str]] = {TEST_PART: frozenset()}  # by name; the test part always
    gone: Collection[str] = ()  # of the broken: those that only the splits name

    @property
    def names(self) -> frozenset[str]:
        """All cases, sound or not."""
        return frozenset(case.case_id for case in self.dataset.cases).union(self.broken)


class Found(NamedTuple):
    """What a folder of answers came to."""

    summary: Any  # of the task
    answered: Collection[str]  # cases with an answer, whether it can be scored or not
    noun: str  # "a mask"
    unmatched: Mapping[str, str] = {}  # file or row of a table -> why it is not scored
    notes: tuple[str, ...] = ()  # how the answers were read
    broken: Collection[str] = ()  # cases in ``summary.failed`` for a fault of the data set, not of the answer
    files: Mapping[str, Path] = {}  # case -> the file of its answer, where each has its own
    lost: tuple[str, ...] = ()  # answers that may be for a scored case, but for which is not known


class Coverage(Record, frozen=True, kw_only=True):
    """Which cases the scores of a folder are for, and what they leave out."""

    scored: str  # in words
    missing: tuple[str, ...]  # cases without an answer
    unmatched: dict[str, str]  # file or row of a table -> why it is not scored
    notes: tuple[str, ...]  # how the answers were read


def read_truth(folder: Path) -> Truth:
    """The data set of a raw folder, with the parts and patients of its splits.json, or else those of cases.csv.

    Raises DatasetError where the data set as a whole cannot be used.
    """
    dataset, broken = read_sound_cases(folder)
    parts: dict[str, frozenset[str]] = {}
    gone: set[str] = set()
    splits = folder.absolute().parent.parent / "preprocessed" / dataset.name / "splits.json"
    if splits.is_file():
        stored = read_splits(splits)
        lost = lost_cases(dataset, stored)
        broken = lost | {case_of(name, lost) or name: why for name, why in broken.items()}
        gone = {name for name, why in broken.items() if why == GONE}
        dataset, _ = with_patients(dataset, stored.patient_pattern)
        parts[TEST_PART] = frozenset(stored.test)
        parts |= {f"validation part of fold {number}": frozenset(fold.val) for number, fold in enumerate(stored.folds)}
    else:
        for part, split in ((TEST_PART, "test"), ("validation part", "val")):
            parts[part] = frozenset(case.case_id for case in dataset.cases if case.split == split)
    return Truth(dataset, broken, parts, gone)


def case_named(name: str, cases: Collection[str]) -> str | None:
    """The case that a file or a row of a table means by ``name``; None where there is no such case.

    It may have an image's ending (of any kind, in capitals too), the number of a first channel before that, and
    folders, which may be a part of the case's name, as those of classes are.
    """
    folders = name.replace("\\", "/").split("/")
    for written in dict.fromkeys((name, "_".join(folders), folders[-1])):
        stem = written[: len(written) - len(image_ending(written))] if is_image(written) else written
        found = next((one for one in (written, stem, stem.removesuffix(FIRST_CHANNEL)) if one in cases), None)
        if found is not None:
            return found
    return None


def no_case(name: str, truth: Truth) -> str:
    """Why a file or a row of a table is not scored: its ``name`` is no case's."""
    folded = {case.casefold(): case for case in truth.names}
    alike = case_named(name.casefold(), folded)
    hint = f"; {folded[alike]} differs in capital letters" if alike is not None else ""
    return f"is no case of {truth.dataset.name}{hint}"


def coverage_of(truth: Truth, found: Found, folder: Path) -> Coverage:
    """The answers against the cases that they can be for.

    A part that is answered in full is complete: all cases, the test part, or the validation part of a fold. Answers to
    a piece of the test part are held against the test part, all others against all cases. A broken case lacks nothing
    if it has no answer.
    """
    answered = truth.names & set(found.answered)
    unanswered_broken = [name for name in truth.broken if name not in answered]
    expected = truth.names.difference(unanswered_broken)
    parts = {part: cases & expected for part, cases in truth.parts.items()}
    part = "" if answered == expected else _part_of(parts, answered)
    meant = parts.get(part, expected)
    missing = tuple(sorted(meant - answered))
    count = f"{len(answered)} of {cases_in_words(len(meant))}"
    of_part = f" of the {part}" if part else ""
    total = f" (the data set has {len(truth.names.difference(truth.gone))})" if part else ""
    without = [
        f"{name} is {'gone' if name in truth.gone else 'broken'} and has no answer: {truth.broken[name]}"
        for name in unanswered_broken
    ]
    notes = (*_of_another(truth.dataset, folder), *found.notes, *without)
    return Coverage(
        scored=f"{count}{of_part} {'has' if len(answered) == 1 else 'have'} {found.noun}{total}",
        missing=missing,
        unmatched={readable(name): why for name, why in found.unmatched.items()},
        notes=notes,
    )


def _part_of(parts: Mapping[str, frozenset[str]], answered: frozenset[str]) -> str:
    """The part that the answers are for; "" where it is none."""
    equal = next((part for part, cases in parts.items() if cases == answered), "")
    return equal or (TEST_PART if parts[TEST_PART] >= answered else "")


def _of_another(dataset: Dataset, folder: Path) -> tuple[str, ...]:
    """A word on answers that were made by a model of another data set."""
    path = folder / PREDICTION
    content = read_json(path) if path.is_file() else {}
    made_for = content.get("dataset", dataset.name) if isinstance(content, dict) else dataset.name
    if not isinstance(made_for, str):
        raise DatasetError(f"{path}: dataset is {shown(made_for)}; expected the name of the model's data set")
    return () if made_for == dataset.name else (f"made by a model of {made_for}, as {PREDICTION} says",)


def refuse_all(path: Path, problems: list[str]) -> NoReturn:
    """Raise DatasetError for a table of which no row can be used."""
    if len(problems) == 1:
        raise DatasetError(problems[0])
    raise DatasetError(f"{path}: no row can be scored:{listed(problems)}" if problems else f"{path}: holds no row")


# --- in words -------------------------------------------------------------------------------------------------------


def cases_in_words(count: int) -> str:
    """1 case, 2 cases."""
    return f"{count} case{'' if count == 1 else 's'}"


def shortened(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    first = ", ".join(list(names)[:NAMED])
    return f"{first} and {len(names) - NAMED} more" if len(names) > NAMED else first


def readable(name: str) -> str:
    """A file's name as text that any file and screen can hold."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in escaped(name))


def left_out_lines(coverage: Coverage | None, failed: Mapping[str, str]) -> list[str]:
    """All that a summary leaves out, for its Markdown."""
    lines = [f"- not scored: {case}: {problem}" for case, problem in failed.items()]
    if coverage is None:
        return lines
    incomplete = "**Incomplete:** " if coverage.missing else ""
    head = ["", f"{incomplete}{coverage.scored}.", "", *(f"- warning: {note}" for note in coverage.notes)]
    lines += [f"- without an answer: {', '.join(coverage.missing)}"] if coverage.missing else []
    return [*head, *lines, *(f"- left out: {name}: {why}" for name, why in coverage.unmatched.items())]


def left_out_rows(coverage: Coverage | None, failed: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The same as rows of a table: kind, case or file, reason. No name begins a formula."""
    missing = coverage.missing if coverage is not None else ()
    unmatched = coverage.unmatched if coverage is not None else {}
    return [
        *(("not scored", case, problem) for case, problem in failed.items()),
        *(("without an answer", case, "") for case in missing),
        *(("left out", f"'{name}" if name[0] in "=+-@" else name, why) for name, why in unmatched.items()),
    ]
