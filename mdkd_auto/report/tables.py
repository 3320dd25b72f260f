"""The table of a group: every target, four columns, each number with its n, and a verdict in words."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdkd_auto.experiments.evaluate import TEST, VALIDATION, read_summary
from mdkd_auto.experiments.jobs import Experiment, Job, is_finished
from mdkd_auto.experiments.scoring import IN_PERCENT, TITLES, Summary, cell
from mdkd_auto.files import content_hash, read_json, write_json, write_text
from mdkd_auto.metrics.statistics import Comparison, holm, paired_comparison
from mdkd_auto.metrics.summary import METRICS
from mdkd_auto.paths import RunFolder
from mdkd_auto.records import Record

SIGNIFICANCE = 0.05
COLUMNS = ("multi-head", "data-set-specific", "joint teacher", "student")
_STAGE_OF_COLUMN = {"data-set-specific": "teacher", "joint teacher": "joint_teacher", "student": "student"}


class Row(Record, frozen=True, kw_only=True):
    """One target of the table."""

    target: str
    sources: tuple[str, ...]
    part: str  # test, or validation where the splits leave no test part
    summaries: dict[str, Summary]  # by column
    folders: dict[str, str]  # by column
    checks: dict[str, dict[str, float | bool | str]]  # of joint teacher and student
    comparison: Comparison | None  # student - data-set-specific, DSC, over patients


class Table(NamedTuple):
    """Where the table was written, and its text."""

    path: Path
    markdown: str
    rows: tuple[Row, ...]


def write_table(experiment: Experiment, jobs: list[Job]) -> Table | None:
    """Write the table of all finished students among ``jobs`` as Markdown, CSV and JSON; None without one."""
    students = [job for job in jobs if job.stage == "student" and is_finished(experiment.root, job)]
    rows = tuple(_row(experiment, student, jobs) for student in students)
    if not rows:
        return None
    settings = experiment.settings
    key = content_hash([student.identity["key"] for student in students])[:8]
    name = f"table_{experiment.configuration}_fold_{settings.fold}__{key}"
    path = experiment.root.results / experiment.plan.group / f"{name}.md"
    markdown = _markdown(experiment, rows)
    write_text(path, markdown)
    write_text(path.with_suffix(".csv"), _csv(rows))
    records = [_row_without_cases(row, words) for row, words in zip(rows, verdicts(rows), strict=True)]
    write_json(path.with_suffix(".json"), records)
    return Table(path, markdown, rows)


def _row(experiment: Experiment, student: Job, jobs: list[Job]) -> Row:
    by_column = {"student": student}
    for job in jobs:
        if job.target == student.target and job.stage == "teacher":
            by_column["data-set-specific"] = job
        elif job.folder in student.reads:
            by_column["joint teacher"] = job
        elif job.stage == "multi_head" and set(job.datasets) == set(student.datasets):
            by_column["multi-head"] = job
    part = TEST if experiment.splits[student.target].test else VALIDATION
    summaries, folders, checks = {}, {}, {}
    for column, job in by_column.items():
        run = RunFolder(experiment.root.results / job.folder)
        summary = read_summary(run, part, student.target if job.stage == "multi_head" else None)
        if summary is not None and run.finished.is_file():
            summaries[column] = summary
            folders[column] = job.folder
        if (run.folder / "checks.json").is_file():
            checks[column] = read_json(run.folder / "checks.json")
    comparison = None
    if "student" in summaries and "data-set-specific" in summaries:
        comparison = compare(summaries["student"], summaries["data-set-specific"])
    return Row(target=student.target, sources=student.sources, part=part, summaries=summaries, folders=folders,
               checks=checks, comparison=comparison)  # fmt: skip


def compare(ours: Summary, theirs: Summary) -> Comparison:
    """Paired comparison of DSC over patients (cases where no patient has several), classes averaged."""

    def by_unit(summary: Summary) -> dict[str, float | None]:
        result = {}
        for unit in summary.units_of_test:
            values = [scores.dice for scores in unit.metrics.values() if scores.dice is not None]
            result[unit.case_id] = float(np.mean(values)) if values else None
        return result

    a, b = by_unit(ours), by_unit(theirs)
    shared = sorted(a.keys() & b.keys())
    return paired_comparison([a[unit] for unit in shared], [b[unit] for unit in shared])


def verdict(comparison: Comparison | None, adjusted_p: float | None) -> str:
    """Whether the other data sets helped, in words. ``adjusted_p``: Holm, over the targets of the table."""
    if comparison is None or comparison.mean_difference is None:
        return "not evaluable: no case is evaluable in both columns"
    points = 100 * comparison.mean_difference
    words = f"student {points:+.1f} points DSC against data-set-specific (n={comparison.pairs}"
    if comparison.interval is not None:
        words += f", 95 % interval {100 * comparison.interval[0]:+.1f} to {100 * comparison.interval[1]:+.1f}"
    words += f", Wilcoxon p={adjusted_p:.3f} after Holm)" if adjusted_p is not None else f"; {comparison.note})"
    significant = (
        adjusted_p is not None and adjusted_p < SIGNIFICANCE and comparison.interval is not None
        and comparison.interval[0] * comparison.interval[1] > 0
    )  # fmt: skip
    if not significant:
        return f"{words}: no evidence that the other data sets helped or hurt"
    return f"{words}: the other data sets {'helped' if points > 0 else 'hurt'}"


def verdicts(rows: tuple[Row, ...]) -> list[str]:
    """The verdict of each target, the p-values adjusted for so many targets."""
    adjusted = holm([row.comparison.p_value if row.comparison is not None else None for row in rows])
    return [verdict(row.comparison, p_value) for row, p_value in zip(rows, adjusted, strict=True)]


def _markdown(experiment: Experiment, rows: tuple[Row, ...]) -> str:
    settings = experiment.settings
    lines = [
        f"# {experiment.plan.group}, {experiment.configuration}, fold {settings.fold}",
        "",
        f"Seed {settings.seed}, {settings.epochs} epochs of {settings.iterations_per_epoch} updates for every column. "
        "Means over images; n is the number of images in which the metric is evaluable (where truth and prediction are "
        "both empty there is no DSC).",
    ]
    for metric in METRICS:
        lines += ["", *_metric_table(rows, metric, per_volume=False)]
    if any(summary.per_volume_foreground_mean for row in rows for summary in row.summaries.values()):
        lines += ["", "## Per volume: the images of a patient together"]
        for metric in ("dice", "lesion_f1"):
            lines += ["", *_metric_table(rows, metric, per_volume=True)]
    lines += ["", "## Did the other data sets help?", ""]
    lines += [f"- {row.target} ({row.part}): {words}." for row, words in zip(rows, verdicts(rows), strict=True)]
    lines += ["", "One run with one seed: differences of a few points can be chance.", "", "## Checks", ""]
    lines += [f"- {row.target}: {_checks(row)}" for row in rows]
    lines += ["", "## Runs", ""]
    lines += [f"- {row.target}, {column}: `{folder}`" for row in rows for column, folder in row.folders.items()]
    return "\n".join(lines) + "\n"


def _metric_table(rows: tuple[Row, ...], metric: str, per_volume: bool) -> list[str]:
    units = {summary.unit for row in rows for summary in row.summaries.values()}
    title = f"HD95 ({' or '.join(sorted(units))})" if metric == "hd95" else TITLES[metric]
    lines = [f"**{title}{' per patient' if per_volume else ''}**", "", "| target | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for row in rows:
        cells = []
        for column in COLUMNS:
            summary = row.summaries.get(column)
            mean = None
            if summary is not None:
                mean = summary.per_volume_foreground_mean if per_volume else summary.foreground_mean
            cells.append(cell(mean, metric))
        unit = next((summary.unit for summary in row.summaries.values() if metric == "hd95" and len(units) > 1), "")
        lines.append(f"| {row.target}{f' ({unit})' if unit else ''} | " + " | ".join(cells) + " |")
    if metric == "hd95" and len(units) > 1:
        return lines  # millimetres and pixels have no mean
    means = []
    for column in COLUMNS:
        values = _means(rows, column, metric, per_volume)
        factor = 100 if metric in IN_PERCENT else 1
        means.append(f"{factor * float(np.mean(values)):.1f} ({len(values)} targets)" if values else "-")
    lines.append("| mean | " + " | ".join(means) + " |")
    return lines


def _means(rows: tuple[Row, ...], column: str, metric: str, per_volume: bool) -> list[float]:
    values = []
    for row in rows:
        summary = row.summaries.get(column)
        mean = summary and (summary.per_volume_foreground_mean if per_volume else summary.foreground_mean)
        if mean and mean.metrics[metric].mean is not None:
            values.append(mean.metrics[metric].mean or 0.0)
    return values


def _checks(row: Row) -> str:
    words = []
    if joint := row.checks.get("joint teacher"):
        does = "uses" if joint["uses_sources"] else "IGNORES"
        words.append(f"the joint teacher {does} its sources (silencing them changes its output by "
                     f"{100 * float(joint['output_change']):.1f} %)")  # fmt: skip
    if student := row.checks.get("student"):
        is_ = "is" if student["distilled"] else "is NOT"
        share = 100 * float(student["explained"])
        words.append(f"the student {is_} distilled (it explains {share:.0f} % of the joint teacher's feature maps)")
    return "; ".join(words) or "none"


def _csv(rows: tuple[Row, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["target", "part", "level", "column", "metric", "unit", "mean", "std", "n", "left_out"])
    for row in rows:
        for column in COLUMNS:
            summary = row.summaries.get(column)
            if summary is None:
                continue
            for level, mean in (("image", summary.foreground_mean), ("patient", summary.per_volume_foreground_mean)):
                for metric in METRICS if mean is not None else ():
                    value = mean.metrics[metric]  # type: ignore[union-attr]
                    unit = summary.unit if metric == "hd95" else ""
                    writer.writerow([row.target, row.part, level, column, metric, unit, value.mean, value.std,
                                     value.evaluable, value.left_out])  # fmt: skip
    return text.getvalue()


def _row_without_cases(row: Row, words: str) -> dict[str, object]:
    """The row as JSON; the cases stand in the runs' own summaries."""
    return {
        "target": row.target, "sources": row.sources, "part": row.part, "folders": row.folders, "checks": row.checks,
        "comparison": row.comparison, "verdict": words,
        "means": {column: summary.foreground_mean for column, summary in row.summaries.items()},
    }  # fmt: skip
