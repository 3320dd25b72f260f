"""The stages in order, one named call a line. Read this first; every command is one of these functions.

verify                 raw/ -> what is wrong with it (preparation.py)
plan_and_preprocess    raw/ -> fingerprints -> group plan -> splits -> preprocessed cases (preparation.py)
train_all_permutations plan -> jobs -> teachers -> joint teachers -> students, baselines -> table
train                  the same for one target and chosen sources
ablate                 variants of the method side by side, by name
predict                images + a run folder -> masks in the images' own geometry, classes, or boxes (prediction.py)
evaluate               masks, classes or boxes + a raw data set -> scores (execution/score_folder.py)
"""

import logging
from collections.abc import Collection, Sequence

from mdkd_auto.core.errors import DatasetError, PlanError, SettingsError, TrainingError
from mdkd_auto.core.limits import read_plan
from mdkd_auto.core.paths import Root
from mdkd_auto.core.records import Dataset
from mdkd_auto.core.settings import TASK_SETTINGS, Settings, replace
from mdkd_auto.datasets.case_names import listed
from mdkd_auto.datasets.lost_cases import cases_without_part
from mdkd_auto.datasets.patients import with_patients
from mdkd_auto.datasets.problems import Problem
from mdkd_auto.datasets.raw_folder import find_name, folder_names
from mdkd_auto.datasets.split_checks import check_stored
from mdkd_auto.datasets.splits import read_splits
from mdkd_auto.execution.estimate import dry_run_text, stale_runs
from mdkd_auto.execution.evaluate_run import not_scored
from mdkd_auto.execution.run_folder import find_student, finished_students
from mdkd_auto.execution.run_job import check_settings, renew_scores, run_jobs, warn_of_pretrained
from mdkd_auto.execution.score_folder import evaluate
from mdkd_auto.experiments.ablations import ABLATIONS, find_ablation
from mdkd_auto.experiments.jobs import Experiment, JobMaker
from mdkd_auto.prediction import predict
from mdkd_auto.preparation import dataset_names, find_groups, plan_and_preprocess, verify
from mdkd_auto.report.ablation import ablation_entry, ablation_table
from mdkd_auto.report.figures import draw_ablation, draw_figures, number_of_figures
from mdkd_auto.report.tables import Table, permutation_table
from mdkd_auto.stages.hierarchy import in_order, stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.shared.coverage import cases_in_words, shortened

__all__ = [
    "ablate",
    "dataset_names",
    "evaluate",
    "find_name",
    "find_student",
    "plan_and_preprocess",
    "predict",
    "tables",
    "train",
    "train_all_permutations",
    "verify",
]

logger = logging.getLogger(__name__)

# --- training -------------------------------------------------------------------------------------------------------


def train_all_permutations(
    root: Root,
    settings: Settings,
    group: str | None = None,
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
    dry_run: bool = False,
) -> list[Table]:
    """Every target against all the others of its group (of every group without ``group``), then the table.

    With several ``seeds`` (counted from ``settings.seed``) and ``folds`` (from 0) all of it is trained for each.
    """
    made = [
        [(one, JobMaker(one).all_permutations(tuple(one.datasets))) for one in replicated(experiment, seeds, folds)]
        for experiment in _experiments(root, settings, group, configuration)
    ]
    tables = [_train(replicates, dry_run, whole=True) for replicates in made]
    return [table for table in tables if table is not None]


def train(
    root: Root,
    settings: Settings,
    target: str,
    sources: tuple[str, ...] = (),
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
    dry_run: bool = False,
) -> Table | None:
    """One permutation: ``target`` with ``sources`` (names or numbers; default all the others of its group)."""
    groups, problems = find_groups(root)
    group_of = {dataset.name: name for name, datasets in groups.items() for dataset in datasets}
    target = find_name(target, list(group_of), left_out(root, group_of))
    group = group_of[target]
    check_named(settings, groups[group])
    experiment = make_experiment(root, group, groups[group], settings, configuration, problems)
    if experiment is None or target not in experiment.datasets:
        raise PlanError(f"{target}: takes no part in {configuration}; its plan is {root.plan(group)}")
    others = [name for name in experiment.datasets if name != target]
    elsewhere = {
        name: f"is in group {of}; sources are in that of the target, {group}"
        if of != group
        else f"takes no part in {configuration}"
        for name, of in group_of.items()
    }
    refused = {**left_out(root, group_of), **elsewhere, target: "is the target; give other data sets as sources"}
    chosen = tuple(find_name(source, others, refused) for source in sources) or tuple(others)
    wanted = tuple(sorted(set(chosen)))
    of_target = having_fold(replicated(experiment, seeds, folds), target)
    replicates = [(one, JobMaker(one).permutation(target, wanted)) for one in of_target]
    return _train(replicates, dry_run)


def ablate(
    root: Root,
    settings: Settings,
    name: str,
    group: str | None = None,
    targets: tuple[str, ...] = (),
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
    dry_run: bool = False,
) -> list[Table]:
    """Run what an ablation still needs, for every target of a group (or those named), and write its table."""
    ablation = find_ablation(name)
    tables = []
    experiments = _experiments(root, settings, group, configuration)
    fitting = [experiment for experiment in experiments if ablation.is_for(experiment.plan.task)]
    if experiments and not fitting:
        tasks = {experiment.plan.task for experiment in experiments}
        others = ", ".join(other for other, one in ABLATIONS.items() if any(one.is_for(task) for task in tasks))
        raise SettingsError(
            f"ablation {name!r} is for {' and '.join(ablation.tasks)}, not for the groups here; for "
            f"{' and '.join(sorted(tasks))} there are {others}"
        )
    known = [name for experiment in fitting for name in experiment.datasets]
    chosen = {find_name(target, known, left_out(root, known)) for target in targets}
    for experiment in fitting:
        replicates = replicated(experiment, seeds, folds)
        wanted = [
            name
            for name in experiment.datasets
            if name in chosen or (not targets and any(one.has_fold(name) for one in replicates))
        ]
        entries = [ablation_entry(ablation, having_fold(replicates, target), target) for target in wanted]
        trained = [one for entry in entries for column in entry.trainings.values() for one in column]
        for own, _ in trained:
            check_settings(own)
        needed = [(own, job) for own, jobs in trained for job in jobs]
        warn_of_pretrained(needed)
        if dry_run:
            figures = number_of_figures(experiment, len(wanted), ablation=True)
            logger.info("%s", dry_run_text(experiment, in_order([job for _, job in needed]), figures))
            continue
        run_jobs(needed)
        table = ablation_table(name, ablation, replicates, entries)
        if table is not None:
            logger.info("%s\ntable -> %s", table.markdown, table.path)
            draw_ablation(name, experiment, table)
            tables.append(table)
    return tables


def replicated(experiment: Experiment, seeds: int, folds: int) -> list[Experiment]:
    """The experiment with so many seeds, counted from its own, and folds, counted from 0 (its own fold if one).

    Says which data sets have fewer folds: as targets they have no replicate of the others.
    """
    if seeds < 1 or folds < 1:
        raise SettingsError(f"seeds is {seeds} and folds is {folds}; each must be 1 or more")
    settings = experiment.settings
    chosen = range(folds) if folds > 1 else (settings.fold,)
    made = [
        experiment._replace(settings=replace(settings, seed=settings.seed + seed, fold=fold))
        for fold in chosen
        for seed in range(seeds)
    ]
    for one in made:
        check_settings(one)
    fewer = {name: len(splits.folds) for name, splits in experiment.splits.items() if len(splits.folds) <= chosen[-1]}
    if fewer:
        said = ", ".join(f"{name} has {number} fold{'s' if number > 1 else ''}" for name, number in fewer.items())
        logger.info("%s: no replicates of the others with it as target; as a source its last fold serves", said)
    return made


def left_out(root: Root, known: Collection[str]) -> dict[str, str]:
    """The data sets of the raw folder that are not ``known``, and a word why."""
    why = "cannot be used here: it has errors, another group or configuration, or is not planned"
    return {name: why for name in folder_names(root.raw) if name not in known}


def having_fold(replicates: list[Experiment], target: str) -> list[Experiment]:
    """Those whose fold the target has. Raises SettingsError where there is none."""
    having = [one for one in replicates if one.has_fold(target)]
    if not having:
        settings, most = replicates[0].settings, len(replicates[0].splits[target].folds)
        raise SettingsError(
            f"fold is {settings.fold}; {target} has {most} fold{'s' if most > 1 else ''}, numbered "
            f"from 0; give --fold {most - 1} or less"
        )
    return having


def _experiments(root: Root, settings: Settings, group: str | None, configuration: str) -> list[Experiment]:
    """Those of every group asked for, made before anything is trained: a missing plan is said at once."""
    groups, problems = find_groups(root, group)
    check_named(settings, [dataset for datasets in groups.values() for dataset in datasets])
    made = [
        make_experiment(root, name, datasets, settings, configuration, problems) for name, datasets in groups.items()
    ]
    return [experiment for experiment in made if experiment is not None]


def check_named(settings: Settings, datasets: list[Dataset]) -> None:
    """Raise SettingsError where a teacher's own network is for a data set that is not there."""
    named = {dataset.short_name: set(TASK_SETTINGS[dataset.task].teachers_of(settings)) for dataset in datasets}
    numbers = sorted(number for number, some in named.items() if some)
    unknown = sorted(set.union(*named.values()) - set(numbers))
    if unknown:
        raise SettingsError(
            f"architecture_of names {', '.join(map(repr, unknown))}, which is no data set here; "
            f"expected three digits, of {', '.join(numbers)}"
        )


def make_experiment(
    root: Root,
    group: str,
    datasets: list[Dataset],
    settings: Settings,
    configuration: str,
    problems: Sequence[Problem] = (),
) -> Experiment | None:
    """What the jobs of a group are made from; None where the group has no such configuration (said in the log).

    ``problems`` of the raw folder say why cases of the stored splits are gone.
    """
    path = root.plan(group)
    if not path.is_file():
        raise PlanError(f"{path}: {group} is not planned yet; run mdkd_plan_and_preprocess first")
    plan = read_plan(path)
    if configuration not in [part.configuration for part in plan.configurations]:
        there = ", ".join(part.configuration for part in plan.configurations)
        logger.warning("%s: has no configuration %s; its plan has %s (-c)", group, configuration, there)
        return None
    part = plan.configuration(configuration)
    found = {dataset.name: dataset for dataset in datasets if dataset.name in part.datasets}
    for dataset in datasets:
        if dataset.name not in [entry.dataset for entry in plan.datasets]:
            logger.warning("%s: not in the plan of %s; run mdkd_plan_and_preprocess to include it", dataset.name, group)
    for name in set(part.datasets) - set(found):
        logger.warning("%s: in the plan of %s but no longer in %s; left out", name, group, root.raw)
    unsplit = [name for name in found if not root.splits(name).is_file()]
    if unsplit:
        raise PlanError(f"{', '.join(unsplit)}: no splits yet; run mdkd_plan_and_preprocess and mend what it names")
    splits = {name: read_splits(root.splits(name)) for name in found}
    found = {name: with_patients(dataset, splits[name].patient_pattern)[0] for name, dataset in found.items()}
    for name, dataset in found.items():
        try:
            check_stored(splits[name], dataset)
        except DatasetError as error:
            raise PlanError(f"{root.splits(name)}: {error}") from None
    if ignored := settings.without_effect(plan.task):
        words = "%s: %s set, but without effect on %s; docs/settings.md says what holds there"
        logger.warning(words, group, f"{', '.join(ignored)} {'is' if len(ignored) == 1 else 'are'}", plan.task)
    experiment = Experiment(root, plan, found, splits, settings.for_task(plan.task), configuration, tuple(problems))
    check_settings(experiment)
    for name in found:
        _warn_of_cases(experiment, name)
    return experiment


def _warn_of_cases(experiment: Experiment, name: str) -> None:
    """Name the cases that the stored splits name and that are gone, that they leave out, or that are not stored."""
    lost, stored = experiment.lost(name), experiment.root.splits(name)
    if lost:
        said = listed([f"{case}: {why}" for case, why in lost.items()])
        logger.warning("%s: %s of %s can no longer be read:%s", name, cases_in_words(len(lost)), stored, said)
    if unused := cases_without_part(experiment.datasets[name], experiment.splits[name]):
        words = "%s: in no part of %s, and so neither trained nor tested on: %s (%s); plan again to deal them out"
        logger.warning(words, name, stored, shortened(unused), cases_in_words(len(unused)))
    if missing := experiment.not_preprocessed(name):
        words = "%s %s: %d cases are not preprocessed and left out: %s. mdkd_plan_and_preprocess makes what it can"
        logger.warning(words, name, experiment.configuration, len(missing), shortened(missing))


def _train(replicates: list[tuple[Experiment, list[Job]]], dry_run: bool, whole: bool = False) -> Table | None:
    experiment = replicates[0][0]
    for one, jobs in replicates:
        for stale in stale_runs(one.root, jobs):
            logger.info("no longer matches, kept but not used: %s\n    %s", stale.folder, "\n    ".join(stale.changes))
    if len(experiment.datasets) < 2:
        group = experiment.plan.group
        logger.warning("%s: one data set has nothing to learn from; only its own model is trained", group)
    needed = [(one, job) for one, jobs in replicates for job in jobs]
    warn_of_pretrained(needed)
    if dry_run:
        figures = number_of_figures(experiment, len({job.target for _, job in needed if stage_of(job).distils}))
        logger.info("%s", dry_run_text(experiment, [job for _, job in needed], figures))
        return None
    run_jobs(needed)
    table = permutation_table(replicates, whole)
    if table is None and (unscored := [said for one in needed for said in not_scored(*one)]):
        raise TrainingError(f"cases are not scored; the rest is done:{listed(unscored)}")
    if table is not None:
        logger.info("%s\ntable -> %s", table.markdown, table.path)
        draw_figures(experiment, table)
    return table


# --- tables ---------------------------------------------------------------------------------------------------------


def tables(
    root: Root,
    settings: Settings,
    group: str | None = None,
    *,
    configuration: str = "2d",
    seeds: int = 1,
    folds: int = 1,
) -> list[Table]:
    """Write the tables of what is trained, without training anything. Raises TrainingError where nothing is.

    Runs whose images or truths changed since they were scored are scored again.
    """
    written = []
    for experiment in _experiments(root, settings, group, configuration):
        replicates = replicated(experiment, seeds, folds)
        made = [(one, JobMaker(one).all_permutations(tuple(one.datasets))) for one in replicates]
        renew_scores([(one, job) for one, jobs in made for job in jobs])
        table = permutation_table(made, whole=True)
        if table is not None:
            draw_figures(experiment, table)
            written.append(table)
    if not written:
        others = sorted({of for of in finished_students(root).values() if of != configuration})
        hint = f"; there are finished students in {' and '.join(others)} (-c)" if others else ""
        raise TrainingError(
            f"{root.results}: no finished student has these settings in {configuration}{hint}; train, "
            "or give the same settings"
        )
    return written
