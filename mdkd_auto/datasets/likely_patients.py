"""Guess which cases belong to one subject from their names: visits, slices, sides, augmented copies."""

import re
from collections.abc import Iterable
from typing import NamedTuple

Groups = dict[str, list[str]]  # subject -> names

MOST_TOKENS = 4  # most tokens stripped from the end of a name
LEAST_SUBJECTS = 3  # fewer groups are more likely sites or image types, and cannot be split
MANY_SUBJECTS = 10  # from this number on, prefixes are subjects rather than sites, even before a running number
REUSED = 0.25  # fraction of numbers that several subjects share: a visit or slice, not a running number

# Copies of one source image: such names belong to one subject whatever their other parts.
_COPIES = re.compile(
    r"(?:[_. -](?:png|jpe?g|bmp|tiff?))?\.rf\.[0-9a-z]{6,}$"  # Roboflow: source_jpg.rf.hash
    r"|[_. -]+(?:aug|augment(?:ed|ation)?|copy|[hv]?flip(?:ped)?|mirror(?:ed)?|rot(?:at(?:e|ed|ion))?)[_. -]*\d*$",
    re.IGNORECASE,
)
# Words for repeated images of a subject, with or without a number; after a separator or a digit.
_WORDS = re.compile(
    r"(?:[_. -]+|(?<=\d))(?:"
    r"(?:ses|session|visit|vis|timepoint|time|tp|scan|run|acq|series|ser|study|exam|slice|slc|sl|frame|frm|fr|tile|"
    r"patch|crop|view|eq|roi|echo|day|week|month|(?:mr|ct|pet)[_-]d|mr|fu)[_. -]*\d+"
    r"|baseline|bl|follow[_-]?up|pre|post|left|right|l|r|od|os|[lr]?cc|[lr]?mlo|ap|pa|lat|lateral|frontal|"
    r"ax|axial|sag|sagittal|cor|coronal)$",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"(?<![a-z])(?:patient|person|subject|subj|participant|volunteer|pat|sub|pt|pid)[-_ ]?\d+", re.IGNORECASE
)
# A short number, letter or both at the end.
_TOKEN = re.compile(r"(?:[_. -]+(?:[a-z]{0,3}\d{1,4}|(?:19|20)\d{6}|[a-z])|(?<=\d)[a-z]| ?\(\d+\))$", re.IGNORECASE)
_DATE = re.compile(r"(?<!\d)(?:19|20)\d{2}(?:\d{4})?$")
_SEPARATORS = re.compile(r"[_. -]+")
_DAY = re.compile(r"(?:19|20)\d{6}")
_NO_PERSON = re.compile(
    r"(?:^|[_. -])(?:site|cent(?:er|re)|hospital|clinic|scanner|vendor|fold|set|dataset|batch|part|class|grade|level|"
    r"stage|group|cohort|t1|t2)[_-]?\d*$|(?:^|[_. -])(?:train|training|test|val)[_-]?\d?$",
    re.IGNORECASE,
)


class _Source(NamedTuple):
    """A name without its copy, visit, slice and side, and whether it had such words or copies."""

    subject: str
    by_word: bool
    is_copy: bool


def likely_subjects(names: Iterable[str]) -> Groups:
    """Group names by their likely subject; {} if no subject seems to have several.

    Names with a running number (IMG_0001), or with only a site or date before it, give no information.
    """
    names = sorted(set(names))
    sources = {name: _source_of(name) for name in names}
    by_words = _grouped({name: source.subject for name, source in sources.items()})
    if _is_by_words(by_words, sources):
        return by_words
    fitting: list[Groups] = []
    subjects = {name: name for name in names}
    for _ in range(MOST_TOKENS):
        subjects = {name: _without_token(subject) for name, subject in subjects.items()}
        groups = _grouped(subjects)
        if _is_by_numbers(groups) and groups not in fitting:
            fitting.append(groups)
    many = [groups for groups in fitting if len(groups) >= MANY_SUBJECTS]
    return (many[-1:] or fitting[:1] or [{}])[0]


def _source_of(name: str) -> _Source:
    subject, by_word, is_copy = name, False, False
    while True:
        if match := _COPIES.search(subject):
            is_copy = True
        elif match := _WORDS.search(subject):
            by_word = True
        if match is None or match.start() == 0:
            break
        subject = subject[: match.start()]
    if match := _PERSON.search(subject):
        by_word = by_word or match.end() < len(subject)
        subject = subject[: match.end()]
    return _Source(subject, by_word, is_copy)


def _is_by_words(groups: Groups, sources: dict[str, _Source]) -> bool:
    several = [subject for subject, names in groups.items() if len(names) > 1]
    if any(sources[name].is_copy for subject in several for name in groups[subject]):
        return len(groups) > 1
    numbered = [subject for subject in groups if any(sign.isdigit() for sign in subject)]
    named = len(numbered) > len(groups) / 2 or len(groups) >= 2 * LEAST_SUBJECTS
    said = any(sources[name].by_word for subject in several for name in groups[subject])
    return said and named and len(groups) >= LEAST_SUBJECTS and not any(map(_NO_PERSON.search, several))


def _is_by_numbers(groups: Groups) -> bool:
    """Whether most names belong to subjects with several names, numbered by visit or slice."""
    several = {subject: names for subject, names in groups.items() if len(names) > 1 and _may_be_subject(subject)}
    count = sum(map(len, several.values()))
    if len(several) < LEAST_SUBJECTS or count < sum(map(len, groups.values())) / 2:
        return False
    owners: dict[str, set[str]] = {}
    for subject, names in several.items():
        for name in names:
            owners.setdefault(_number_after(subject, name), set()).add(subject)
    reused = sum(len(owners[_number_after(subject, name)]) > 1 for subject, names in several.items() for name in names)
    return reused >= REUSED * count


def _number_after(subject: str, name: str) -> str:
    """The part after the subject, up to the next separator, without examination dates."""
    tokens = _SEPARATORS.split(_DAY.sub("", name[len(subject) :]))
    return next((word for word in tokens if word), "")


def _may_be_subject(text: str) -> bool:
    """Whether the text ends in a number that is not a date, site or subset number."""
    return text[-1:].isdigit() and not _DATE.search(text) and not _NO_PERSON.search(text)


def _without_token(subject: str) -> str:
    """Strip one token; returned unchanged if nothing can be stripped, or if the rest would not end in a number."""
    match = _TOKEN.search(subject)
    rest = subject[: match.start()] if match else ""
    return rest if rest[-1:].isdigit() else subject


def _grouped(subjects: dict[str, str]) -> Groups:
    groups: Groups = {}
    for name, subject in subjects.items():
        groups.setdefault(subject, []).append(name)
    return groups
