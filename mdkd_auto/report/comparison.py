"""What a table compares: columns side by side, target by target, over patients and replicates.

A column is one kind of model; its replicates are the same training with other seeds or folds.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from mdkd_auto.core.files import read_json
from mdkd_auto.core.paths import RunFolder
from mdkd_auto.core.records import DEFAULT_TASK, Record
from mdkd_auto.execution.evaluate_run import read_summary
from mdkd_auto.execution.run_folder import read_finished
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import is_finished
from mdkd_auto.metrics.classification import mcnemar
from mdkd_auto.metrics.statistics import Comparison, replicated_comparison
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.segmentation.scoring import Summary
from mdkd_auto.tasks.shared.evidence import Evidence, check_comparable
from mdkd_auto.tasks.shared.scored_part import TEST, VALIDATION, AnySummary
from mdkd_auto.tasks.task_scores import TASK_SCORES, Scale

COLUMNS = ("multi-head", "data-set-specific", "joint teacher", "student")
Trained = tuple[Experiment, Job]


class Contrast(NamedTuple):
    """A column and the column it is compared with."""

    column: str
    reference: str


class Layout(NamedTuple):
    """What a table compares: each judged column with its reference, and what else is asked."""

    title: str
    name: str  # in the names of its files
    columns: tuple[str, ...]
    references: Mapping[str, str]  # judged column -> the column it is compared with
    question: str
    scale: Scale = TASK_SCORES[DEFAULT_TASK].scale
    answers: tuple[str, str] = ("the other data sets helped", "the other data sets hurt")  # helped, hurt
    undecided: str = "no evidence that the other data sets helped or hurt"
    points_to_controls: bool = True  # a gain needs the controls to tell its cause
    further: tuple[Contrast, ...] = ()  # comparisons beside those of ``references``, below them
    further_question: str = ""
    further_reading: str = ""  # what their answers mean

    @property
    def contrasts(self) -> dict[str, Contrast]:
        """By name: that of the judged column; of a further one "student against self-distilled"."""
        judged = {column: Contrast(column, reference) for column, reference in self.references.items()}
        return judged | {f"{one.column} against {one.reference}": one for one in self.further}

    def answers_of(self, name: str) -> tuple[str, str]:
        """The words for a positive and a negative difference."""
        if name in self.references:
            return self.answers
        column, reference = self.contrasts[name]
        return f"{column} is ahead of {reference}", f"{column} is behind {reference}"


class Entry(NamedTuple):
    """One target of a table: for each column its job in every replicate, None where there is none."""

    target: str
    sources: tuple[str, ...]
    columns: dict[str, tuple[Trained | None, ...]]


class NotScored(Record, frozen=True, kw_only=True):
    """A case of a part that runs were to be scored on, and were not."""

    part: str  # validation or test
    case_id: str
    problem: str
    columns: tuple[str, ...]  # whose scores lack it


class Row(Record, frozen=True, kw_only=True):
    """One target of a table with the results; replicates that are not finished are left out of a column."""

    target: str
    sources: tuple[str, ...]
    part: str  # test, or validation where the splits leave no test part
    summaries: dict[str, tuple[AnySummary, ...]]  # by column, one a finished replicate
    folders: dict[str, tuple[str, ...]]  # by column
    checks: dict[str, dict[str, float | bool | str]]  # of the first joint teacher and student
    comparisons: dict[str, Comparison]  # by the names of Layout.contrasts, over patients
    updates: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)  # trained, by column, one a replicate
    not_scored: tuple[NotScored, ...] = ()

    def masks(self, column: str) -> Summary:
        """The first replicate of a column, in segmentation."""
        summary = self.summaries[column][0]
        assert isinstance(summary, Summary)
        return summary


def row_of(layout: Layout, entry: Entry) -> Row:
    """What a table says of a target. Raises TrainingError where its runs were scored from different files."""
    found: dict[str, list[AnySummary | None]] = {column: [] for column in layout.columns}
    folders: dict[str, tuple[str, ...]] = {}
    checks: dict[str, dict[str, float | bool | str]] = {}
    updates: dict[str, tuple[int, ...]] = {}
    compared: dict[int, list[tuple[str, Mapping[str, Evidence]]]] = {}  # by fold: of a test part all are in one
    failures: dict[tuple[str, str, str], list[str]] = {}  # part, case and problem -> columns
    part = VALIDATION
    for column, replicates in entry.columns.items():
        for trained in replicates:
            if trained is None or not is_finished(trained[0].root, trained[1]):
                found[column].append(None)
                continue
            experiment, job = trained
            part = TEST if experiment.splits[entry.target].test else VALIDATION
            run = RunFolder(experiment.root.results / job.folder)
            dataset = stage_of(job).head_of(entry.target)
            summary = read_summary(run, part, dataset, experiment.plan.task)
            found[column].append(summary)
            validation = None if part == VALIDATION else read_summary(run, VALIDATION, dataset, experiment.plan.task)
            for name, one in ((part, summary), (VALIDATION, validation)):
                for case, problem in one.failed.items() if one is not None else ():
                    failures.setdefault((name, case, problem), []).append(column)
            if summary is not None:
                fold = 0 if part == TEST else experiment.fold_number(entry.target)
                compared.setdefault(fold, []).append((job.folder, summary.evidence))
                folders[column] = (*folders.get(column, ()), job.folder)
                trained_for = read_finished(run).updates
                updates[column] = (*updates.get(column, ()), trained_for)
            if (run.folder / "checks.json").is_file():
                checks.setdefault(column, read_json(run.folder / "checks.json", any_number=True))
    for runs in compared.values():
        check_comparable(entry.target, runs)
    comparisons = {}
    for name, (column, reference) in layout.contrasts.items():
        both = zip(found[column], found[reference], entry.columns.get(column, ()), strict=False)
        pairs = [(a, b, trained[0].settings.fold) for a, b, trained in both if a and b and trained]
        if pairs:
            ours, theirs, folds = zip(*pairs, strict=True)
            comparisons[name] = compare(ours, theirs, layout.scale.right_or_wrong, folds)
    return Row(
        target=entry.target,
        sources=entry.sources,
        part=part,
        folders=folders,
        checks=checks,
        comparisons=comparisons,
        summaries={column: tuple(filter(None, found[column])) for column in layout.columns if any(found[column])},
        updates=updates,
        not_scored=tuple(
            NotScored(part=name, case_id=case, problem=problem, columns=tuple(dict.fromkeys(columns)))
            for (name, case, problem), columns in failures.items()
        ),
    )


def compare(
    ours: Sequence[AnySummary],
    theirs: Sequence[AnySummary],
    right_or_wrong: bool = False,
    folds: Sequence[int] | None = None,
) -> Comparison:
    """Paired comparison over patients (cases where no patient has several), by replicate: DSC, classes averaged;
    F1 of boxes (without a true box 1 or 0); or right answers (``right_or_wrong``), whose test is McNemar's for one
    replicate of units that are wholly right or wrong."""
    scores = [[summary.score_by_unit() for summary in side] for side in (ours, theirs)]
    units = sorted(set().union(*scores[0], *scores[1]))  # with what one side lacks: it is counted as left out
    a, b = ([[replicate.get(unit) for unit in units] for replicate in side] for side in scores)
    comparison = replicated_comparison(a, b, folds=folds)
    if right_or_wrong and len(ours) == 1 and set(a[0] + b[0]) <= {0.0, 1.0}:
        p_value = mcnemar([bool(score) for score in a[0]], [bool(score) for score in b[0]])
        note = "" if p_value is not None else "no test: both are right and wrong on the same cases"
        return msgspec.structs.replace(comparison, p_value=p_value, note=note, test="McNemar", ranks_disagree=False)
    return comparison


def means_of(row: Row, column: str, per_volume: bool) -> list[Mean]:
    """One a replicate."""
    some = row.summaries.get(column, ())
    means = [summary.overall(per_volume) for summary in some]
    return [mean for mean in means if mean is not None]


def judged_scores(row: Row, column: str, scale: Scale) -> list[float]:
    """The judged score of a column, mean over images, one a replicate in which it is evaluable."""
    return values_of(means_of(row, column, per_volume=False), scale.metrics[0])


def values_of(means: Sequence[Mean], metric: str) -> list[float]:
    return [value for mean in means if (value := mean.metrics[metric].mean) is not None]
