"""Which experiments a command is about: groups, targets and sources by name or number."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from mdkd_auto.core.errors import PlanError, SettingsError
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Dataset
from mdkd_auto.core.settings import TASK_SETTINGS, Settings
from mdkd_auto.datasets.raw_folder import find_name, folder_names
from mdkd_auto.experiments.ablations import ABLATIONS, find_ablation
from mdkd_auto.experiments.experiment import Experiment, make_experiment
from mdkd_auto.preparation import find_groups


class Permutation(NamedTuple):
    """A target and the sources it learns from."""

    experiment: Experiment
    target: str
    sources: tuple[str, ...]


def experiments_of_groups(root: Root, settings: Settings, group: str | None, configuration: str) -> list[Experiment]:
    """One experiment per group (or the named one), all made before any is trained: a missing plan fails early."""
    groups, problems = find_groups(root, group)
    check_named(settings, [dataset for datasets in groups.values() for dataset in datasets])
    experiments = [
        make_experiment(root, name, datasets, settings, configuration, problems) for name, datasets in groups.items()
    ]
    return [experiment for experiment in experiments if experiment is not None]


def choose_permutation(
    root: Root, settings: Settings, target: str, sources: tuple[str, ...], configuration: str
) -> Permutation:
    """The experiment of the target's group; ``sources`` default to all its other data sets.

    Raises PlanError if the target is not part of the configuration, and DatasetError for a name that does not fit.
    """
    groups, problems = find_groups(root)
    group_of = {dataset.name: name for name, datasets in groups.items() for dataset in datasets}
    target = find_name(target, list(group_of), left_out(root, group_of))
    group = group_of[target]
    check_named(settings, groups[group])
    experiment = make_experiment(root, group, groups[group], settings, configuration, problems)
    if experiment is None or target not in experiment.datasets:
        raise PlanError(f"{target}: takes no part in {configuration}; its plan is {root.plan(group)}")
    others = [name for name in experiment.datasets if name != target]
    refused = {**left_out(root, group_of), **_unfit_sources(group_of, target, configuration)}
    chosen = tuple(find_name(source, others, refused) for source in sources) or tuple(others)
    return Permutation(experiment, target, tuple(sorted(set(chosen))))


def _unfit_sources(group_of: dict[str, str], target: str, configuration: str) -> dict[str, str]:
    """Why a data set cannot be a source of the target; consulted only for those that are not."""
    reasons = {
        name: f"is in group {group}; sources are in that of the target, {group_of[target]}"
        if group != group_of[target]
        else f"takes no part in {configuration}"
        for name, group in group_of.items()
    }
    return {**reasons, target: "is the target; give other data sets as sources"}


def experiments_for_ablation(
    name: str, root: Root, settings: Settings, group: str | None, configuration: str
) -> list[Experiment]:
    """The experiments whose task has the ablation. Raises SettingsError if none has, or for an unknown ablation."""
    ablation = find_ablation(name)
    experiments = experiments_of_groups(root, settings, group, configuration)
    fitting = [experiment for experiment in experiments if ablation.is_for(experiment.plan.task)]
    if experiments and not fitting:
        tasks = {experiment.plan.task for experiment in experiments}
        others = [other for other, known in ABLATIONS.items() if any(known.is_for(task) for task in tasks)]
        raise SettingsError(
            f"ablation {name!r} is for {' and '.join(ablation.tasks)}, not for the groups here; for "
            f"{' and '.join(sorted(tasks))} there are {', '.join(others)}"
        )
    return fitting


def choose_targets(root: Root, experiments: Sequence[Experiment], targets: tuple[str, ...]) -> set[str]:
    """Full names of the targets given by name or number; empty if none is given."""
    known = [name for experiment in experiments for name in experiment.datasets]
    return {find_name(target, known, left_out(root, known)) for target in targets}


def left_out(root: Root, known: Collection[str]) -> dict[str, str]:
    """Data sets of the raw folder that are not ``known`` -> why they cannot be chosen."""
    why = "cannot be used here: it has errors, another group or configuration, or is not planned"
    return {name: why for name in folder_names(root.raw) if name not in known}


def check_named(settings: Settings, datasets: list[Dataset]) -> None:
    """Raise SettingsError if ``architecture_of`` names a data set that is not there."""
    named = {dataset.short_name: set(TASK_SETTINGS[dataset.task].teachers_of(settings)) for dataset in datasets}
    numbers = sorted(number for number, architectures in named.items() if architectures)
    unknown = sorted(set.union(*named.values()) - set(numbers))
    if unknown:
        raise SettingsError(
            f"architecture_of names {', '.join(map(repr, unknown))}, which is no data set here; "
            f"expected three digits, of {', '.join(numbers)}"
        )
