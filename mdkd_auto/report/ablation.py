"""The table of an ablation: its variants side by side for every target."""

import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mdkd_auto.experiments.ablations import Ablation, find_ablation, variant_jobs
from mdkd_auto.experiments.experiment import Experiment, check_settings
from mdkd_auto.experiments.replicates import having_fold, replicated
from mdkd_auto.report.comparison import Contrast, Entry, Layout
from mdkd_auto.report.tables import Table, replicates_text, write_table
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.task_scores import TASK_SCORES

logger = logging.getLogger(__name__)


class Trainings(NamedTuple):
    """What an ablation trains for one target: for each column its jobs in every replicate, the result last."""

    target: str
    sources: tuple[str, ...]
    trainings: dict[str, list[tuple[Experiment, list[Job]]]]


class Study(NamedTuple):
    """An ablation of one experiment: its replicates, and what it trains for each target."""

    name: str
    ablation: Ablation
    replicates: list[Experiment]
    entries: list[Trainings]

    @property
    def experiment(self) -> Experiment:
        """The first replicate."""
        return self.replicates[0]

    @property
    def jobs(self) -> list[tuple[Experiment, Job]]:
        """Each job with the experiment it belongs to, in the order of the columns."""
        return [(own, job) for own, jobs in _trainings(self.entries) for job in jobs]


def ablation_study(name: str, experiment: Experiment, chosen: Collection[str], seeds: int, folds: int) -> Study:
    """The trainings of an ablation for the chosen targets; without any, for all that have one of the folds.

    Raises SettingsError where a variant's settings do not fit the plan, or a chosen target lacks the folds.
    """
    ablation, replicates = find_ablation(name), replicated(experiment, seeds, folds)
    targets = [
        target for target in experiment.datasets if (target in chosen if chosen else _any_fold(replicates, target))
    ]
    entries = [ablation_entry(ablation, having_fold(replicates, target), target) for target in targets]
    for own, _ in _trainings(entries):
        check_settings(own)
    return Study(name, ablation, replicates, entries)


def _any_fold(replicates: Sequence[Experiment], target: str) -> bool:
    return any(replicate.has_fold(target) for replicate in replicates)


def _trainings(entries: Sequence[Trainings]) -> list[tuple[Experiment, list[Job]]]:
    return [training for entry in entries for column in entry.trainings.values() for training in column]


def ablation_entry(ablation: Ablation, replicates: Sequence[Experiment], target: str) -> Trainings:
    """The jobs of every variant; a share of the labels that is no more patients than a smaller one is left out."""
    sources = tuple(name for name in replicates[0].datasets if name != target)
    trainings: dict[str, list[tuple[Experiment, list[Job]]]] = {}
    for variant in ablation.variants(sources):
        made = [variant_jobs(one, variant, target) for one in replicates]
        same = [column for column, some in trainings.items() if _results(some) == _results(made)]
        if same and "label_fraction" in variant.changes:
            logger.info("%s: %s is left out: of so few patients it is %s", target, variant.column, same[0])
            continue
        trainings[variant.column] = made
    return Trainings(target, sources, trainings)


def _results(trainings: Sequence[tuple[Experiment, list[Job]]]) -> list[str]:
    """Where the results of a column lie."""
    return [jobs[-1].folder for _, jobs in trainings]


def ablation_table(study: Study) -> Table | None:
    """Write the table; None if nothing is finished."""
    name, ablation, replicates, entries = study
    experiment, said = replicates[0], replicates_text(replicates)
    whole_first = sorted(entries, key=lambda entry: -len(entry.trainings))  # it has the columns in order
    variants = [
        variant
        for entry in whole_first
        for variant in ablation.variants(entry.sources)
        if variant.column in entry.trainings
    ]
    further = [Contrast(variant.column, other) for variant in variants for other in ablation.against(variant)[1:]]
    columns = tuple(dict.fromkeys(column for entry in whole_first for column in entry.trainings))
    layout = Layout(
        title=f"{experiment.plan.group}, {experiment.configuration}, {said}: ablation {name}",
        name=f"{name}_{experiment.configuration}_{said.replace(' ', '_').replace(',', '')}",
        columns=columns,
        references={variant.column: others[0] for variant in variants if (others := ablation.against(variant))},
        question=ablation.question,
        scale=TASK_SCORES[experiment.plan.task].scale,
        answers=("better", "worse"),
        undecided="no evidence of a difference",
        points_to_controls=False,
        further=tuple(dict.fromkeys(further)),
        further_question=ablation.further,
        further_reading=ablation.reading,
    )
    lines = [
        Entry(
            entry.target,
            entry.sources,
            {column: tuple((own, jobs[-1]) for own, jobs in some) for column, some in entry.trainings.items()},
        )
        for entry in entries
    ]
    return write_table(experiment, layout, lines)
