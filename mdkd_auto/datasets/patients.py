"""Assign cases to patients by name, if no table does: with a pattern, or BIDS' sub-<label>."""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import regex

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.records import Case, Dataset
from mdkd_auto.datasets.problems import Problem, problem

log = logging.getLogger(__name__)

FLAG = "--patient-pattern"
GROUP = "patient"
EXAMPLE = r"'^(?P<patient>[^_]+)_'"
LONGEST_PATTERN = 500  # characters
SECONDS_PER_NAME = 1.0  # a pattern with catastrophic backtracking takes longer
STATED = ("table", "annotations")  # these take precedence over names

_BIDS = re.compile(r"(?:^|_)(sub-[A-Za-z0-9]+)(?=_|$)")  # bids-specification.readthedocs.io, "Filenames"


def compile_pattern(text: str, source: str = FLAG) -> Any:
    """Compile the pattern, given in ``source``.

    Raises SettingsError for an invalid pattern, or one without a group ``patient``, or with other named groups.
    """
    if len(text) > LONGEST_PATTERN:
        raise SettingsError(f"{source}: is {len(text)} characters long; {LONGEST_PATTERN} are the most")
    try:
        text.encode()
        compiled = regex.compile(text)
    except (UnicodeEncodeError, regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise SettingsError(f"{source} {text!r}: not a regular expression ({error}); like {EXAMPLE}") from None
    if set(compiled.groupindex) != {GROUP}:
        named = ", ".join(sorted(compiled.groupindex)) or "none"
        raise SettingsError(f"{source} {text!r}: expected one named group, {GROUP}, like {EXAMPLE}; found: {named}")
    return compiled


def with_patients(dataset: Dataset, pattern: str = "") -> tuple[Dataset, list[str]]:
    """Return the data set with patients from case names, and the cases ``pattern`` does not match.

    Patients from tables or annotations are kept. Without a pattern, cases named ``sub-<label>`` are grouped and every
    other case is its own patient. Raises SettingsError for an invalid or too slow pattern.
    """
    compiled = compile_pattern(pattern) if pattern else None
    cases, unmatched = [], []
    for case in dataset.cases:
        if case.patient_by in STATED:
            cases.append(case)
            continue
        name = plain_name(case, dataset.folder)
        patient = _bids_subject(name, case) if compiled is None else _matched(compiled, pattern, name)
        if patient is None and compiled is not None:
            unmatched.append(case.case_id)
        by = "" if patient is None else "name" if compiled is None else "pattern"
        cases.append(msgspec.structs.replace(case, patient_id=patient or case.case_id, patient_by=by))
    return msgspec.structs.replace(dataset, cases=tuple(cases)), unmatched


class Told(NamedTuple):
    """A data set with its patients, and the pattern that found them ("": BIDS names)."""

    dataset: Dataset
    pattern: str


def tell_patients(
    datasets: Sequence[Dataset], stored: Callable[[str], str], asked: str | None = None
) -> tuple[dict[str, Told], list[Problem]]:
    """Return each data set with patients from case names, and the cases without a match.

    Uses the pattern ``asked``, else the one ``stored`` for the data set, else none. If ``asked`` matches nothing in a
    data set but matches in another, the first keeps its patients and a warning is reported.
    """
    before = {dataset.name: stored(dataset.name) for dataset in datasets}
    chosen = dict.fromkeys(before, asked) if asked else dict(before)
    tried = {dataset.name: with_patients(dataset, chosen[dataset.name]) for dataset in datasets}
    problems = []
    if asked:
        found_some = any(_named(dataset) for dataset, _ in tried.values())
        idle = [dataset for dataset in datasets if tried[dataset.name][1] and not _named(tried[dataset.name][0])]
        for dataset in idle if found_some else ():
            chosen[dataset.name] = before[dataset.name]
            tried[dataset.name] = with_patients(dataset, before[dataset.name])
            message = f"{FLAG} {asked} finds no patient in the names of its cases"
            problems.append(problem("pattern-unused", message, dataset=dataset.name, file=dataset.folder))
    for name, (dataset, unmatched) in tried.items():
        problems += [
            problem(
                "patient-unmatched",
                f"{case_id}: {FLAG} {chosen[name]} finds no patient in its name",
                dataset=name,
                case_id=case_id,
                file=dataset.folder,
            )
            for case_id in unmatched
        ]
        if named := _named(dataset):
            patients, how = len({case.patient_id for case in named}), chosen[name] or "sub-<label>"
            log.info("%s: %d patients in the names of %d cases, by %s", name, patients, len(named), how)
    return {name: Told(dataset, chosen[name]) for name, (dataset, _) in tried.items()}, problems


def _named(dataset: Dataset) -> list[Case]:
    """Cases with a patient in their name."""
    return [case for case in dataset.cases if case.patient_by in ("name", "pattern")]


def plain_name(case: Case, folder: str) -> str:
    """Return the case's name without leading folders (class, split)."""
    try:
        parts = Path(case.images[0]).parent.relative_to(folder).parts if case.images else ()
    except ValueError:  # a file outside the folder
        parts = ()
    prefix = "".join(f"{component}_" for component in parts if component != "imagesTr")
    return case.case_id.removeprefix(prefix)


def _bids_subject(name: str, case: Case) -> str | None:
    """Find BIDS' subject in the case name; with masks also in the path: dataset.json may list sub-01/anat/x.nii.gz."""
    match = _BIDS.search(name)
    if match is None and case.label is not None:
        folders = Path(case.images[0]).parent.parts
        return next((folder for folder in reversed(folders) if _BIDS.fullmatch(folder)), None)
    return match[1] if match else None


def _matched(compiled: Any, pattern: str, name: str) -> str | None:
    """Return the patient in a name; None if the pattern does not match or the group is empty."""
    try:
        match = compiled.search(name, timeout=SECONDS_PER_NAME)
    except TimeoutError:
        raise SettingsError(
            f"{FLAG} {pattern!r}: takes longer than {SECONDS_PER_NAME:g} s on the name {name!r}; avoid one repetition "
            f"inside another, like {EXAMPLE}"
        ) from None
    return (match[GROUP] or None) if match else None
