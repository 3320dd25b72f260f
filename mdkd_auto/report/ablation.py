"""The table of an ablation: its variants side by side for every target."""

from collections.abc import Sequence
from typing import NamedTuple

from mdkd_auto.experiments.ablations import Ablation, variant_jobs
from mdkd_auto.experiments.jobs import Experiment, Job
from mdkd_auto.experiments.task_scores import TASK_SCORES
from mdkd_auto.report.comparison import Contrast, Entry, Layout
from mdkd_auto.report.tables import Table, replicates_text, write_table


class Trainings(NamedTuple):
    """What an ablation trains for one target: for each column its jobs in every replicate, the result last."""

    target: str
    sources: tuple[str, ...]
    trainings: dict[str, list[tuple[Experiment, list[Job]]]]


def ablation_entry(ablation: Ablation, replicates: Sequence[Experiment], target: str) -> Trainings:
    """The jobs of every variant."""
    sources = tuple(name for name in replicates[0].datasets if name != target)
    variants = ablation.variants(sources)
    return Trainings(
        target,
        sources,
        {variant.column: [variant_jobs(one, variant, target) for one in replicates] for variant in variants},
    )


def ablation_table(
    name: str, ablation: Ablation, replicates: Sequence[Experiment], entries: Sequence[Trainings]
) -> Table | None:
    """Write it; None where nothing is finished."""
    experiment, said = replicates[0], replicates_text(replicates)
    variants = [variant for entry in entries for variant in ablation.variants(entry.sources)]
    further = [Contrast(variant.column, other) for variant in variants for other in ablation.against(variant)[1:]]
    columns = tuple(dict.fromkeys(column for entry in entries for column in entry.trainings))
    layout = Layout(
        title=f"{experiment.plan.group}, {experiment.configuration}, {said}: ablation {name}",
        name=f"{name}_{experiment.configuration}_{said.replace(' ', '_').replace(',', '')}",
        columns=columns,
        references={variant.column: others[0] for variant in variants if (others := ablation.against(variant))},
        question=ablation.question,
        scale=TASK_SCORES[experiment.plan.task].scale,
        answers=("better", "worse"),
        undecided="no evidence of a difference",
        further=tuple(dict.fromkeys(further)),
        further_question=ablation.further,
        further_reading=ablation.reading,
    )
    lines = [
        Entry(entry.target, entry.sources, {
            column: tuple((own, jobs[-1]) for own, jobs in some) for column, some in entry.trainings.items()
        })
        for entry in entries
    ]  # fmt: skip
    return write_table(experiment, layout, lines)
