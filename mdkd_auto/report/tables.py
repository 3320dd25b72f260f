"""Tables: every target, columns side by side, each number with its n and the spread of its replicates, and verdicts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdkd_auto.core.files import content_hash, write_json, write_text
from mdkd_auto.core.settings import Settings
from mdkd_auto.core.tables import table_text
from mdkd_auto.datasets.problems import errors_of
from mdkd_auto.experiments.ablations import SPECIFIC
from mdkd_auto.experiments.experiment import Experiment
from mdkd_auto.experiments.jobs import is_finished
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.report.comparison import COLUMNS, HELPED, Entry, Layout, Row, Trained, means_of, row_of, values_of
from mdkd_auto.report.verdicts import verdicts
from mdkd_auto.stages.hierarchy import stage_of
from mdkd_auto.stages.job import Job
from mdkd_auto.tasks.shared.coverage import NAMED
from mdkd_auto.tasks.task_scores import TASK_SCORES

logger = logging.getLogger(__name__)

WHOSE_GAIN = (
    "A student learns on top of trained teachers. How much of a gain is the other data sets', and not that longer "
    "training's, only controls tell: `mdkd_ablate controls`."
)
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
            said = _not_scored(row)
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
    markdown = _markdown(experiment, layout, rows, left_out)
    write_text(path, markdown)
    write_text(path.with_suffix(".csv"), _csv(layout, rows))
    words = verdicts(layout, rows)
    write_json(path.with_suffix(".json"), [_row_without_cases(row, words[row.target]) for row in rows])
    return Table(path, markdown, rows, layout, left_out)


# --- writing --------------------------------------------------------------------------------------------------------


def _markdown(experiment: Experiment, layout: Layout, rows: Sequence[Row], left_out: tuple[str, ...] = ()) -> str:
    most = max(len(summaries) for row in rows for summaries in row.summaries.values())
    spread = " Behind ± the standard deviation of the replicates' means." if most > 1 else ""
    lines = [
        f"# {layout.title}",
        "",
        f"{_budget(experiment.settings, layout, rows)} Means over images; {layout.scale.note}{spread}",
    ]
    for metric in layout.scale.metrics:
        lines += ["", *_metric_table(layout, rows, metric, per_volume=False)]
    if any(one.overall(per_patient=True) for row in rows for some in row.summaries.values() for one in some):
        lines += ["", "## Per volume: the images of a patient together"]
        for metric in layout.scale.per_patient:
            lines += ["", *_metric_table(layout, rows, metric, per_volume=True)]
    lines += ["", f"## {layout.question}", ""]
    words = verdicts(layout, rows)
    said: list[str] = []
    further: list[str] = []
    for row in rows:
        for name, text in words[row.target].items():
            (said if name in layout.references else further).append(f"- {row.target} ({row.part}): {text}.")
    lines += said
    if any(f": {HELPED}{end}" in text for text in said for end in (".", ",")):
        lines += ["", WHOSE_GAIN]
    if further:
        lines += ["", f"## {layout.further_question}", "", *further, "", layout.further_reading]
    tested = sum(comparison.p_value is not None for row in rows for comparison in row.comparisons.values())
    if tested > 1:
        lines += ["", f"p after Holm: adjusted for all {tested} tests of this table."]
    if most == 1:
        lines += ["", "One run with one seed: differences of a few points can be chance."]
    if left_out or any(row.not_scored for row in rows):
        lines += ["", "## Not scored", "", "What plan and splits name and the scores above leave out.", ""]
        lines += [f"- {said}" for said in (*left_out, *(said for row in rows for said in _not_scored(row)))]
    if any(row.checks for row in rows):
        lines += ["", "## Checks", ""]
        lines += [f"- {row.target}: {_checks(row)}" for row in rows]
    lines += ["", "## Runs", ""]
    lines += [
        f"- {row.target}, {column}: `{folder}`"
        for row in rows
        for column, folders in row.folders.items()
        for folder in folders
    ]
    return "\n".join(lines) + "\n"


def _budget(settings: Settings, layout: Layout, rows: Sequence[Row]) -> str:
    """The updates allowed and, where not all trainings had as many, those that each column had."""
    words = (
        f"Seed {settings.seed}, at most {settings.epochs} epochs of {settings.iterations_per_epoch} updates for every "
        "column."
    )
    had = {
        column: sorted({count for row in rows for count in row.updates.get(column, ())}) for column in layout.columns
    }
    if len(set().union(*had.values())) < 2:
        return words
    ranges = [
        f"{column} {counts[0]:,}{f' to {counts[-1]:,}' if len(counts) > 1 else ''}"
        for column, counts in had.items()
        if counts
    ]
    return f"{words} Updates trained: {', '.join(ranges)}."


def _metric_table(layout: Layout, rows: Sequence[Row], metric: str, per_volume: bool) -> list[str]:
    units = {summary.unit for row in rows for some in row.summaries.values() for summary in some}
    scale = layout.scale
    title = f"HD95 ({' or '.join(sorted(units))})" if metric == "hd95" else scale.titles[metric]
    columns = layout.columns
    lines = [f"**{title}{' per patient' if per_volume else ''}**", "", "| target | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for row in rows:
        most = max(len(some) for some in row.summaries.values())
        cells = [
            _cell(means_of(row, column, per_volume), metric, metric in scale.in_percent, most) for column in columns
        ]
        unit = next((some[0].unit for some in row.summaries.values() if metric == "hd95" and len(units) > 1), "")
        lines.append(f"| {row.target}{f' ({unit})' if unit else ''} | " + " | ".join(cells) + " |")
    if metric == "hd95" and len(units) > 1:
        return lines  # millimetres and pixels have no mean
    factor = 100 if metric in scale.in_percent else 1
    means = []
    for column in columns:
        values = [np.mean(numbers) for row in rows if (numbers := values_of(means_of(row, column, per_volume), metric))]
        means.append(f"{factor * float(np.mean(values)):.1f} ({len(values)} targets)" if values else "-")
    lines.append("| mean | " + " | ".join(means) + " |")
    return lines


def _cell(means: Sequence[Mean], metric: str, in_percent: bool, most: int) -> str:
    """71.2 ± 0.8 (n=20), or a dash without an evaluable image; no ± for one replicate, a word if others have more."""
    values = values_of(means, metric)
    if not values:
        return "-"
    factor, digits = (100, 1) if in_percent else (1, 2)
    spread = f" ± {factor * float(np.std(values, ddof=1)):.{digits}f}" if len(values) > 1 else ""
    counts = sorted({mean.metrics[metric].evaluable for mean in means if mean.metrics[metric].mean is not None})
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    part = f", {len(values)} of {most} replicates" if len(values) < most else ""
    return f"{factor * float(np.mean(values)):.{digits}f}{spread} (n={shown}{part})"


def _checks(row: Row) -> str:
    """Of every joint teacher and student of a target."""
    words = []
    for column, check in row.checks.items():
        name = f"the {column}" if column in COLUMNS else column
        if "uses_sources" in check:
            does = "uses" if check["uses_sources"] else "IGNORES"
            words.append(
                f"{name} {does} its sources (silencing them changes its output by "
                f"{100 * float(check['output_change']):.1f} %)"
            )
        if "distilled" in check:
            is_ = "is" if check["distilled"] else "is NOT"
            share = 100 * float(check["explained"])
            words.append(f"{name} {is_} distilled (it explains {share:.0f} % of the joint teacher's feature maps)")
    return "; ".join(words) or "none"


def _not_scored(row: Row) -> list[str]:
    """Each case of a target that scores lack, whose scores, and why."""
    columns = set(row.summaries)
    return [
        f"{row.target}, {one.part} case {one.case_id}, not scored"
        f"{'' if columns <= set(one.columns) else ' for ' + ', '.join(one.columns)}: {one.problem}"
        for one in row.not_scored
    ]


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


def _row_without_cases(row: Row, words: dict[str, str]) -> dict[str, object]:
    """The row as JSON; the cases stand in the runs' own summaries."""
    return {
        "target": row.target,
        "sources": row.sources,
        "part": row.part,
        "folders": row.folders,
        "checks": row.checks,
        "comparisons": row.comparisons,
        "verdicts": words,
        "updates": row.updates,
        "not_scored": row.not_scored,
        "means": {column: [summary.overall(False) for summary in some] for column, some in row.summaries.items()},
    }
