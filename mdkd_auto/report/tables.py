"""Tables: every target, columns side by side, each number with its n and the spread of its replicates, and verdicts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mdkd_auto.core.files import content_hash, write_json, write_text
from mdkd_auto.core.tables import table_text
from mdkd_auto.datasets.problems import errors_of
from mdkd_auto.experiments.ablations import SPECIFIC
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import is_finished
from mdkd_auto.report.comparison import COLUMNS, Entry, Layout, Row, Trained, row_of
from mdkd_auto.report.table_markdown import not_scored_text, table_markdown
from mdkd_auto.report.verdicts import Verdict, verdict_text, verdicts
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.shared.coverage import NAMED
from mdkd_auto.tasks.task_scores import TASK_SCORES

logger = logging.getLogger(__name__)

CSV_COLUMNS = ("target", "part", "level", "column", "run", "metric", "unit", "mean", "std", "n", "left_out", "problem")


class Table(NamedTuple):
    """Where the table was written, and its text."""

    path: Path
    markdown: str
    rows: tuple[Row, ...]
    layout: Layout
    left_out: tuple[str, ...] = ()  # data sets of the plan that are no target here, and why

    @property
    def problems(self) -> tuple[str, ...]:
        """What the scores leave out, for the end of a command. Of many cases of a target the table names all."""
        problems = list(self.left_out)
        for row in self.rows:
            said = not_scored_text(row)
            problems += said[:NAMED]
            if len(said) > NAMED:
                problems.append(f"{row.target}: {len(said) - NAMED} more cases that are not scored; see {self.path}")
        return tuple(problems)


def log_table(table: Table) -> None:
    """Show a table and where it was written."""
    logger.info("%s\ntable -> %s", table.markdown, table.path)


# --- what stands in a table ---------------------------------------------------------------------------------------


def permutation_table(replicates: Sequence[tuple[Experiment, list[Job]]], whole: bool = False) -> Table | None:
    """The table of all targets with a finished student, as Markdown, CSV and JSON; None without one.

    ``whole``: it is of the whole group, so a data set of the plan that is gone or has errors is said to be left out.
    """
    experiment = replicates[0][0]
    students = {
        job.target: job
        for other, jobs in replicates
        for job in jobs
        if stage_of(job).distils and is_finished(other.root, job)
    }
    entries = [
        Entry(
            target,
            student.sources,
            {
                column: tuple(_job_of(column, target, student.sources, *replicate) for replicate in replicates)
                for column in COLUMNS
            },
        )
        for target, student in sorted(students.items())
    ]
    said = replicates_text([other for other, _ in replicates])
    layout = Layout(
        title=f"{experiment.plan.group}, {experiment.configuration}, {said}",
        name=f"{experiment.configuration}_{said.replace(' ', '_').replace(',', '')}",
        columns=COLUMNS,
        references={"student": "data-set-specific"},
        question="Did the other data sets help?",
        scale=TASK_SCORES[experiment.plan.task].scale,
    )
    return write_table(experiment, layout, entries, _left_out(experiment) if whole else ())


def _left_out(experiment: Experiment) -> tuple[str, ...]:
    """Data sets of the plan that the raw folder no longer gives, each with the first of its errors."""
    planned = experiment.plan.configuration(experiment.configuration).datasets
    said = []
    for name in [name for name in planned if name not in experiment.datasets]:
        why = next(
            (str(one) for one in errors_of(experiment.problems) if one.dataset == name and not one.case_id),
            f"it is not among the data sets of {experiment.root.raw} any more",
        )
        said.append(f"{name}, left out though it is in the plan of {experiment.plan.group}: {why}")
    return tuple(said)


def _job_of(
    column: str, target: str, sources: tuple[str, ...], experiment: Experiment, jobs: list[Job]
) -> Trained | None:
    """The finished job of a column; none where the target has not the fold, whatever a multi-head model is of."""
    for job in jobs if experiment.has_fold(target) else ():
        stage = stage_of(job)
        fits = stage.column == column and stage.serves(job, target, sources)
        if column == SPECIFIC:
            fits = fits and _same_network(job, jobs)
        if fits and is_finished(experiment.root, job):
            return experiment, job
    return None


def _same_network(teacher: Job, jobs: list[Job]) -> bool:
    """Whether a teacher is of the students' kind, and so their baseline."""
    students = {(job.architecture, job.width) for job in jobs if stage_of(job).distils}
    return not students or (teacher.architecture, teacher.width) in students


def replicates_text(experiments: Sequence[Experiment]) -> str:
    """Fold 0; or 5 folds, 3 seeds."""
    seeds = {experiment.settings.seed for experiment in experiments}
    folds = sorted({experiment.settings.fold for experiment in experiments})
    text = f"fold {folds[0]}" if len(folds) == 1 else f"{len(folds)} folds"
    return text if len(seeds) == 1 else f"{text}, {len(seeds)} seeds"


def write_table(
    experiment: Experiment, layout: Layout, entries: Sequence[Entry], left_out: tuple[str, ...] = ()
) -> Table | None:
    """Write a table as Markdown, CSV and JSON beside the runs; None without a finished run in a judged column."""
    made = [row_of(layout, entry) for entry in entries]
    rows = tuple(row for row in made if any(row.summaries.get(column) for column in layout.references))
    if not rows:
        return None
    keys = [
        job.identity["key"]
        for entry in entries
        for column in layout.references
        for _, job in filter(None, entry.columns.get(column, ()))
    ]
    name = f"table_{layout.name}__{content_hash(keys)[:8]}"
    path = experiment.root.results / experiment.plan.group / f"{name}.md"
    judged = verdicts(layout, rows)
    markdown = table_markdown(experiment.settings, layout, rows, judged, left_out)
    write_text(path, markdown)
    write_text(path.with_suffix(".csv"), _csv(layout, rows))
    write_json(path.with_suffix(".json"), [_row_without_cases(row, judged[row.target], layout) for row in rows])
    return Table(path, markdown, rows, layout, left_out)


# --- CSV and JSON -----------------------------------------------------------------------------------------------------


def _csv(layout: Layout, rows: Sequence[Row]) -> str:
    lines: list[list[object]] = []
    for row in rows:
        for column in layout.columns:
            for run, summary in zip(row.folders.get(column, ()), row.summaries.get(column, ()), strict=True):
                levels = (("image", summary.overall(False)), ("patient", summary.overall(True)))
                for level, mean in levels:
                    for metric in layout.scale.metrics if mean is not None else ():
                        value = mean.metrics[metric]  # type: ignore[union-attr]
                        unit = summary.unit if metric == "hd95" else ""
                        lines.append(
                            [
                                row.target,
                                row.part,
                                level,
                                column,
                                run,
                                metric,
                                unit,
                                value.mean,
                                value.std,
                                value.evaluable,
                                value.left_out,
                                None,
                            ]
                        )
        for one in row.not_scored:
            said = f"{one.case_id}: {one.problem}"
            for column in one.columns:
                lines.append([row.target, one.part, "not scored", column, *[None] * 7, said])
    return table_text(CSV_COLUMNS, lines)


def _row_without_cases(row: Row, judged: dict[str, Verdict], layout: Layout) -> dict[str, object]:
    """The row as JSON, without cases: they are in the runs' own summaries."""
    return {
        "target": row.target,
        "sources": row.sources,
        "part": row.part,
        "folders": row.folders,
        "checks": row.checks,
        "comparisons": row.comparisons,
        "verdicts": {name: verdict_text(verdict, layout, name) for name, verdict in judged.items()},
        "outcomes": {name: verdict.outcome for name, verdict in judged.items()},
        "updates": row.updates,
        "not_scored": row.not_scored,
        "means": {column: [summary.overall(False) for summary in some] for column, some in row.summaries.items()},
    }
