"""Replicates: the same experiment trained with several seeds and folds."""

import logging
from collections.abc import Sequence

from mdkd_auto.core.errors import SettingsError
from mdkd_auto.core.settings import replace
from mdkd_auto.experiments.experiment import Experiment, check_settings
from mdkd_auto.experiments.jobs import JobMaker
from mdkd_auto.experiments.selection import Permutation
from mdkd_auto.stages.job import Job

logger = logging.getLogger(__name__)

Replicate = tuple[Experiment, list[Job]]  # an experiment with one seed and fold, and its jobs in order


def replicated(experiment: Experiment, seeds: int, folds: int) -> list[Experiment]:
    """The experiment with each seed, counted from its own, and each fold, counted from 0 (its own fold if one).

    Logs which data sets have fewer folds: as targets they lack those replicates.
    """
    if seeds < 1 or folds < 1:
        raise SettingsError(f"seeds is {seeds} and folds is {folds}; each must be 1 or more")
    settings = experiment.settings
    chosen = range(folds) if folds > 1 else (settings.fold,)
    replicates = [
        experiment._replace(settings=replace(settings, seed=settings.seed + seed, fold=fold))
        for fold in chosen
        for seed in range(seeds)
    ]
    for replicate in replicates:
        check_settings(replicate)
    fewer = {name: len(splits.folds) for name, splits in experiment.splits.items() if len(splits.folds) <= chosen[-1]}
    if fewer:
        counts = ", ".join(f"{name} has {_folds(number)}" for name, number in fewer.items())
        logger.info("%s: no replicates for its missing folds as a target; as a source its last fold is used", counts)
    return replicates


def having_fold(replicates: list[Experiment], target: str) -> list[Experiment]:
    """The replicates whose fold the target has. Raises SettingsError if there are none."""
    having = [replicate for replicate in replicates if replicate.has_fold(target)]
    if not having:
        settings, most = replicates[0].settings, len(replicates[0].splits[target].folds)
        raise SettingsError(
            f"fold is {settings.fold}; {target} has {_folds(most)}, numbered from 0; give --fold {most - 1} or less"
        )
    return having


def all_permutations(experiment: Experiment, seeds: int, folds: int) -> list[Replicate]:
    """Every data set as the target of all the others, per replicate."""
    replicates = replicated(experiment, seeds, folds)
    return [(replicate, JobMaker(replicate).all_permutations(tuple(replicate.datasets))) for replicate in replicates]


def one_permutation(permutation: Permutation, seeds: int, folds: int) -> list[Replicate]:
    """One target with its sources, per replicate whose fold the target has."""
    experiment, target, sources = permutation
    replicates = having_fold(replicated(experiment, seeds, folds), target)
    return [(replicate, JobMaker(replicate).permutation(target, sources)) for replicate in replicates]


def jobs_of(replicates: Sequence[Replicate]) -> list[tuple[Experiment, Job]]:
    """Each job with the experiment it belongs to, in order."""
    return [(experiment, job) for experiment, jobs in replicates for job in jobs]


def _folds(number: int) -> str:
    return f"{number} fold{'s' if number != 1 else ''}"
