"""From the raw folder to preprocessed cases: verify, split, plan, preprocess. Nothing here needs torch.

Every step is done for all groups before the next begins, so that what is wrong is said before hours are spent.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
from filelock import FileLock, Timeout

from mdkd_auto.core.errors import DatasetError, PlanError, SettingsError
from mdkd_auto.core.files import make_folder, write_json, write_text
from mdkd_auto.core.limits import faults_of_plan, read_plan, refuse
from mdkd_auto.core.paths import Root
from mdkd_auto.core.progress import progress
from mdkd_auto.core.records import Configuration, Dataset, Fingerprint, Plan, Splits, Task
from mdkd_auto.datasets.patients import compile_pattern, tell_patients
from mdkd_auto.datasets.problems import CASES_SHOWN, KINDS, Problem, errors_of, problem, problems_text, without_broken
from mdkd_auto.datasets.raw_folder import find_datasets
from mdkd_auto.datasets.splits import MIN_PATIENTS
from mdkd_auto.datasets.stored_splits import make_or_keep, only_those_of, store, stored_pattern
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.planners.fingerprint import fingerprint_dataset, pooled_fingerprint, read_thumbnail
from mdkd_auto.planners.group import plan_group
from mdkd_auto.planners.integrity import check_dataset, check_group, check_likeness, check_patients, check_thumbnails
from mdkd_auto.planners.plan_request import PlanRequest
from mdkd_auto.planners.plan_text import describe_changes, plan_text
from mdkd_auto.planners.task_rules import TASK_RULES
from mdkd_auto.preprocessing.dataset import preprocess_dataset

logger = logging.getLogger(__name__)

DEFAULT_REQUEST = PlanRequest()  # leaves every decision to the rules

CAUSES = {  # problem of a whole data set -> beginnings of the kinds of its cases' errors that it may come of
    "splits-emptied": ("",),
    "one-class": ("class-",),
    "no-boxes": ("annotation", "box-", "class-", "image-"),
}


class Outcome(NamedTuple):
    """What a command did: files written or cases done, and what went wrong, by case or data set."""

    done: int
    skipped: int
    problems: tuple[str, ...]


class Verified(NamedTuple):
    """Data sets by group, without what was left out, and all that is known of them before planning."""

    groups: dict[str, list[Dataset]]
    fingerprints: dict[str, Fingerprint]  # without test cases
    splits: dict[str, Splits]
    problems: tuple[Problem, ...]


def plan_and_preprocess(
    root: Root,
    group: str | None = None,
    request: PlanRequest = DEFAULT_REQUEST,
    *,
    preprocess: bool = True,
    workers: int = 1,
) -> Outcome:
    """Verify, plan and preprocess every group (or one) of the raw folder; reruns process only changes.

    Raises DatasetError with all errors in the data, unless the request excludes broken cases; SettingsError and
    PlanError for a request that does not fit the data.
    """
    with _alone(root):
        verified = verify(root, group, request, workers=workers)
        _check_used(request, {datasets[0].task for datasets in verified.groups.values()})
        plans = {
            name: _plan(root, name, datasets, verified.fingerprints, request)
            for name, datasets in verified.groups.items()
        }
        for name, splits in verified.splits.items():
            store(root.splits(name), name, splits)
        if not preprocess:
            return Outcome(0, 0, ())
        outcomes = [
            _preprocess(root, plan, verified.groups[name], request.configurations, workers)
            for name, plan in plans.items()
        ]
    return Outcome(
        sum(outcome.done for outcome in outcomes),
        sum(outcome.skipped for outcome in outcomes),
        tuple(problem for outcome in outcomes for problem in outcome.problems),
    )


# --- verification ---------------------------------------------------------------------------------------------------


def verify(
    root: Root,
    group: str | None = None,
    request: PlanRequest = DEFAULT_REQUEST,
    *,
    workers: int = 1,
) -> Verified:
    """Read and check every file of the raw folder (or of one group); writes integrity.txt and integrity.json.

    Raises DatasetError with all errors, unless the request excludes broken cases; SettingsError for an invalid test
    fraction or patient pattern.
    """
    test_fraction = request.test_fraction
    if request.patient_pattern is not None:
        compile_pattern(request.patient_pattern)
    if test_fraction is not None and not 0 <= test_fraction < 1:
        raise SettingsError(f"test fraction {test_fraction:g}: expected a share of the patients, 0 or more and below 1")
    for report in (root.integrity, root.integrity.with_suffix(".txt")):
        report.unlink(missing_ok=True)  # an earlier one must not vouch for what is found now
    groups, problems = _groups_of(root, group, broken_too=True)
    if not groups:
        problems = problems or [problem("no-data-sets", "holds no data set", dataset=root.raw.name, file=root.raw)]
        _write_report(root, problems)
        raise DatasetError(_no_groups(root, problems))
    told, by_names = tell_patients(
        [dataset for datasets in groups.values() for dataset in datasets],
        lambda name: stored_pattern(root.splits(name)),
        request.patient_pattern,
    )
    groups = {name: [told[dataset.name].dataset for dataset in datasets] for name, datasets in groups.items()}
    problems += by_names
    fingerprints: dict[str, Fingerprint] = {}
    for datasets in groups.values():
        for dataset in datasets:
            with progress(f"checking {dataset.name}") as advance:
                cache = root.fingerprint_cache(dataset.name)
                fingerprints[dataset.name], found = fingerprint_dataset(dataset, cache, workers, advance)
            problems += found + check_dataset(dataset, fingerprints[dataset.name])
        problems += check_group(datasets, fingerprints)
    sound = {name: without_broken(datasets, problems) for name, datasets in groups.items()}
    splits: dict[str, Splits] = {}
    for datasets in sound.values():
        for dataset in [dataset for dataset in datasets if dataset.cases]:  # else it is said already why there are none
            broken = {one.case_id for one in errors_of(problems) if one.dataset == dataset.name}
            made, found = make_or_keep(root.splits(dataset.name), dataset, test_fraction, request.replan, broken)
            if made is not None:
                splits[dataset.name] = msgspec.structs.replace(made, patient_pattern=told[dataset.name].pattern)
            problems += found
    for datasets in sound.values():
        whole = [dataset for dataset in datasets if dataset.name in splits]
        for dataset in whole:
            check = TASK_RULES[dataset.task].check_splits
            problems += check(dataset, splits[dataset.name]) if check is not None else []
            problems += check_patients(dataset, splits[dataset.name])
        problems += check_likeness(whole, fingerprints, splits, request.allow_duplicates)
        problems += check_thumbnails(
            whole,
            fingerprints,
            splits,
            lambda dataset, case: read_thumbnail(case.case_id, root.fingerprint_cache(dataset.name)),
        )
    sound = {
        name: [dataset for dataset in without_broken(datasets, problems) if dataset.name in splits]
        for name, datasets in sound.items()
    }
    sound = {name: kept for name, kept in sound.items() if kept}
    splits = {
        dataset.name: only_those_of(splits[dataset.name], dataset)
        for datasets in sound.values()
        for dataset in datasets
    }
    if not request.exclude_broken:
        problems = [one for one in problems if not _comes_of_broken(one, groups, problems)]
    _report(root, problems, request.exclude_broken)
    if not sound:
        raise DatasetError(f"{root.raw}: every data set has errors; see {root.integrity}")
    for datasets in sound.values():
        for dataset in datasets:
            test = frozenset(splits[dataset.name].test)
            fingerprints[dataset.name] = _to_plan_from(fingerprints[dataset.name], dataset, test, root)
            write_json(root.fingerprint(dataset.name), fingerprints[dataset.name])
    return Verified(sound, fingerprints, splits, tuple(problems))


def _comes_of_broken(one: Problem, groups: Mapping[str, Sequence[Dataset]], problems: Sequence[Problem]) -> bool:
    """Whether a problem of a whole data set may be gone with the errors of its cases, which are named already."""
    if one.kind == "too-few-cases":
        return not _lacks_patients(one.dataset, groups, problems)
    own = [error for error in errors_of(problems) if error.dataset == one.dataset and error.case_id]
    causes = CAUSES.get(one.kind, ())
    return any(error.kind.startswith(causes) for error in own)


def _lacks_patients(name: str, groups: Mapping[str, Sequence[Dataset]], problems: Sequence[Problem]) -> bool:
    """Whether a data set would have too few patients even with the cases that have errors."""
    dataset = next(one for datasets in groups.values() for one in datasets if one.name == name)
    known = {case.case_id for case in dataset.cases}
    broken = {one.case_id for one in errors_of(problems) if one.dataset == name} - known - {""}
    return len({case.patient_id for case in dataset.cases}) + len(broken) < MIN_PATIENTS


def find_groups(root: Root, group: str | None = None) -> tuple[dict[str, list[Dataset]], list[Problem]]:
    """Data sets of the raw folder by group (all, or the one named: CT or CT_segmentation), and what is wrong.

    A data set with an error of its own is left out, and a warning says so. What is wrong with data sets of other groups
    than the one named does not count. Raises DatasetError where there is none.
    """
    groups, problems = _groups_of(root, group)
    if not groups:
        raise DatasetError(_no_groups(root, problems))
    return groups, problems


def _groups_of(
    root: Root, group: str | None, *, broken_too: bool = False
) -> tuple[dict[str, list[Dataset]], list[Problem]]:
    """See :func:`find_groups`. ``broken_too``: data sets with errors as well; there may be none at all."""
    datasets, problems = find_datasets(root.raw)
    if not broken_too:
        _name_some(errors_of(problems))
        datasets = without_broken(datasets, problems)
    groups: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        groups.setdefault(dataset.group, []).append(dataset)
    if group is not None:
        meant = [group.lower(), *(f"{group}_{task}".lower() for task in TASK_DATA)]
        wanted = [name for name in groups if name.lower() in meant]
        if not wanted:
            raise DatasetError(f"{root.raw}: no group {group!r}; found: {', '.join(sorted(groups)) or 'none'}")
        groups = {name: groups[name] for name in wanted}
        chosen = {dataset.name for datasets in groups.values() for dataset in datasets}
        for one in problems:
            if one.severity == "error" and one.dataset not in chosen and broken_too:
                logger.warning("not of group %s, or of unknown group: %s", group, one)
        problems = [one for one in problems if one.dataset in chosen]
    return groups, problems


def _no_groups(root: Root, problems: Sequence[Problem]) -> str:
    if any(one.kind != "no-data-sets" for one in problems):
        return f"{root.raw}: no data set can be used:\n{problems_text(problems)}"
    return f"{root.raw}: no data set of any task; {KINDS['no-data-sets'].remedy}"


def _name_some(errors: list[Problem]) -> None:
    """The first errors of each kind in each data set, and how many more there are."""
    for dataset, kind in dict.fromkeys((one.dataset, one.kind) for one in errors):
        of_kind = [one for one in errors if (one.dataset, one.kind) == (dataset, kind)]
        for one in of_kind[:CASES_SHOWN]:
            logger.warning("left out: %s", one)
        if len(of_kind) > CASES_SHOWN:
            logger.warning(
                "left out: %d more such in %s; mdkd_plan_and_preprocess --verify-only lists them all",
                len(of_kind) - CASES_SHOWN,
                dataset,
            )


def dataset_names(root: Root, group: str | None = None) -> list[str]:
    """Names of the data sets that can be planned."""
    groups, _ = find_groups(root, group)
    return [dataset.name for datasets in groups.values() for dataset in datasets]


def _report(root: Root, problems: list[Problem], exclude_broken: bool) -> None:
    """Write all problems, show them, and stop at errors."""
    errors = errors_of(problems)
    _write_report(root, problems)
    if not errors or exclude_broken:
        logger.info("integrity: %s-> %s", problems_text(problems, full=False), root.integrity)
        for dataset in dict.fromkeys(one.dataset for one in errors):
            _say_left_out(dataset, list(dict.fromkeys(one.case_id for one in errors if one.dataset == dataset)))
        return
    raise DatasetError(
        f"the data have errors; nothing was planned.\n{problems_text(problems, full=False)}"
        f"-> {root.integrity}\nMend them, or leave the broken cases out with --exclude-broken"
    )


def _say_left_out(dataset: str, cases: list[str]) -> None:
    """Each case; of many only how many, since the list of errors names them. "" stands for the whole data set."""
    if "" in cases:
        logger.warning("left out: %s", dataset)
    elif len(cases) > CASES_SHOWN:
        logger.warning("left out: the %d cases of %s with errors", len(cases), dataset)
    else:
        for case in cases:
            logger.warning("left out: case %s of %s", case, dataset)


def _write_report(root: Root, problems: list[Problem]) -> None:
    write_json(root.integrity, problems)
    write_text(root.integrity.with_suffix(".txt"), problems_text(problems))


def _to_plan_from(fingerprint: Fingerprint, dataset: Dataset, test: frozenset[str], root: Root) -> Fingerprint:
    """The fingerprint of the cases that the data set still has, without those that are tested on."""
    kept = {case.case_id for case in dataset.cases}
    cases = [case for case in fingerprint.cases if case.case_id in kept]
    if not test and len(cases) == len(fingerprint.cases):
        return fingerprint
    return pooled_fingerprint(dataset, cases, root.fingerprint_cache(dataset.name), test)


# --- planning and preprocessing -------------------------------------------------------------------------------------


def _check_used(request: PlanRequest, tasks: set[Task]) -> None:
    """Raise SettingsError for a size that no group here has a use for."""
    patches = {TASK_DATA[task].masks for task in tasks}  # of the others whole images
    if request.patch_size is not None and patches == {False}:
        raise SettingsError(
            "--patch-size is for segmentation, and there is no such group here; --input-size is the "
            "side of whole images"
        )
    if request.input_size is not None and patches == {True}:
        raise SettingsError(
            "--input-size is for classification and detection, and there is no such group here; "
            "--patch-size is the patch of a segmentation group"
        )


def _plan(
    root: Root, name: str, datasets: list[Dataset], fingerprints: Mapping[str, Fingerprint], request: PlanRequest
) -> Plan:
    """Plan one group; says on the screen what was decided and what changed."""
    path = root.plan(name)
    previous = read_plan(path) if path.is_file() else None
    names = {dataset.name for dataset in datasets}
    channels = {dataset: channel for dataset, channel in request.channels.items() if dataset in names}
    plan = plan_group(datasets, fingerprints, msgspec.structs.replace(request, channels=channels), previous)
    refuse(path, faults_of_plan(plan), PlanError, "Ask for other sizes, or look at the data sets' spacings")
    text = plan_text(plan)
    if previous is not None:
        changes = describe_changes(previous, plan)
        text += "\nChanges since the last plan:\n" + "\n".join(f"  {change}" for change in changes or ("none",)) + "\n"
    write_json(path, plan)
    write_text(path.with_suffix(".txt"), text)
    logger.info("%s\n-> %s", text, path)
    return read_plan(path)  # as training reads it: a spacing of 4 is 4.0 there


def _preprocess(
    root: Root, plan: Plan, datasets: list[Dataset], configurations: tuple[Configuration, ...], workers: int
) -> Outcome:
    """Preprocess the data sets of one group in the configurations asked for (all by default)."""
    done = skipped = 0
    problems = []
    for part in plan.configurations:
        if configurations and part.configuration not in configurations:
            continue
        for dataset in [dataset for dataset in datasets if dataset.name in part.datasets]:
            folder = root.cases(dataset.name, part.configuration)
            with progress(f"preprocessing {dataset.name} {part.configuration}") as advance:
                outcome = preprocess_dataset(dataset, plan, part.configuration, folder, workers, advance)
            logger.info(
                "%s %s: %d preprocessed, %d unchanged, %d failed -> %s",
                dataset.name,
                part.configuration,
                outcome.done,
                outcome.skipped,
                len(outcome.failed),
                folder,
            )
            done, skipped = done + outcome.done, skipped + outcome.skipped
            problems += [f"{dataset.name}, case {case}: {problem}" for case, problem in outcome.failed]
    return Outcome(done, skipped, tuple(problems))


@contextmanager
def _alone(root: Root) -> Iterator[None]:
    """Two commands may not plan one root at a time: the second waits."""
    make_folder(root.preprocessed)
    lock = FileLock(root.preprocessed / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another command is planning in %s; waiting for it", root.folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
