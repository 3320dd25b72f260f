"""A table as Markdown: a table per metric, then verdicts, unscored cases, checks and run folders."""

from collections.abc import Mapping, Sequence

import numpy as np

from mdkd_auto.core.settings import Settings
from mdkd_auto.metrics.summary import Mean
from mdkd_auto.report.comparison import COLUMNS, Layout, Row, means_of, values_of
from mdkd_auto.report.verdicts import Verdict, verdict_text

WHOSE_GAIN = (
    "A student builds on trained teachers. Only controls show how much of a gain comes from the other data sets rather "
    "than from longer training: `mdkd_ablate controls`."
)

Verdicts = Mapping[str, Mapping[str, Verdict]]  # target -> name of the comparison -> verdict


def table_markdown(
    settings: Settings, layout: Layout, rows: Sequence[Row], verdicts: Verdicts, left_out: Sequence[str] = ()
) -> str:
    """The whole page. ``left_out``: data sets of the plan that are no target here, and why."""
    lines = [
        f"# {layout.title}",
        "",
        *_metrics(settings, layout, rows),
        *_verdicts(layout, rows, verdicts),
        *_not_scored(rows, left_out),
        *_checks(rows),
        *_runs(rows),
    ]
    return "\n".join(lines) + "\n"


def _most_replicates(rows: Sequence[Row]) -> int:
    return max(len(summaries) for row in rows for summaries in row.summaries.values())


def _metrics(settings: Settings, layout: Layout, rows: Sequence[Row]) -> list[str]:
    spread = " After ±: the standard deviation of the replicates' means." if _most_replicates(rows) > 1 else ""
    lines = [f"{_budget(settings, layout, rows)} Means over images; {layout.scale.note}{spread}"]
    for metric in layout.scale.metrics:
        lines += ["", *_metric_table(layout, rows, metric, per_volume=False)]
    summaries = [summary for row in rows for column in row.summaries.values() for summary in column]
    if any(summary.overall(per_patient=True) for summary in summaries):
        lines += ["", "## Per volume: the images of a patient together"]
        for metric in layout.scale.per_patient:
            lines += ["", *_metric_table(layout, rows, metric, per_volume=True)]
    return lines


def _verdicts(layout: Layout, rows: Sequence[Row], verdicts: Verdicts) -> list[str]:
    """The verdicts that the table is about; below them, those of further comparisons."""
    named = [(row, name, verdict) for row in rows for name, verdict in verdicts[row.target].items()]
    judged = [entry for entry in named if entry[1] in layout.references]
    further = [entry for entry in named if entry[1] not in layout.references]
    lines = ["", f"## {layout.question}", "", *_verdict_lines(layout, judged)]
    if layout.points_to_controls and any(verdict.outcome == "helped" for _, _, verdict in judged):
        lines += ["", WHOSE_GAIN]
    if further:
        texts = _verdict_lines(layout, further)
        lines += ["", f"## {layout.further_question}", "", *texts, "", layout.further_reading]
    tested = sum(comparison.p_value is not None for row in rows for comparison in row.comparisons.values())
    if tested > 1:
        lines += ["", f"p after Holm: adjusted for all {tested} tests of this table."]
    if _most_replicates(rows) == 1:
        lines += ["", "One run with one seed: differences of a few points can be chance."]
    return lines


def _verdict_lines(layout: Layout, verdicts: Sequence[tuple[Row, str, Verdict]]) -> list[str]:
    return [f"- {row.target} ({row.part}): {verdict_text(verdict, layout, name)}." for row, name, verdict in verdicts]


def _not_scored(rows: Sequence[Row], left_out: Sequence[str]) -> list[str]:
    cases = [text for row in rows for text in not_scored_text(row)]
    if not left_out and not cases:
        return []
    introduction = "In the plan and splits, but missing from the scores above:"
    return ["", "## Not scored", "", introduction, "", *(f"- {text}" for text in (*left_out, *cases))]


def _checks(rows: Sequence[Row]) -> list[str]:
    if not any(row.checks for row in rows):
        return []
    return ["", "## Checks", "", *(f"- {row.target}: {checks_text(row)}" for row in rows)]


def _runs(rows: Sequence[Row]) -> list[str]:
    folders = [
        f"- {row.target}, {column}: `{folder}`"
        for row in rows
        for column, column_folders in row.folders.items()
        for folder in column_folders
    ]
    return ["", "## Runs", "", *folders]


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
    """One metric: a line per target, a column per kind of model, and the mean over targets where units agree."""
    units = {summary.unit for row in rows for column in row.summaries.values() for summary in column}
    mixed = metric == "hd95" and len(units) > 1
    title = f"HD95 ({' or '.join(sorted(units))})" if metric == "hd95" else layout.scale.titles[metric]
    columns = layout.columns
    lines = [
        f"**{title}{' per patient' if per_volume else ''}**",
        "",
        "| target | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        most = max(len(summaries) for summaries in row.summaries.values())
        in_percent = metric in layout.scale.in_percent
        cells = [_cell(means_of(row, column, per_volume), metric, in_percent, most) for column in columns]
        unit = next((f" ({summaries[0].unit})" for summaries in row.summaries.values()), "") if mixed else ""
        lines.append(f"| {row.target}{unit} | " + " | ".join(cells) + " |")
    if not mixed:  # millimetres and pixels have no mean
        means = [_mean_over_targets(layout, rows, column, metric, per_volume) for column in columns]
        lines.append("| mean | " + " | ".join(means) + " |")
    return lines


def _mean_over_targets(layout: Layout, rows: Sequence[Row], column: str, metric: str, per_volume: bool) -> str:
    factor = 100 if metric in layout.scale.in_percent else 1
    values = [np.mean(numbers) for row in rows if (numbers := values_of(means_of(row, column, per_volume), metric))]
    return f"{factor * float(np.mean(values)):.1f} ({len(values)} targets)" if values else "-"


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


def checks_text(row: Row) -> str:
    """The checks of every joint teacher and student of a target."""
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


def not_scored_text(row: Row) -> list[str]:
    """Each case of a target that has no score: in which columns, and why."""
    columns = set(row.summaries)
    return [
        f"{row.target}, {one.part} case {one.case_id}, not scored"
        f"{'' if columns <= set(one.columns) else ' for ' + ', '.join(one.columns)}: {one.problem}"
        for one in row.not_scored
    ]
